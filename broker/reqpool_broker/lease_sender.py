"""Lease messages: what is leased in a turn gathers here until its end. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from reqpool_contract import wire
from reqpool_contract.wire import Verb

from .large_leases import LargeLeases, Piece
from .lease_record import Lease
from .outgoing import Outgoing, batches
from .worker import Worker

_PAYLOADS_AT = wire.PAYLOADS_AT[Verb.LEASE]


class LeaseSender:
    """Sends LEASE, with KEEP and PIECE, and CANCEL.

    Args:
        epoch: this broker's.
        outbox: where messages go.

    Attributes:
        large: large groups on their way to each worker through its connection.
        is_wanted: :meth:`send` has something to do.
    """

    def __init__(self, epoch: int, outbox: Outgoing) -> None:
        self._epoch = epoch
        self._outbox = outbox.workers
        self.large: dict[Worker, LargeLeases] = {}
        self._leases: dict[Worker, list[wire.LeaseGroup]] = {}
        self._sending: dict[Worker, None] = {}
        self._cancels: dict[Worker, dict[bytes, list[int]]] = {}
        self.is_wanted = False

    def begin(self, worker: Worker, *, apart: bool) -> None:
        """A worker has a new connection: what has not left by the last one is leased again.

        ``apart``: see :class:`~.large_leases.LargeLeases`.
        """
        if worker in self.large:
            self.large[worker].withdraw(dead=True)
        self.large[worker] = LargeLeases(apart=apart)

    def forget(self, worker: Worker) -> None:
        """A worker has gone for good, and everything has been withdrawn."""
        del self.large[worker]
        self._sending.pop(worker, None)

    def unsent(self) -> Iterator[tuple[Lease, int]]:
        """Each large lease that has not left, and how many bytes of it wait."""
        return chain.from_iterable(self.large.values())

    def add(self, worker: Worker, group: wire.LeaseGroup) -> None:
        """Send a group at the end of the turn."""
        self.is_wanted = True
        self._leases.setdefault(worker, []).append(group)

    def add_large(self, worker: Worker, lease: Lease, group: wire.LeaseGroup, now_s: float) -> None:
        """Send a group when there is room for it."""
        self.large[worker].add(lease, group, now_s)
        self._sending[worker] = None
        self.is_wanted = True

    def cancel(self, worker: Worker, session_id: bytes, seq: int) -> None:
        """Tell a worker at the end of the turn that a request has ended."""
        self.is_wanted = True
        self._cancels.setdefault(worker, {}).setdefault(session_id, []).append(seq)

    def send(self, now_s: float) -> bool:
        """End the turn; returns whether there is room for large groups again at a worker that had none."""
        for worker, groups in self._leases.items():
            route = worker.route
            if route is None:
                continue
            if len(groups) == 1 and not groups[0].settings:  # so no KEEP, and nothing to split
                head = wire.encode(Verb.LEASE, self._epoch, worker.heartbeat_seen, groups)
                self._outbox.append([route, head])
            else:
                self._send_groups(worker, route, groups)
        self._leases.clear()
        freed = self._send_large(now_s) if self._sending else False
        for worker, by_session in self._cancels.items():
            if worker.route is not None:
                cancelled = list(by_session.items())
                head = wire.encode(Verb.CANCEL, self._epoch, worker.heartbeat_seen, cancelled)
                self._outbox.append([worker.route, head])
        self._cancels.clear()
        self.is_wanted = bool(self._sending)
        return freed

    def _send_groups(
        self,
        worker: Worker,
        route: bytes,
        groups: list[wire.LeaseGroup],
        *,
        apart: bool = False,
        ahead_bytes: int = 0,
    ) -> None:
        """Put lease groups into messages; with ``apart`` their large payloads into frames of their own.

        ``ahead_bytes``: how much of the one payload was sent in pieces.
        """
        ahead = (ahead_bytes,) if ahead_bytes else ()  # else it takes no room
        outbox, seen = self._outbox, worker.heartbeat_seen
        for batch in batches(groups, worker.cached):
            for fresh in worker.cached.take_fresh():
                outbox.append([route, wire.encode(Verb.KEEP, self._epoch, seen, *fresh)])
            parted, payloads = wire.set_apart(batch, _PAYLOADS_AT) if apart else (batch, [])
            outbox.append([route, wire.encode(Verb.LEASE, self._epoch, seen, parted, *ahead), *payloads])
        worker.cached.end_turn()

    def _send_large(self, now_s: float) -> bool:
        """Send what there is room for of the large groups that wait; returns as :meth:`send` does."""
        outbox, freed = self._outbox, False
        for worker in list(self._sending):
            large, route = self.large[worker], worker.route
            had_room = large.room_bytes > 0
            while route is not None and (step := large.next(now_s)) is not None:
                outbox.append([route, worker.heartbeat(now_s)])
                large.sent(worker.heartbeats.number, step)
                if isinstance(step, Piece):
                    outbox.append([route, wire.encode(Verb.PIECE, self._epoch, worker.heartbeat_seen, *step)])
                else:
                    self._send_groups(
                        worker, route, [step.group], apart=large.apart, ahead_bytes=step.ahead_bytes
                    )
            freed |= not had_room and large.room_bytes > 0  # what waited has ended
            if not large:
                del self._sending[worker]
        return freed

    def withdraw(self, worker: Worker, leases: Iterable[Lease], *, dead: bool) -> set[Lease]:
        """Forget, and return, the leases that have not left for a worker: those of this turn, and large ones.

        ``leases``: all that the worker has. ``dead``: see :meth:`.large_leases.LargeLeases.withdraw`.
        """
        unsent = self.large[worker].withdraw(dead=dead)
        groups = self._leases.pop(worker, ())
        if groups:
            seqs = {(group.session, seq) for group in groups for seq in group.seqs}
            unsent.update(
                lease
                for lease in leases
                if any((lease.terms.session.id, seq) in seqs for seq in lease.requests)
                and (dead or not lease.terms.goes_to_pin)
            )
        return unsent
