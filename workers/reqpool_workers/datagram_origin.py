"""An origin of a datagram kind, as the worker uses it."""

from __future__ import annotations

from reqpool_contract.policy import Policy

from .connection import Connection
from .datagram_sender import DatagramSender
from .event_loop import EventLoop
from .lease import Pin, Request, WorkerLease
from .lease_outcomes import LeaseOutcomes
from .owed_ports import OwedPorts
from .protocols.worker_kinds import DatagramKind


class DatagramOrigin(DatagramSender):
    """A :class:`.DatagramSender` to which leases are submitted. It has no connections to grant or to pin.

    The arguments are those of :class:`.DatagramSender`.
    """

    settings: bytes | None = None
    """A lease may come with any."""
    pins: tuple[Pin, ...] = ()
    stranded: tuple[Request, ...] = ()
    idle: tuple[Connection, ...] = ()
    backlog = 0
    """Requests that wait here: none, each is sent as it comes."""

    def __init__(
        self, loop: EventLoop, outcomes: LeaseOutcomes, kind: DatagramKind, name: str, owed_ports: OwedPorts
    ) -> None:
        super().__init__(loop, outcomes, kind, name, owed_ports)
        self._lease_outcomes = outcomes

    def submit_pinned(self, lease: WorkerLease, pin: Pin) -> None:
        """End a lease's requests: there are no pinned connections here."""
        self._lease_outcomes.no_such_pin(lease, pin)

    def unpin(self, pin: Pin, reason: str) -> bool:
        """Return False: there are no pinned connections here."""
        return False

    def grant(self, slots: int, policy: Policy) -> None:
        """Do nothing: sockets are not granted."""

    def grant_open(self) -> None:
        """Do nothing: sockets are not granted."""

    def unsent(self) -> list[Request]:
        """Return the requests that could be handed back: none, each is sent as it comes."""
        return []

    @property
    def counts(self) -> list[int]:
        """Requests in flight; sockets and connections in use, idle; requests waiting, overflowed; pins."""
        streams = len(self._fallback.connections)
        busy = sum(1 for one in self._sockets if one.open)
        in_flight = sum(one.open for one in self._sockets) + streams
        return [in_flight, busy + streams, len(self._sockets) - busy, 0, 0, 0]
