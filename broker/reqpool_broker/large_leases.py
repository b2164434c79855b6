"""Large lease groups on their way to one worker, in pieces that small leases pass. No I/O, no clock.

What is sent through a connection waits for what was sent before. So only some pieces of a large payload are
in progress at a time; the rest waits here. The LEASE goes with the last of it: until then the worker knows
nothing of the lease, and it has not left. What is for a pinned connection whose worker is away waits here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from reqpool_contract import wire
from reqpool_contract.wire import LARGE_MESSAGE_BYTES, PIECE_BYTES, PIECES_BYTES, WINDOW_BYTES

from .lease_record import Lease


class Piece(NamedTuple):
    """A part of a payload that is sent ahead of its LEASE.

    Attributes:
        offset: bytes of the payload that were sent before; 0 begins a new one.
    """

    offset: int
    data: Any


class Rest(NamedTuple):
    """The rest of a payload after its pieces, all of it if there were none.

    Attributes:
        ahead_bytes: what was sent of it in pieces.
        group: as it is leased.
    """

    ahead_bytes: int
    group: wire.LeaseGroup


class _Waiting:
    """A group that is leased, and whose LEASE has not left."""

    __slots__ = ("group", "lease", "offset", "since_s")

    def __init__(self, lease: Lease, group: wire.LeaseGroup, now_s: float) -> None:
        self.lease = lease
        self.group = group
        self.since_s = now_s
        self.offset = 0

    def drop_ended(self) -> int:
        """Leave out the requests that have ended; returns how many bytes they had, which no longer wait."""
        group, open_ = self.group, self.lease.requests
        if len(open_) == len(group.seqs):
            return 0
        pairs = [pair for pair in zip(group.seqs, group.payloads, strict=True) if pair[0] in open_]
        seqs, payloads = zip(*pairs, strict=True) if pairs else ((), ())
        self.group = group._replace(seqs=seqs, payloads=payloads)
        ended_bytes = _size_bytes(group) - _size_bytes(self.group)
        self.lease.terms.session.queued_bytes -= ended_bytes
        return ended_bytes

    def leave(self) -> None:
        """It waits no longer."""
        self.lease.terms.session.queued_bytes -= _size_bytes(self.group)

    def cut(self) -> Piece | None:
        """Take the next piece off; None if the rest goes with the LEASE."""
        payload, offset = self.group.payloads[0], self.offset
        # What is left is large, too, so that the worker answers it with a heartbeat.
        if len(self.group.payloads) > 1 or len(payload) - offset <= PIECE_BYTES + LARGE_MESSAGE_BYTES:
            return None
        self.offset += PIECE_BYTES
        return Piece(offset, wire.view(payload)[offset : self.offset])

    def rest(self, now_s: float) -> Rest:
        """The group with what is left of its payload, and of its time."""
        group, waited_ms = self.group, round((now_s - self.since_s) * 1000)
        if self.offset:
            group = group._replace(payloads=(bytes(wire.view(group.payloads[0])[self.offset :]),))
        if waited_ms:
            group = group._replace(
                span_ms=max(1, group.span_ms - waited_ms),
                wait_ms=None if group.wait_ms is None else max(0, group.wait_ms - waited_ms),
                queued_ms=group.queued_ms + waited_ms,
            )
        return Rest(self.offset, group)


class LargeLeases:
    """Large groups that are leased to a worker, through one connection.

    Attributes:
        apart: the worker takes large payloads in frames of their own, and in pieces.
        room_bytes: what more may be leased to it in large groups; below 0 while a single one is over the
            window.
        under_way: numbers of the heartbeats that were sent right before what is on its way, with its bytes.
    """

    def __init__(self, *, apart: bool) -> None:
        self.room_bytes = WINDOW_BYTES
        self.apart = apart
        self._waiting: deque[_Waiting] = deque()
        self.under_way: deque[tuple[int, int]] = deque()
        self._under_way_bytes = 0

    def __len__(self) -> int:
        """Return how many groups wait."""
        return len(self._waiting)

    def __iter__(self) -> Iterator[tuple[Lease, int]]:
        """Each lease that has not left, and how many bytes of it wait."""
        for waiting in self._waiting:
            yield waiting.lease, _size_bytes(waiting.group)

    def add(self, lease: Lease, group: wire.LeaseGroup, now_s: float) -> None:
        """A group was leased, and is to be sent as there is room for it."""
        size_bytes = _size_bytes(group)
        self.room_bytes -= size_bytes
        lease.terms.session.queued_bytes += size_bytes
        if not self.apart:
            group = group._replace(payloads=tuple(map(wire.as_bytes, group.payloads)))
        self._waiting.append(_Waiting(lease, group, now_s))

    def precedes(self, session_id: bytes, pin: int) -> bool:
        """Return whether something waits here for the same pinned connection, and so has to come first."""
        return any(
            waiting.group.pin == pin and waiting.group.session == session_id for waiting in self._waiting
        )

    def next(self, now_s: float) -> Piece | Rest | None:
        """Return what must be sent now, right after a heartbeat; None if nothing."""
        while self._waiting and self._under_way_bytes < PIECES_BYTES:
            waiting = self._waiting[0]
            self.room_bytes += waiting.drop_ended()
            if not waiting.group.seqs:
                self._waiting.popleft().leave()
                self.room_bytes -= waiting.offset  # which was sent, and has its room once it has arrived
                if waiting.offset:
                    return Piece(0, b"")
                continue
            piece = waiting.cut() if self.apart else None
            if piece is not None:
                return piece
            self._waiting.popleft().leave()
            return waiting.rest(now_s)
        return None

    def sent(self, heartbeat: int, step: Piece | Rest) -> None:
        """Note that what :meth:`next` returned was sent right after a heartbeat."""
        size_bytes = len(step.data) if isinstance(step, Piece) else _size_bytes(step.group)
        self.under_way.append((heartbeat, size_bytes))
        self._under_way_bytes += size_bytes

    def arrived(self, seen: int) -> bool:
        """Note that the worker has read heartbeat ``seen``; returns whether anything large came with it."""
        under_way, count = self.under_way, len(self.under_way)
        while under_way and under_way[0][0] <= seen:
            size_bytes = under_way.popleft()[1]
            self._under_way_bytes -= size_bytes
            self.room_bytes += size_bytes
        return len(under_way) < count

    @property
    def unsent(self) -> set[Lease]:
        """The leases that have not left."""
        return {waiting.lease for waiting in self._waiting}

    def withdraw(self, *, dead: bool) -> set[Lease]:
        """Forget the leases that have not left, and return them.

        Those for a connection that the worker holds stay as long as it is not dead: it may come back.
        """
        unsent = self.unsent
        waiting, self._waiting = self._waiting, deque()
        for one in waiting:
            if not dead and one.lease.terms.goes_to_pin:
                self._waiting.append(one)
            else:
                one.leave()
        return unsent - self.unsent


def _size_bytes(group: wire.LeaseGroup) -> int:
    return sum(map(len, group.payloads))
