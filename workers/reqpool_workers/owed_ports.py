"""Ports at which an answer may still arrive though its request has ended: kept, so that they are not reused.

Where datagrams carry no id (kind ``udp``) an answer belongs to the request that was sent from its port. If a
request ends without an answer (its time is up, it is cancelled), its socket stays open until the answer has
arrived, or for :data:`KEPT_S`. If it were closed at once, its port might go to the next request, of this
process or another, and the late answer with it. Unbound has an option for the same (``delay-close``).

Some facts this file relies on:

* A socket that connects without a port is given one that no other UDP socket of the network namespace has,
  chosen at random from net.ipv4.ip_local_port_range (ip(7)): one that is kept is not chosen.
* The kernel closes the sockets of a process that ends. So ports are kept only while their worker lives.
"""

from __future__ import annotations

import resource
from typing import Protocol

KEPT_S = 60.0
"""As long as Linux keeps a TCP port for late segments (TCP_TIMEWAIT_LEN)."""
MOST_KEPT = 1024
"""In one worker. The default range has 28,232 ports for all processes of the machine."""


class OwedPort(Protocol):
    """An open socket."""

    def close(self) -> None:
        """Close it; calls :meth:`OwedPorts.remove`."""


class OwedPorts:
    """The ports of one worker, the oldest first."""

    def __init__(self) -> None:
        most_fds, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = min(MOST_KEPT, most_fds // 4)
        self._until_s: dict[OwedPort, float] = {}

    def keep(self, one: OwedPort, now_s: float) -> None:
        """Keep a socket open; if there are too many, the oldest is closed."""
        self._until_s[one] = now_s + KEPT_S
        if len(self._until_s) > self._most:
            self.give_way()

    def remove(self, one: OwedPort) -> None:
        """Forget a socket that is being closed, whether it was kept or not."""
        self._until_s.pop(one, None)

    def give_way(self) -> bool:
        """Close the oldest, since its descriptor or port is needed; return False if there is none."""
        oldest = next(iter(self._until_s), None)
        if oldest is not None:
            oldest.close()
        return oldest is not None

    def tend(self, now_s: float) -> None:
        """Close those that have been kept for :data:`KEPT_S`."""
        for one, until_s in list(self._until_s.items()):
            if until_s > now_s:
                break
            one.close()

    def close(self) -> None:
        """Close all."""
        while self.give_way():
            pass
