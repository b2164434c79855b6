"""The system's name servers, as ``/etc/resolv.conf`` lists them (resolv.conf(5))."""

from __future__ import annotations

import contextlib
import os
import re

from ..errors import UsageError
from .address import canonical_address

CHECK_INTERVAL_S = 1.0
"""How long a look at the file's metadata is good for."""
MAX_SERVERS = 3
"""glibc's MAXNS: further nameserver lines have never been used by anybody."""
FALLBACK = ("127.0.0.1:53",)
"""resolv.conf(5): without a nameserver line, the one on the local machine."""
_WITH_PORT = re.compile(r"\[(.*)\]:([0-9]+)")


class ResolvConf:
    """Name servers of one file, read again when it has changed.

    Any thread may call it: a race only reads the file twice.
    """

    def __init__(self, path: str = "/etc/resolv.conf") -> None:
        self._path = path
        self._servers: tuple[str, ...] = FALLBACK
        self._version: tuple[int, int, int] | None = None
        self._check_at_s = float("-inf")

    def servers(self, now_s: float) -> tuple[str, ...]:
        """Return the servers as canonical ``"ip:port"``, 1 to 3, in the file's order.

        The same tuple comes back as long as the file is the same.

        Args:
            now_s: monotonic seconds.
        """
        if now_s >= self._check_at_s:
            self._check_at_s = now_s + CHECK_INTERVAL_S
            self._refresh()
        return self._servers

    def _refresh(self) -> None:
        try:
            stat = os.stat(self._path)
            version = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if version == self._version:
                return
            with open(self._path, encoding="utf-8", errors="replace") as file:
                servers = parse(file.read())
        except OSError:
            servers, version = FALLBACK, None
        self._version = version
        if servers != self._servers:
            self._servers = servers


def parse(text: str) -> tuple[str, ...]:
    """Read the nameserver lines of a resolv.conf; lines that make no sense are skipped, as glibc does.

    A server on another port is written as OpenBSD's resolv.conf(5) has it: ``nameserver [127.0.0.1]:5300``.
    """
    servers: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            host, port = words[1], "53"
            with_port = _WITH_PORT.fullmatch(host)
            if with_port:
                host, port = with_port.groups()
            with contextlib.suppress(UsageError):
                servers.append(canonical_address(f"[{host}]:{port}" if ":" in host else f"{host}:{port}"))
    return tuple(servers[:MAX_SERVERS]) or FALLBACK
