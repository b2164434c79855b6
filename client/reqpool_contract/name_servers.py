"""The system's name servers, as ``/etc/resolv.conf`` lists them (resolv.conf(5))."""

from __future__ import annotations

import contextlib
import re

from .address import canonical_address
from .errors import UsageError

MAX_SERVERS = 3
"""glibc's MAXNS; further nameserver lines are ignored."""
FALLBACK = ("127.0.0.1:53",)
"""resolv.conf(5): used if there is no nameserver line."""
_WITH_PORT = re.compile(r"\[(.*)\]:([0-9]+)")


def parse(text: str) -> tuple[str, ...]:
    """Return the servers of a resolv.conf; invalid lines are skipped, as glibc does.

    A server on another port is written as in OpenBSD's resolv.conf(5): ``nameserver [127.0.0.1]:5300``.
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
