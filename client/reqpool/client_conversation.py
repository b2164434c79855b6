"""What a client has requested of its cluster, and how each request reaches its end: sans-IO.

:class:`~.session_protocol.SessionProtocol` decides what the protocol requires; a conversation carries it out,
with the requests. It owns the table of those pending and the queues of what is to be sent. Sockets, threads
and the clock belong to :class:`~.io_loop.IoLoop`, which drives it: :meth:`ClientConversation.turn`, then
:meth:`ClientConversation.take` with what has come in. Called a conversation, as the worker's half is, because
it outlives connections and brokers.

One thread at a time may call its methods. Others may only do what :class:`ClientConversation` documents
for ``pending``, and :class:`~.send_queues.SendQueues` for its queues.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED
from typing import TYPE_CHECKING, Protocol

from reqpool_contract import broker_url, wire
from reqpool_contract.errors import BadResponse, Code, PoolError, ProtocolError
from reqpool_contract.masking import without_password

from .completions import CallbackQueue, Completions, RoomSignal
from .entry import RequestEntry
from .outage import Outage
from .pending import Pending
from .send_queues import Intake, SendQueues
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

if TYPE_CHECKING:
    from reqpool_contract.counted_log import CountedLog


class Transport(Intake, Protocol):
    """The two sockets of one connection at a time; none before :meth:`dial`."""

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


class ClientConversation:
    """One session at work: its table and its queues.

    To submit a request, from any thread: number it with ``next_seq()``, enter it in ``pending``, *then*
    append it to ``queues.outbox``.

    Attributes:
        session: its protocol.
        ends: ends the requests, and counts them.
        table: the requests that have not ended.
        pending: the same as a dict, sequence number to request. Taking one out is the claim to end it.
        next_seq: returns the number of a new request. From any thread.
        queues: what is to be sent.
        outage: why it cannot be.
        batches_in: result batches received, without repetitions.
    """

    def __init__(
        self,
        url: str,
        session: SessionProtocol,
        transport: Transport,
        delivery: CallbackQueue,
        room: RoomSignal,
        log: CountedLog,
        exit_text: Callable[[], str | None] | None = None,
    ) -> None:
        """Begin with nothing asked.

        Args:
            url: the broker's intake.
            session: a new one.
            transport: messages go through it.
            delivery: runs the callbacks of what has ended.
            room: is notified when there is room in the table.
            log: for what people are to know.
            exit_text: see :class:`~.outage.Outage`.
        """
        self.session = session
        self.table = Pending()
        self.pending: dict[int, RequestEntry] = self.table.futures
        self.ends = Completions(self.pending, delivery, room)
        self.next_seq: Callable[[], int] = itertools.count(1).__next__
        self.queues = SendQueues(session, self.table, transport, self.ends)
        self.batches_in = 0
        self._url = url
        self._shown_url = without_password(url)
        self.outage = Outage(session, self._shown_url, log, exit_text)
        self._transport = transport
        self._log = log

    # --- time, and what was asked for -------------------------------------------------------------

    def turn(self, now_s: float) -> bool:
        """Do what time asks for, and send what is to be sent; returns True if there was more than may be sent
        in a turn."""
        if actions := self.session.tick(now_s):
            self._act(actions, now_s)
        self._expire(now_s)
        if lost := self.queues.flush(now_s):
            self._act(lost, now_s)
        return self.queues.has_more()

    def send(self, now_s: float) -> None:
        """Send what is to be sent, as far as the broker takes it, unless the connection is given up."""
        if actions := self.session.tick(now_s):
            self._act(actions, now_s)
        if lost := self.queues.flush(now_s):
            self._act(lost, now_s)

    def due_s(self, now_s: float) -> float:
        """When :meth:`turn` has something to do next, if nothing is asked for and nothing comes in."""
        return min(self.session.due_s, self.table.due_s, self.outage.due_s(now_s, bool(self.pending)))

    def cancel(self, future: RequestEntry, now_s: float) -> bool:
        """End a request as cancelled, unless it is not in the table; then call :meth:`turn`. From any thread.

        Returns:
            True if it is cancelled; False if it has ended, or goes on under another number in an instant.
        """
        if self.pending.pop(future.seq, None) is None:
            return False
        future.end(CANCELLED_AND_NOTIFIED, Code.CANCELLED, _CANCELLED, now_s)
        self.queues.cancels.append(future)
        self.ends.announce([future])
        return True

    def put_in_order(self, now_s: float) -> None:
        """Resume from what is sure: an exception cut a call of this class short."""
        self.ends.recover()
        self._act(self.session.interrupted(now_s), now_s)

    def say_goodbye(self, now_s: float) -> None:
        """Send what is left to be sent, and that nothing follows."""
        if self.session.state is SessionState.OPEN:
            if lost := self.queues.flush(now_s):
                self._act(lost, now_s)
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
        """End all that is pending as cancelled, without notifying the broker."""
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

    def take_one(self, frames: list[bytes], now_s: float) -> None:
        """Take one message of the results socket, as :meth:`take` does."""
        session, ends = self.session, self.ends
        flat = session.published_one(frames, now_s)
        if flat is None:
            self.take(((False, frames),), now_s)
            return
        self.batches_in += 1
        if flat[1]:
            ends.complete(flat, now_s)
            if ends.again:
                self._go_on(now_s)
            ends.settle()
        else:
            ends.complete_one(flat, now_s)
        session.results.settled = session.results.received

    def _act(self, actions: Sequence[Action], now_s: float) -> None:
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
                    self.outage.missed(now_s)
                    try:
                        self._transport.dial(self._url, hello)
                        self.outage.dialled()
                    except OSError as error:
                        text = f"cannot connect: {error.strerror}"
                        self._act(self.outage.cannot_dial(error, text, now_s), now_s)
                case Subscribe(results):
                    try:
                        self._transport.subscribe(broker_url.results_url(self._url, results))
                    except OSError as error:
                        text = f"cannot connect to its results socket: {error.strerror}"
                        self._act(self.outage.cannot_dial(error, text, now_s), now_s)
                    except ProtocolError as error:
                        text = f"cannot connect to its results socket: {error}"
                        self._act(self.session.give_up(now_s, text), now_s)
                case Opened():
                    self.queues.resubmit(action)
                    self.outage.answered()
                case Lost(text):
                    self._log.info("connection to the broker at %s lost: %s", self._shown_url, text)
                    self._transport.hang_up()
                    # One attempt that failed for another reason shows that waiting may be of use.
                    if self.session.refusal != text:
                        self.session.refusal = None
                    self.outage.missed(now_s)
                case EndSubmitted(text):
                    ended = self.table.take_submitted(self.session.connection)
                    verdict = wire.encode_error(text, phase="cluster")
                    self.ends.end(ended, FINISHED, Code.PROTOCOL, verdict, now_s)

    def _go_on(self, now_s: float) -> None:
        """Make the next requests of those whose answer asks for one, each under its future and deadline."""
        again = self.ends.again
        failed = []
        while again:
            future, data = again[-1]
            future._ended_s = now_s  # as far as its kind may know
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
            future._ended_s = 0.0
            future.seq = self.next_seq()
            self.pending[future.seq] = future
            again.pop()
            self.queues.outbox.append(future)
        # Not before: who waits for one of these may wait for another to be in the table again.
        for future, known in failed:
            verdict = wire.encode_error(
                known.text, origin=known.origin, phase="read", attempts=future.attempts, sent=True
            )
            self.ends.end([future], FINISHED, known.code, verdict, now_s)

    # --- what is overdue, or hopeless -------------------------------------------------------------

    def _expire(self, now_s: float) -> None:
        session = self.session
        if self.pending and (session.refusal is not None or session.state is not SessionState.OPEN):
            text = self.outage.refusal()
            if text is not None:
                verdict = wire.encode_error(text, phase="cluster")
                self.ends.end(self.table.take_all(), FINISHED, Code.BROKER_UNAVAILABLE, verdict, now_s)
        # With nothing pending as well: else a moment that has passed stays due, and the loop never sleeps.
        if now_s >= self.table.due_s:
            verdict = wire.encode_error(self.outage.trouble(), phase="cluster")
            self.ends.end(self.table.sweep(now_s), FINISHED, Code.TIMEOUT, verdict, now_s)
        if self.outage.warn_s is not None:
            self.outage.warn(now_s, len(self.pending))


_CANCELLED = wire.encode_error("cancelled by the caller")
