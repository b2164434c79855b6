"""One session as the callers' threads see it: they submit, wait, cancel and close; :class:`~.io_loop.IoLoop`
does the rest."""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import logging
import math
import os
import random
import sys
import time
from collections.abc import Callable
from concurrent.futures._base import FINISHED, PENDING
from time import monotonic
from typing import Any

from reqpool_contract import wire
from reqpool_contract.counted_log import CountedLog
from reqpool_contract.errors import Code, Overloaded
from reqpool_contract.masking import without_password

from . import host
from .broker_sockets import BrokerSockets
from .callback_runner import CallbackRunner
from .client_conversation import ClientConversation
from .embedded import Embedded
from .entry import RequestEntry
from .future import Future
from .io_loop import IoLoop
from .kinds import Route
from .room import Room
from .session_protocol import SessionProtocol
from .stats import Stats
from .url_check import Lookup

log = logging.getLogger("reqpool")

RETRY_AFTER_S = 0.05
"""What ``Overloaded`` advises when the table is full: it empties by hundreds per batch of results."""


class Stub:
    """One session. Made at a pool's first use, and again in a forked child.

    Attributes:
        session_label: identifies the session in displayed ids; the session id itself is a secret.
        pending: the table, sequence number to future.
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
        session_id = os.urandom(wire.SESSION_ID_BYTES)
        self.session_label = wire.shown_id(session_id)
        self._delivery = CallbackRunner(executor)
        self._room = Room()
        sockets = BrokerSockets(host.context(), session_id)
        name = os.path.basename(sys.argv[0]) if getattr(sys, "argv", None) else ""
        self._conversation = ClientConversation(
            url,
            SessionProtocol(session_id, name or "python", os.getpid(), random.random),
            sockets,
            self._delivery,
            self._room,
            CountedLog(log),
            None if embedded is None else embedded.exit_text,
        )
        lookup = None if embedded is not None else Lookup(url, sockets.wake)
        self._loop = IoLoop(self._conversation, sockets, self._delivery, lookup, embedded)
        # These are on the way of every request.
        self.pending: dict[int, RequestEntry] = self._conversation.pending
        self._next_seq = self._conversation.next_seq
        self._queues = self._conversation.queues
        self._driver = self._loop.driver
        self._next_pin: Callable[[], int] = itertools.count(1).__next__
        self.abandoned = False

    def start(self) -> None:
        """Start both threads. Hold :func:`host.start_lock`."""
        self._loop.start(functools.partial(host.stopped, self))
        host.started(self)

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
            Its future, or None if this stub takes no more.

        Raises:
            Overloaded: no room in the table (with ``block``: for ``timeout_s``).
            UsageError: ``block`` inside a callback while there is no room.
        """
        loop = self._loop
        if loop.closing:
            return None
        now_s = monotonic()
        pending = self.pending
        if len(pending) >= self._max_pending:
            self._wait_for_room(route, now_s + timeout_s if block else now_s)
            if loop.closing:
                return None
        seq = self._next_seq()
        future: Future[Any] = Future(
            self, seq, route, payload, now_s, now_s + timeout_s, priority, callback, note
        )
        pending[seq] = future
        driver = self._driver
        # More than one at a time are for the I/O thread, which sends them together.
        if callback is None and driver.parked and len(pending) == 1 and driver.turning.acquire(False):
            try:
                if driver.disturbed or loop.stopped:
                    # What was cut short would be acknowledged. The I/O thread, which is to come back, or the
                    # thread that leads first, puts it in order before this is sent. After the last turn there
                    # is nothing left to send it through.
                    self._queues.outbox.append(future)
                elif not self._queues.submit_one(future, now_s):
                    loop.serve(future)
            except BaseException:
                driver.cut_short()
                raise
            finally:
                driver.turning.release()
        else:
            self._queues.outbox.append(future)
            if loop.idle:
                loop.interrupt()
            elif driver.parked:
                driver.unpark()
        # The loop sets ``stopped`` and then empties the table: it saw this one, or ``stopped`` is seen here.
        if loop.stopped and pending.pop(seq, None) is not None:
            return None
        return future

    def wait(self, future: Future[Any], until_s: float) -> None:
        """See :class:`~reqpool.future.FutureOwner`."""
        if self.abandoned:
            self.end_if_abandoned(future)
        if self._delivery.thread_id is not None:
            self.check_wait()
        if len(self.pending) == 1 and not self._loop.stopped:
            self._driver.lead(self._loop, future, until_s)

    def cancel(self, future: Future[Any]) -> bool:
        """See :class:`~reqpool.future.FutureOwner`."""
        while not self._conversation.cancel(future, monotonic()):
            # Ended, or about to; or it goes on under another number in an instant.
            if future._state is not PENDING:
                return False
            self.end_if_abandoned(future)
            time.sleep(0)
        self._loop.interrupt()
        self._driver.unpark()
        if self._loop.stopped:
            future.run_callbacks()  # the I/O thread may have run its last ones already
        return True

    def new_pin(self) -> int:
        """Return the number of a new pin. From any thread."""
        return self._next_pin()

    def unpin(self, pin: int) -> None:
        """Let go of a held connection. From any thread."""
        self._queues.unpins.append(pin)
        self._loop.interrupt()
        self._driver.unpark()

    def check_wait(self) -> None:
        """Raise UsageError if this thread must not wait for a request of this stub. From any thread."""
        self._delivery.check_wait()

    def watch(self) -> None:
        """See :class:`~reqpool.future.FutureOwner`."""
        self._driver.unpark()

    def end_if_abandoned(self, future: Future[Any]) -> None:
        """See :class:`~reqpool.future.FutureOwner`."""
        if self.abandoned and future._state is PENDING:
            future.abandon(Code.BROKER_UNAVAILABLE, _FORKED)

    def report_callback_error(self, entry: RequestEntry) -> None:
        """See :class:`~reqpool.future.FutureOwner`."""
        self._delivery.failed(entry)

    def stats(self) -> Stats:
        """Return a snapshot."""
        pending = len(self.pending)
        conversation = self._conversation
        session, ends = conversation.session, conversation.ends
        return Stats(
            url=self._url,
            state="closed" if self._loop.stopped else session.state.name.lower(),
            pending=pending,
            submitted=ends.completed + ends.failed + ends.timeouts + ends.cancelled + pending,
            completed=ends.completed,
            failed=ends.failed,
            timeouts=ends.timeouts,
            cancelled=ends.cancelled,
            callback_errors=self._delivery.errors,
            batches_in=conversation.batches_in,
            batches_out=conversation.queues.batches_out,
            batches_repeated=session.results.repeated,
            gaps=session.results.gaps,
            ignored=session.ignored,
            reconnects=session.reconnects,
        )

    def begin_close(self, drain_until_s: float) -> None:
        """Take nothing more; end what is pending at ``drain_until_s`` (monotonic). From any thread."""
        self._loop.begin_close(drain_until_s)
        self._room.tell()

    def join(self, timeout_s: float | None) -> None:
        """Wait for the end of all callbacks; not at all on a thread of the pool's own."""
        self._loop.join(timeout_s)

    def shut_down(self, timeout_s: float) -> None:
        """See :class:`~reqpool.host.Running`."""
        # Closing without draining was the caller's decision.
        pending = list(self.pending.values()) if self._loop.drain_until_s > -math.inf else []
        self._conversation.ends.silent = True
        self.begin_close(-math.inf)
        give_up_s = monotonic() + timeout_s
        self._loop.ended.wait(timeout_s)
        self._loop.thread.join(max(0.0, give_up_s - monotonic()))  # it runs what callbacks are left
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
        self.abandoned = True
        self._loop.abandon()
        self._delivery.drop()
        for entry in self._conversation.table.take_all():
            if isinstance(entry, Future):
                entry.abandon(Code.BROKER_UNAVAILABLE, _FORKED)

    def _wait_for_room(self, route: Route, give_up_s: float) -> None:
        def has_room() -> bool:
            return len(self.pending) < self._max_pending or self._loop.closing

        if not self._room.wait(has_room, give_up_s, self._delivery.check_wait):
            raise Overloaded(
                f"{self._max_pending} requests are pending in this pool (max_pending)",
                origin=route.origins[0],
                sent=False,
                retry_after_s=RETRY_AFTER_S,
            )


_FORKED = wire.encode_error(
    "this request was in flight at a fork() and belongs to the parent process", phase="cluster"
)
