"""How a session's requests end: states, counts, callbacks, and room for the next ones. Sans-IO."""

from __future__ import annotations

from concurrent.futures._base import FINISHED, PENDING
from itertools import repeat
from typing import Any, Protocol

from reqpool_contract.errors import Code

from .entry import RequestEntry

_AGAIN = int(Code.AGAIN)
_NONE = (None,)


class CallbackQueue(Protocol):
    """Where the callbacks of ended requests are run."""

    def put(self, futures: list[RequestEntry]) -> None:
        """Have the callbacks of these run."""


class RoomSignal(Protocol):
    """Those that wait for room in the table."""

    wanted: bool
    """Someone waits."""

    def tell(self) -> None:
        """Have all that wait look again."""


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

    def __init__(self, pending: dict[int, RequestEntry], delivery: CallbackQueue, room: RoomSignal) -> None:
        """Begin with nothing ended.

        Args:
            pending: the table. Taking a request out of it is the claim to end it.
            delivery: runs the callbacks.
            room: is notified when there is room.
        """
        self.completed = self.failed = self.timeouts = self.cancelled = 0
        self.silent = False
        self.again: list[tuple[RequestEntry, bytes]] = []
        self._pending = pending
        self._delivery = delivery
        self._taken: list[RequestEntry | None] = []
        self._waited: list[RequestEntry] = []
        self._with_callbacks: list[RequestEntry] = []
        self._room = room

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

    def complete_one(self, flat: tuple[Any, ...], now_s: float) -> None:
        """:meth:`complete` and :meth:`settle` for one outcome that is an answer.

        Args:
            flat: seq, 0, data.
            now_s: monotonic clock.
        """
        taken = self._taken
        taken.extend(map(self._pending.pop, flat[:1], _NONE))  # one call, as above
        entry = taken[0]
        if entry is not None:
            if entry._made_condition is not None:
                entry.end(FINISHED, 0, flat[2], now_s)
            else:
                entry._ended_s = now_s
                entry._data = flat[2]
                entry._state = FINISHED
            self.completed += 1
            entry.payload = b""
            if (entry.callback is not None or entry._made_callbacks is not None) and not self.silent:
                self._delivery.put([entry])
        taken.clear()
        if self._room.wanted:
            self._room.tell()

    def settle(self) -> None:
        """Tell who waits for what :meth:`complete` ended, once those that go on are in the table again."""
        for future in self._waited:
            future.end_waited(FINISHED)
        if self._with_callbacks and not self.silent:
            self._delivery.put(self._with_callbacks)
        self._waited, self._with_callbacks = [], []
        self._taken.clear()
        if self._room.wanted:
            self._room.tell()

    def recover(self) -> None:
        """Put in order what an exception left half done in :meth:`complete`."""
        taken = [future for future in self._taken if future is not None]
        self._taken.clear()
        self._waited, self._with_callbacks = [], []
        taken += [future for future, _ in self.again]
        self.again.clear()
        # The broker publishes the batch again, as it was not acknowledged.
        self._pending.update((future.seq, future) for future in taken if future._state is PENDING)
        self.announce([future for future in taken if future._state is not PENDING])

    def end(self, futures: list[RequestEntry], state: str, code: Code, data: bytes, now_s: float) -> None:
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
        self.announce(futures)

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

    def announce(self, futures: list[RequestEntry]) -> None:
        """Run the callbacks of these, which have ended, and wake who waits for room."""
        with_callbacks = [future for future in futures if future.has_callbacks()]
        if with_callbacks and not self.silent:
            self._delivery.put(with_callbacks)
        if self._room.wanted:
            self._room.tell()
