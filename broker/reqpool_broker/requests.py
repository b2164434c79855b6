"""Requests as the broker holds them: in bulk, never one object each.

A request is one entry of ``Session.open`` (its seq) that leads to the :class:`QueuedGroup` it waits in or the
:class:`Lease` it runs under. Everything else is shared by all that came in one group of one message, so
queueing and leasing a batch costs a few C-level calls, not a Python loop over its requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from reqpool_contract.wire import Flag

if TYPE_CHECKING:
    from .origin import Origin
    from .queue import FairQueue
    from .session import Session
    from .worker import Worker

_IDEMPOTENT = int(Flag.IDEMPOTENT)
_OPENS = int(Flag.OPENS)
"""As a plain int, like all flags on the request path: the operators of enum.IntFlag take microseconds."""


class Terms:
    """What requests of one submitted group have in common; never changes.

    Attributes:
        session: who asked.
        kind: name of the kind.
        origins: upstreams to try in turn.
        flags: :class:`reqpool_contract.wire.Flag` bits.
        priority: 0 (first) to 2 (last).
        pin: number of the held connection they are for, or None.
        trace: trace context or None.
        settings: what the worker needs for a connection.
        own_bytes: size of the settings, if they came with these requests alone; 0 if they are kept, or stand
            in the configuration.
        deadline_s: broker-monotonic instant at which the requests end in any case.
    """

    __slots__ = (
        "deadline_s",
        "flags",
        "kind",
        "origins",
        "own_bytes",
        "pin",
        "priority",
        "session",
        "settings",
        "trace",
    )

    def __init__(
        self,
        session: Session,
        kind: str,
        origins: tuple[str, ...],
        flags: int,
        priority: int,
        trace: bytes | None,
        deadline_s: float,
        settings: bytes = b"",
        pin: int | None = None,
        own_bytes: int = 0,
    ) -> None:
        self.session = session
        self.kind = kind
        self.origins = origins
        self.flags = flags
        self.priority = priority
        self.trace = trace
        self.settings = settings
        self.pin = pin
        self.own_bytes = own_bytes
        self.deadline_s = deadline_s

    @property
    def idempotent(self) -> bool:
        return bool(self.flags & _IDEMPOTENT)

    @property
    def opens(self) -> bool:
        """Is it the first request of a pin?"""
        return self.pin is not None and bool(self.flags & _OPENS)

    @property
    def goes_to_pin(self) -> bool:
        """Are they for a connection that is held already, and so for no other?"""
        return self.pin is not None and not self.flags & _OPENS


class Past(NamedTuple):
    """What lies behind requests of which no attempt has ended them.

    Attributes:
        attempts: how many leases.
        tried: how many of their ``terms.origins`` they have been tried at.
        first: index of the one that was tried first.
        sent: could the upstream have acted on one of those attempts, or on one of an earlier broker's?
        answer: what an origin said that others were to better; it stands if none does. None if none has.
    """

    attempts: int = 0
    tried: int = 0
    first: int = 0
    sent: bool = False
    answer: bytes | None = None


NEW = Past()
"""Nothing has been tried."""


class QueuedGroup:
    """Requests waiting in one origin's queue.

    Attributes:
        terms: what they share.
        past: what lies behind them.
        seqs: sequence numbers; those before ``start`` have been taken.
        payloads: one for each of ``seqs``.
        due_s: when waiting ends, at the deadline or before.
        since_s: when waiting began.
        start: index of the first that waits.
        gone: how many from ``start`` on have ended while they waited (cancelled, expired).
        settings_bytes: what the settings count for as long as any of them waits.
        large: its payloads have so many bytes that they count, see
            :data:`reqpool_contract.wire.LARGE_MESSAGE_BYTES`.
        queue: where it waits, None before that.
    """

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
        """How many requests off the front have about ``most_bytes``? At least one."""
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
        """Let go of the payloads: all that waited here have ended."""
        self.terms.session.queued_bytes -= self.waiting_bytes
        self.seqs, self.payloads = (), ()
        self.start = self.gone = self.settings_bytes = 0

    @property
    def exhausted(self) -> bool:
        return self.start >= len(self.seqs)


class Lease:
    """Requests handed to one worker in one go.

    Attributes:
        terms: what they share.
        origin: the upstream of this attempt; None for what a worker reported after a broker's restart and no
            client has claimed yet, or only for an upstream that is not in the configuration any more.
        worker: who holds them.
        requests: seq to payload, of those that have not ended.
        past: what lies behind them, this attempt aside.
        since_s: when that was, or at least since when it is known; monotonic.
        attempt: 1 for the first.
    """

    __slots__ = ("attempt", "origin", "past", "requests", "since_s", "terms", "worker")

    def __init__(
        self,
        terms: Terms,
        origin: Origin | None,
        worker: Worker,
        requests: dict[int, bytes],
        past: Past,
        since_s: float,
    ) -> None:
        self.terms = terms
        self.origin = origin
        self.worker = worker
        self.requests = requests
        self.past = past
        self.since_s = since_s
        self.attempt = past.attempts + 1

    @property
    def claimed(self) -> bool:
        """Has a client said what it is?"""
        return bool(self.terms.kind)
