"""One client's session with a broker, docs/protocol.md#a-clients-session: sans-IO.

The stub that owns the sockets and the clock calls :class:`SessionProtocol` with what it received and with the
time; what is to be done comes back as a list of actions, to be done in order.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, NamedTuple

from reqpool_contract import checks, wire
from reqpool_contract.backoff import backoff_s
from reqpool_contract.cached_settings import SettingsSender
from reqpool_contract.errors import ProtocolError
from reqpool_contract.wire import Reject, Verb

BACKOFF_FIRST_S = 0.05
BACKOFF_MOST_S = 1.0
BATCHES_PER_ACK = 8
"""Result batches after which an acknowledgement is sent without waiting for the next heartbeat."""
EXPIRY_SHARE = 0.9
"""Part of the session expiry after which a broker that has not heard us may have forgotten us: clocks do not
run equally fast."""


class SessionState(Enum):
    """Where the session stands."""

    CLOSED = auto()
    GREETING = auto()
    SUBSCRIBING = auto()
    OPEN = auto()


class Event(Enum):
    """What moves a session."""

    DIAL = auto()
    WELCOME = auto()
    PUBLICATION = auto()
    LOSS = auto()


# Every move there is. Anything published proves the subscription, so an OPEN that got lost is made up
# for by the next heartbeat.
TRANSITIONS: dict[tuple[SessionState, Event], SessionState] = {
    (SessionState.CLOSED, Event.DIAL): SessionState.GREETING,
    (SessionState.GREETING, Event.WELCOME): SessionState.SUBSCRIBING,
    (SessionState.GREETING, Event.LOSS): SessionState.CLOSED,
    (SessionState.SUBSCRIBING, Event.PUBLICATION): SessionState.OPEN,
    (SessionState.SUBSCRIBING, Event.LOSS): SessionState.CLOSED,
    (SessionState.OPEN, Event.PUBLICATION): SessionState.OPEN,
    (SessionState.OPEN, Event.LOSS): SessionState.CLOSED,
}


class OpenIntake(NamedTuple):
    """Open a new DEALER and send ``hello``."""

    hello: bytes


class Subscribe(NamedTuple):
    """Open a fresh SUB to the results socket that WELCOME named, below the session's id."""

    results: str


class Opened(NamedTuple):
    """Submit everything pending; what was sent before is marked as resubmitted, but for ``never_ran``.

    Attributes:
        never_ran: ranges of sequence numbers, ends included, that the broker dropped unrun.
        watermark: of what was first sent on the connection before; empty if nothing is known of it.
        settled: so it is also of what had been resubmitted on that connection.
        unrun: the broker before has said goodbye, and nothing has run of what must not be repeated, is
            pending and was first sent on the connection before, but for ``doubtful``.
        unrun_all: so it is of what had been submitted again on that connection.
        doubtful: ranges as in ``never_ran``: these may have run.
    """

    never_ran: tuple[tuple[int, int], ...]
    watermark: bytes = b""
    settled: bool = False
    unrun: bool = False
    unrun_all: bool = False
    doubtful: tuple[tuple[int, int], ...] = ()


class Send(NamedTuple):
    """Send one head through the DEALER."""

    frame: bytes


class CompleteResults(NamedTuple):
    """Complete these requests.

    Attributes:
        flat: seq, code, data, seq, code, data, …
        attempts: (seq, attempts) of those that took more than one.
    """

    flat: tuple[Any, ...]
    attempts: tuple[tuple[int, int], ...] = ()


class Lost(NamedTuple):
    """Close both sockets, linger 0."""

    text: str


class EndSubmitted(NamedTuple):
    """End everything that was submitted on this connection: the broker could not read some of it.

    Attributes:
        text: what the broker reported.
    """

    text: str


Action = OpenIntake | Subscribe | Opened | Send | CompleteResults | Lost | EndSubmitted


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
        repeated: result batches that came twice.
        gaps: times a missing batch was asked for.
        keeping: which settings the broker keeps for this connection.
        takes_apart: it takes large payloads in frames of their own.
        room_bytes: of large payloads that may be sent; 0 or below: none.
        resubmitting: not all that was pending when it was opened has been submitted yet.
    """

    def __init__(
        self, session_id: bytes, name: str, pid: int, random_unit: Callable[[], float] = random.random
    ):
        self.state = SessionState.CLOSED
        self.connection = 0
        self.ever_open = False
        self.reconnects = 0
        self.refusal: str | None = None
        self.trouble = ""
        self.ignored = 0
        self.repeated = 0
        self.gaps = 0
        self.keeping = SettingsSender()
        self.takes_apart = False
        self.room_bytes: float = math.inf
        self.resubmitting = False
        self._about: dict[str, Any] = {
            "session": session_id, "name": wire.sendable(name, wire.MAX_NAME_CHARS), "pid": pid,
        }  # fmt: skip
        self._random_unit = random_unit
        self._failures = 0
        self._next_dial_s = -math.inf
        self._epoch: int | None = None
        self._generation: int | None = None
        self._offered_watermark = self._watermark = b""
        self._settled_through: int | None = None
        self._watermark_settled = False
        self._unrun = self._unrun_all = False
        self._doubtful: tuple[tuple[int, int], ...] = ()
        self._expiry_s = wire.SESSION_EXPIRY_MS / 1000
        self._dialed_s = 0.0
        self._confirmed_s = math.inf  # nothing was sent that a broker could have forgotten
        self._beats: deque[tuple[int, float]] = deque()
        self._received = 0
        self._settled = 0
        self._acked = 0
        self._submits = 0
        self._unacked: deque[tuple[int, int]] = deque()
        self._heartbeats = 0
        self._broker_heartbeat = 0
        self._seen = 0
        self._heartbeat_s = wire.HEARTBEAT_MS / 1000
        self._liveness_s = wire.LIVENESS_MS / 1000
        self._next_heartbeat_s = math.inf
        self._heard_s = 0.0
        self._seen_moved_s = 0.0
        self._gap_asked_s = -math.inf
        self._never_ran: tuple[tuple[int, int], ...] = ()

    # --- time ---------------------------------------------------------------------------------------

    @property
    def due_s(self) -> float:
        """When :meth:`tick` has something to do next."""
        if self.state is SessionState.CLOSED:
            return self._next_dial_s
        return min(
            self._next_heartbeat_s, self._heard_s + self._liveness_s, self._seen_moved_s + self._liveness_s
        )

    def tick(self, now_s: float) -> list[Action]:
        """Do what is due: dial, heartbeat, or give the connection up. Read the sockets before."""
        if self.state is SessionState.CLOSED:
            return self._dial(now_s) if now_s >= self._next_dial_s else []
        if now_s >= self._heard_s + self._liveness_s:
            return self._lose(now_s, f"nothing heard for {now_s - self._heard_s:.1f} s")
        if now_s >= self._seen_moved_s + self._liveness_s:
            return self._lose(now_s, f"not heard by the broker for {now_s - self._seen_moved_s:.1f} s")
        if now_s >= self._next_heartbeat_s:
            return [self._heartbeat(now_s)]
        return []

    def has_expired(self, now_s: float) -> bool:
        """Has the broker forgotten the session by now, as this process slept?

        Ask before messages are read that came meanwhile.
        """
        return self.state is not SessionState.CLOSED and now_s - self._heard_s > self._expiry_s * EXPIRY_SHARE

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
            # The blob is read before anything changes; a repeated one is read in vain, but is rare.
            flat = self._entries(blob) if verb is Verb.RESULTS and blob is not None else ()
            if verb is Verb.GOODBYE:
                _, text, acked, latest, unrun, doubtful = fields
                # A broker that ends before anything was submitted to it knows nothing of what is pending, and
                # what the one before said of that still holds.
                if self.state is not SessionState.SUBSCRIBING:
                    self._unrun = (unrun or doubtful is not None) and latest <= self._received
                    self._unrun_all = self._unrun and self._is_settled(acked, latest)
                    self._doubtful = tuple(doubtful or ())
                return self._lose(now_s, text)
            actions = self._heard(now_s)
        except ProtocolError:
            self.ignored += 1
            raise
        if verb is Verb.RESULTS:
            self._acknowledged(fields[2])
            self._results(fields[1], flat, fields[3], now_s, actions)
        elif verb is Verb.HEARTBEAT:
            _, number, seen, acked, latest, watermark = fields
            self._acknowledged(acked)
            self._broker_heartbeat = max(number, self._broker_heartbeat)
            if seen != self._seen:
                self._seen = seen
                self._seen_moved_s = now_s
                while self._beats and self._beats[0][0] <= seen:
                    self._confirmed_s = self._beats.popleft()[1]
            if latest > self._received:
                self._gap(now_s, actions)
            else:
                if watermark and self._is_settled(acked, latest):
                    self._watermark = watermark
                    self._watermark_settled = True
                if self._acked < self._received:  # a worker may be waiting for that, in order to end
                    actions.append(self._heartbeat(now_s))
        return actions

    def settle(self) -> None:
        """Note that the results returned last have reached their futures."""
        self._settled = self._received

    def interrupted(self, now_s: float) -> list[Action]:
        """Begin anew from what is settled: something was cut short, and where is not known."""
        self._received = self._settled
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
        number = self._submits + 1
        frame = wire.encode(Verb.SUBMIT, number, self._received, groups)
        self._submits = number
        self._acked = self._received
        self.room_bytes -= large_bytes
        self._unacked.append((number, large_bytes))
        return frame

    def resubmitted(self) -> None:
        """Note that all that was pending when the session was opened has been submitted."""
        self.resubmitting = False
        self._settled_through = self._submits

    # --- moves --------------------------------------------------------------------------------------

    def _move(self, event: Event) -> None:
        target = TRANSITIONS.get((self.state, event))
        if target is None:
            raise ProtocolError(f"{event.name.lower()} while {self.state.name.lower()}")
        self.state = target

    def _dial(self, now_s: float) -> list[Action]:
        self._move(Event.DIAL)
        self.connection += 1
        self._submits = self._heartbeats = self._seen = 0
        self._unacked.clear()
        self._beats.clear()
        self._dialed_s = now_s
        self._next_heartbeat_s = math.inf
        self._heard_s = self._seen_moved_s = now_s
        about = {**self._about, "received": self._received}
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
            self._received = self._settled = self._broker_heartbeat = 0
            self._never_ran += tuple(never_ran)
        self._acked = self._received
        self._epoch, self._generation = epoch, generation
        self._offered_watermark = watermark
        self._expiry_s = expiry_ms / 1000
        self.refusal = None
        self.keeping = SettingsSender(keeps)
        self.takes_apart = takes_apart
        self.room_bytes = math.inf if window_bytes is None or not takes_apart else max(1, window_bytes)
        self._heartbeat_s = heartbeat_ms / 1000
        self._liveness_s = liveness_ms / 1000
        self._heard_s = self._seen_moved_s = now_s
        self._next_heartbeat_s = now_s + self._heartbeat_s
        return [Subscribe(results)]

    def _rejected(self, now_s: float, code: int, text: str, about: dict[str, Any]) -> list[Action]:
        if code == Reject.MALFORMED and self.state is SessionState.GREETING:
            return self.give_up(now_s, f"it cannot read HELLO (is it the broker's intake?): {text}")
        if code == Reject.MALFORMED:
            said = f"the broker could not read a message from this client: {text}"
            if self.state is not SessionState.OPEN or not self._unacked:
                raise ProtocolError(said)
            # Nothing says which message it was, and submitted again it would be refused again.
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
        self._heard_s = now_s
        if was_open:
            return []
        self._failures = 0
        self.trouble = ""
        self._seen_moved_s = now_s
        self.reconnects += self.ever_open
        self.ever_open = True
        # A broker that had not heard us for so long has forgotten us, and perhaps what it gave to whom.
        known = now_s - self._confirmed_s < self._expiry_s * EXPIRY_SHARE
        opened = Opened(
            self._never_ran,
            self._watermark if known else b"",
            self._watermark_settled or not known,
            self._unrun,
            self._unrun_all,
            self._doubtful,
        )
        self._never_ran = self._doubtful = ()
        self._unrun = self._unrun_all = False
        self._watermark, self._watermark_settled = self._offered_watermark, False
        self._confirmed_s = self._dialed_s
        self.resubmitting, self._settled_through = True, None
        return [opened]

    def _entries(self, blob: bytes) -> tuple[Any, ...]:
        """Read a blob. One that is malformed is not asked for again: it would be no better, and what comes
        behind it would never be read."""
        try:
            return wire.decode_blob(blob)
        except ProtocolError:
            self.ignored += 1
            return wire.readable_entries(blob)

    def _results(
        self,
        number: int,
        flat: tuple[Any, ...],
        attempts: list[tuple[int, int]],
        now_s: float,
        actions: list[Action],
    ) -> None:
        if number <= self._received:
            self.repeated += 1
        elif number > self._received + 1:
            self._gap(now_s, actions)
        else:
            self._received = number
            self._gap_asked_s = -math.inf
            actions.append(CompleteResults(flat, tuple(attempts)))
            if number - self._acked >= BATCHES_PER_ACK:
                actions.append(self._heartbeat(now_s))

    def _gap(self, now_s: float, actions: list[Action]) -> None:
        # Every batch that follows the missing one shows the same gap: ask once, then now and then.
        if now_s >= self._gap_asked_s + self._heartbeat_s:
            self._gap_asked_s = now_s
            self.gaps += 1
            actions.append(Send(wire.encode(Verb.RESEND, self._received)))

    def _is_settled(self, acked: int, latest: int) -> bool:
        """Have all verdicts on what was submitted again come? Then what it says is of all that is pending."""
        return (
            latest <= self._received and self._settled_through is not None and acked >= self._settled_through
        )

    def _acknowledged(self, number: int) -> None:
        unacked = self._unacked
        while unacked and unacked[0][0] <= number:
            self.room_bytes += unacked.popleft()[1]

    def _heartbeat(self, now_s: float) -> Send:
        self._heartbeats += 1
        self._beats.append((self._heartbeats, now_s))
        self._acked = self._received
        self._next_heartbeat_s = now_s + self._heartbeat_s
        return Send(wire.encode(Verb.HEARTBEAT, self._heartbeats, self._broker_heartbeat, self._received))

    def _lose(self, now_s: float, text: str) -> list[Action]:
        self._move(Event.LOSS)
        self.trouble = text
        # Random, so that the clients of a broker that died do not come back all at once.
        span_s = backoff_s(self._failures, BACKOFF_FIRST_S, BACKOFF_MOST_S, self._random_unit())
        self._failures += 1
        self._next_dial_s = now_s + span_s
        return [Lost(text)]
