"""What the caller of a request sees of it: a ``concurrent.futures.Future`` to everybody who looks (``wait``,
``as_completed``, ``asyncio.wrap_future``), made of a :class:`~.entry.RequestEntry`, which says why it has no
``Condition`` of its own.
"""

from __future__ import annotations

import concurrent.futures
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from reqpool_contract import wire
from reqpool_contract.errors import (
    BY_CODE,
    BadResponse,
    Code,
    PoolError,
    ProtocolError,
    UsageError,
)

from .entry import UNDECODED, EntryOwner, RequestEntry

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")


class FutureOwner(EntryOwner, Protocol):
    """What a future needs of the stub it came from."""

    pending: dict[int, RequestEntry]

    def cancel(self, future: Future[Any]) -> bool:
        """End it as cancelled if it has not ended; False if it has."""

    def wait(self, future: Future[Any], until_s: float) -> None:
        """Do the I/O on this thread until the future has ended or ``until_s``, where that is quicker.

        May return before either.

        Raises:
            UsageError: this thread must not wait for a request of this stub.
        """

    def watch(self) -> None:
        """Have the I/O thread turn the loop: a thread looks for the end without leading."""

    def end_if_abandoned(self, future: Future[Any]) -> None:
        """End it if this is a forked child, where nothing else will."""


class Future(RequestEntry, concurrent.futures.Future[T]):
    """What ``pool.dns(...)`` and the others return: the answer to come.

    Has the whole API of :class:`concurrent.futures.Future`, and can be awaited in any asyncio loop.
    All methods may be called from any thread. Not made by users.
    """

    __slots__ = ()

    # --- state ------------------------------------------------------------------------------------

    @property
    def request_id(self) -> str:
        """``"<session>-<sequence>"``, as in errors and in the pool's own logs; not a secret."""
        return f"{self._owner.session_label}-{self.seq}"

    @property
    def elapsed_s(self) -> float:
        """Seconds from submission to the end; so far, while it is pending."""
        return (self._ended_s or time.monotonic()) - self.submitted_s

    def done(self) -> bool:
        """Return True if the request has ended: with a result, an error, or cancelled."""
        if self._state is PENDING:
            self._owner.watch()
        return self._state is not PENDING

    def running(self) -> bool:
        """Return False: whether a worker has it just now is not known here."""
        return False

    def cancelled(self) -> bool:
        """Return True if :meth:`cancel`, or closing the pool, ended it."""
        return self._state is CANCELLED_AND_NOTIFIED

    def cancel(self) -> bool:
        """End the request as cancelled, unless it has ended already.

        The cluster is notified; an upstream that the request has reached may still act on it.
        Callbacks run on the pool's I/O thread, which another relieves when one takes long.

        Returns:
            True if it is cancelled (now or before), False if it had ended otherwise.
        """
        return self._owner.cancel(self) or self._state is CANCELLED_AND_NOTIFIED

    def __repr__(self) -> str:
        if self._state is PENDING:
            outcome = "pending"
        elif self._state is CANCELLED_AND_NOTIFIED:
            outcome = "cancelled"
        else:
            outcome = Code(self._code).name if self._code in BY_CODE or not self._code else str(self._code)
        return f"<reqpool.Future #{self.seq} {outcome.lower()}>"

    # --- outcome ----------------------------------------------------------------------------------

    def result(self, timeout: float | None = None) -> T:
        """Wait for the answer and return it, decoded on first look.

        Args:
            timeout: seconds to wait here, or None until the request ends: its own timeout ends it.

        Raises:
            PoolError: the request's own error.
            TimeoutError: not ended after ``timeout`` seconds; the request goes on.
            UsageError: called inside a callback of the same pool for an unfinished request.
        """
        if self._state is PENDING:
            if timeout is None:
                self._owner.wait(self, math.inf)
                if self._state is PENDING:
                    self._wait_for_others(None, math.inf)
            else:
                self._wait(timeout)
        value = self._value
        if value is UNDECODED:
            value = self._settle()
        if isinstance(value, PoolError):  # which no answer is
            try:
                raise value
            finally:
                del self, value  # a traceback's frame that holds its own exception is a cycle
        return value  # type: ignore[no-any-return]

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end and return the error, or None if there is an answer.

        Args:
            timeout: as in :meth:`result`.

        Raises:
            Cancelled: the request was cancelled.
            TimeoutError: as in :meth:`result`.
            UsageError: as in :meth:`result`.
        """
        if self._state is PENDING:
            self._wait(timeout)
        if self._value is UNDECODED:
            self._settle()
        if self._state is CANCELLED_AND_NOTIFIED:
            raise self._value
        return self._value if isinstance(self._value, PoolError) else None

    def __await__(self) -> Generator[Any, None, T]:
        if self._state is PENDING:
            import asyncio  # here: 50 ms that programs which never await are spared

            loop = asyncio.get_running_loop()
            waiter: asyncio.Future[None] = loop.create_future()

            def end_waiter() -> None:
                if not waiter.done():
                    waiter.set_result(None)

            def wake(_: Any) -> None:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(end_waiter)

            self.add_done_callback(wake)
            try:
                yield from waiter
            except asyncio.CancelledError:
                self.cancel()
                raise
        return self.result()

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call ``fn(future)`` when the request has ended; at once, on this thread, if it has.

        Args:
            fn: runs once, on the pool's I/O thread; what it raises is logged and counted.
        """
        self.__dict__.setdefault("_made_callbacks", deque()).append(fn)
        if self._state is PENDING:
            self._owner.watch()
        else:
            self.run_callbacks()

    def set_result(self, result: Any) -> None:
        """Raise UsageError: only the pool ends a request."""
        raise UsageError("only the pool can complete a request")

    set_exception = set_result  # type: ignore[assignment]
    set_running_or_notify_cancel = None  # type: ignore[assignment]

    def _settle(self) -> Any:
        """Decode the answer, or build the error, and keep it.

        Threads that look at the same time may all do so; what is kept first is everyone's.
        """
        code, data = self._code, self._data
        if self._value is not UNDECODED:  # another thread kept it, and then dropped the data
            return self._value
        if code == 0:
            try:
                value = self.route.kind.decode(data, self)
            except PoolError as error:
                value = self.facts.fill_in(error)
            except Exception as error:
                value = self.facts.fill_in(
                    BadResponse(f"kind {self.route.kind.name!r} could not decode the answer: {error!r}")
                )
                value.__cause__ = error
        else:
            value = self._make_error(code, data)
        # In one expression without a call, so that no other thread comes in between.
        self._value = value if self._value is UNDECODED else self._value
        self._data = None
        return self._value

    def _make_error(self, code: int, data: bytes) -> PoolError:
        try:
            about = wire.decode_error(data)
        except ProtocolError as error:
            about = {"text": f"cannot read a result with code {code}: {error}"}
        retry_after_ms = about.get("retry_after_ms")
        sent = about.get("sent")
        if self.trail:
            sent = True  # the upstream acted on the request that was redirected to this one
        elif sent is None and self.is_unsent():
            sent = False
        return BY_CODE.get(code, PoolError)(
            str(about.get("text", "")),
            request_id=self.request_id,
            origin=about.get("origin") or self.route.origins[0],
            phase=about.get("phase"),
            elapsed_s=self._ended_s - self.submitted_s if self._ended_s else None,
            attempts=about.get("attempts", 0) + len(self.trail),
            sent=sent,
            retry_after_s=retry_after_ms / 1000 if isinstance(retry_after_ms, int) else None,
        )

    def _wait(self, timeout: float | None) -> None:
        if timeout is not None and timeout <= 0:
            raise TimeoutError("the request has not ended yet")
        give_up_s = math.inf if timeout is None else time.monotonic() + timeout
        self._owner.wait(self, give_up_s)
        if self._state is PENDING:
            self._wait_for_others(timeout, give_up_s)

    def _wait_for_others(self, timeout: float | None, give_up_s: float) -> None:
        """Wait for the end, which another thread brings about."""
        condition = self._condition
        with condition:
            while self._state is PENDING:
                left_s = None if timeout is None else give_up_s - time.monotonic()
                if left_s is not None and left_s <= 0:
                    raise TimeoutError(f"the request has not ended after {timeout} s")
                condition.wait(left_s)

    def abandon(self, code: int, data: bytes) -> None:
        """End the request in a forked child: its callbacks are the parent's to run."""
        self.callback = None
        self.connection = -1  # the parent goes on with it, and may send it yet
        # Another thread of the parent may have held the condition, or be half way through the deque.
        self.__dict__.pop("_made_condition", None)
        self.__dict__.pop("_made_callbacks", None)
        self.end(FINISHED, code, data, time.monotonic())

    # --- what concurrent.futures.wait and as_completed reach for ----------------------------------

    def _make_condition(self) -> threading.Condition:
        condition: threading.Condition = self.__dict__.setdefault("_made_condition", threading.Condition())
        self._owner.watch()
        # A thread that holds it has been here before; the ender may be waiting for it to release it.
        if self.seq not in self._owner.pending and not condition._is_owned():  # type: ignore[attr-defined]
            # One that goes on under another number comes back there.
            while self._state is PENDING and not self._condition_seen and self.seq not in self._owner.pending:
                self._owner.end_if_abandoned(self)
                time.sleep(0)
        return condition

    def _make_waiters(self) -> list[Any]:
        waiters: list[Any] = self.__dict__.setdefault("_made_waiters", [])
        return waiters

    if not TYPE_CHECKING:  # for type checkers they stay the base's attributes, as as_completed() wants them
        _condition = property(_make_condition)
        _waiters = property(_make_waiters)
