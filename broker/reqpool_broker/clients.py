"""The broker's clients: sessions from HELLO to their end, and what they submit. No I/O, no clock."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from reqpool_contract import checks, wire
from reqpool_contract.errors import ProtocolError
from reqpool_contract.wire import Reject, Verb

from .cancellations import Cancellations
from .epoch import Epoch
from .pin import MAX_PINS
from .results_placement import ResultsPlacement
from .session import Session
from .submissions import Submissions
from .worker import Worker

MAX_SESSIONS = 10_000
MAX_RANGES = 1_000
"""Ranges of dropped seqs remembered of one expired session; with more it is told of none."""
MAX_TOMBSTONES = 1_000
"""Expired sessions of which the broker still knows what it dropped."""
MAX_ALL_KEPT_BYTES = 1 << 30
"""Settings kept for all sessions together."""


class Clients:
    """The intake and results sockets' side of the broker.

    Args:
        life: shared with the workers' side.
        results: what WELCOME says of the first results socket.
        report: makes the status report.

    Attributes:
        submissions: takes what they submit.
        spread: which session is published on which results socket.
        awaiting_confirmation: sessions whose large payloads have arrived, who send no more before they are
            told (a dict used as an ordered set).
    """

    def __init__(self, life: Epoch, results: str, report: Callable[[float], dict[str, Any]]) -> None:
        self._life = life
        self._outbox = life.outbox
        self._records = life.records
        self._pins = life.pins
        self._cancellations = Cancellations(life.records, life.sender, life.pins)
        self.sessions = life.sessions
        self.submissions = Submissions(life)
        self.spread = ResultsPlacement(results)
        self._report = report
        self._session_at: dict[bytes, Session] = {}
        self._kept_bytes = 0
        self._tombstones: OrderedDict[bytes, list[tuple[int, int]]] = OrderedDict()
        self.awaiting_confirmation: dict[Session, None] = {}
        self._generations = 0
        self._on: dict[Verb, Callable[..., None]] = {
            Verb.SUBMIT: self.submissions.submit,
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
            self.submissions.acknowledge(session, received)
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
            "max_pending": self._records.origins.config.clients.max_pending,
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

    def _heartbeat(self, session: Session, number: int, seen: int, acked: int, now_s: float) -> None:
        session.heartbeat_seen = number
        self.submissions.acknowledge(session, acked)

    def _cancel(self, session: Session, seqs: tuple[int, ...], now_s: float) -> None:
        self._cancellations.drop(session, seqs)
        session.drop_held(seqs)

    def _resend(self, session: Session, after: int, now_s: float) -> None:
        if session.subscribed:
            for batch in session.unacked:
                if batch.number > after:
                    self._outbox.results.append(session.frames(batch, self._life.epoch))

    def _unpin(self, session: Session, pin: int, now_s: float) -> None:
        if not self._pins.unpin(session, pin, tell=True) and not session.native:
            session.note_let_go(pin, MAX_PINS)

    def _end_session(self, session: Session) -> None:
        """The client is gone for good: what waits is dropped, what runs finishes unheard."""
        if session.route is not None:
            self._session_at.pop(session.route, None)
        self.submissions.acknowledge(session, session.published)
        for pin in list(self._records.pins_of(session)):
            self._pins.unpin(session, pin, tell=True)
        self._kept_bytes -= session.kept.size_bytes
        session.end()
        self.spread.leave(session)
        self._cancellations.forget(session)
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
        waiting = self._cancellations.forget(session)
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
