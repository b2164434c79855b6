"""What a worker asks of all the origins that it talks to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from reqpool_contract.policy import Policy

from .lease import OriginTransport, Pin, Request


class Upstreams(Protocol):
    """All that this worker talks to, by kind and name of an origin."""

    def find(self, kind: str, name: str) -> OriginTransport | None:
        """The origin, if there is one."""

    def reach(self, kind: str, name: str, settings: bytes) -> OriginTransport:
        """The origin, made if there is none; any exception says why there can be none."""

    def grant(self, name: str, slots: int, policy: Policy) -> None:
        """From now on at most ``slots`` connections to origins of this name, treated as ``policy`` says."""

    def open_no_more(self) -> None:
        """Grants have lapsed: no connection is opened until there are new ones. Those that are open stay."""

    def held(self, name: str) -> int:
        """Connections that are open, or being opened, to origins of this name."""

    def slots(self) -> list[tuple[str, int]]:
        """The same of all names with any."""

    def pins(self) -> Iterable[tuple[Pin, str, str]]:
        """Held connections: whose, to which kind and origin."""

    def unpin(self, pin: Pin, reason: str) -> bool:
        """A session lets go of its connection; False if it has none here."""

    def stranded(self, name: str | None = None) -> Iterator[Request]:
        """Requests that wait for a connection and can have none, there or everywhere; each is to be dropped
        before the next."""

    def unsent(self) -> Iterator[Request]:
        """Requests that nothing was sent of; each is to be dropped before the next."""

    def counts(self) -> dict[str, list[int]]:
        """In flight, in use, idle, waiting, overflowed, pinned, by name."""
