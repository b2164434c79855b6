"""What is looked at while a load runs: memory by role, and connections at the upstream."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from . import processes

_ESTABLISHED = "01"
"""TCP_ESTABLISHED of include/net/tcp_states.h, as /proc/net/tcp writes it."""
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_MEMORY_EVERY_S = 0.2


class Connections:
    """The most established connections at a server's port: its own ends of them, whoever made them.

    The kernel writes its table piece by piece, so one reading may have a connection that was closed and the
    one that came in its place. Those that are in two readings were there together in between.

    Attributes:
        most: of all looks.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.most = 0

    def __call__(self, _roles: processes.Roles) -> None:
        self.most = max(self.most, len(self._now() & self._now()))

    def _now(self) -> set[tuple[str, str]]:
        tables = (path.read_text(encoding="ascii") for path in _TABLES if path.exists())
        return set().union(*(established(text.splitlines(), self._port) for text in tables))


def established(lines: Iterable[str], port: int) -> set[tuple[str, str]]:
    """Return local and remote address of the established connections whose local port is ``port``.

    Args:
        lines: of /proc/net/tcp or tcp6, the head included (proc_net_tcp.txt of the kernel's documentation).
    """
    ending = f":{port:04X}"
    found = set()
    for line in lines:
        words = line.split(maxsplit=4)
        if len(words) > 3 and words[3] == _ESTABLISHED and words[1].endswith(ending):
            found.add((words[1], words[2]))
    return found


class Memory:
    """Resident memory by role, several processes of a role together.

    Attributes:
        first, peak, last: bytes.
        processes: how many they are.
    """

    def __init__(self) -> None:
        self.first: dict[str, int] = {}
        self.peak: dict[str, int] = {}
        self.last: dict[str, int] = {}
        self.processes: dict[str, int] = {}
        self._next_s = 0.0

    def __call__(self, roles: processes.Roles) -> None:
        # Reading smaps_rollup walks a process's page tables, and holds its memory map's lock meanwhile.
        if (now_s := time.monotonic()) < self._next_s:
            return
        self._next_s = now_s + _MEMORY_EVERY_S
        self.last = processes.rss_bytes(roles)
        self.first = self.first or self.last
        self.processes = {role: len(pids) for role, pids in roles.items()}
        self.peak = {role: max(held, self.peak.get(role, 0)) for role, held in self.last.items()}
