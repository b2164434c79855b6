"""What a client has asked of its cluster, and how that reaches its end: sans-IO.

:class:`~.session_protocol.SessionProtocol` says what the protocol asks for; a conversation does it, with the
requests. It owns the table of those pending and the queues of what is to be sent. Sockets, threads and the
clock belong to :class:`~.stub.Stub`, which drives it: :meth:`ClientConversation.turn`, then
:meth:`ClientConversation.take` with what has come in. Called a conversation, as the worker's half is, because
it outlives connections and brokers: it ends when nothing is left to be said.

One thread at a time may call its methods. Other threads may only do what :class:`ClientConversation` says of
``pending``, ``outbox``, ``cancels`` and ``unpins``.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED
from typing import Any, Protocol

from reqpool_contract import broker_url, wire
from reqpool_contract.counted_log import CountedLog
from reqpool_contract.descriptors import SHORTAGES
from reqpool_contract.errors import BadResponse, Code, PoolError, ProtocolError
from reqpool_contract.grace import CLUSTER_GRACE_S
from reqpool_contract.masking import without_password

from .batching import next_batch
from .callback_runner import CallbackRunner
from .completions import Completions
from .future import Future
from .pending import Pending, within
from .session_actions import (
    Action,
    CompleteResults,
    EndSubmitted,
    Lost,
    Opened,
    OpenIntake,
    Send,
    Subscribe,
)
from .session_protocol import SessionProtocol
from .session_state import SessionState

log = logging.getLogger("reqpool")

BATCHES_PER_TURN = 64
"""Most batches sent from a queue before what has come in is looked at again."""
EMBEDDED_POLL_S = 0.05
"""How often a starting embedded cluster is looked at."""
UNPINNED_REMEMBERED = 1_000
"""Pins let go of lately, about which a new connection's broker is told once more."""
WARN_AFTER_S = 2.0
"""How long requests wait for a broker that is not there before a line in the log says so."""


class Transport(Protocol):
    """The two sockets of one connection at a time; none before :meth:`dial`."""

    blocked: bool
    """The intake socket took no more when last asked."""

    def dial(self, url: str, hello: bytes) -> None:
        """Open the intake socket and send ``hello``.

        Raises:
            OSError: it cannot be opened; none is open then.
        """

    def subscribe(self, url: str) -> None:
        """Open the results socket, subscribed to the session's topic.

        Raises:
            OSError: it cannot be opened; none is open then.
        """

    def hang_up(self) -> None:
        """Close both sockets at once; what was received and not read is dropped."""

    def has_room(self) -> bool:
        """Will the next message that is sent through the intake socket certainly be taken?"""

    def send(self, head: bytes, *payloads: bytes) -> bool:
        """Send one message through the intake socket; never blocks. Returns False if it was not taken."""


class ClientConversation:
    """One session at work: its table and its queues.

    To submit a request, from any thread: number it with ``next_seq()``, enter it in ``pending``, *then*
    append it to ``outbox``.

    Attributes:
        session: its protocol.
        ends: ends the requests, and counts them.
        table: the requests that have not ended.
        pending: the same as a dict, sequence number to future. Taking one out is the claim to end it.
        next_seq: returns the number of a new request. From any thread.
        outbox: what was submitted and not yet sent. Any thread may append to it.
        cancels: cancelled requests of which the broker was not yet told. Likewise.
        unpins: pins let go of, of which the broker was not yet told. Likewise.
        batches_in: result batches received, without repetitions.
        batches_out: SUBMIT messages sent.
    """

    def __init__(
        self,
        url: str,
        session: SessionProtocol,
        transport: Transport,
        delivery: CallbackRunner,
        exit_text: Callable[[], str | None] | None = None,
    ) -> None:
        """Begin with nothing asked.

        Args:
            url: the broker's intake.
            session: a new one.
            transport: what is said goes through it.
            delivery: runs the callbacks of what has ended.
            exit_text: of an embedded cluster: says how it ended by itself, None while it runs. None: the
                cluster is not ours.
        """
        self.session = session
        self.table = Pending()
        self.pending: dict[int, Future[Any]] = self.table.futures
        self.ends = Completions(self.pending, delivery)
        self.next_seq: Callable[[], int] = itertools.count(1).__next__
        self.outbox: deque[Future[Any]] = deque()
        self.cancels: deque[Future[Any]] = deque()
        self.unpins: deque[int] = deque()
        self.batches_in = self.batches_out = 0
        self._url = url
        self._shown_url = without_password(url)
        self._transport = transport
        self._exit_text = exit_text
        self._backlog: deque[Future[Any]] = deque()
        self._large: deque[Future[Any]] = deque()
        # Apart from those: until they have gone out, not all has been submitted again.
        self._large_again: deque[Future[Any]] = deque()
        # What is sent from where, so many requests in a message, and where those wait for which there is no
        # room: in the order of sending.
        self._queues = (
            (self._backlog, wire.MAX_BATCH_REQUESTS, self._large_again),
            (self._large_again, 1, self._large_again),
            (self._large, 1, self._large),
            (self.outbox, wire.MAX_BATCH_REQUESTS, self._large),
        )
        self._waiting_seq = 0
        self._unpinned: deque[int] = deque(maxlen=UNPINNED_REMEMBERED)
        self._shortage = ""
        """What this process lacked when it last dialled; empty if nothing."""
        self._warn_s: float | None = None
        """When to warn that no broker answers; None while one does, infinity once that was said."""
        self._log = CountedLog(log)

    # --- time, and what was asked for -------------------------------------------------------------

    def turn(self, now_s: float) -> bool:
        """Do what time asks for, and send what is to be sent; returns True if there was more than may be sent
        in a turn."""
        if actions := self.session.tick(now_s):
            self._act(actions, now_s)
        self._expire(now_s)
        self.flush(now_s)
        if (self._large or self._large_again) and self.session.submits.room_bytes > 0:
            return True
        return bool(self._backlog or self.outbox)

    def due_s(self, now_s: float) -> float:
        """When :meth:`turn` has something to do next, if nothing is asked for and nothing comes in."""
        due_s = min(self.session.due_s, self.table.due_s)
        if self._exit_text is not None and not self.session.ever_open:
            due_s = min(due_s, now_s + EMBEDDED_POLL_S)
        if self._warn_s is not None and self.pending:
            due_s = min(due_s, self._warn_s)
        return due_s

    def cancel(self, future: Future[Any], now_s: float) -> bool:
        """End a request as cancelled, unless it is not in the table; then call :meth:`turn`. From any thread.

        Returns:
            True if it is cancelled; False if it has ended, or goes on under another number in an instant.
        """
        if self.pending.pop(future.seq, None) is None:
            return False
        future.end(CANCELLED_AND_NOTIFIED, Code.CANCELLED, _CANCELLED, now_s)
        self.cancels.append(future)
        self.ends.told([future])
        return True

    def put_in_order(self, now_s: float) -> None:
        """Resume from what is sure: an exception cut a call of this class short."""
        self.ends.recover()
        self._act(self.session.interrupted(now_s), now_s)

    def say_goodbye(self, now_s: float) -> None:
        """Send what is left to be sent, and that nothing follows."""
        if self.session.state is SessionState.OPEN:
            self.flush(now_s)
            self._transport.send(wire.encode(wire.Verb.GOODBYE))

    def lose(self, text: str, final: bool, now_s: float) -> None:
        """Take it that the transport's connection broke, which is open still and hung up by this, or that no
        broker can be at its other end.

        Args:
            text: what happened.
            final: what is there is certainly not a broker. Where one has been before, another may come.
            now_s: monotonic clock.
        """
        session = self.session
        lose = session.give_up if final and not session.ever_open else session.give_in
        self._act(lose(now_s, text), now_s)

    def refuse(self, text: str) -> None:
        """Take it that no broker can be at the URL, unless one has just answered: :meth:`turn` ends all."""
        if self.session.state in (SessionState.CLOSED, SessionState.GREETING):
            self.session.refusal = text

    def cancel_all(self, text: str, now_s: float) -> None:
        """End all that is pending as cancelled; the broker is not told."""
        self.ends.recover()
        self.ends.end(
            self.table.take_all(), CANCELLED_AND_NOTIFIED, Code.CANCELLED, wire.encode_error(text), now_s
        )

    # --- what came in -----------------------------------------------------------------------------

    def take(self, messages: Iterable[tuple[bool, list[bytes]]], now_s: float) -> None:
        """Take what has come in.

        Args:
            messages: True if it came through the intake socket, False if through the results socket; its
                frames. Ends when the transport hangs up meanwhile.
            now_s: monotonic clock.
        """
        session = self.session
        if session.has_expired(now_s):
            # What is queued here is old; what is sent to a broker that has forgotten the session is refused
            # unread, but counts as sent.
            self.lose("this process was suspended for longer than its session lasts", False, now_s)
        for from_intake, frames in messages:
            try:
                if from_intake:
                    actions = session.received(frames[0], now_s)
                elif len(frames) < 2:
                    raise ProtocolError("a publication without a head")
                else:
                    actions = session.published(frames[1], frames[2] if len(frames) > 2 else None, now_s)
            except ProtocolError as error:
                self._log.warning("ignored a message from the broker at %s: %s", self._shown_url, error)
                continue
            self._act(actions, now_s)

    def _act(self, actions: list[Action], now_s: float) -> None:
        for action in actions:
            match action:
                case CompleteResults(flat, attempts):
                    self.batches_in += 1
                    for seq, count in attempts:
                        if (future := self.pending.get(seq)) is not None:
                            future.attempts = count
                    self.ends.complete(flat, now_s)
                    if self.ends.again:
                        self._go_on(now_s)
                    self.ends.settle()
                    self.session.settle()
                case Send(frame):
                    self._transport.send(frame)
                case OpenIntake(hello):
                    self._miss(now_s)
                    try:
                        self._transport.dial(self._url, hello)
                        self._shortage = ""
                    except OSError as error:
                        self._cannot_dial(error, f"cannot connect: {error.strerror}", now_s)
                case Subscribe(results):
                    try:
                        self._transport.subscribe(broker_url.results_url(self._url, results))
                    except OSError as error:
                        text = f"cannot connect to its results socket: {error.strerror}"
                        self._cannot_dial(error, text, now_s)
                    except ProtocolError as error:
                        text = f"cannot connect to its results socket: {error}"
                        self._act(self.session.give_up(now_s, text), now_s)
                case Opened():
                    self._resubmit(action)
                    if self._warn_s == math.inf:
                        self._log.info("the broker at %s answers", self._shown_url)
                    self._warn_s = None
                case Lost(text):
                    self._log.info("connection to the broker at %s lost: %s", self._shown_url, text)
                    self._transport.hang_up()
                    # One attempt that failed for another reason shows that waiting may be of use.
                    if self.session.refusal != text:
                        self.session.refusal = None
                    self._miss(now_s)
                case EndSubmitted(text):
                    ended = self.table.take_submitted(self.session.connection)
                    verdict = wire.encode_error(text, phase="cluster")
                    self.ends.end(ended, FINISHED, Code.PROTOCOL, verdict, now_s)

    def _cannot_dial(self, error: OSError, text: str, now_s: float) -> None:
        # What this process is short of now it may have later.
        session = self.session
        short = error.errno in SHORTAGES
        self._shortage = str(error.strerror) if short else ""
        self._act((session.give_in if short else session.give_up)(now_s, text), now_s)

    def _go_on(self, now_s: float) -> None:
        """Make the next requests of those whose answer asks for one, each under its future and deadline."""
        again = self.ends.again
        failed = []
        while again:
            future, data = again[-1]
            try:
                route, payload, note, step = future.route.kind.follow(data, future)
                if type(payload) is not bytes or len(payload) > wire.MAX_PAYLOAD_BYTES:
                    raise BadResponse("the follow-up request is too large")
            except Exception as error:
                again.pop()
                known = error if isinstance(error, PoolError) else BadResponse(f"cannot continue: {error!r}")
                failed.append((future, known))
                continue
            future.route, future.payload, future.note = route, payload, note
            future.trail += (step,)
            future.connection, future.resubmitted = 0, None
            future.attempts = 1
            future.seq = self.next_seq()
            self.pending[future.seq] = future
            again.pop()
            self.outbox.append(future)
        # Not before: who waits for one of these may wait for another to be in the table again.
        for future, known in failed:
            verdict = wire.encode_error(
                known.text, origin=known.origin, phase="read", attempts=future.attempts, sent=True
            )
            self.ends.end([future], FINISHED, known.code, verdict, now_s)

    # --- what goes out ----------------------------------------------------------------------------

    def _resubmit(self, opened: Opened) -> None:
        # What was let go of on a connection that broke may not have arrived; the broker ignores repetitions.
        self.unpins.extend(self._unpinned)
        self._unpinned.clear()
        pending = list(self.pending.values())
        seqs = [future.seq for future in pending]
        never_ran, doubtful = within(seqs, opened.never_ran), within(seqs, opened.doubtful)
        for future in pending:
            again = future.resubmitted is not None
            unrun = opened.unrun_all if again else opened.unrun
            unrun = unrun and not future.route.idempotent and future.seq not in doubtful
            if unrun or future.seq in never_ran:
                future.connection, future.resubmitted = 0, None
            elif future.connection and (not again or opened.settled):
                future.resubmitted = opened.watermark
        # Some are in the outbox as well: each is sent once per connection.
        self._put_off()
        self._backlog.extend(pending)
        self._note_resubmitted()

    def _note_resubmitted(self) -> None:
        if not (self._backlog or self._large_again):
            self.session.resubmission.done(self.session.submits.number)

    def _put_off(self) -> None:
        """Send nothing that waits but the outbox: when the session opens, all of the table is submitted."""
        self._backlog.clear()
        self._large.clear()
        self._large_again.clear()

    def flush(self, now_s: float) -> None:
        """Send what is to be sent, as far as the broker takes it."""
        if not (
            self.outbox or self.cancels or self._backlog or self._large or self._large_again or self.unpins
        ):
            return
        session, table, transport = self.session, self.table, self._transport
        if session.state is not SessionState.OPEN:
            self._put_off()
            while self.outbox:
                future = self.outbox.popleft()
                table.expect(future.deadline_s + CLUSTER_GRACE_S)
        for queue, most, large in self._queues:
            for _ in range(BATCHES_PER_TURN):
                if (
                    not queue
                    or (queue is large and session.submits.room_bytes <= 0)
                    or not transport.has_room()
                ):
                    break
                groups, earliest_s, size_bytes = next_batch(
                    queue, session.connection, now_s, session.keeping, most, session.submits.room_bytes, large
                )
                if groups:
                    self._submit(groups, size_bytes, now_s)
                table.expect(earliest_s + CLUSTER_GRACE_S)
        if self.outbox and self.outbox[-1].seq != self._waiting_seq:
            # Not sent, for want of room: a sweep finds out when these are due.
            self._waiting_seq = self.outbox[-1].seq
            table.expect(now_s)
        if session.resubmission.under_way and session.state is SessionState.OPEN:
            self._note_resubmitted()
        while self.unpins and session.state is SessionState.OPEN and transport.has_room():
            pin = self.unpins.popleft()
            self._unpinned.append(pin)
            transport.send(wire.encode(wire.Verb.UNPIN, pin))
        if self.cancels:
            cancelled = [self.cancels.popleft() for _ in range(len(self.cancels))]
            self.ends.cancelled += len(cancelled)
            sent = [future.seq for future in cancelled if future.connection == session.connection]
            if sent and session.state is SessionState.OPEN:
                transport.send(wire.encode(wire.Verb.CANCEL, sent))

    def _submit(self, groups: list[Any], size_bytes: int, now_s: float) -> None:
        payloads: list[Any] = []
        if size_bytes > wire.LARGE_MESSAGE_BYTES and self.session.takes_apart:
            groups, payloads = wire.set_apart(groups, wire.PAYLOADS_AT[wire.Verb.SUBMIT])
        head = self.session.submit(groups, sum(map(len, payloads)) if payloads else 0)
        keeping = self.session.keeping
        keeps = [wire.encode(wire.Verb.KEEP, *fresh) for fresh in keeping.take_fresh()]
        keeping.end_turn()
        send = self._transport.send
        if not (all(map(send, keeps)) and send(head, *payloads)):
            # Room was asked for one message, and what comes behind one that is missing would be misread.
            self._act(self.session.give_in(now_s, "the broker accepts no more messages for now"), now_s)
        self.batches_out += 1

    # --- what is overdue, or hopeless -------------------------------------------------------------

    def _miss(self, now_s: float) -> None:
        if self._warn_s is None:
            self._warn_s = now_s + WARN_AFTER_S

    def _expire(self, now_s: float) -> None:
        session = self.session
        if session.refusal is not None and self.pending:
            self._refuse_all(f"the broker at {self._shown_url}: {session.refusal}", now_s)
        elif self._exit_text is not None and session.state is not SessionState.OPEN and self.pending:
            ended = self._exit_text()
            if ended is not None:
                self._refuse_all(f"{ended}; its messages are on stderr", now_s)
        # With nothing pending as well: else a moment that has passed stays due, and the loop never sleeps.
        if now_s >= self.table.due_s:
            verdict = wire.encode_error(self._trouble(), phase="cluster")
            self.ends.end(self.table.sweep(now_s), FINISHED, Code.TIMEOUT, verdict, now_s)
        if self._warn_s is not None and now_s >= self._warn_s and self.pending:
            self._warn_s = math.inf
            self._log.warning(
                "requests wait until their timeouts (%d): %s", len(self.pending), self._trouble()
            )

    def _trouble(self) -> str:
        session = self.session
        last = f" ({session.trouble})" if session.trouble else ""
        if session.state is SessionState.OPEN:
            return "the cluster did not answer in time"
        if self._shortage:
            return f"cannot connect to the broker at {self._shown_url}: {self._shortage}"
        if session.ever_open:
            return f"the connection to the broker at {self._shown_url} was lost{last}"
        if self._exit_text is not None:
            return f"the embedded cluster has not started yet{last}"
        return f"no broker answers at {self._shown_url}{last}: is `reqpool up` running there?"

    def _refuse_all(self, text: str, now_s: float) -> None:
        verdict = wire.encode_error(text, phase="cluster")
        self.ends.end(self.table.take_all(), FINISHED, Code.BROKER_UNAVAILABLE, verdict, now_s)


_CANCELLED = wire.encode_error("cancelled by the caller")
