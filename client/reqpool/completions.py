"""The ends of a stub's requests: states, counts, callbacks, and room for the next ones."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures._base import FINISHED, PENDING
from itertools import repeat
from time import monotonic
from typing import Any

from reqpool_contract.errors import Code

from .callback_runner import CallbackRunner
from .future import Future

_AGAIN = int(Code.AGAIN)


class Completions:
    """Ends requests that were taken out of the table of those pending.

    Attributes:
        completed: requests that ended with an answer.
        failed: with an error that the next two do not count.
        timeouts: with RequestTimeout.
        cancelled: cancelled ones.
        silent: run no more callbacks.
        again: requests that go on, each with the answer it has so far; no longer in the table. To be emptied
            between :meth:`complete` and :meth:`settle`.
    """

    def __init__(self, pending: dict[int, Future[Any]], delivery: CallbackRunner) -> None:
        """Begin with nothing ended.

        Args:
            pending: the table. Taking a request out of it is the claim to end it.
            delivery: runs the callbacks.
        """
        self.completed = self.failed = self.timeouts = self.cancelled = 0
        self.silent = False
        self.again: list[tuple[Future[Any], bytes]] = []
        self._pending = pending
        self._delivery = delivery
        self._taken: list[Future[Any] | None] = []
        self._waited: list[Future[Any]] = []
        self._with_callbacks: list[Future[Any]] = []
        self._room = threading.Condition()
        self._room_wanted = False

    # --- for the I/O thread, or who leads ---------------------------------------------------------

    def complete(self, flat: tuple[Any, ...], now_s: float) -> None:
        """End those that a batch of results names and that are still pending; :meth:`settle` is to follow.

        Args:
            flat: seq, code, data, seq, code, data, …
            now_s: monotonic clock.
        """
        # One call from pending to a list that outlives this frame: an exception in between (a signal
        # handler's, on a thread that leads) must not lose what was taken out.
        taken, with_callbacks = self._taken, self._with_callbacks
        taken.extend(map(self._pending.pop, flat[0::3], repeat(None)))
        for future, code, data in zip(taken, flat[1::3], flat[2::3], strict=True):
            if future is None:
                continue
            if code or future._made_condition is not None:
                if code == _AGAIN:
                    future.see_condition()
                    self.again.append((future, data))
                    continue
                self._count(code)
                if not future.begin_end(FINISHED, code, data, now_s):
                    self._waited.append(future)
            else:
                # Future.begin_end(), written out: this is the loop that every answer passes.
                self.completed += 1
                future._ended_s = now_s
                future._data = data
                future._state = FINISHED
            future.payload = b""
            if future.callback is not None or future._made_callbacks is not None:
                with_callbacks.append(future)

    def settle(self) -> None:
        """Tell who waits for what :meth:`complete` ended, once those that go on are in the table again."""
        for future in self._waited:
            future.end_waited(FINISHED)
        if self._with_callbacks and not self.silent:
            self._delivery.put(self._with_callbacks)
        self._waited, self._with_callbacks = [], []
        self._taken.clear()
        if self._room_wanted:
            self.tell_room()

    def recover(self) -> None:
        """Put in order what an exception left half done in :meth:`complete`."""
        taken = [future for future in self._taken if future is not None]
        self._taken.clear()
        self._waited, self._with_callbacks = [], []
        taken += [future for future, _ in self.again]
        self.again.clear()
        # The broker publishes the batch again, as it was not acknowledged.
        self._pending.update((future.seq, future) for future in taken if future._state is PENDING)
        self.told([future for future in taken if future._state is not PENDING])

    def end(self, futures: list[Future[Any]], state: str, code: Code, data: bytes, now_s: float) -> None:
        """End these, all alike; the other arguments as in :meth:`Future.end`."""
        self._count(code, len(futures))
        waited = [
            future
            for future in futures
            # One that another thread has submitted since ``now_s`` was read did not take less than no time.
            if not future.begin_end(state, code, data, max(now_s, future.submitted_s))
        ]
        for future in waited:
            future.end_waited(state)
        self.told(futures)

    def _count(self, code: int, count: int = 1) -> None:
        if code == Code.OK:
            self.completed += count
        elif code == Code.TIMEOUT:
            self.timeouts += count
        elif code == Code.CANCELLED:
            self.cancelled += count
        else:
            self.failed += count

    # --- from any thread --------------------------------------------------------------------------

    def told(self, futures: list[Future[Any]]) -> None:
        """Run the callbacks of these, which have ended, and wake who waits for room."""
        with_callbacks = [future for future in futures if future.has_callbacks()]
        if with_callbacks and not self.silent:
            self._delivery.put(with_callbacks)
        if self._room_wanted:
            self.tell_room()

    def wait_for_room(self, has_room: Callable[[], bool], give_up_s: float) -> bool:
        """Wait until ``has_room()``; False if it is not so by ``give_up_s``.

        Raises:
            UsageError: inside a callback, if it would have to wait.
        """
        with self._room:
            while True:
                # First said, then looked: whoever makes room looks the other way round.
                self._room_wanted = True
                if has_room():
                    return True
                left_s = give_up_s - monotonic()
                if left_s <= 0:
                    return False
                self._delivery.check_wait()
                self._room.wait(left_s)

    def tell_room(self) -> None:
        """Have all who wait for room look again."""
        with self._room:
            self._room_wanted = False
            self._room.notify_all()
