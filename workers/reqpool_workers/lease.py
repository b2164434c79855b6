"""A lease: requests of one session that came together, and where they are. Sans-IO."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from reqpool_contract.grace import ASKED_AGAIN_S
from reqpool_contract.wire import MAX_ORIGINS, Flag, LeaseGroup

from .protocols import Ask

IDEMPOTENT = int(Flag.IDEMPOTENT)
OPENS = int(Flag.OPENS)
SENT = int(Flag.SENT)
OTHERS = int(Flag.OTHERS)

LEAST_TOLD_S = 0.01
"""A wait that is worth reporting."""

Pin = tuple[bytes, int]
"""Session id, and the number that its client gave to a pinned connection."""


class Dropped(NamedTuple):
    """Where a request was when it was taken away.

    Attributes:
        phase: of the request.
        sent: whether the upstream could have acted on it.
        awaited: what its connection's handshake waited for, or it for a connection, for display; often empty.
        waited_s: how long it had waited here for its connection, to the millisecond.
    """

    phase: str
    sent: bool
    awaited: str = ""
    waited_s: float = 0.0


class OriginTransport(Protocol):
    """What talks to one origin: ``datagram_origin.py``, ``stream_origin.py``.

    Attributes:
        backlog: requests that wait here for a connection.
    """

    @property
    def backlog(self) -> int: ...

    def submit(self, lease: WorkerLease, now_s: float) -> None:
        """Send a lease's requests, or have them wait for a connection."""

    def submit_pinned(self, lease: WorkerLease, pin: Pin) -> None:
        """Send a lease's request on the connection that is pinned to its session."""

    def drop(self, request: Request, reason: str) -> Dropped:
        """Stop working for a request; nothing is reported for it. ``reason`` is that of a close."""

    def resend(self, lease: WorkerLease, now_s: float) -> float | None:
        """Send again what is unanswered and due; return when to be called next, or None."""


class SessionResults:
    """The requests of one client, and those of their results that have not been reported.

    Attributes:
        running: sequence number to request, of all that have not ended.
        dirty: there are results.
        ready: flat results (seq, code, data, …) of requests that may run more than once.
        ready_once: the same of the others, whose results are retained longer.
        until_s: instant until which they are, the latest of theirs.
    """

    __slots__ = ("dirty", "identity", "ready", "ready_once", "running", "until_s")

    def __init__(self, identity: bytes) -> None:
        self.identity = identity
        self.running: dict[int, Request] = {}
        self.dirty = False
        self.ready: list[Any] = []
        self.ready_once: list[Any] = []
        self.until_s = 0.0


class WorkerLease:
    """Requests that came together: one deadline and one schedule for all of them.

    Attributes:
        live: how many of ``requests`` have not ended.
        rto_s: seconds until unanswered datagrams are sent again; 0 if never.
        resend_s: instant of that, or of the deadline if never.
        resent: how often the unanswered ones were sent again.
        pin: number of the pinned connection they are for, or None.
        opens: a connection is to be pinned for them.
        others: there are other origins to be tried after this one.
        settings: what the kind needs for a connection.
        until_s: instant from which its requests can no longer be asked for again.
        wait_s: instant at which waiting for a connection ends.
        queued_s: how long its requests had waited at the broker.
        sent: an earlier attempt, perhaps at another worker, may have reached the upstream.
        resent_seqs: those that this worker sent on a connection which then turned out to be dead, and that it
            tries once more by itself.
    """

    __slots__ = (
        "attempt",
        "began_s",
        "deadline_s",
        "idempotent",
        "kind",
        "live",
        "opens",
        "origin",
        "others",
        "pin",
        "queued_s",
        "ready",
        "requests",
        "resend_s",
        "resent",
        "resent_seqs",
        "rto_s",
        "sent",
        "session",
        "settings",
        "span_s",
        "until_s",
        "upstream",
        "wait_s",
    )

    def __init__(self, session: SessionResults, group: LeaseGroup, now_s: float) -> None:
        self.session = session
        self.kind = group.kind
        self.origin = group.origin
        self.pin = group.pin
        self.opens = bool(group.flags & OPENS)
        self.others = bool(group.flags & OTHERS)
        self.settings = group.settings
        self.attempt = group.attempt
        self.idempotent = bool(group.flags & IDEMPOTENT)
        self.sent = bool(group.flags & SENT)
        self.resent_seqs: frozenset[int] = frozenset()
        self.ready = session.ready if self.idempotent else session.ready_once
        self.span_s = group.span_ms / 1000
        self.began_s = now_s
        self.deadline_s = now_s + self.span_s
        # With others, this attempt's span is a part of what is left, one of MAX_ORIGINS equal ones at least.
        self.until_s = now_s + self.span_s * (MAX_ORIGINS if self.others else 1) + ASKED_AGAIN_S
        self.queued_s = group.queued_ms / 1000
        self.wait_s = self.deadline_s if group.wait_ms is None else now_s + group.wait_ms / 1000
        self.resend_s = self.deadline_s
        self.rto_s = 0.0
        self.resent = 0
        self.requests: list[Request] = []
        self.live = 0
        self.upstream: OriginTransport | None = None

    def was_sent(self, request: Request) -> bool:
        """Return whether the upstream could have acted on an earlier attempt at one of its requests."""
        return self.sent or request.seq in self.resent_seqs

    def spent(self, dropped: Dropped) -> str:
        """Say where the time of a request went that has had no answer at its deadline."""
        queued_s = self.queued_s + dropped.waited_s
        here_s = self.span_s - dropped.waited_s
        text = f"no answer within {self.queued_s + self.span_s:.3f} s"
        if dropped.phase == "queue":
            text += ", all of them in the queue"
        elif queued_s >= LEAST_TOLD_S:
            doing = "connecting" if dropped.phase == "connect" else "waiting for the answer"
            text += f": {queued_s:.3f} s in the queue, {here_s:.3f} s {doing}"
        return text + (dropped.awaited and f": {dropped.awaited}")

    def unended(self) -> list[Request]:
        """Forget the requests that have ended, and return the others."""
        running = self.session.running
        self.requests = [request for request in self.requests if running.get(request.seq) is request]
        return self.requests


class Request(Ask):
    """One request.

    Attributes:
        place: the socket or connection that has it, or None while it waits for one.
    """

    __slots__ = ("lease", "place", "seq")

    def __init__(self, seq: int, payload: bytes, lease: WorkerLease) -> None:
        self.seq = seq
        self.payload = payload
        self.lease = lease
        self.place: Any = None

    @property
    def live(self) -> bool:
        """Whether it has not ended yet."""
        return self.lease.session.running.get(self.seq) is self
