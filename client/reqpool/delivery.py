"""The thread that runs callbacks, so that a slow one never stops heartbeats."""

from __future__ import annotations

import concurrent.futures
import logging
import threading
from queue import SimpleQueue
from typing import Any

from .errors import UsageError
from .future import Future

log = logging.getLogger("reqpool")


class Handoff(SimpleQueue[Any]):
    """A callback of the pool's own: puts the future into a queue. Never worth an executor's while."""

    __call__ = SimpleQueue.put


class Delivery:
    """Runs callbacks in the order in which requests ended.

    Attributes:
        errors: callbacks that raised, or that the executor did not take.
    """

    def __init__(self, executor: concurrent.futures.Executor | None) -> None:
        self.errors = 0
        self._executor = executor
        self._batches: SimpleQueue[list[Future[Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="reqpool-delivery", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, futures: list[Future[Any]]) -> None:
        """Run the callbacks of these, at least one, all ended. From any thread."""
        self._batches.put(futures)

    def is_current_thread(self) -> bool:
        """Return True inside a callback."""
        return self._thread.ident == threading.get_ident()

    def check_wait(self) -> None:
        """Raise UsageError inside a callback: waiting there would stop all the others."""
        if self.is_current_thread():
            raise UsageError(
                "waiting inside a callback for an unfinished request would stop all callbacks: "
                "give that request a callback of its own, or the pool an executor"
            )

    def stop(self) -> None:
        """End the thread after what was put before."""
        self._batches.put(None)

    def join(self, timeout_s: float | None) -> None:
        """Wait for the thread's end, unless called inside a callback."""
        if not self.is_current_thread():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            for future in batch:
                if self._executor is None or type(future.callback) is Handoff:
                    future.run_callbacks()
                else:
                    self._hand_over(self._executor, future)
            # Else the last answers would live until the next ones come.
            del batch, future

    def _hand_over(self, executor: concurrent.futures.Executor, future: Future[Any]) -> None:
        try:
            executor.submit(future.run_callbacks)
        except Exception as error:
            self.errors += 1
            log.error("callback of request #%d not run: %s", future.seq, error)
