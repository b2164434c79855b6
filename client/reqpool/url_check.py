"""Whether a broker's URL can be right; checked on a separate thread, since looking up a name may block.

The client waits for a broker that does not run yet. It reports instead what would still be wrong if one were
started: a host name that does not exist, a path where there cannot be a socket. Who listens at the URL is for
:mod:`.listener_probe` to find out.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import stat
import threading
from collections.abc import Callable

FIRST_S = 0.5
"""The URL is checked if the broker has not answered by then."""
AGAIN_S = 2.0
"""Interval of further checks: the name may be registered, the file removed."""

_NO_SUCH_NAME = frozenset((socket.EAI_NONAME, socket.EAI_NODATA))
"""Unlike the errors for a name server that does not answer: getaddrinfo(3)."""


def fault(url: str) -> str | None:
    """Return what is certainly wrong with a URL, or None. Blocks."""
    scheme, _, rest = url.partition("://")
    return _path_fault(rest) if scheme == "ipc" else _name_fault(rest.rpartition(":")[0])


def _name_fault(host: str) -> str | None:
    try:
        # As bytes, so that IDNA is not applied: libzmq does not apply it either.
        socket.getaddrinfo(host.strip("[]").encode(), None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in _NO_SUCH_NAME:
            return f"no such host: {host!r}"
    except OSError:
        pass  # the lookup failed, which says nothing about the name
    return None


def _path_fault(path: str) -> str | None:
    if path.startswith("@"):
        return None  # the abstract namespace: unix(7)
    try:
        mode = os.stat(path).st_mode
    except (NotADirectoryError, PermissionError) as error:
        return f"cannot reach a socket at this path: {error.strerror}"
    except OSError:
        return None  # the cluster makes the socket and its folder when it starts
    return None if stat.S_ISSOCK(mode) else "the file at this path is not a socket"


class Lookup:
    """Checks one URL from time to time.

    Attributes:
        fault: the last result of :func:`fault`.
        due_s: when to call :meth:`turn` next, monotonic.
    """

    def __init__(self, url: str, changed: Callable[[], None]) -> None:
        """Make it; :meth:`turn` starts the first check.

        Args:
            url: the broker's.
            changed: called on the checking thread when ``fault`` may have changed.
        """
        self.fault: str | None = None
        self.due_s = -math.inf
        self._url = url
        self._changed = changed
        self._begun = False
        self._thread: threading.Thread | None = None

    def turn(self, now_s: float) -> None:
        """Start a check if one is due."""
        if now_s < self.due_s:
            return
        self.due_s = now_s + (AGAIN_S if self._begun else FIRST_S)
        if self._begun and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(target=self._run, name="reqpool-lookup", daemon=True)
            with contextlib.suppress(RuntimeError):  # no more threads for now
                self._thread.start()
        self._begun = True

    def _run(self) -> None:
        self.fault = fault(self._url)
        self._changed()
