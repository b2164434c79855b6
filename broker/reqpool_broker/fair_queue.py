"""The queue of one origin: strict between priorities, fair between sessions, first come first served in one.

No I/O, no clock. What a session has waiting is a deque of :class:`QueuedGroup`: requests are held in bulk,
never one object each, so queueing and leasing a batch costs a few C-level calls, not a Python loop. Sessions
take turns of :data:`QUANTUM` requests, so a session with a backlog of 100,000 delays another's first request
by one turn. Of large groups, turns are in bytes (deficit round robin, Shreedhar and Varghese 1996): who has
taken more than :data:`QUANTUM_BYTES` lets turns pass until that is paid for.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator

from reqpool_contract import wire
from reqpool_contract.wire import LOWEST_PRIORITY

from .session import Session
from .terms import NEW, Past, Terms

QUANTUM = 64
"""Requests a session may have leased before the next one's turn, at most."""
QUANTUM_BYTES = 1 << 20
"""The same in bytes, where they count; a single request may have more."""
EMPTIED_LIMIT = 64
"""Groups that may be empty, everything in them having been cancelled, before they are looked for."""


class QueuedGroup:
    """Requests waiting in one origin's queue.

    Attributes:
        terms: what they share.
        past: what has been tried.
        seqs: sequence numbers; those before ``start`` have been taken.
        payloads: one for each of ``seqs``.
        due_s: when waiting ends, at the deadline or before.
        since_s: when waiting began.
        start: index of the first that waits.
        gone: how many from ``start`` on have ended while they waited (cancelled, expired).
        settings_bytes: what the settings count for as long as any of them waits.
        large: its payloads have enough bytes to count, see
            :data:`reqpool_contract.wire.LARGE_MESSAGE_BYTES`.
        queue: where it waits, None before that.
    """

    worker = None
    """As in :class:`~.place.Place`."""

    __slots__ = (
        "due_s",
        "gone",
        "large",
        "past",
        "payloads",
        "queue",
        "seqs",
        "settings_bytes",
        "since_s",
        "start",
        "terms",
    )

    def __init__(
        self, terms: Terms, seqs: tuple[int, ...], payloads: tuple[bytes, ...], past: Past = NEW
    ) -> None:
        self.terms = terms
        self.seqs = seqs
        self.payloads = payloads
        self.past = past
        self.due_s = terms.deadline_s
        self.since_s = 0.0
        self.start = 0
        self.gone = 0
        self.settings_bytes = terms.own_bytes
        self.large = False
        self.queue: FairQueue | None = None

    def waiting(self) -> list[int]:
        """Sequence numbers that still wait here."""
        open_ = self.terms.session.open
        return [seq for seq in self.seqs[self.start :] if open_.get(seq) is self]

    def take(self, most: int) -> tuple[tuple[int, ...], tuple[bytes, ...]]:
        """Take up to ``most`` requests off the front."""
        start, stop = self.start, min(self.start + most, len(self.seqs))
        seqs, payloads = self.seqs[start:stop], self.payloads[start:stop]
        self.start = stop
        self.terms.session.queued_bytes -= sum(map(len, payloads))
        if stop == len(self.seqs):
            self.terms.session.queued_bytes -= self.settings_bytes
            self.settings_bytes = 0
        if self.gone:
            open_ = self.terms.session.open
            kept = [pair for pair in zip(seqs, payloads, strict=True) if open_.get(pair[0]) is self]
            self.gone -= len(seqs) - len(kept)
            seqs = tuple(seq for seq, _ in kept)
            payloads = tuple(payload for _, payload in kept)
        return seqs, payloads

    def count_within(self, most: int, most_bytes: int) -> int:
        """Return how many requests off the front have about ``most_bytes``; at least one."""
        size_bytes = 0
        for count, payload in enumerate(self.payloads[self.start : self.start + most]):
            size_bytes += len(payload)
            if count and size_bytes > most_bytes:
                return count
        return most

    @property
    def waiting_bytes(self) -> int:
        """Bytes from ``start`` on, those of requests that have ended meanwhile included."""
        return sum(map(len, self.payloads[self.start :])) + self.settings_bytes

    def empty(self) -> None:
        """Drop the payloads: all that waited here have ended."""
        self.terms.session.queued_bytes -= self.waiting_bytes
        self.seqs, self.payloads = (), ()
        self.start = self.gone = self.settings_bytes = 0

    @property
    def exhausted(self) -> bool:
        return self.start >= len(self.seqs)

    @property
    def idempotent(self) -> bool:
        return self.terms.idempotent


class FairQueue:
    """Groups waiting for one origin.

    Attributes:
        waiting: requests in the queue that have not ended.
        next_due_s: no group's waiting ends earlier than this.
        turn: requests a session may have leased before the next one's turn: fewer where that takes long.
    """

    __slots__ = ("_emptied", "_levels", "next_due_s", "turn", "waiting")

    def __init__(self) -> None:
        # One per priority, session -> its groups, in the order of turns. OrderedDict, because a plain
        # dict whose front is popped again and again is searched from its emptied front each time.
        self._levels: list[OrderedDict[Session, deque[QueuedGroup]]] = [
            OrderedDict() for _ in range(LOWEST_PRIORITY + 1)
        ]
        self.waiting = 0
        self.turn = QUANTUM
        self._emptied = 0
        self.next_due_s = float("inf")

    def __iter__(self) -> Iterator[QueuedGroup]:
        for level in self._levels:
            for groups in level.values():
                yield from groups

    def push(self, group: QueuedGroup, *, front: bool = False) -> None:
        """Add a group; at the front of its session's if it has been leased before."""
        terms = group.terms
        group.queue = self
        groups = self._levels[terms.priority].setdefault(terms.session, deque())
        if front:
            groups.appendleft(group)
        else:
            groups.append(group)
        size_bytes = sum(map(len, group.payloads))
        group.large = size_bytes > wire.LARGE_MESSAGE_BYTES
        terms.session.queued_bytes += size_bytes + group.settings_bytes
        self.waiting += len(group.seqs)
        if group.due_s < self.next_due_s:
            self.next_due_s = group.due_s

    def drop(self, group: QueuedGroup) -> None:
        """Note that one request of a waiting group has ended (its seq is no longer open)."""
        group.gone += 1
        self.waiting -= 1
        if group.gone == len(group.seqs) - group.start:
            group.empty()
            self._emptied += 1
            # A group leaves when its turn comes, which may be long from now: so now and then all that are
            # empty leave together, often enough that what is kept for them is bounded by what waits.
            if self._emptied > EMPTIED_LIMIT and self._emptied > self.waiting:
                self._sweep()

    def _sweep(self) -> None:
        self._emptied = 0
        for level in self._levels:
            for session in list(level):
                level[session] = deque(group for group in level[session] if not group.exhausted)
                if not level[session]:
                    del level[session]

    def take(
        self, most: int, most_bytes: int
    ) -> tuple[QueuedGroup, tuple[int, ...], tuple[bytes, ...]] | None:
        """Take up to ``most`` requests of the group whose turn it is.

        Args:
            most: requests, at least 1.
            most_bytes: of a large group, or a single request with more; 0 or less: of none.

        Returns:
            The group, and seqs and payloads taken (at least one); None if nothing may be taken: the
            queue is empty, or only sessions wait that have no room for results, or large groups.
        """
        for level in self._levels:
            indebted = True
            while indebted:
                indebted = False
                for _ in range(len(level)):
                    session, groups = next(iter(level.items()))
                    share = most if len(level) == 1 else min(most, self.turn)
                    while session.has_room and groups:
                        group = groups[0]
                        if group.large:
                            if most_bytes <= 0:
                                break
                            if session.debt_bytes >= QUANTUM_BYTES and len(level) > 1:
                                session.debt_bytes -= QUANTUM_BYTES
                                indebted = True
                                break
                            share = group.count_within(share, min(most_bytes, wire.PIECES_BYTES))
                        seqs, payloads = group.take(share)
                        if group.exhausted:
                            groups.popleft()
                        if seqs:
                            if not (group.large and groups and self._goes_on(session, payloads)):
                                self._end_turn(level, session)
                            self.waiting -= len(seqs)
                            return group, seqs, payloads
                    self._end_turn(level, session)
        return None

    @staticmethod
    def _goes_on(session: Session, payloads: tuple[bytes, ...]) -> bool:
        """Count what was taken of a large group; return whether it may have more in this turn."""
        session.debt_bytes += sum(map(len, payloads))
        if session.debt_bytes < QUANTUM_BYTES:
            return True
        session.debt_bytes -= QUANTUM_BYTES
        return False

    @staticmethod
    def _end_turn(level: OrderedDict[Session, deque[QueuedGroup]], session: Session) -> None:
        if level[session]:
            level.move_to_end(session)
        else:
            del level[session]

    def count(self) -> dict[int, dict[Session, int]]:
        """Return how many requests of each session wait, by priority. It looks at every group."""
        return {
            priority: {
                session: sum(len(group.seqs) - group.start - group.gone for group in groups)
                for session, groups in level.items()
            }
            for priority, level in enumerate(self._levels)
        }

    def expire(self, now_s: float) -> list[QueuedGroup]:
        """Remove and return the groups that have waited long enough; call when ``next_due_s`` has passed."""
        expired = []
        next_due_s = float("inf")
        for level in self._levels:
            for session in list(level):
                kept: deque[QueuedGroup] = deque()
                for group in level[session]:
                    if group.due_s <= now_s:
                        expired.append(group)
                        self._remove(group)
                    else:
                        kept.append(group)
                        next_due_s = min(next_due_s, group.due_s)
                if kept:
                    level[session] = kept
                else:
                    del level[session]
        self.next_due_s = next_due_s
        return expired

    def take_late(self, deadline_s: float) -> list[tuple[QueuedGroup, tuple[int, ...], tuple[bytes, ...]]]:
        """Take, from the front of each session's, what must have ended by then."""
        late = []
        for level in self._levels:
            for session in list(level):
                groups = level[session]
                while groups and groups[0].terms.deadline_s < deadline_s:
                    group = groups.popleft()
                    seqs, payloads = group.take(len(group.seqs))
                    self.waiting -= len(seqs)
                    if seqs:
                        late.append((group, seqs, payloads))
                if not groups:
                    del level[session]
        return late

    def forget(self, session: Session) -> list[QueuedGroup]:
        """Remove and return everything of one session."""
        removed: list[QueuedGroup] = []
        for level in self._levels:
            for group in level.pop(session, ()):
                self._remove(group)
                removed.append(group)
        return removed

    def _remove(self, group: QueuedGroup) -> None:
        self.waiting -= len(group.seqs) - group.start - group.gone
        group.terms.session.queued_bytes -= group.waiting_bytes
