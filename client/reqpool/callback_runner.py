"""Runs the callbacks of requests that have ended, on the I/O thread between two turns of its loop."""

from __future__ import annotations

import concurrent.futures
import logging
import threading
from collections import deque
from queue import SimpleQueue
from typing import Any

from reqpool_contract.counted_log import CountedLog
from reqpool_contract.errors import UsageError

from .entry import RequestEntry

log = logging.getLogger("reqpool")


class Handoff(SimpleQueue[Any]):
    """A callback of the pool itself, which puts the future into a queue; never run by an executor."""

    __call__ = SimpleQueue.put


class CallbackRunner:
    """Runs callbacks in the order in which requests ended.

    Attributes:
        errors: callbacks that raised, or that the executor did not take.
        batches: what :meth:`run` still has to do.
        thread_id: id of the thread inside :meth:`run`, or None.
    """

    def __init__(self, executor: concurrent.futures.Executor | None) -> None:
        self.errors = 0
        self._log = CountedLog(log)
        self._executor = executor
        self.batches: deque[list[RequestEntry]] = deque()
        self._running: list[RequestEntry] = []
        self.thread_id: int | None = None

    def put(self, futures: list[RequestEntry]) -> None:
        """Queue the callbacks of requests that have ended. From any thread; then wake the I/O thread."""
        self.batches.append(futures)

    def run(self) -> None:
        """Run all queued callbacks; always on the same thread."""
        self.thread_id = threading.get_ident()
        batches = self.batches
        while batches:
            self._running = batches.popleft()
            for future in self._running:
                try:
                    if self._executor is None or type(future.callback) is Handoff:
                        future.run_callbacks()
                    else:
                        self._hand_over(self._executor, future)
                except BaseException:
                    # A log handler or an executor has raised; the other callbacks and this thread go on.
                    self.errors += 1
        # Otherwise the last answers would live until the next ones come.
        self._running = []
        self.thread_id = None

    def failed(self, future: RequestEntry) -> None:
        """Count and log the exception that a callback raised and that is being handled. From any thread."""
        self.errors += 1
        self._log.exception("callback of request #%d raised", future.seq)

    def uncalled(self) -> list[RequestEntry]:
        """Return the requests whose callbacks are queued. From any thread."""
        batches = [self._running, *self.batches]
        return [future for batch in batches for future in batch if future.has_callbacks()]

    def drop(self) -> None:
        """Drop all callbacks, in a forked child: the parent runs them, even if the fork was in a callback."""
        self.batches.clear()
        self._running.clear()

    def is_current_thread(self) -> bool:
        """Return whether the caller is inside a callback."""
        return self.thread_id == threading.get_ident()

    def check_wait(self) -> None:
        """Raise UsageError inside a callback: waiting there would stop all the others."""
        if self.is_current_thread():
            raise UsageError(
                "waiting inside a callback for an unfinished request would stop all callbacks: "
                "give that request its own callback, or give the pool an executor"
            )

    def _hand_over(self, executor: concurrent.futures.Executor, future: RequestEntry) -> None:
        try:
            executor.submit(future.run_callbacks)
        except Exception as error:
            self.errors += 1
            self._log.error("callback of request #%d was not run: %s", future.seq, error)
