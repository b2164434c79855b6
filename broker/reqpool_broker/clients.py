"""The broker's clients: sessions from HELLO to their end, and what they submit. No I/O, no clock."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from reqpool_contract import checks, wire
from reqpool_contract.errors import Code, ProtocolError, UsageError
from reqpool_contract.wire import Flag, Reject, Verb

from .epoch import Epoch
from .pin import MAX_PINS, Pin
from .requests import Lease, Past, QueuedGroup, Terms
from .results_placement import ResultsPlacement
from .session import MAX_UNACKED_BATCHES, Session, group_bytes
from .worker import Worker

MAX_SESSIONS = 10_000
MAX_ALL_PENDING = 2_000_000
"""Requests held for all sessions together, before those that hold many are refused more."""
MAX_ALL_QUEUED_BYTES = 1 << 30
"""The same in bytes of payloads."""
MAX_RANGES = 1_000
"""Ranges of dropped seqs remembered of one expired session; with more it is told of none."""
MAX_TOMBSTONES = 1_000
"""Expired sessions of which the broker still knows what it dropped."""
MAX_ALL_KEPT_BYTES = 1 << 30
"""Settings kept for all sessions together."""
OVERLOAD_RETRY_MS = 250
_RESUBMITTED = int(Flag.RESUBMITTED)
_OPENS = int(Flag.OPENS)


class Clients:
    """The intake and results sockets' side of the broker.

    Args:
        life: shared with the workers' side.
        results: what WELCOME says of the first results socket.
        report: makes the status report.

    Attributes:
        spread: which session is published on which results socket.
        limits: what each client may take.
        awaiting_confirmation: sessions whose large payloads have arrived, who send no more before they are
            told (a dict used as an ordered set).
    """

    def __init__(self, life: Epoch, results: str, report: Callable[[float], dict[str, Any]]) -> None:
        self._life = life
        self._outbox = life.outbox
        self._ledger = life.ledger
        self.sessions = life.sessions
        self.spread = ResultsPlacement(results)
        self.limits = life.ledger.origins.config.clients
        self._report = report
        self._session_at: dict[bytes, Session] = {}
        self._kept_bytes = 0
        self._tombstones: OrderedDict[bytes, list[tuple[int, int]]] = OrderedDict()
        self._holding: dict[Session, None] = {}
        self.awaiting_confirmation: dict[Session, None] = {}
        self._generations = 0
        self._on: dict[Verb, Callable[..., None]] = {
            Verb.SUBMIT: self._submit,
            Verb.HEARTBEAT: self._heartbeat,
            Verb.CANCEL: self._cancel,
            Verb.RESEND: self._resend,
            Verb.UNPIN: self._unpin,
            Verb.KEEP: self._keep,
        }

    def message(self, route: bytes, frames: list[bytes], now_s: float) -> None:
        """Take one message of the intake socket, its routing id split off."""
        try:
            verb, values = wire.decode(frames[0] if frames else b"", wire.CLIENT_TO_BROKER, frames[1:])
            if verb is Verb.HELLO:
                self._hello(route, now_s, *values)
                return
            if verb is Verb.STATUS:
                self._outbox.intake.append([route, self._status(now_s, *values)])
                return
        except ProtocolError as error:
            self._life.malformed["intake"] += 1
            self._life.reject(self._outbox.intake, route, Reject.MALFORMED, error.text)
            return
        session = self._session_at.get(route)
        if session is None:
            if verb is not Verb.GOODBYE:
                self._life.reject(self._outbox.intake, route, Reject.UNKNOWN, "unknown session: send HELLO")
            return
        session.last_heard_s = now_s
        session.messages += 1
        if verb is Verb.GOODBYE:
            self._end_session(session)
        else:
            self._on[verb](session, *values, now_s)
            if len(frames) > 1:
                self.awaiting_confirmation[session] = None

    def _status(self, now_s: float, query: dict[str, Any]) -> bytes:
        number = checks.optional_uint(query.get("number"))
        report = self._report(now_s)
        if number is not None:
            report["number"] = number
        head = wire.encode(Verb.STATUS, report)
        if len(head) > wire.MAX_MESSAGE_BYTES:
            # libzmq would close the asker's connection, again and again.
            report["workers"] = [{**worker, "sample": {}} for worker in report["workers"]]
            head = wire.encode(Verb.STATUS, report)
        return head

    def _hello(self, route: bytes, now_s: float, lowest: int, highest: int, about: dict[str, Any]) -> None:
        version = self._life.common_version(self._outbox.intake, route, lowest, highest)
        if version is None:
            return
        id_ = checks.identity(about.get("session"))
        epoch = checks.optional_uint(about.get("epoch"))
        received = checks.uint(about.get("received", 0))
        generation = checks.optional_uint(about.get("generation"))
        name = checks.text(about.get("name", ""))[: wire.MAX_NAME_CHARS]
        pid = checks.uint(about.get("pid", 0))
        session = self.sessions.get(id_)
        if session is None and len(self.sessions) >= MAX_SESSIONS:
            self._life.reject(self._outbox.intake, route, Reject.OVERLOADED, "too many sessions")
            return
        previous = self._session_at.pop(route, None)
        if previous is not None and previous is not session:
            previous.route = None
            self._end_session(previous)
        resumed = False
        if session is None:
            session = self._life.new_session(id_, now_s)
            session.native = epoch is None
        elif session.ended:
            session.native = False
        else:
            # A WELCOME that did not arrive began a numbering that the client knows nothing of.
            resumed = epoch == self._life.epoch and generation in (None, session.generation)
        if session.route is not None:
            self._session_at.pop(session.route, None)
        self._session_at[route] = session
        self._kept_bytes -= session.kept.size_bytes
        session.begin(route, resumed=resumed, now_s=now_s)
        session.name, session.pid = name, pid
        if resumed:
            self._acknowledge(session, received)
        else:
            self._generations += 1
            session.generation = self._generations
        if epoch is not None and epoch != self._life.epoch:
            self._life.follow(now_s)
        session.never_ran += self._tombstones.pop(id_, ())
        welcome = {
            "epoch": self._life.epoch,
            "results": self.spread.join(session),
            "heartbeat_ms": self._life.heartbeat_ms,
            "liveness_ms": round(self._life.liveness_s * 1000),
            "expiry_ms": round(self._life.expiry_s * 1000),
            "resumed": resumed,
            "generation": session.generation,
            "watermark": self._life.succession.watermark,
            "max_pending": self.limits.max_pending,
            "never_ran": session.never_ran,
            "keeps": self._keeps(),
            "apart": True,
            "window_bytes": wire.WINDOW_BYTES,
        }
        self._outbox.intake.append([route, wire.encode(Verb.WELCOME, version, welcome)])

    def _keeps(self) -> int:
        """How many settings a session may have kept here: none where it might not get them in."""
        most = wire.SESSION_KEEPS * wire.MAX_SETTINGS_BYTES
        return wire.SESSION_KEEPS if self._kept_bytes + most <= MAX_ALL_KEPT_BYTES else 0

    def _keep(self, session: Session, number: int, settings: bytes, now_s: float) -> None:
        code, text = Reject.OVERLOADED, "no room for the settings of another session"
        if self._kept_bytes + len(settings) <= MAX_ALL_KEPT_BYTES:
            before = session.kept.size_bytes
            try:
                session.kept.keep(number, settings)
                self._kept_bytes += session.kept.size_bytes - before
                return
            except ProtocolError as error:
                self._life.malformed["intake"] += 1
                code, text = Reject.MALFORMED, error.text
        if session.route is not None:
            self._life.reject(self._outbox.intake, session.route, code, text)

    def subscription(self, topic: bytes, place: int) -> bool:
        """May somebody subscribe to ``topic`` on this results socket? Only to a session that said HELLO and
        was sent there, and only exactly."""
        session = self.sessions.get(topic)
        if session is None or session.route is None or session.place != place:
            # What has the length of an id is as a rule a client's that connects again: its socket subscribes
            # before it says HELLO anew, and will be closed.
            self._life.malformed["results"] += len(topic) != wire.SESSION_ID_BYTES
            return False
        return True

    def subscribed(self, topic: bytes) -> None:
        """The subscription stands: say OPEN, and publish what has not been acknowledged."""
        session = self.sessions[topic]
        session.subscribed = True
        self._outbox.results.append([topic, wire.encode(Verb.OPEN, self._life.epoch)])
        self._resend(session, 0, 0.0)

    def _submit(
        self,
        session: Session,
        number: int,
        acked: int,
        groups: list[wire.SubmitGroup | wire.BadGroup],
        now_s: float,
    ) -> None:
        if number != session.submitted + 1:
            if number > session.submitted and session.route is not None:
                text = f"SUBMIT {number} came after {session.submitted}"
                self._life.reject(self._outbox.intake, session.route, Reject.GAP, text)
            return
        self._acknowledge(session, acked)
        if len(session.unacked) > MAX_UNACKED_BATCHES and session.route is not None:
            text = f"{len(session.unacked)} batches of results are not acknowledged"
            self._life.reject(self._outbox.intake, session.route, Reject.OVERLOADED, text)
            return
        session.submitted = number
        unread: list[wire.BadGroup] = []
        for group in groups:
            self._ledger.submitted += len(group.seqs)
            if isinstance(group, wire.BadGroup):
                unread.append(group)
                continue
            if group.kept is not None:
                try:
                    group = group._replace(settings=session.kept.find(group.kept))
                except ProtocolError as error:
                    resubmitted = bool(group.flags & _RESUBMITTED)
                    unread.append(wire.BadGroup(b"", group.seqs, resubmitted, error.text))
                    continue
            deadline_s = now_s + group.span_ms / 1000
            size_bytes = group_bytes(group)
            if (
                (group.flags & _RESUBMITTED or (group.pin is not None and not group.flags & _OPENS))
                and not session.native
                and self._life.must_hold(now_s)
                and not self._over(session, group.flags, len(group.seqs), size_bytes)
            ):
                session.hold(group, deadline_s)
                self._holding[session] = None
            else:
                self._admit(session, group, deadline_s, now_s)
        if unread:
            self._refuse(session, unread)

    def _refuse(self, session: Session, groups: list[wire.BadGroup]) -> None:
        """End the requests of groups that cannot be used: one verdict for all that are wrong alike."""
        self._life.malformed["intake"] += len(groups)
        alike: dict[tuple[str, bool], dict[int, None]] = {}
        # The others end by themselves.
        unknown = session.unknown(seq for group in groups for seq in group.seqs)
        for group in groups:
            for seq in group.seqs:
                if seq in unknown:
                    sent = group.resubmitted and not session.native
                    alike.setdefault((f"the broker cannot use it: {group.text}", sent), {})[seq] = None
        for (text, sent), seqs in alike.items():
            self._ledger.fail(session, seqs, Code.PROTOCOL, text, sent=sent)

    def _admit(self, session: Session, group: wire.SubmitGroup, deadline_s: float, now_s: float) -> None:
        seqs, payloads = group.seqs, group.payloads
        own_bytes = 0 if group.kept is not None else len(group.settings)
        refusal = ""
        try:
            group = self._resolved(group)
        except UsageError as error:
            # Some of them may be running all the same, under the configuration that was.
            refusal = error.text
        sent = False
        fresh = len(set(seqs)) == len(seqs) and session.open.keys().isdisjoint(seqs)
        terms = Terms(
            session,
            group.kind,
            () if refusal else group.origins,
            group.flags,
            group.priority,
            group.trace,
            deadline_s,
            group.settings,
            group.pin,
            own_bytes,
        )
        if group.flags & _RESUBMITTED or not fresh:
            self._claim(session, terms, group)
            unknown = session.unknown(seqs)
            pairs = dict(zip(seqs, payloads, strict=True))
            seqs = tuple(seq for seq in pairs if seq in unknown)
            payloads = tuple(pairs[seq] for seq in seqs)
            if group.flags & _RESUBMITTED and not terms.idempotent:
                lost = self._lost(session, seqs, group.watermark)
                text = "the pool lost track of it; it may or may not have run"
                self._ledger.fail(
                    session, lost, Code.OUTCOME_UNKNOWN, text, origin=group.origins[0], sent=True
                )
                pairs = {seq: pairs[seq] for seq in seqs if seq not in set(lost)}
                seqs, payloads = tuple(pairs), tuple(pairs.values())
            elif group.flags & _RESUBMITTED:
                # Their results are not kept for the client's sake: that no worker holds one says nothing.
                sent = not session.native
            if not seqs:
                return
        if refusal:
            self._ledger.fail(session, seqs, Code.USAGE, refusal, origin=group.origins[0], sent=sent)
        elif over := self._over(session, group.flags, len(seqs), sum(map(len, payloads)) + own_bytes):
            session.refused += len(seqs)
            self._ledger.fail(
                session, seqs, Code.OVERLOADED, over, sent=sent, retry_after_ms=OVERLOAD_RETRY_MS
            )
        elif terms.goes_to_pin:
            if len(seqs) != 1 or terms.idempotent or len(terms.origins) != 1:
                text = "requests for a pinned connection must come one at a time and not be idempotent"
                self._ledger.fail(session, seqs, Code.USAGE, text, origin=terms.origins[0], sent=False)
            elif session.unacked_bytes > self.limits.max_queued_bytes:
                # They pass the queue, where others wait until the client has acknowledged what it was sent.
                self._ledger.fail(
                    session,
                    seqs,
                    Code.OVERLOADED,
                    f"{session.unacked_bytes} bytes of results are not acknowledged",
                    sent=False,
                    retry_after_ms=OVERLOAD_RETRY_MS,
                )
            else:
                self._ledger.lease_held(QueuedGroup(terms, seqs, payloads), now_s)
        elif group.pin is None or self._open_pin(session, terms, seqs, now_s):
            self._ledger.enqueue(QueuedGroup(terms, seqs, payloads, Past(sent=sent)), now_s)

    def _resolved(self, group: wire.SubmitGroup) -> wire.SubmitGroup:
        """Put what the configuration knows in the place of names, and of URLs without passwords.

        Raises:
            UsageError: for a name it does not know, or something that no worker would take.
        """
        # What is repeated to its client for each of 512 requests, or handed on as it is, must be short.
        if len(group.kind) > wire.MAX_KIND_CHARS:
            raise UsageError(f"a kind's name can have at most {wire.MAX_KIND_CHARS} characters")
        if group.trace is not None and len(group.trace) > wire.MAX_TRACE_BYTES:
            raise UsageError(f"a trace context can have at most {wire.MAX_TRACE_BYTES} bytes")
        if group.pin is not None and not group.flags & _OPENS:
            return group  # where it goes is settled, whatever is configured now
        config = self._ledger.origins.config
        if not config.upstreams and not any(origin[0] == "@" for origin in group.origins):
            return group
        resolved = [config.resolve(group.kind, origin, group.settings) for origin in group.origins]
        if len({settings for _, settings in resolved}) > 1:
            raise UsageError("upstreams that are tried in turn must have equal settings (passwords, TLS)")
        if any(len(name) > wire.MAX_ORIGIN_CHARS for name, _ in resolved):
            raise UsageError(
                f"an origin, with what the configuration adds, has more than {wire.MAX_ORIGIN_CHARS} "
                "characters"
            )
        return group._replace(origins=tuple(name for name, _ in resolved), settings=resolved[0][1])

    def _open_pin(self, session: Session, terms: Terms, seqs: tuple[int, ...], now_s: float) -> bool:
        """Note the pin that these requests open; False, and an error for them, if that cannot be."""
        text = ""
        if terms.flags & _RESUBMITTED and terms.pin is not None:
            # A worker reported the pin to this life of the broker, and handed back the request that opens it
            # before its client said what that was: no connection is held.
            self._ledger.unpin(session, terms.pin, tell=True)
        if len(seqs) != 1 or terms.idempotent or len(terms.origins) != 1:
            text = "a pin must be opened by a single non-idempotent request to a single upstream"
        elif terms.pin in session.pins:
            text = f"pin {terms.pin} is already open"
        elif len(session.pins) >= MAX_PINS:
            text = f"{MAX_PINS} connections are already pinned to this session"
        if text or terms.pin is None:
            self._ledger.fail(session, seqs, Code.USAGE, text, origin=terms.origins[0], sent=False)
            return False
        origin = self._ledger.origins.get(terms.kind, terms.origins[0], now_s)
        session.let_go.pop(terms.pin, None)
        session.pins[terms.pin] = Pin(session, terms.pin, origin)
        return True

    def _over(self, session: Session, flags: int, count: int, size_bytes: int) -> str:
        """Why the session may not queue so much more; empty if it may.

        The sums over all are only made for those that hold much. As for messages: a ROUTER cannot leave one
        peer unread, and REJECT would have it connect again and repeat all. So what it submits is refused,
        which its client understands; what is submitted again was let in once.
        """
        limits = self.limits
        if session.messages > limits.max_messages_per_s and not flags & _RESUBMITTED:
            return (
                f"the broker accepts at most {limits.max_messages_per_s} messages of a client per second "
                "(max_messages_per_s)"
            )
        pending = session.pending + count
        queued_bytes = session.queued_bytes + session.held_bytes + size_bytes
        if pending > limits.max_pending:
            return f"the broker holds at most {limits.max_pending} requests of a client (max_pending)"
        if queued_bytes > limits.max_queued_bytes:
            return f"the broker queues at most {limits.max_queued_bytes} bytes of a client (max_queued_bytes)"
        if (
            pending > limits.max_pending // 10
            and sum(len(s.open) for s in self.sessions.values()) > MAX_ALL_PENDING
        ):
            return f"the broker holds at most {MAX_ALL_PENDING} requests of all clients"
        if (
            queued_bytes > limits.max_queued_bytes // 10
            and sum(s.queued_bytes + s.held_bytes for s in self.sessions.values()) > MAX_ALL_QUEUED_BYTES
        ):
            return f"the broker queues at most {MAX_ALL_QUEUED_BYTES} bytes of all clients"
        return ""

    def _claim(self, session: Session, terms: Terms, group: wire.SubmitGroup) -> None:
        """Learn from its client what a request is that so far only a worker's report had named."""
        claimed: dict[Worker, dict[int, bytes]] = {}
        for seq, payload in dict(zip(group.seqs, group.payloads, strict=True)).items():
            lease = session.open.get(seq)
            if isinstance(lease, Lease) and lease.origin is None:
                del lease.requests[seq]
                if not lease.requests:
                    del lease.worker.leases[lease]
                claimed.setdefault(lease.worker, {})[seq] = payload
        for worker, requests in claimed.items():
            self._ledger.adopt(worker, terms, requests)

    def _lost(self, session: Session, seqs: Iterable[int], watermark: bytes) -> tuple[int, ...]:
        """Which of these, submitted again and not known here, may a worker have sent upstream?"""
        in_doubt = not session.native and self._life.succession.in_doubt(watermark)
        return tuple(
            seq for seq in seqs if seq in session.doubtful or (in_doubt and not session.never_run(seq))
        )

    def release_held(self, now_s: float) -> None:
        """Admit what was held back for reports of earlier workers, once it need not wait any more."""
        if self._holding and not self._life.must_hold(now_s):
            holding, self._holding = self._holding, {}
            for session in holding:
                for group, deadline_s in session.take_held():
                    self._admit(session, group, deadline_s, now_s)

    def _heartbeat(self, session: Session, number: int, seen: int, acked: int, now_s: float) -> None:
        session.heartbeat_seen = number
        self._acknowledge(session, acked)

    def _cancel(self, session: Session, seqs: tuple[int, ...], now_s: float) -> None:
        self._ledger.drop(session, seqs)
        session.drop_held(seqs)

    def _resend(self, session: Session, after: int, now_s: float) -> None:
        if session.subscribed:
            for batch in session.unacked:
                if batch.number > after:
                    self._outbox.results.append(session.frames(batch, self._life.epoch))

    def _unpin(self, session: Session, pin: int, now_s: float) -> None:
        if not self._ledger.unpin(session, pin, tell=True) and not session.native:
            session.note_let_go(pin, MAX_PINS)

    def _acknowledge(self, session: Session, number: int) -> None:
        throttled = not session.has_room
        for batch in session.acknowledge(number):
            for worker, worker_number in batch.keepers:
                worker.part_delivered(worker_number)
            # From here on nothing else would know that they have ended.
            session.drop_held(batch.seqs)
        if throttled and session.has_room:
            self._ledger.wake()

    def _end_session(self, session: Session) -> None:
        """The client is gone for good: what waits is dropped, what runs finishes unheard."""
        if session.route is not None:
            self._session_at.pop(session.route, None)
        self._acknowledge(session, session.published)
        for pin in list(session.pins):
            self._ledger.unpin(session, pin, tell=True)
        self._kept_bytes -= session.kept.size_bytes
        session.end()
        self.spread.leave(session)
        self._ledger.forget(session)
        if not session.open:
            self.sessions.pop(session.id, None)

    def watch(self, now_s: float) -> None:
        """Forget who was silent for too long; a second has passed, and messages are counted anew."""
        for session in list(self.sessions.values()):
            session.messages = 0
            if session.ended:
                if not session.open:
                    self.sessions.pop(session.id, None)
            elif now_s - session.last_heard_s > self._life.expiry_s:
                self._expire_session(session)

    def _expire_session(self, session: Session) -> None:
        waiting = self._ledger.forget(session)
        ranges = _ranges(waiting)
        self._tombstones[session.id] = ranges if len(ranges) <= MAX_RANGES else []
        while len(self._tombstones) > MAX_TOMBSTONES:
            self._tombstones.popitem(last=False)
        self._end_session(session)

    def goodbye(self, text: str) -> None:
        """Tell every client that the broker ends, why, and what of its requests may have run."""
        for session in self.sessions.values():
            if session.subscribed:
                doubtful = _ranges(session.may_have_run())
                values = [self._life.epoch, text, session.submitted, session.published, not doubtful]
                if 0 < len(doubtful) <= MAX_RANGES:
                    values.append(doubtful)
                self._outbox.results.append([session.id, wire.encode(Verb.GOODBYE, *values)])

    def ask_to_acknowledge(self, worker: Worker) -> None:
        """Have clients say at once what they have received of what a worker keeps until they do."""
        for session in self.sessions.values():
            if any(keeper is worker for batch in session.unacked for keeper, _ in batch.keepers):
                self.beat(session)

    def awaited(self, now_s: float) -> dict[Worker, float]:
        """Workers that keep results until clients acknowledge them, silent clients aside.

        Returns:
            With each, when the one of these clients was heard that has not been heard for longest.
        """
        heard_s: dict[Worker, float] = {}
        for session in self.sessions.values():
            if not session.is_silent(now_s, self._life.liveness_s):
                for worker in {keeper for batch in session.unacked for keeper, _ in batch.keepers}:
                    heard_s[worker] = min(heard_s.get(worker, now_s), session.last_heard_s)
        return heard_s

    def beat_due_sessions(self) -> None:
        """Send the sessions of the results socket whose turn it is their heartbeats."""
        for session in self.spread.turn():
            self.beat(session)

    def confirm(self) -> None:
        """Send heartbeats to those whose large payloads have arrived."""
        for session in self.awaiting_confirmation:
            self.beat(session)
        self.awaiting_confirmation.clear()

    def beat(self, session: Session) -> None:
        """Send a session a heartbeat; it acknowledges what it has not acknowledged yet at once."""
        if session.subscribed:
            session.heartbeats_sent += 1
            head = wire.encode(
                Verb.HEARTBEAT,
                self._life.epoch,
                session.heartbeats_sent,
                session.heartbeat_seen,
                session.submitted,
                session.published,
                b"" if session.held else self._life.succession.watermark,
            )
            self._outbox.results.append([session.id, head])


def _ranges(seqs: Iterable[int]) -> list[tuple[int, int]]:
    """Sorted ``(first, last)`` runs of sequence numbers."""
    runs: list[tuple[int, int]] = []
    for seq in sorted(seqs):
        if runs and runs[-1][1] == seq - 1:
            runs[-1] = (runs[-1][0], seq)
        else:
            runs.append((seq, seq))
    return runs
