"""What a worker asks of all the origins that it talks to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from reqpool_contract.policy import Policy

from .lease import OriginTransport, Pin, Request


class Upstreams(Protocol):
    """All origins of this worker, by kind and name."""

    def find(self, kind: str, name: str) -> OriginTransport | None:
        """Return the origin, if there is one."""

    def reach(self, kind: str, name: str, settings: bytes) -> OriginTransport:
        """Return the origin, made if there is none; any exception says why there can be none."""

    def grant(self, name: str, slots: int, policy: Policy) -> None:
        """Allow at most ``slots`` connections to origins of this name, under this policy."""

    def open_no_more(self) -> None:
        """Open no connection until there are new grants: these have lapsed. Those that are open stay."""

    def open_connections(self, name: str) -> int:
        """Return how many connections are open, or being opened, to origins of this name."""

    def slots(self) -> list[tuple[str, int]]:
        """Return the same for all names with any."""

    def pins(self) -> Iterable[tuple[Pin, str, str]]:
        """Return the pinned connections: whose, to which kind and origin."""

    def unpin(self, pin: Pin, reason: str) -> bool:
        """Release a session's connection; return False if it has none here."""

    def stranded(self, name: str | None = None) -> Iterator[Request]:
        """Yield requests that wait for a connection and can have none, there or everywhere.

        Drop each before the next.
        """

    def unsent(self) -> Iterator[Request]:
        """Yield requests of which nothing was sent. Drop each before the next."""

    def counts(self) -> dict[str, list[int]]:
        """Return, by name: in flight, in use, idle, waiting, overflowed, pinned."""
