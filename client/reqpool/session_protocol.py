"""One client's session with a broker, docs/protocol.md#a-clients-session: sans-IO.

The owner of sockets and clock calls :class:`SessionProtocol` with received messages and with the time, and
gets a list of actions to be carried out in order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgpack

from reqpool_contract import checks, plain_messages, wire
from reqpool_contract.backoff import backoff_s
from reqpool_contract.cached_settings import SettingsSender
from reqpool_contract.errors import ProtocolError
from reqpool_contract.wire import Reject, Verb

from .resubmission import EXPIRY_SHARE, Resubmission
from .results_window import BATCHES_PER_ACK, ResultsWindow
from .session_actions import (
    Action,
    CompleteResults,
    EndSubmitted,
    Lost,
    OpenIntake,
    Send,
    Subscribe,
)
from .session_state import TRANSITIONS, Event, SessionState
from .submit_window import SubmitWindow

_pack: Callable[[Any], bytes] = msgpack.Packer().pack
_SUBMIT = int(Verb.SUBMIT)
BACKOFF_FIRST_S = 0.05
BACKOFF_MOST_S = 1.0


class SessionProtocol:
    """The client's end of a session.

    Attributes:
        state: see :class:`SessionState`.
        connection: counts dials; 0 before the first.
        ever_open: True once a broker was reached.
        reconnects: how many times it was opened again.
        refusal: why there is no point in waiting (no common version, a URL that cannot be dialled), or None.
        trouble: what went wrong last, for error texts; empty if nothing.
        ignored: messages that were illegal, or stale.
        keeping: which settings the broker keeps for this connection.
        heartbeat_s: how often a heartbeat is sent.
        heard_s: when the last message from the broker was taken, monotonic.
        answered_s: when it last answered another heartbeat of ours, and so had heard us.
        liveness_s: a connection is given up when nothing was received on it for this span.
        takes_apart: it takes large payloads in frames of their own.
        submits: what was submitted on this connection.
        results: what was received.
        resubmission: what is known of the requests that are submitted again.
    """

    def __init__(self, session_id: bytes, name: str, pid: int, random_unit: Callable[[], float]):
        """Begin closed.

        Args:
            session_id: the secret.
            name: the program's, for display.
            pid: the process's.
            random_unit: returns random numbers from 0 to 1.
        """
        self.state = SessionState.CLOSED
        self.connection = 0
        self.ever_open = False
        self.reconnects = 0
        self.refusal: str | None = None
        self.trouble = ""
        self.ignored = 0
        self.keeping = SettingsSender()
        self.takes_apart = False
        self.submits = SubmitWindow()
        self.results = ResultsWindow()
        self.resubmission = Resubmission()
        self._about: dict[str, Any] = {
            "session": session_id, "name": wire.sendable(name, wire.MAX_NAME_CHARS), "pid": pid,
        }  # fmt: skip
        self._random_unit = random_unit
        self._failures = 0
        self._next_dial_s = -math.inf
        self._epoch: int | None = None
        self._generation: int | None = None
        self._heartbeats = 0
        self._broker_heartbeat = 0
        self._seen = 0
        self.heartbeat_s = wire.HEARTBEAT_MS / 1000
        self.liveness_s = wire.LIVENESS_MS / 1000
        self._next_heartbeat_s = math.inf
        self.heard_s = 0.0
        self.answered_s = 0.0

    # --- time ---------------------------------------------------------------------------------------

    @property
    def due_s(self) -> float:
        """When :meth:`tick` has something to do next."""
        if self.state is SessionState.CLOSED:
            return self._next_dial_s
        return min(self._next_heartbeat_s, self.heard_s + self.liveness_s, self.answered_s + self.liveness_s)

    def tick(self, now_s: float) -> list[Action]:
        """Do what is due: dial, heartbeat, or give the connection up. Read the sockets before."""
        if self.state is SessionState.CLOSED:
            return self._dial(now_s) if now_s >= self._next_dial_s else []
        if now_s >= self.heard_s + self.liveness_s:
            return self._lose(now_s, f"nothing heard for {now_s - self.heard_s:.1f} s")
        if now_s >= self.answered_s + self.liveness_s:
            return self._lose(now_s, f"not heard by the broker for {now_s - self.answered_s:.1f} s")
        if now_s >= self._next_heartbeat_s:
            return [self._heartbeat(now_s)]
        return []

    def has_expired(self, now_s: float) -> bool:
        """Return whether the broker may have forgotten the session by now, as this process was suspended.

        Ask before messages are read that came meanwhile.
        """
        expiry_s = self.resubmission.expiry_s * EXPIRY_SHARE
        return self.state is not SessionState.CLOSED and now_s - self.heard_s > expiry_s

    # --- what came in -------------------------------------------------------------------------------

    def received(self, head: bytes, now_s: float) -> list[Action]:
        """Take one message of the intake socket.

        Raises:
            ProtocolError: it is illegal here; nothing has changed but ``ignored``.
        """
        try:
            verb, fields = wire.decode(head, wire.BROKER_TO_CLIENT)
            if verb is Verb.WELCOME:
                return self._welcome(now_s, *fields)
            if verb is Verb.REJECT:
                return self._rejected(now_s, *fields)
            raise ProtocolError(f"{verb.name} was not requested")
        except ProtocolError:
            self.ignored += 1
            raise

    def published(self, head: bytes, blob: bytes | None, now_s: float) -> list[Action]:
        """Take one message of the results socket, without its topic.

        Raises:
            ProtocolError: it is illegal here; nothing has changed but ``ignored``.
        """
        try:
            verb, fields = wire.decode(head, wire.PUBLISHED)
            if verb is Verb.RESULTS and blob is None:
                raise ProtocolError("RESULTS without a blob")
            if fields[0] != self._epoch:
                raise ProtocolError(f"{verb.name} of epoch {fields[0]}, expected {self._epoch}")
            # The blob is read before anything changes; a repeated one need not be read, but is rare.
            flat = self._entries(blob) if verb is Verb.RESULTS and blob is not None else ()
            if verb is Verb.GOODBYE:
                _, text, acked, latest, unrun, doubtful = fields
                # A broker that ends before anything was submitted to it knows nothing of what is pending, and
                # what the previous one reported about them still holds.
                if self.state is not SessionState.SUBSCRIBING:
                    unrun = (unrun or doubtful is not None) and latest <= self.results.received
                    is_settled = self.resubmission.is_settled(acked)
                    self.resubmission.said_goodbye(unrun, is_settled, tuple(doubtful or ()))
                return self._lose(now_s, text)
            actions = self._heard(now_s)
        except ProtocolError:
            self.ignored += 1
            raise
        if verb is Verb.RESULTS:
            _, number, acked, attempts = fields
            self.submits.acknowledge(acked)
            if self.results.accept(number):
                actions.append(CompleteResults(flat, tuple(attempts)))
                if number - self.results.acked >= BATCHES_PER_ACK:
                    actions.append(self._heartbeat(now_s))
            elif number > self.results.received:
                self._gap(now_s, actions)
        elif verb is Verb.HEARTBEAT:
            _, number, seen, acked, latest, watermark = fields
            self.submits.acknowledge(acked)
            self._broker_heartbeat = max(number, self._broker_heartbeat)
            if seen != self._seen:
                self._seen = seen
                self.answered_s = now_s
                self.resubmission.confirmed(seen)
            if latest > self.results.received:
                self._gap(now_s, actions)
            else:
                if watermark and self.resubmission.is_settled(acked):
                    self.resubmission.watermark_rose(watermark)
                if self.results.acked < self.results.received:  # a worker may wait for that in order to end
                    actions.append(self._heartbeat(now_s))
        return actions

    def published_one(self, frames: list[bytes], now_s: float) -> tuple[Any, ...] | None:
        """Take what nearly every publication is, the next outcome alone; :meth:`settle` is to follow.

        Returns:
            Its seq, code and data; None if it is something else, and nothing has changed: then
            :meth:`published` is to take it.
        """
        if len(frames) != 3 or self.state is not SessionState.OPEN:
            return None
        read = plain_messages.plain_publication(frames[1], frames[2])
        if read is None:
            return None
        epoch, number, acked, flat = read
        results, submits = self.results, self.submits
        if (
            epoch != self._epoch
            or number != results.received + 1
            or number - results.acked >= BATCHES_PER_ACK
            or now_s - self.heard_s >= self.liveness_s
        ):
            return None
        self.heard_s = now_s
        results.received = number
        results.gap_asked_s = -math.inf
        unacked = submits.unacked
        while unacked and unacked[0][0] <= acked:
            submits.room_bytes += unacked.popleft()[1]
        return flat

    def settle(self) -> None:
        """Note that the results returned last have reached their futures."""
        self.results.settled = self.results.received

    def interrupted(self, now_s: float) -> list[Action]:
        """Start again from what is settled: a turn was cut short, and it is not known where."""
        self.results.received = self.results.settled
        return (
            []
            if self.state is SessionState.CLOSED
            else self._lose(now_s, "a signal handler raised in mid-turn")
        )

    def give_in(self, now_s: float, text: str) -> list[Action]:
        """Note that the connection broke: all that is pending is submitted on a new one."""
        return self._lose(now_s, text)

    def give_up(self, now_s: float, text: str) -> list[Action]:
        """Note that no broker can be reached at this URL, and why."""
        self.refusal = text
        return self._lose(now_s, text)

    # --- what goes out ------------------------------------------------------------------------------

    def submit(self, groups: list[Any], large_bytes: int = 0) -> bytes:
        """Number a SUBMIT and put the acknowledgement on it. Only when open.

        Args:
            groups: what is submitted.
            large_bytes: large payloads that go with it in frames of their own.

        Raises:
            TypeError: something in it cannot be encoded; nothing has changed.
            ValueError: likewise.
            OverflowError: likewise.
        """
        submits, results = self.submits, self.results
        number = submits.number + 1
        frame = _pack((_SUBMIT, number, results.received, groups))
        submits.number = number
        submits.room_bytes -= large_bytes
        submits.unacked.append((number, large_bytes))
        results.acked = results.received
        return frame

    # --- moves --------------------------------------------------------------------------------------

    def _move(self, event: Event) -> None:
        target = TRANSITIONS.get((self.state, event))
        if target is None:
            raise ProtocolError(f"{event.name.lower()} while {self.state.name.lower()}")
        self.state = target

    def _dial(self, now_s: float) -> list[Action]:
        self._move(Event.DIAL)
        self.connection += 1
        self._heartbeats = self._seen = 0
        self.submits.restart()
        self.resubmission.dialled(now_s)
        self._next_heartbeat_s = math.inf
        self.heard_s = self.answered_s = now_s
        about = {**self._about, "received": self.results.received}
        if self._epoch is not None:
            about |= {"epoch": self._epoch, "generation": self._generation}
        return [OpenIntake(wire.encode(Verb.HELLO, wire.LOWEST_VERSION, wire.VERSION, about))]

    def _welcome(self, now_s: float, version: int, about: dict[str, Any]) -> list[Action]:
        epoch = checks.uint(about.get("epoch"))
        results = checks.text(about.get("results"))
        heartbeat_ms = checks.uint(about.get("heartbeat_ms"))
        liveness_ms = checks.uint(about.get("liveness_ms"))
        resumed = checks.boolean(about.get("resumed", False))
        generation = checks.optional_uint(about.get("generation"))
        expiry_ms = checks.uint(about.get("expiry_ms", wire.SESSION_EXPIRY_MS))
        watermark = checks.watermark(about.get("watermark", b""))
        never_ran = checks.seq_ranges(about.get("never_ran", ()))
        keeps = checks.uint(about.get("keeps", 0))
        takes_apart = checks.boolean(about.get("apart", False))
        window_bytes = checks.optional_uint(about.get("window_bytes"))
        if not wire.LOWEST_VERSION <= version <= wire.VERSION or not 0 < heartbeat_ms < liveness_ms:
            raise ProtocolError(f"WELCOME to version {version}, heartbeat {heartbeat_ms}/{liveness_ms} ms")
        self._move(Event.WELCOME)
        if not resumed or epoch != self._epoch:
            self._broker_heartbeat = 0
            self.results.restart()
            self.resubmission.dropped(tuple(never_ran))
        self.results.acked = self.results.received
        self._epoch, self._generation = epoch, generation
        self.resubmission.welcomed(watermark, expiry_ms / 1000)
        self.refusal = None
        self.keeping = SettingsSender(keeps)
        self.takes_apart = takes_apart
        unbounded = window_bytes is None or not takes_apart
        self.submits.room_bytes = math.inf if unbounded else max(1, window_bytes or 0)
        self.heartbeat_s = heartbeat_ms / 1000
        self.liveness_s = liveness_ms / 1000
        self.heard_s = self.answered_s = now_s
        self._next_heartbeat_s = now_s + self.heartbeat_s
        return [Subscribe(results)]

    def _rejected(self, now_s: float, code: int, text: str, about: dict[str, Any]) -> list[Action]:
        if code == Reject.MALFORMED and self.state is SessionState.GREETING:
            return self.give_up(now_s, f"it cannot read HELLO (is it the broker's intake?): {text}")
        if code == Reject.MALFORMED:
            said = f"the broker could not read a message from this client: {text}"
            if self.state is not SessionState.OPEN or not self.submits.unacked:
                raise ProtocolError(said)
            # The broker does not report which message it was, and would refuse it again.
            return [*self._lose(now_s, said), EndSubmitted(said)]
        if code == Reject.VERSION:
            text = (
                f"it speaks protocol versions {about.get('lowest', '?')} to {about.get('highest', '?')}, "
                f"this client {wire.LOWEST_VERSION} to {wire.VERSION}"
            )
            self.refusal = text
        return self._lose(now_s, text)

    def _heard(self, now_s: float) -> list[Action]:
        was_open = self.state is not SessionState.SUBSCRIBING
        self._move(Event.PUBLICATION)
        self.heard_s = now_s
        if was_open:
            return []
        self._failures = 0
        self.trouble = ""
        self.answered_s = now_s
        self.reconnects += self.ever_open
        self.ever_open = True
        return [self.resubmission.opened(now_s)]

    def _entries(self, blob: bytes) -> tuple[Any, ...]:
        """Read a blob. One that is malformed is not asked for again: it would be no better, and what comes
        behind it would never be read."""
        try:
            return wire.decode_blob(blob)
        except ProtocolError:
            self.ignored += 1
            return wire.readable_entries(blob)

    def _gap(self, now_s: float, actions: list[Action]) -> None:
        if self.results.asks_again(now_s, self.heartbeat_s):
            actions.append(Send(wire.encode(Verb.RESEND, self.results.received)))

    def _heartbeat(self, now_s: float) -> Send:
        self._heartbeats += 1
        self.resubmission.beat(self._heartbeats, now_s)
        self.results.acked = self.results.received
        self._next_heartbeat_s = now_s + self.heartbeat_s
        return Send(
            wire.encode(Verb.HEARTBEAT, self._heartbeats, self._broker_heartbeat, self.results.received)
        )

    def _lose(self, now_s: float, text: str) -> list[Action]:
        self._move(Event.LOSS)
        self.trouble = text
        # Random, so that the clients of a broker that died do not come back all at once.
        span_s = backoff_s(self._failures, BACKOFF_FIRST_S, BACKOFF_MOST_S, self._random_unit())
        self._failures += 1
        self._next_dial_s = now_s + span_s
        return [Lost(text)]
