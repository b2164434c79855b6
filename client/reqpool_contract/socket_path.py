"""The longest path of a Unix socket."""

from __future__ import annotations

MAX_SOCKET_PATH_BYTES = 107
"""``sun_path`` has room for 107 bytes and a NUL (unix(7))."""
