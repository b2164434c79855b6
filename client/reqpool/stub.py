"""The client's side of one session at work: its table, its queues and its I/O thread, which runs callbacks.

One thread at a time takes the turn, see :mod:`.driver` and :mod:`.relief`, and with it the sockets. Other
threads append to a deque, and wake that thread only if it sleeps. It says that it is about to (``idle``),
*then* looks into the deque once more; they append, *then* look at ``idle``: one of the two sees the other.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import logging
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING
from time import monotonic
from typing import Any

import zmq

from . import address, host, wire
from .delivery import Delivery
from .driver import Driver
from .embedded import Embedded
from .ends import Ends
from .errors import BadResponse, Code, Overloaded, PoolError, ProtocolError
from .future import Future
from .kinds import Route
from .link import MESSAGES_PER_TURN, Link
from .masking import without_password
from .outbox import next_batch
from .pending import CLUSTER_GRACE_S, Pending, within
from .relief import Relief
from .session import Action, Dial, Lost, Opened, Results, Send, Session, State, Subscribe, Unread, seqs_of
from .stats import Stats

log = logging.getLogger("reqpool")

EMBEDDED_POLL_S = 0.05
"""How often a starting embedded cluster is looked at."""
GOODBYE_LINGER_MS = 200
"""How long ZeroMQ may take to send what was said before closing."""
RETRY_AFTER_S = 0.05
"""What ``Overloaded`` advises when the table is full: it empties by hundreds per batch of results."""

UNPINNED_REMEMBERED = 1_000
"""Pins let go of lately, about which a new connection's broker is told once more."""


class Stub:
    """One session. Made at a pool's first use, and anew in a forked child.

    Attributes:
        session_label: stands for the session in ids that are shown; the session id itself is a secret.
        pending: the table, sequence number to future.
        closing: nothing more is submitted.
        stopped: no turn is taken any more, or the threads were left behind in the parent process.
        abandoned: this is the child of a fork, the session the parent's.
    """

    def __init__(
        self,
        url: str,
        *,
        embedded: Embedded | None,
        max_pending: int,
        executor: concurrent.futures.Executor | None,
    ) -> None:
        self._url = url
        self._embedded = embedded
        self._max_pending = max_pending
        self._session_id = os.urandom(wire.SESSION_ID_BYTES)
        self.session_label = wire.shown_id(self._session_id)
        name = os.path.basename(sys.argv[0]) if getattr(sys, "argv", None) else ""
        self._session = Session(self._session_id, name or "python", os.getpid())
        self._table = Pending()
        self.pending: dict[int, Future[Any]] = self._table.futures
        self._next_seq: Callable[[], int] = itertools.count(1).__next__
        self._outbox: deque[Future[Any]] = deque()
        self._backlog: deque[Future[Any]] = deque()
        self._alone: deque[Future[Any]] = deque()
        self._suspects: set[int] = set()
        self._cancels: deque[Future[Any]] = deque()
        self._next_pin: Callable[[], int] = itertools.count(1).__next__
        self._unpins: deque[int] = deque()
        self._unpinned: deque[int] = deque(maxlen=UNPINNED_REMEMBERED)
        self.closing = False
        self.stopped = False
        self.abandoned = False
        self._idle = False
        self._drain_until_s = math.inf
        self._batches_in = self._batches_out = 0
        self._delivery = Delivery(executor)
        self._ends = Ends(self.pending, self._delivery)
        self._link = Link(host.context(), self._session_id)
        self._driver = Driver()
        self._relief = Relief()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reqpool-io", daemon=True)

    def start(self) -> None:
        """Start both threads. Hold :func:`host.start_lock`."""
        self._relief.start(self._relieve)
        self._thread.start()
        host.started(self)

    # --- for the callers' threads ---------------------------------------------------------------

    def submit(
        self,
        route: Route,
        payload: bytes,
        note: Any,
        timeout_s: float,
        callback: Callable[[Any], object] | None,
        priority: int,
        block: bool,
    ) -> Future[Any] | None:
        """Register a request and queue it.

        Returns:
            Its future, or None if this stub takes no more: see ``closing`` and ``abandoned``.

        Raises:
            Overloaded: no room in the table (with ``block``: for ``timeout_s``).
            UsageError: ``block`` inside a callback while there is no room.
        """
        if self.closing:
            return None
        now_s = monotonic()
        pending = self.pending
        if len(pending) >= self._max_pending:
            self._wait_for_room(route, now_s + timeout_s if block else now_s)
            if self.closing:
                return None
        seq = self._next_seq()
        future: Future[Any] = Future(
            self, seq, route, payload, now_s, now_s + timeout_s, priority, callback, note
        )
        pending[seq] = future
        self._outbox.append(future)
        if self._idle:
            self._interrupt()
        elif self._driver.parked:
            if callback is None:
                self._driver.serve(self._serve)
            else:
                self._driver.unpark()
        # The thread says that it has stopped and then empties the table: it saw this one, or is seen here.
        if self.stopped and pending.pop(seq, None) is not None:
            return None
        return future

    def cancel(self, future: Future[Any]) -> bool:
        """See :class:`~reqpool.future.Owner`."""
        while self.pending.pop(future.seq, None) is None:
            # Ended, or about to; or it goes on under another number in an instant.
            if future._state is not PENDING:
                return False
            self.end_if_abandoned(future)
            time.sleep(0)
        future.end(CANCELLED_AND_NOTIFIED, Code.CANCELLED, _CANCELLED, monotonic())
        self._cancels.append(future)
        self._ends.told([future])
        self._interrupt()
        self._driver.unpark()
        if self.stopped:
            future.run_callbacks()  # the I/O thread may have run its last ones already
        return True

    def new_pin(self) -> int:
        """Return the number of a new pin. From any thread."""
        return self._next_pin()

    def unpin(self, pin: int) -> None:
        """Let go of a held connection. From any thread."""
        self._unpins.append(pin)
        self._interrupt()
        self._driver.unpark()

    def lead(self, future: Future[Any], until_s: float) -> None:
        """See :class:`~reqpool.future.Owner`."""
        if len(self.pending) == 1 and not self.stopped:
            self._driver.lead(
                self,
                lambda: future._state is not PENDING or self._delivery.waiting or self._finished(),
                until_s,
            )

    def watch(self) -> None:
        """See :class:`~reqpool.future.Owner`."""
        self._driver.unpark()

    def check_wait(self) -> None:
        """See :class:`~reqpool.future.Owner`."""
        self._delivery.check_wait()

    def end_if_abandoned(self, future: Future[Any]) -> None:
        """See :class:`~reqpool.future.Owner`."""
        if self.abandoned and future._state is PENDING:
            future.abandon(Code.BROKER_UNAVAILABLE, _FORKED)

    def report_callback_error(self, future: Future[Any]) -> None:
        """See :class:`~reqpool.future.Owner`."""
        self._delivery.errors += 1
        log.exception("callback of request #%d raised", future.seq)

    def stats(self) -> Stats:
        """Return a snapshot."""
        pending = len(self.pending)
        session, ends = self._session, self._ends
        return Stats(
            url=self._url,
            state="closed" if self.stopped else session.state.name.lower(),
            pending=pending,
            submitted=ends.completed + ends.failed + ends.timeouts + ends.cancelled + pending,
            completed=ends.completed,
            failed=ends.failed,
            timeouts=ends.timeouts,
            cancelled=ends.cancelled,
            callback_errors=self._delivery.errors,
            batches_in=self._batches_in,
            batches_out=self._batches_out,
            batches_repeated=session.repeated,
            gaps=session.gaps,
            ignored=session.ignored,
            reconnects=session.reconnects,
        )

    def begin_close(self, drain_until_s: float) -> None:
        """Take nothing more; end what is pending at ``drain_until_s`` (monotonic). From any thread."""
        self.closing = True
        self._drain_until_s = drain_until_s
        self._link.wake()
        self._driver.unpark()
        self._ends.tell_room()

    def join(self, timeout_s: float | None) -> None:
        """Wait for the end of all callbacks; not at all on a thread of the pool's own."""
        if threading.current_thread() is not self._thread and not self._relief.is_current_thread():
            self._thread.join(timeout_s)
            if not self._thread.is_alive():
                self._relief.join()

    def shut_down(self, timeout_s: float) -> None:
        """See :class:`~reqpool.host.Running`."""
        self._ends.silent = True
        self.begin_close(-math.inf)
        self._ended.wait(timeout_s)

    def abandon(self) -> None:
        """See :class:`~reqpool.host.Running`."""
        self.closing = self.stopped = self.abandoned = True
        self._delivery.drop()
        for future in self._table.take_all():
            future.abandon(Code.BROKER_UNAVAILABLE, _FORKED)

    def _interrupt(self) -> None:
        if self._idle:
            self._idle = False
            self._link.wake()

    def _wait_for_room(self, route: Route, give_up_s: float) -> None:
        def has_room() -> bool:
            return len(self.pending) < self._max_pending or self.closing

        if not self._ends.wait_for_room(has_room, give_up_s):
            raise Overloaded(
                f"{self._max_pending} requests are pending in this pool (max_pending)",
                origin=route.origins[0],
                sent=False,
                retry_after_s=RETRY_AFTER_S,
            )

    # --- the I/O thread -------------------------------------------------------------------------

    def _run(self) -> None:
        while not self.stopped:
            self._driver.turn(self)
            self._run_callbacks()
        if not self.abandoned:
            self._ended.wait()
            self._run_callbacks()

    def _run_callbacks(self) -> None:
        if self._delivery.waiting:
            with self._relief:
                self._delivery.run()
            if self._driver.relieving:
                self._interrupt()

    def _relieve(self) -> None:
        self._driver.relieve(self, lambda: self._relief.away and not self.stopped)

    def work(self) -> None:
        """See :class:`~reqpool.driver.Loop`."""
        if self.stopped:
            return
        try:
            if not self._finished():
                self.turn(math.inf)
                return
            self._say_goodbye()
            self._end("the pool was closed")
        except BaseException:
            # A fault of ours, or of a kind's, must not leave anybody waiting. First of all, for a log's
            # handler may raise as well.
            self._end("the pool's I/O failed, see the log")
            with contextlib.suppress(Exception):
                log.exception("the I/O of a reqpool.Pool failed")

    def _end(self, text: str) -> None:
        if self.stopped:
            return
        self.closing = self.stopped = True
        ending = wire.encode_error(text)
        try:
            self._ends.recover()
            self._ends.end(self._table.take_all(), CANCELLED_AND_NOTIFIED, Code.CANCELLED, ending)
            self._link.close(GOODBYE_LINGER_MS)
            if self._embedded is not None:
                self._embedded.stop()
        finally:
            host.stopped(self)
            self._relief.stop()
            self._ended.set()

    def _finished(self) -> bool:
        return self.closing and (not self.pending or monotonic() >= self._drain_until_s)

    def is_waiting(self) -> bool:
        """See :class:`~reqpool.driver.Loop`."""
        return bool(
            self.pending
            or self._outbox
            or self._cancels
            or self._unpins
            or self._delivery.waiting
            or self.closing
        )

    def is_lone(self) -> bool:
        """See :class:`~reqpool.driver.Loop`."""
        if self._cancels or self._unpins or self._delivery.waiting or self.closing or len(self.pending) > 1:
            return False
        return not any(
            future.has_callbacks() or future._made_condition is not None
            for future in list(self.pending.values())
        )

    def _serve(self) -> None:
        self._flush(monotonic())

    def turn(self, until_s: float) -> None:
        """What time asks for, what is to be sent, sleep, what has come in. For the driver only."""
        now_s = monotonic()
        if self._driver.disturbed:
            self._put_in_order(now_s)
        self._act(self._session.tick(now_s), now_s)
        self._expire(now_s)
        self._flush(now_s)
        has_more = self._link.has_messages() or (not self._link.blocked and self._has_batches())
        if not has_more and not self._sleep(min(until_s, self._due_s(now_s))):
            return
        self._receive(monotonic())

    def _has_batches(self) -> bool:
        return bool(self._backlog or self._alone or self._outbox)

    def _sleep(self, until_s: float) -> bool:
        """Sleep until something may have come in, or ``until_s``; False if there was work at once."""
        self._idle = True
        if (
            (self._outbox and not self._link.blocked)
            or self._cancels
            or (self._unpins and not self._link.blocked and self._session.state is State.OPEN)
            or ((self._delivery.waiting or self._driver.relieving) and not self._relief.away)
            or (self.closing and not self.pending)
        ):
            self._idle = False
            return False
        self._link.sleep(until_s - monotonic())
        self._idle = False
        return True

    def _due_s(self, now_s: float) -> float:
        due_s = min(self._session.due_s, self._table.due_s)
        if self.closing:
            due_s = min(due_s, self._drain_until_s)
        if self._embedded is not None and not self._session.ever_open:
            due_s = min(due_s, now_s + EMBEDDED_POLL_S)
        return due_s

    def _put_in_order(self, now_s: float) -> None:
        """An exception cut a turn short: resume from what is sure."""
        self._driver.disturbed = False
        self._ends.recover()
        self._act(self._session.interrupted(now_s), now_s)

    def _receive(self, now_s: float) -> None:
        session = self._session
        for from_intake, frames in self._link.messages():
            try:
                if from_intake:
                    actions = session.received(frames[0], now_s)
                elif len(frames) < 2:
                    raise ProtocolError("a publication without a head")
                else:
                    actions = session.published(frames[1], frames[2] if len(frames) > 2 else None, now_s)
            except ProtocolError as error:
                log.warning("ignored a message of the broker at %s: %s", self._url, error)
                continue
            self._act(actions, now_s)

    def _act(self, actions: list[Action], now_s: float) -> None:
        for action in actions:
            match action:
                case Results(flat, attempts):
                    self._batches_in += 1
                    for seq, count in attempts:
                        if (future := self.pending.get(seq)) is not None:
                            future.attempts = count
                    self._ends.complete(flat, now_s)
                    if self._ends.again:
                        self._go_on()
                    self._ends.settle()
                    self._session.settle()
                case Send(frame):
                    self._link.send(frame)
                case Dial(hello):
                    try:
                        self._link.dial(self._url, hello)
                    except zmq.ZMQError as error:
                        self._act(self._session.give_up(now_s, f"cannot be dialled: {error}"), now_s)
                case Subscribe(results):
                    try:
                        self._link.subscribe(address.results_url(self._url, results))
                    except (zmq.ZMQError, ProtocolError) as error:
                        text = f"its results socket cannot be dialled: {error}"
                        self._act(self._session.give_up(now_s, text), now_s)
                case Opened(never_ran):
                    self._resubmit(never_ran)
                case Lost(text):
                    log.info("connection to the broker at %s lost: %s", self._url, text)
                    self._link.hang_up()
                case Unread(seqs, text):
                    self._separate(seqs, f"the broker could not read it: {text}")

    def _say_goodbye(self) -> None:
        if self._session.state is State.OPEN:
            self._flush(monotonic())
            self._link.send(wire.encode(wire.Verb.GOODBYE))

    # --- what goes out --------------------------------------------------------------------------

    def _resubmit(self, never_ran: tuple[tuple[int, int], ...]) -> None:
        # What was let go of on a connection that broke may not have arrived; the broker ignores repetitions.
        self._unpins.extend(self._unpinned)
        self._unpinned.clear()
        pending = list(self.pending.values())
        unrun = within((future.seq for future in pending), never_ran) if never_ran else ()
        for future in pending:
            if future.connection and future.seq not in unrun:
                future.resubmitted = int(wire.Flag.RESUBMITTED)
        suspects = self._suspects
        # Some are in the outbox as well: each is sent once per connection.
        self._backlog = deque(future for future in pending if future.seq not in suspects)
        self._alone = deque(future for future in pending if future.seq in suspects)
        self._suspects = {future.seq for future in self._alone}

    def _go_on(self) -> None:
        """Make the next requests of those whose answer asks for one, each under its future and deadline."""
        again = self._ends.again
        failed = []
        while again:
            future, data = again[-1]
            try:
                route, payload, note, step = future.route.kind.follow(data, future)
                if type(payload) is not bytes or len(payload) > wire.MAX_PAYLOAD_BYTES:
                    raise BadResponse("what it asks for next is too large")
            except Exception as error:
                again.pop()
                known = error if isinstance(error, PoolError) else BadResponse(f"cannot go on: {error!r}")
                failed.append((future, known))
                continue
            future.route, future.payload, future.note = route, payload, note
            future.trail += (step,)
            future.connection = future.resubmitted = 0
            future.attempts = 1
            future.seq = self._next_seq()
            self.pending[future.seq] = future
            again.pop()
            self._outbox.append(future)
        # Not before: who waits for one of these may wait for another to be in the table again.
        for future, known in failed:
            verdict = wire.encode_error(
                known.text, origin=known.origin, phase="read", attempts=future.attempts, sent=True
            )
            self._ends.end([future], FINISHED, known.code, verdict)

    def _separate(self, seqs: list[int], text: str) -> None:
        """A SUBMIT of these is illegal: end the one, or send each in one of its own to find out which."""
        if len(seqs) == 1:
            future = self.pending.pop(seqs[0], None)
            if future is not None:
                data = wire.encode_error(text, phase="cluster", sent=False)
                self._ends.end([future], FINISHED, Code.PROTOCOL, data)
            return
        self._suspects.update(seqs)
        for seq in seqs:
            future = self.pending.get(seq)
            if future is not None:
                future.connection = 0
                self._alone.append(future)

    def _flush(self, now_s: float) -> None:
        if not (self._outbox or self._cancels or self._backlog or self._alone or self._unpins):
            return
        session, table, link = self._session, self._table, self._link
        if session.state is not State.OPEN:
            # They stay in the table, all of which is submitted when the session opens.
            self._backlog.clear()
            self._alone.clear()
            while self._outbox:
                future = self._outbox.popleft()
                table.expect(self._end_s(future))
        for queue, most in (
            (self._backlog, wire.MAX_BATCH_REQUESTS),
            (self._alone, 1),
            (self._outbox, wire.MAX_BATCH_REQUESTS),
        ):
            for _ in range(MESSAGES_PER_TURN):
                if not queue or not link.has_room():
                    break
                groups, earliest_s = next_batch(queue, session.connection, now_s, session.keeping, most)
                if groups:
                    self._submit(groups)
                    table.expect(earliest_s + CLUSTER_GRACE_S)
        while self._unpins and session.state is State.OPEN and link.has_room():
            pin = self._unpins.popleft()
            self._unpinned.append(pin)
            link.send(wire.encode(wire.Verb.UNPIN, pin))
        if self._cancels:
            cancelled = [self._cancels.popleft() for _ in range(len(self._cancels))]
            self._ends.cancelled += len(cancelled)
            sent = [future.seq for future in cancelled if future.connection == session.connection]
            if sent and session.state is State.OPEN:
                link.send(wire.encode(wire.Verb.CANCEL, sent))

    def _submit(self, groups: list[Any]) -> None:
        try:
            frame = self._session.submit(groups)
        except (TypeError, ValueError, OverflowError) as error:
            # A kind's fault. One request must not end the others.
            self._separate(seqs_of(groups), str(error))
            return
        keeping = self._session.keeping
        frames = [wire.encode(wire.Verb.KEEP, *fresh) for fresh in keeping.take_fresh()]
        keeping.end_turn()
        if not all(map(self._link.send, (*frames, frame))):
            # Room was asked for one message, and what comes behind one that is missing would be misread.
            now_s = monotonic()
            self._act(self._session.give_in(now_s, "the broker takes no more for now"), now_s)
        self._batches_out += 1

    def _end_s(self, future: Future[Any]) -> float:
        due_s = future.deadline_s + CLUSTER_GRACE_S
        unreached_from_s = self._unreached_from_s()
        if unreached_from_s is not None:
            due_s = min(due_s, max(future.submitted_s, unreached_from_s) + wire.CONNECT_GRACE_MS / 1000)
        return due_s

    def _unreached_from_s(self) -> float | None:
        # An embedded cluster needs its time to start; whether it lives is known without waiting.
        session = self._session
        return None if session.ever_open or self._embedded is not None else session.first_dial_s

    # --- what is overdue, or hopeless -------------------------------------------------------------

    def _expire(self, now_s: float) -> None:
        session = self._session
        if not self.pending:
            return
        if session.refusal is not None:
            self._end_all(
                Code.BROKER_UNAVAILABLE, f"the broker at {without_password(self._url)}: {session.refusal}"
            )
        elif self._embedded is not None and session.state is not State.OPEN:
            ended = self._embedded.exit_text()
            if ended is not None:
                self._end_all(Code.BROKER_UNAVAILABLE, f"{ended}; its messages are on stderr")
        if now_s < self._table.due_s:
            return
        grace_s = wire.CONNECT_GRACE_MS / 1000
        overdue = self._table.sweep(now_s, self._unreached_from_s(), grace_s)
        verdict = wire.encode_error(self._trouble(), phase="cluster")
        for future in overdue:
            timed_out = now_s >= future.deadline_s + CLUSTER_GRACE_S
            code = Code.TIMEOUT if timed_out else Code.BROKER_UNAVAILABLE
            self._ends.end([future], FINISHED, code, verdict)

    def _trouble(self) -> str:
        session = self._session
        last = f" ({session.trouble})" if session.trouble else ""
        if session.state is State.OPEN:
            return "the cluster gave no answer in time"
        if session.ever_open:
            return f"the connection to the broker at {without_password(self._url)} is lost{last}"
        if self._embedded is not None:
            return f"the embedded cluster has not started yet{last}"
        return f"no broker answers at {without_password(self._url)}{last}: is `reqpool up` running there?"

    def _end_all(self, code: Code, text: str) -> None:
        self._ends.end(self._table.take_all(), FINISHED, code, wire.encode_error(text, phase="cluster"))


_CANCELLED = wire.encode_error("cancelled by the caller")
_FORKED = wire.encode_error(
    "this request was in flight at a fork() and belongs to the parent process", phase="cluster"
)
