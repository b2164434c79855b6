"""The client's side of one session at work: its table, its I/O thread and its sockets.

Facts it relies on:

* ``ZMQ_FD`` is edge-triggered: see :mod:`.sockets` for when a socket must be asked before sleeping.
* A ZeroMQ socket belongs to one thread at a time: the one that takes the turn, see :mod:`.driver`. Other
  threads append to a deque, and write to an eventfd only if that thread sleeps. It says that it is about to
  (``idle``), *then* looks into the deque once more; they append, *then* look at ``idle``: one of the two
  sees the other.
* What sits in an old socket's pipe may be delivered later, to the next broker: on loss both sockets
  are closed with linger 0 and new ones opened.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import logging
import math
import os
import select
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING
from time import monotonic
from typing import Any

import zmq

from . import address, host, sockets, wire
from .delivery import Delivery
from .driver import Driver
from .embedded import Embedded
from .errors import Code, Overloaded, ProtocolError, UsageError
from .future import Future
from .kinds import Route
from .outbox import next_batch
from .pending import CLUSTER_GRACE_S, Pending
from .session import Action, Dial, Lost, Opened, Results, Send, Session, State, Subscribe
from .stats import Stats

log = logging.getLogger("reqpool")

MESSAGES_PER_TURN = 64
"""Most messages read from a socket, and batches sent, before timers are looked at again."""
SEND_QUEUE_MESSAGES = 256
"""ZMQ_SNDHWM of the intake socket: what is over it stays in the outbox."""
EMBEDDED_POLL_S = 0.05
"""How often a starting embedded cluster is looked at."""
GOODBYE_LINGER_MS = 200
"""How long ZeroMQ may take to send what was said before closing."""
RETRY_AFTER_S = 0.05
"""What ``Overloaded`` advises when the table is full: it empties by hundreds per batch of results."""


class Stub:
    """One session. Made at a pool's first use, and anew in a forked child.

    Attributes:
        session_hex: the session id in hexadecimal digits. It is the secret topic too: not for logs of others.
        pending: the table, sequence number to future.
        closing: nothing more is submitted.
        stopped: the I/O thread has ended, or was left behind in the parent process.
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
        self.session_hex = self._session_id.hex()
        name = os.path.basename(sys.argv[0]) if getattr(sys, "argv", None) else ""
        self._session = Session(self._session_id, name or "python", os.getpid())
        self._table = Pending()
        self.pending: dict[int, Future[Any]] = self._table.futures
        self._next_seq: Callable[[], int] = itertools.count(1).__next__
        self._outbox: deque[Future[Any]] = deque()
        self._backlog: deque[Future[Any]] = deque()
        self._cancels: deque[Future[Any]] = deque()
        self._room = threading.Condition()
        self._room_wanted = False
        self.closing = False
        self.stopped = False
        self.abandoned = False
        self._idle = False
        self._blocked = False
        self._silent = False
        self._drain_until_s = math.inf
        self._completed = self._failed = self._timeouts = self._cancelled = 0
        self._batches_in = self._batches_out = 0
        self._delivery = Delivery(executor)
        self._intake: zmq.Socket[bytes] | None = None
        self._results: zmq.Socket[bytes] | None = None
        self._intake_fd = self._results_fd = -1
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # Closed with the last reference, not with the thread: a late wake() must not hit another file.
        weakref.finalize(self, os.close, self._wake_fd).atexit = False
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._readable: set[int] = set()
        self._intake_sent = False
        self._taken: list[Future[Any] | None] = []
        self._driver = Driver()
        self._context = host.context()
        self._thread = threading.Thread(target=self._run, name="reqpool-io", daemon=True)

    def start(self) -> None:
        """Start both threads. Hold :func:`host.start_lock`."""
        self._delivery.start()
        self._thread.start()
        host.started(self)

    # --- for the callers' threads ---------------------------------------------------------------

    def submit(
        self,
        route: Route,
        payload: bytes,
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
        future: Future[Any] = Future(self, seq, route, payload, now_s, now_s + timeout_s, priority, callback)
        pending[seq] = future
        self._outbox.append(future)
        if self._idle:
            self._wake()
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
        if self.pending.pop(future.seq, None) is None:
            return False
        future.end(CANCELLED_AND_NOTIFIED, Code.CANCELLED, _CANCELLED, monotonic())
        self._cancels.append(future)
        if self._idle:
            self._wake()
        self._driver.unpark()
        self._after_end([future])
        return True

    def lead(self, future: Future[Any], until_s: float) -> None:
        """See :class:`~reqpool.future.Owner`."""
        if len(self.pending) == 1 and not self.stopped:
            self._driver.lead(self, lambda: future._state is not PENDING or self._finished(), until_s)

    def watch(self) -> None:
        """See :class:`~reqpool.future.Owner`."""
        self._driver.unpark()

    def check_wait(self) -> None:
        """See :class:`~reqpool.future.Owner`."""
        if self._delivery.is_current_thread():
            raise UsageError(
                "waiting inside a callback for an unfinished request would stop all callbacks: "
                "give that request a callback of its own, or the pool an executor"
            )

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
        ended = self._completed + self._failed + self._timeouts + self._cancelled
        session = self._session
        return Stats(
            url=self._url,
            state="closed" if self.stopped else session.state.name.lower(),
            pending=pending,
            submitted=ended + pending,
            completed=self._completed,
            failed=self._failed,
            timeouts=self._timeouts,
            cancelled=self._cancelled,
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
        os.eventfd_write(self._wake_fd, 1)
        self._driver.unpark()
        with self._room:
            self._room.notify_all()

    def join(self, timeout_s: float | None) -> None:
        """Wait for both threads' end; inside a callback not at all."""
        if not self._delivery.is_current_thread():
            self._thread.join(timeout_s)
            self._delivery.join(timeout_s)

    def shut_down(self, timeout_s: float) -> None:
        """See :class:`~reqpool.host.Running`."""
        self._silent = True
        self.begin_close(-math.inf)
        self._thread.join(timeout_s)

    def abandon(self) -> None:
        """See :class:`~reqpool.host.Running`."""
        self.closing = self.stopped = self.abandoned = True
        for future in self._table.take_all():
            future.abandon(Code.BROKER_UNAVAILABLE, _FORKED)

    def _wake(self) -> None:
        self._idle = False
        os.eventfd_write(self._wake_fd, 1)

    def _wait_for_room(self, route: Route, give_up_s: float) -> None:
        with self._room:
            while True:
                # First said, then looked: whoever makes room looks the other way round.
                self._room_wanted = True
                if len(self.pending) < self._max_pending or self.closing:
                    return
                left_s = give_up_s - monotonic()
                if left_s <= 0:
                    raise Overloaded(
                        f"{self._max_pending} requests are pending in this pool (max_pending)",
                        origin=route.origins[0],
                        sent=False,
                        retry_after_s=RETRY_AFTER_S,
                    )
                self.check_wait()
                self._room.wait(left_s)

    # --- the I/O thread -------------------------------------------------------------------------

    def _run(self) -> None:
        ending = wire.encode_error("the pool was closed")
        try:
            while not self._finished():
                self._driver.turn(self)
            self._say_goodbye()
        except Exception:
            # A fault of ours must not leave anybody waiting.
            log.exception("the I/O thread of a reqpool.Pool failed")
            ending = wire.encode_error("the pool's I/O thread failed, see the log")
        finally:
            self.closing = self.stopped = True
            self._end(self._table.take_all(), CANCELLED_AND_NOTIFIED, Code.CANCELLED, ending)
            self._close_sockets(GOODBYE_LINGER_MS)
            self._epoll.close()
            self._delivery.stop()
            if self._embedded is not None:
                self._embedded.stop()
            host.stopped(self)

    def _finished(self) -> bool:
        return self.closing and (not self.pending or monotonic() >= self._drain_until_s)

    def is_waiting(self) -> bool:
        """See :class:`~reqpool.driver.Loop`."""
        return bool(self.pending or self._outbox or self._cancels or self.closing)

    def is_lone(self) -> bool:
        """See :class:`~reqpool.driver.Loop`."""
        if self._cancels or self.closing or len(self.pending) > 1:
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
        if not self._look() and not self._sleep(min(until_s, self._due_s(now_s))):
            return
        self._receive(monotonic())

    def _look(self) -> bool:
        """Is there more to be read or sent at once? Reads EVENTS where that is needed before a sleep."""
        if self._intake_sent and self._intake is not None:
            self._intake_sent = False
            readable, writable = sockets.events(self._intake)
            self._blocked = not writable
            if readable:
                self._readable.add(self._intake_fd)
        return bool(self._readable) or (not self._blocked and bool(self._backlog or self._outbox))

    def _sleep(self, until_s: float) -> bool:
        """Sleep until a socket can be read, or a wake-up, or ``until_s``; False if there was work at once."""
        self._idle = True
        if (self._outbox and not self._blocked) or self._cancels or (self.closing and not self.pending):
            self._idle = False
            return False
        ready = self._epoll.poll(max(0.0, until_s - monotonic()))
        self._idle = False
        for fd, _ in ready:
            if fd == self._wake_fd:
                os.eventfd_read(fd)
            else:
                self._readable.add(fd)
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
        taken = [future for future in self._taken if future is not None]
        self._taken.clear()
        # The broker publishes the batch again, as it was not acknowledged.
        self.pending.update((future.seq, future) for future in taken if future._state is PENDING)
        self._after_end([future for future in taken if future._state is not PENDING])
        self._act(self._session.interrupted(now_s), now_s)

    def _receive(self, now_s: float) -> None:
        readable, self._readable = self._readable, set()
        if self._blocked and self._intake is not None:
            # The fd told of room, perhaps: POLLOUT is not asked for by itself.
            self._intake_sent = True
        for socket, fd in ((self._results, self._results_fd), (self._intake, self._intake_fd)):
            if socket is None or socket.closed or fd not in readable:
                continue
            for _ in range(MESSAGES_PER_TURN):
                if not sockets.readable(socket):
                    break
                frames = sockets.receive(socket)
                try:
                    if socket is self._intake:
                        actions = self._session.received(frames[0], now_s)
                    elif len(frames) < 2:
                        raise ProtocolError("a publication without a head")
                    else:
                        blob = frames[2] if len(frames) > 2 else None
                        actions = self._session.published(frames[1], blob, now_s)
                except ProtocolError as error:
                    log.warning("ignored a message of the broker at %s: %s", self._url, error)
                    continue
                self._act(actions, now_s)
                # Both are closed when one of them brings the session's loss.
                if socket.closed:
                    break
            else:
                self._readable.add(fd)

    def _act(self, actions: list[Action], now_s: float) -> None:
        for action in actions:
            match action:
                case Results(flat):
                    self._complete(flat, now_s)
                    self._session.settle()
                case Send(frame):
                    self._send(frame)
                case Dial(hello):
                    self._intake, self._intake_fd = self._open(zmq.DEALER, self._url)
                    self._send(hello)
                case Subscribe(results):
                    try:
                        url = address.results_url(self._url, results)
                    except ProtocolError as error:
                        log.error("the broker at %s: %s", self._url, error)
                        return
                    self._results, self._results_fd = self._open(zmq.SUB, url)
                case Opened():
                    self._resubmit(action)
                case Lost(text):
                    log.info("connection to the broker at %s lost: %s", self._url, text)
                    self._close_sockets(0)

    def _open(self, kind: int, url: str) -> tuple[zmq.Socket[bytes], int]:
        socket: zmq.Socket[bytes] = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_MESSAGE_BYTES)
        socket.setsockopt(zmq.RECONNECT_IVL, 20)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        socket.setsockopt(zmq.SNDHWM, SEND_QUEUE_MESSAGES)
        if "[" in url:
            socket.setsockopt(zmq.IPV6, 1)
        if kind == zmq.SUB:
            socket.setsockopt(zmq.SUBSCRIBE, self._session_id)
        socket.connect(url)
        fd = int(socket.FD)
        self._epoll.register(fd, select.EPOLLIN)
        return socket, fd

    def _close_sockets(self, linger_ms: int) -> None:
        for socket, fd in ((self._intake, self._intake_fd), (self._results, self._results_fd)):
            if socket is not None:
                self._epoll.unregister(fd)
                socket.close(linger_ms)
        self._intake = self._results = None
        self._readable.clear()
        self._backlog.clear()

    def _send(self, frame: bytes) -> None:
        if self._intake is not None:
            self._intake_sent = True
            try:
                self._intake.send(frame, zmq.NOBLOCK)
            except zmq.Again:
                # A heartbeat or the like that finds the queue full: liveness tells what comes of it.
                log.debug("the broker at %s takes no more for now", self._url)

    def _say_goodbye(self) -> None:
        if self._session.state is State.OPEN:
            self._flush(monotonic())
            self._send(wire.encode(wire.Verb.GOODBYE))

    def _resubmit(self, opened: Opened) -> None:
        pending = list(self.pending.values())
        if opened.new_life:
            for future in pending:
                never_ran = any(first <= future.seq <= last for first, last in opened.never_ran)
                if future.connection and not never_ran:
                    future.resubmitted = int(wire.Flag.RESUBMITTED)
        # Some are in the outbox as well: each is sent once per connection.
        self._backlog = deque(pending)

    def _flush(self, now_s: float) -> None:
        session, table = self._session, self._table
        if session.state is not State.OPEN:
            # They stay in the table, all of which is submitted when the session opens.
            while self._outbox:
                future = self._outbox.popleft()
                table.expect(self._end_s(future))
        for queue in (self._backlog, self._outbox):
            for _ in range(MESSAGES_PER_TURN):
                intake = self._intake
                if not queue or intake is None:
                    break
                self._intake_sent = True
                if not sockets.events(intake)[1]:
                    break
                groups, earliest_s = next_batch(queue, session.connection, now_s)
                if groups:
                    self._send(session.submit(groups))
                    self._batches_out += 1
                    table.expect(earliest_s + CLUSTER_GRACE_S)
        if self._cancels:
            cancelled = [self._cancels.popleft() for _ in range(len(self._cancels))]
            self._cancelled += len(cancelled)
            sent = [future.seq for future in cancelled if future.connection == session.connection]
            if sent and session.state is State.OPEN:
                self._send(wire.encode(wire.Verb.CANCEL, sent))

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

    # --- ends of requests -----------------------------------------------------------------------

    def _complete(self, flat: tuple[Any, ...], now_s: float) -> None:
        self._batches_in += 1
        # One call from pending to a list that outlives this frame: an exception in between (a signal
        # handler's, on a thread that leads) must not lose what was taken out.
        taken = self._taken
        taken.extend(map(self.pending.pop, flat[0::3], itertools.repeat(None)))
        with_callbacks = []
        for future, code, data in zip(taken, flat[1::3], flat[2::3], strict=True):
            if future is None:
                continue
            if code or future._made_condition is not None:
                self._count(code)
                future.end(FINISHED, code, data, now_s)
            else:
                # Future.end(), written out: this is the loop that every answer passes.
                self._completed += 1
                future._data = data
                future._state = FINISHED
            future.payload = b""
            if future.callback is not None or future._made_callbacks is not None:
                with_callbacks.append(future)
        if with_callbacks and not self._silent:
            self._delivery.put(with_callbacks)
        taken.clear()
        if self._room_wanted:
            self._tell_room()

    def _expire(self, now_s: float) -> None:
        session = self._session
        if not self.pending:
            return
        if session.refusal is not None:
            text = f"the broker at {self._url} refuses this client: {session.refusal}"
            self._end_all(Code.BROKER_UNAVAILABLE, text)
        elif self._embedded is not None and session.state is not State.OPEN:
            ended = self._embedded.exit_text()
            if ended is not None:
                self._end_all(Code.BROKER_UNAVAILABLE, f"{ended}; its messages are on stderr")
        if now_s < self._table.due_s:
            return
        grace_s = wire.CONNECT_GRACE_MS / 1000
        overdue = self._table.sweep(now_s, self._unreached_from_s(), grace_s)
        reason = self._trouble()
        timeout_sent = wire.encode_error(reason, phase="cluster")
        timeout_unsent = wire.encode_error(reason, phase="cluster", sent=False)
        for future in overdue:
            timed_out = now_s >= future.deadline_s + CLUSTER_GRACE_S
            code = Code.TIMEOUT if timed_out else Code.BROKER_UNAVAILABLE
            self._end([future], FINISHED, code, timeout_sent if future.connection else timeout_unsent)

    def _trouble(self) -> str:
        session = self._session
        last = f" ({session.trouble})" if session.trouble else ""
        if session.state is State.OPEN:
            return "the cluster gave no answer in time"
        if session.ever_open:
            return f"the connection to the broker at {self._url} is lost{last}"
        if self._embedded is not None:
            return f"the embedded cluster has not started yet{last}"
        return f"no broker answers at {self._url}{last}: is `reqpool up` running there?"

    def _end_all(self, code: Code, text: str) -> None:
        self._end(self._table.take_all(), FINISHED, code, wire.encode_error(text, phase="cluster", sent=None))

    def _end(self, futures: list[Future[Any]], state: str, code: Code, data: bytes) -> None:
        now_s = monotonic()
        for future in futures:
            self._count(code)
            future.end(state, code, data, now_s)
        self._after_end(futures)

    def _count(self, code: int) -> None:
        if code == Code.OK:
            self._completed += 1
        elif code == Code.TIMEOUT:
            self._timeouts += 1
        elif code == Code.CANCELLED:
            self._cancelled += 1
        else:
            self._failed += 1

    def _after_end(self, futures: list[Future[Any]]) -> None:
        with_callbacks = [future for future in futures if future.has_callbacks()]
        if with_callbacks and not self._silent:
            self._delivery.put(with_callbacks)
        if self._room_wanted:
            self._tell_room()

    def _tell_room(self) -> None:
        with self._room:
            self._room_wanted = False
            self._room.notify_all()


_CANCELLED = wire.encode_error("cancelled by the caller")
_FORKED = wire.encode_error(
    "this request was in flight at a fork() and belongs to the parent process", phase="cluster"
)
