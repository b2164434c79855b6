"""The I/O of one session, in turns: what time asks for, what is to be sent, a sleep, what has come in.

One thread at a time takes the turn, see :mod:`.driver` and :mod:`.relief`, and with it the sockets. Other
threads append to a queue, and wake that thread only if it sleeps. It sets ``idle``, *then* looks into the
queues again; they append, *then* look at ``idle``: one of the two sees the other.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Callable, Collection
from concurrent.futures._base import PENDING
from time import monotonic
from typing import Any

from .broker_sockets import BrokerSockets
from .callback_runner import CallbackRunner
from .client_conversation import ClientConversation
from .driver import Driver
from .embedded import Embedded
from .entry import RequestEntry
from .relief import Relief
from .session_state import SessionState
from .url_check import Lookup

log = logging.getLogger("reqpool")

GOODBYE_LINGER_MS = 200
"""How long ZeroMQ may take to send the last messages before closing."""
PARK_S = 0.2
"""How long after the last lone request the I/O thread comes back, if heartbeats are not so frequent that they
would come late."""
PARKS_PER_HEARTBEAT = 4
CLOSED = "the pool was closed"


class IoLoop:
    """Turns one session's sockets, and runs its callbacks, on threads of the pool or of those that wait.

    Attributes:
        closing: nothing more is submitted.
        drain_until_s: when to end what is pending once it is closing, monotonic.
        stopped: no turn is taken any more, or the threads were left behind in the parent process.
        abandoned: this is the child of a fork, the session the parent's.
        idle: the thread that has the turn sleeps, or is about to.
        ended: set when the last turn was taken.
        thread: the I/O thread.
        driver: the right to turn this.
        brought: see :class:`~.driver.Turnable`.
    """

    def __init__(
        self,
        conversation: ClientConversation,
        sockets: BrokerSockets,
        delivery: CallbackRunner,
        lookup: Lookup | None,
        embedded: Embedded | None,
    ) -> None:
        """Begin with no thread.

        Args:
            conversation: the session.
            sockets: what it talks through.
            delivery: the callbacks.
            lookup: looks whether a broker can be at the URL.
            embedded: the cluster, if it is the pool's own.
        """
        self.closing = False
        self.drain_until_s = math.inf
        self.stopped = False
        self.abandoned = False
        self.idle = False
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, name="reqpool-io", daemon=True)
        self.driver = Driver()
        self._conversation = conversation
        self._queues = queues = conversation.queues
        self._sockets = sockets
        self._delivery = delivery
        self._lookup = lookup
        self._embedded = embedded
        self.brought: tuple[Collection[Any], ...] = (
            conversation.pending, queues.outbox, queues.cancels, queues.unpins, delivery.batches,
        )  # fmt: skip
        self._relief = Relief()
        self._on_end: Callable[[], None] | None = None
        self._quiet_until_s = -math.inf
        """Until then nothing is due and nothing waits to be sent, unless another thread brings it."""

    def start(self, on_end: Callable[[], None]) -> None:
        """Start both threads.

        Args:
            on_end: called after the last turn.
        """
        self._on_end = on_end
        self._relief.start(self._relieve)
        self.thread.start()

    # --- from any thread --------------------------------------------------------------------------

    def interrupt(self) -> None:
        """End the sleep of the thread that has the turn, if it sleeps."""
        if self.idle:
            self.idle = False
            self._sockets.wake()

    def begin_close(self, drain_until_s: float) -> None:
        """Take nothing more; end what is pending at ``drain_until_s`` (monotonic)."""
        self.closing = True
        self.drain_until_s = drain_until_s
        self._sockets.wake()
        self.driver.unpark()

    def join(self, timeout_s: float | None) -> None:
        """Wait for the end of all callbacks; not at all on a thread of the pool's own."""
        if threading.current_thread() is not self.thread and not self._relief.is_current_thread():
            self.thread.join(timeout_s)
            if not self.thread.is_alive():
                self._relief.join()

    def abandon(self) -> None:
        """Take no turn any more: this is a forked child."""
        self.closing = self.stopped = self.abandoned = True
        self._sockets.abandon()

    # --- the pool's own threads -------------------------------------------------------------------

    def _run(self) -> None:
        while not self.stopped:
            self.driver.turn(self)
            self._run_callbacks()
        if not self.abandoned:
            self.ended.wait()
            self._run_callbacks()

    def _run_callbacks(self) -> None:
        if self._delivery.batches:
            with self._relief:
                self._delivery.run()
            if self.driver.relieving:
                self.interrupt()

    def _relieve(self) -> None:
        self.driver.relieve(self, lambda: self._relief.away and not self.stopped)

    def work(self) -> None:
        """See :class:`~.driver.Turnable`."""
        if self.stopped:
            return
        try:
            if not self._finished():
                self.turn(math.inf)
                return
            # First of all, or what is cancelled now would be sent yet.
            self._conversation.cancel_all(CLOSED, monotonic())
            self._conversation.say_goodbye(monotonic())
            self._end(CLOSED)
        except BaseException:
            # A fault here, or of a kind, must not leave callers waiting. First of all, as a log's handler
            # may raise as well.
            self._end("the pool's I/O failed; see the log")
            with contextlib.suppress(Exception):
                log.exception("the I/O of a reqpool.Pool failed")

    def _end(self, text: str) -> None:
        if self.stopped:
            return
        self.closing = self.stopped = True
        try:
            self._conversation.cancel_all(text, monotonic())
            self._sockets.close(GOODBYE_LINGER_MS)
            if self._embedded is not None:
                self._embedded.stop()
        finally:
            if self._on_end is not None:
                self._on_end()
                self._on_end = None
            self._relief.stop()
            self.ended.set()

    def _finished(self) -> bool:
        return self.closing and (not self._conversation.pending or monotonic() >= self.drain_until_s)

    # --- turns ------------------------------------------------------------------------------------

    def is_lone(self) -> bool:
        """See :class:`~.driver.Turnable`."""
        queues, pending = self._queues, self._conversation.pending
        if queues.cancels or queues.unpins or self._delivery.batches or self.closing or len(pending) > 1:
            return False
        return not any(
            entry.has_callbacks() or entry._made_condition is not None for entry in list(pending.values())
        )

    def park_s(self) -> float:
        """See :class:`~.driver.Turnable`."""
        return min(PARK_S, self._conversation.session.heartbeat_s / PARKS_PER_HEARTBEAT)

    def lead(self, entry: RequestEntry, until_s: float) -> None:
        """See :class:`~.driver.Turnable`.

        While nothing is due, and no other thread brings something, a turn is a sleep until results come and
        the results themselves.
        """
        queues, sockets, table = self._queues, self._sockets, self._conversation.table
        driver, delivery = self.driver, self._delivery
        while entry._state is PENDING and driver.parked and not delivery.batches and not self.closing:
            now_s = monotonic()
            if now_s >= until_s:
                return
            quiet_s = min(self._quiet_until_s, table.due_s, until_s)
            if now_s < quiet_s and not sockets.blocked and not driver.disturbed:
                frames = None
                self.idle = True
                if not (queues.outbox or queues.cancels or queues.unpins or self.closing):
                    frames = sockets.await_results(quiet_s - now_s)
                self.idle = False
                if self.abandoned:
                    # A signal handler has forked meanwhile. In the child pyzmq would try again for ever.
                    return
                if frames is not None:
                    self._conversation.take_one(frames, monotonic())
                    continue
            self.turn(until_s)

    def serve(self, entry: RequestEntry) -> None:
        """Take in what has come, then send a new request; only the thread that has the right to turn.

        In this order, as a request must not be sent on a connection whose loss could have been seen.
        """
        self.turn(-math.inf)
        if self.abandoned:
            # As in lead().
            return
        self._queues.outbox.append(entry)
        self._conversation.send(monotonic())
        if self._delivery.batches:
            self.driver.unpark()

    def turn(self, until_s: float) -> None:
        """Take one turn; only the thread that has the right to. Sleep until ``until_s`` at the latest."""
        conversation, sockets = self._conversation, self._sockets
        self._quiet_until_s = -math.inf
        now_s = monotonic()
        if self.driver.disturbed:
            # An exception cut a turn short.
            self.driver.disturbed = False
            conversation.put_in_order(now_s)
        if self._lookup is not None:
            until_s = min(until_s, self._look(self._lookup, now_s))
        unsent = conversation.turn(now_s)
        due_s = conversation.due_s(now_s)
        has_more = sockets.has_messages() or (unsent and not sockets.blocked)
        if not has_more and not self._sleep(min(until_s, due_s)):
            return
        if self.abandoned:
            # As in lead().
            return
        conversation.take(sockets.messages(), monotonic())
        if sockets.loss is not None:
            conversation.lose(*sockets.loss, monotonic())
        queues = self._queues
        if conversation.session.state is SessionState.OPEN and not (
            queues.backlog or queues.large or queues.large_again
        ):
            self._quiet_until_s = due_s

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
        queues, blocked = self._queues, self._sockets.blocked
        self.idle = True
        if (
            (queues.outbox and not blocked)
            or queues.cancels
            or (queues.unpins and not blocked and self._conversation.session.state is SessionState.OPEN)
            or ((self._delivery.batches or self.driver.relieving) and not self._relief.away)
            or (self.closing and not self._conversation.pending)
        ):
            self.idle = False
            return False
        if self.closing:
            until_s = min(until_s, self.drain_until_s)
        self._sockets.sleep(until_s - monotonic())
        self.idle = False
        return True
