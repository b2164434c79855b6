"""What the worker has been leased and what became of it. Sans-IO.

Every request a worker holds is in exactly one session's ``held``; it leaves through exactly one of
:meth:`WorkerLedger.finish`, :meth:`~WorkerLedger.conclude`, :meth:`~WorkerLedger.fail`,
:meth:`~WorkerLedger.give_back` and :meth:`~WorkerLedger.cancel`. What is to be told the broker about it
gathers here until the end of the loop's turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

from reqpool_contract import wire
from reqpool_contract.errors import Code
from reqpool_contract.wire import MAX_ORIGINS, FailedAttempts, Flag, LeaseGroup

from .protocols import Ask

IDEMPOTENT = int(Flag.IDEMPOTENT)
OPENS = int(Flag.OPENS)
SENT = int(Flag.SENT)
OTHERS = int(Flag.OTHERS)

LEAST_TOLD_S = 0.01
"""A wait that is worth telling."""
MOST_DECLINED_BYTES = 4096
"""The longest answer that RETRY carries: it is one message for all, whose size is bounded."""

PIN_GONE = "the connection pinned to this session is lost, with its uncommitted work"
ASKED_AGAIN_S = (wire.CLUSTER_GRACE_MS + wire.LIVENESS_MS) / 1000
"""How long past its deadline a request may be asked for again: its client gives it up after the grace, and
its message may take as long as a connection can be silent. The deadline is that of the lease, counted from
its receipt: never earlier than the client's."""

Pin = tuple[bytes, int]
"""Session id, and the number its client gave to a held connection."""


class Dropped(NamedTuple):
    """Where a request was when it was taken away.

    Attributes:
        phase: of the request.
        sent: could the upstream have acted on it?
        awaited: what its connection's handshake waited for, or it for a connection, for people; mostly empty.
        waited_s: how long it had waited here for its connection, to the millisecond.
    """

    phase: str
    sent: bool
    awaited: str = ""
    waited_s: float = 0.0


class OriginTransport(Protocol):
    """Whoever talks to one origin: ``datagrams.py``, ``streams.py``.

    Attributes:
        backlog: requests that wait here for a connection.
    """

    @property
    def backlog(self) -> int: ...

    def submit(self, lease: WorkerLease, now_s: float) -> None:
        """Send a lease's requests, or have them wait for a connection."""

    def submit_held(self, lease: WorkerLease, pin: Pin) -> None:
        """Send a lease's request on the connection that is held for it."""

    def drop(self, request: Request, reason: str) -> Dropped:
        """Stop working for a request; nothing is reported for it. ``reason`` is that of a close."""

    def resend(self, lease: WorkerLease, now_s: float) -> float | None:
        """Send again what is unanswered and due; return when to be called next, or None."""


class SessionResults:
    """What is held for one client.

    Attributes:
        held: sequence number to request, all that still run.
        dirty: there are results.
        ready: flat results (seq, code, data, …) of requests that may run more than once.
        ready_once: the same of the others, whose results are kept longer.
        until_s: instant until which, the latest of these.
    """

    __slots__ = ("dirty", "held", "identity", "ready", "ready_once", "until_s")

    def __init__(self, identity: bytes) -> None:
        self.identity = identity
        self.held: dict[int, Request] = {}
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
        pin: number of the held connection they are for, or None.
        opens: the connection is to be taken for them.
        others: other origins are left to be tried after this one.
        settings: what the kind needs for a connection.
        until_s: instant from which nobody can ask for its requests again.
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
        """Could the upstream have acted on an earlier attempt at one of its requests?"""
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
        """The requests that have not ended; the others are let go of."""
        held = self.session.held
        self.requests = [request for request in self.requests if held.get(request.seq) is request]
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
        """Has it not ended yet?"""
        return self.lease.session.held.get(self.seq) is self


class WorkerLedger:
    """All sessions' requests, and the news for the broker."""

    def __init__(self) -> None:
        self.sessions: dict[bytes, SessionResults] = {}
        self.dirty: list[SessionResults] = []
        """Sessions with results that were not reported yet."""
        self.failures: list[FailedAttempts] = []
        """For RETRY."""
        self.returns: list[tuple[bytes, tuple[int, ...], bool]] = []
        """For RETURN."""
        self.unpinned: list[Pin] = []
        """For UNPIN: held connections that are gone."""
        self.patient = 0
        """Unreported results that may wait, since their origins had other requests to go on with."""
        self.answering: set[OriginTransport] = set()
        """Those origins."""
        self.done = 0
        self.failed = 0
        self.ignored = 0
        self.resent = 0
        self._taken = 0

    def admit(self, group: LeaseGroup, now_s: float) -> WorkerLease:
        """Take a lease group on. What is already held (the broker could not know) is left out."""
        session = self.sessions.get(group.session)
        if session is None:
            session = self.sessions[group.session] = SessionResults(group.session)
        lease = WorkerLease(session, group, now_s)
        held = session.held
        requests = lease.requests
        for seq, payload in zip(group.seqs, group.payloads, strict=True):
            if seq not in held:
                held[seq] = request = Request(seq, payload, lease)
                requests.append(request)
        lease.live = len(requests)
        return lease

    def finish(self, request: Request, code: int, data: bytes) -> None:
        """A request has its outcome."""
        lease = request.lease
        session = lease.session
        del session.held[request.seq]
        lease.live -= 1
        if not lease.live:
            lease.requests = []  # they point back at the lease: no cycle is left for the collector
        if not session.dirty:
            session.dirty = True
            self.dirty.append(session)
        lease.ready += (request.seq, code, data)
        if not lease.idempotent and lease.until_s > session.until_s:
            session.until_s = lease.until_s
        self.done += 1

    def conclude(
        self, request: Request, code: Code, text: str, *, phase: str | None = None, sent: bool | None = None
    ) -> None:
        """A request has failed for good."""
        lease = request.lease
        if lease.was_sent(request):  # once possibly sent, always possibly sent
            sent = True
        data = wire.encode_error(text, origin=lease.origin, phase=phase, attempts=lease.attempt, sent=sent)
        self.finish(request, code, data)
        self.failed += 1
        if lease.opens and lease.pin is not None:
            # Told unless the connection is held all the same, see Conversation._report.
            self.unpinned.append((lease.session.identity, lease.pin))

    def no_such_pin(self, lease: WorkerLease, pin: Pin) -> None:
        """Requests came for a held connection that is not there."""
        self.lose_pin(lease, PIN_GONE)
        self.unpinned.append(pin)

    def lose_pin(self, lease: WorkerLease, text: str) -> None:
        """Requests came for a held connection that they cannot have."""
        for request in list(lease.requests):
            self.conclude(request, Code.CONNECTION_LOST, text, phase="queue", sent=False)

    def fail(self, requests: list[Request], code: Code, text: str, *, phase: str, sent: bool) -> None:
        """This attempt at requests of one lease has failed; the broker may have another.

        What must not be repeated and may have been acted on is reported as a result: a RETRY that got lost
        with its connection would make it run again.
        """
        if not requests:
            return
        lease = requests[0].lease
        if sent and not lease.idempotent:
            for request in requests:
                self.conclude(request, code, text, phase=phase, sent=sent)
            return
        for was_sent, some in _by_sent(requests, sent):
            details = wire.encode_error(
                text, origin=lease.origin, phase=phase, attempts=lease.attempt, sent=was_sent
            )
            seqs = self._let_go(some)
            self.failures.append(FailedAttempts(lease.session.identity, seqs, code, was_sent, details))
            self.failed += len(seqs)

    def refuse(self, session: bytes, seqs: Iterable[int], text: str) -> None:
        """Requests were leased in a way that cannot be used; those of them that run already go on."""
        held = self.sessions[session].held if session in self.sessions else {}
        refused = tuple(seq for seq in seqs if seq not in held)
        if refused:
            details = wire.encode_error(text, sent=False)
            self.failures.append(FailedAttempts(session, refused, Code.PROTOCOL, False, details))
            self.failed += len(refused)

    def decline(self, request: Request, answer: bytes) -> None:
        """A request has an answer, but another origin may have a better one: the broker asks that first.

        What must not be repeated is not asked again, as in :meth:`fail`.
        """
        lease = request.lease
        if lease.others and lease.idempotent and len(answer) <= MOST_DECLINED_BYTES:
            self.failures.append(
                FailedAttempts(lease.session.identity, self._let_go([request]), Code.OK, True, answer)
            )
        else:
            self.finish(request, Code.OK, answer)

    def give_back(self, requests: list[Request]) -> None:
        """Hand back requests of one lease that this attempt has not sent upstream."""
        for was_sent, some in _by_sent(requests, False):
            self.returns.append((some[0].lease.session.identity, self._let_go(some), was_sent))

    def cancel(self, request: Request, *, sent: bool) -> None:
        """Nobody waits for this request any more.

        What must not be repeated and may have been acted on is reported all the same: to forget it is for
        those who know why nobody asks for it again.
        """
        lease = request.lease
        if sent and not lease.idempotent:
            self.conclude(request, Code.CANCELLED, "cancelled", phase="read", sent=True)
        else:
            self.forget(request)

    def forget(self, request: Request) -> None:
        """Let go of a request of which nothing is reported."""
        self._let_go([request])

    def find(self, session: bytes, seqs: Iterable[int]) -> list[Request]:
        """The requests among these that are still held."""
        held = self.sessions[session].held if session in self.sessions else {}
        return [held[seq] for seq in seqs if seq in held]

    def opening(self, session: bytes, pin: int) -> list[Request]:
        """The first request of a pin, if it is still held."""
        held = self.sessions[session].held if session in self.sessions else {}
        return [request for request in held.values() if request.lease.opens and request.lease.pin == pin]

    def openings(self) -> Iterator[tuple[Pin, str, str]]:
        """Pins whose first request is still held: whose, to which kind and origin."""
        for session in self.sessions.values():
            for request in session.held.values():
                lease = request.lease
                if lease.opens and lease.pin is not None:
                    yield (session.identity, lease.pin), lease.kind, lease.origin

    @property
    def empty(self) -> bool:
        """Is nothing held, and everything told?"""
        return not self.sessions and not self.failures and not self.returns

    @property
    def in_doubt(self) -> int:
        """How many requests that must not be repeated are held, or have an outcome that was not told."""
        return sum(
            sum(not request.lease.idempotent for request in session.held.values())
            + len(session.ready_once) // 3
            for session in self.sessions.values()
        )

    def held(self) -> Iterator[tuple[bytes, tuple[int, ...]]]:
        """What still runs, for HELLO."""
        for session in self.sessions.values():
            if session.held:
                yield session.identity, tuple(session.held)

    def answered(self, origin: OriginTransport, count: int) -> None:
        """Note that ``count`` results came from an origin that may have others to go on with."""
        self.patient += count
        self.answering.add(origin)

    @property
    def unreported(self) -> int:
        """Results that were not taken yet."""
        return self.done - self._taken

    @property
    def busy(self) -> bool:
        """Could all results wait a little, since each origin has as many requests to go on with as there
        are?"""
        unreported = self.done - self._taken
        return self.patient == unreported and all(one.backlog >= unreported for one in self.answering)

    def take_results(self) -> list[tuple[bytes, list[Any], float | None]]:
        """Take what has been finished: (session, flat results, until when they are kept, as in
        :class:`~.retained_results.Part`)."""
        taken: list[tuple[bytes, list[Any], float | None]] = []
        self._taken = self.done
        self.patient = 0
        self.answering.clear()
        for session in self.dirty:
            session.dirty = False
            if session.ready:
                taken.append((session.identity, session.ready.copy(), None))
                session.ready.clear()
            if session.ready_once:
                taken.append((session.identity, session.ready_once.copy(), session.until_s))
                session.ready_once.clear()
                session.until_s = 0.0
            self._tidy(session)
        self.dirty.clear()
        return taken

    def take_returns(self) -> list[tuple[bytes, tuple[int, ...], bool]]:
        """Take what is to be handed back."""
        taken, self.returns = self.returns, []
        return taken

    def take_failures(self) -> list[FailedAttempts]:
        """Take the attempts that failed."""
        taken, self.failures = self.failures, []
        return taken

    def take_unpinned(self) -> list[Pin]:
        """Take the held connections that are gone."""
        taken, self.unpinned = self.unpinned, []
        return taken

    def _let_go(self, requests: list[Request]) -> tuple[int, ...]:
        lease = requests[0].lease
        session = lease.session
        seqs = tuple(request.seq for request in requests)
        for seq in seqs:
            del session.held[seq]
        lease.live -= len(seqs)
        if not lease.live:
            lease.requests = []
        self._tidy(session)
        return seqs

    def _tidy(self, session: SessionResults) -> None:
        """Forget a session of which nothing is left."""
        if not session.held and not session.dirty:
            self.sessions.pop(session.identity, None)


def _by_sent(requests: list[Request], sent: bool) -> list[tuple[bool, list[Request]]]:
    """Split requests of one lease by whether the upstream could have acted on any attempt at them."""
    if sent or not requests or not requests[0].lease.resent_seqs:
        return [(sent or requests[0].lease.sent, requests)] if requests else []
    split: dict[bool, list[Request]] = {}
    for request in requests:
        split.setdefault(request.lease.was_sent(request), []).append(request)
    return list(split.items())
