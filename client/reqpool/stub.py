"""The client's side of one session: its :class:`.ClientConversation`, sockets, clock and I/O thread,
which runs callbacks.

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
import random
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures._base import FINISHED, PENDING
from time import monotonic
from typing import Any

from reqpool_contract import wire
from reqpool_contract.errors import Code, Overloaded
from reqpool_contract.masking import without_password

from . import host
from .broker_sockets import BrokerSockets
from .callback_runner import CallbackRunner
from .client_conversation import ClientConversation
from .driver import Driver
from .embedded import Embedded
from .future import Future
from .kinds import Route
from .relief import Relief
from .session_protocol import SessionProtocol
from .session_state import SessionState
from .stats import Stats
from .url_check import Lookup

log = logging.getLogger("reqpool")

GOODBYE_LINGER_MS = 200
"""How long ZeroMQ may take to send what was said before closing."""
RETRY_AFTER_S = 0.05
"""What ``Overloaded`` advises when the table is full: it empties by hundreds per batch of results."""


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
        self._delivery = CallbackRunner(executor)
        self._link = BrokerSockets(host.context(), self._session_id)
        name = os.path.basename(sys.argv[0]) if getattr(sys, "argv", None) else ""
        self._conversation = ClientConversation(
            url,
            SessionProtocol(self._session_id, name or "python", os.getpid(), random.random),
            self._link,
            self._delivery,
            None if embedded is None else embedded.exit_text,
        )
        self._lookup = None if embedded is not None else Lookup(url, self._link.wake)
        self._ends = self._conversation.ends
        # These are on the way of every request.
        self.pending: dict[int, Future[Any]] = self._conversation.pending
        self._next_seq = self._conversation.next_seq
        self._outbox = self._conversation.outbox
        self._next_pin: Callable[[], int] = itertools.count(1).__next__
        self.closing = False
        self.stopped = False
        self.abandoned = False
        self._idle = False
        self._drain_until_s = math.inf
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
        """See :class:`~reqpool.future.FutureOwner`."""
        while not self._conversation.cancel(future, monotonic()):
            # Ended, or about to; or it goes on under another number in an instant.
            if future._state is not PENDING:
                return False
            self.end_if_abandoned(future)
            time.sleep(0)
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
        self._conversation.unpins.append(pin)
        self._interrupt()
        self._driver.unpark()

    def lead(self, future: Future[Any], until_s: float) -> None:
        """See :class:`~reqpool.future.FutureOwner`."""
        if len(self.pending) == 1 and not self.stopped:
            self._driver.lead(
                self,
                lambda: future._state is not PENDING or self._delivery.waiting or self._finished(),
                until_s,
            )

    def watch(self) -> None:
        """See :class:`~reqpool.future.FutureOwner`."""
        self._driver.unpark()

    def check_wait(self) -> None:
        """See :class:`~reqpool.future.FutureOwner`."""
        self._delivery.check_wait()

    def end_if_abandoned(self, future: Future[Any]) -> None:
        """See :class:`~reqpool.future.FutureOwner`."""
        if self.abandoned and future._state is PENDING:
            future.abandon(Code.BROKER_UNAVAILABLE, _FORKED)

    def report_callback_error(self, future: Future[Any]) -> None:
        """See :class:`~reqpool.future.FutureOwner`."""
        self._delivery.failed(future)

    def stats(self) -> Stats:
        """Return a snapshot."""
        pending = len(self.pending)
        conversation = self._conversation
        session, ends = conversation.session, conversation.ends
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
            batches_in=conversation.batches_in,
            batches_out=conversation.batches_out,
            batches_repeated=session.results.repeated,
            gaps=session.results.gaps,
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
        # Closing without draining was somebody's decision.
        pending = list(self.pending.values()) if self._drain_until_s > -math.inf else []
        self._ends.silent = True
        self.begin_close(-math.inf)
        give_up_s = monotonic() + timeout_s
        self._ended.wait(timeout_s)
        self._thread.join(max(0.0, give_up_s - monotonic()))  # it runs what callbacks are left
        lost = [future for future in pending if future._state is not FINISHED]
        uncalled = {future for future in pending if future._state is FINISHED and future.has_callbacks()}
        uncalled.update(self._delivery.uncalled())
        if lost or uncalled:
            log.warning(
                "work was lost as the program ended: requests pending: %d, of these never sent: %d, answers "
                "whose callbacks did not run: %d. To wait for them call pool.close(), or use "
                "`with reqpool.Pool(...) as pool:` (broker: %s)",
                len(lost),
                sum(future.is_unsent() for future in lost),
                len(uncalled),
                without_password(self._url),
            )

    def abandon(self) -> None:
        """See :class:`~reqpool.host.Running`."""
        self.closing = self.stopped = self.abandoned = True
        self._delivery.drop()
        for future in self._conversation.table.take_all():
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
        """See :class:`~reqpool.driver.Turnable`."""
        if self.stopped:
            return
        try:
            if not self._finished():
                self.turn(math.inf)
                return
            # First of all, or what is cancelled now would be sent yet.
            self._conversation.cancel_all(_CLOSED, monotonic())
            self._conversation.say_goodbye(monotonic())
            self._end(_CLOSED)
        except BaseException:
            # A fault of ours, or of a kind's, must not leave anybody waiting. First of all, for a log's
            # handler may raise as well.
            self._end("the pool's I/O failed; see the log")
            with contextlib.suppress(Exception):
                log.exception("the I/O of a reqpool.Pool failed")

    def _end(self, text: str) -> None:
        if self.stopped:
            return
        self.closing = self.stopped = True
        try:
            self._conversation.cancel_all(text, monotonic())
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
        """See :class:`~reqpool.driver.Turnable`."""
        conversation = self._conversation
        return bool(
            self.pending
            or self._outbox
            or conversation.cancels
            or conversation.unpins
            or self._delivery.waiting
            or self.closing
        )

    def is_lone(self) -> bool:
        """See :class:`~reqpool.driver.Turnable`."""
        conversation = self._conversation
        if conversation.cancels or conversation.unpins or self._delivery.waiting or self.closing:
            return False
        if len(self.pending) > 1:
            return False
        return not any(
            future.has_callbacks() or future._made_condition is not None
            for future in list(self.pending.values())
        )

    def _serve(self) -> None:
        self._conversation.flush(monotonic())

    def turn(self, until_s: float) -> None:
        """What time asks for, what is to be sent, sleep, what has come in. For the driver only."""
        conversation, link = self._conversation, self._link
        now_s = monotonic()
        if self._driver.disturbed:
            # An exception cut a turn short.
            self._driver.disturbed = False
            conversation.put_in_order(now_s)
        if self._lookup is not None:
            until_s = min(until_s, self._look(self._lookup, now_s))
        unsent = conversation.turn(now_s)
        has_more = link.has_messages() or (unsent and not link.blocked)
        if not has_more and not self._sleep(min(until_s, conversation.due_s(now_s))):
            return
        if self.abandoned:
            # A signal handler has forked meanwhile. In the child pyzmq would try again for ever.
            return
        conversation.take(link.messages(), monotonic())
        if link.loss is not None:
            conversation.lose(*link.loss, monotonic())

    def _look(self, lookup: Lookup, now_s: float) -> float:
        """See whether a broker can be at the URL, until one was; returns when to do so again."""
        if self._conversation.session.ever_open:
            self._lookup = None
            return math.inf
        lookup.turn(now_s)
        if lookup.fault is not None:
            self._conversation.refuse(lookup.fault)
        return lookup.due_s

    def _sleep(self, until_s: float) -> bool:
        """Sleep until something may have come in, or ``until_s``; False if there was work at once."""
        conversation, blocked = self._conversation, self._link.blocked
        self._idle = True
        if (
            (self._outbox and not blocked)
            or conversation.cancels
            or (conversation.unpins and not blocked and conversation.session.state is SessionState.OPEN)
            or ((self._delivery.waiting or self._driver.relieving) and not self._relief.away)
            or (self.closing and not self.pending)
        ):
            self._idle = False
            return False
        if self.closing:
            until_s = min(until_s, self._drain_until_s)
        self._link.sleep(until_s - monotonic())
        self._idle = False
        return True


_CLOSED = "the pool was closed"
_FORKED = wire.encode_error(
    "this request was in flight at a fork() and belongs to the parent process", phase="cluster"
)
