"""A request in the pending table and the queues, until it has ended; its caller sees a
:class:`~.future.Future`. No threads and no clock, apart from the condition of threads that wait.

A ``concurrent.futures.Future`` makes a ``Condition`` at once: that costs 2 µs and 1.6 kB a request, and most
requests are never waited for. These rules make it safe without one:

* The thread that takes the request out of ``pending`` (one dict operation) ends it, and no other thread may.
* That thread looks for a condition *after* taking the request out. If there is none, the state changes
  without a lock. If there is one, the state changes, and waiters are notified, while it is held.
* A thread that makes a condition looks into ``pending`` *after* making it. If the request is still there, the
  thread that ends it will find the condition. If not, the change is only a few bytecodes away, and is waited
  for.

So a waiter that saw the old state is always notified, and one that saw the new state never is:
``concurrent.futures.wait`` relies on both.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures._base import FINISHED, PENDING
from typing import TYPE_CHECKING, Any, Protocol

from reqpool_contract.errors import RequestFacts

from .kinds.route import Route

if TYPE_CHECKING:
    import threading
    from collections import deque

UNDECODED: Any = object()
"""The value of a request whose result was not read yet."""


class EntryOwner(Protocol):
    """The session of an entry, as the entry uses it."""

    @property
    def session_label(self) -> str:
        """The session's label for display."""

    def report_callback_error(self, entry: RequestEntry) -> None:
        """Log and count the exception that is being handled."""


class RequestEntry:
    """One request.

    Attributes:
        seq: its number. A request that goes on after an answer gets another one.
        route, payload, note: as its kind made them; the payload is dropped at the end.
        submitted_s, deadline_s: monotonic.
        priority: 0 (first) to 2.
        callback: called with the request when it has ended; None if there is none, or after the call.
        connection: number of the connection on which it was last sent; 0: it was never sent; -1: only another
            process knows.
        resubmitted: its watermark if a broker that was lost may know it (empty: nothing is known), otherwise
            None.
        trail: see :class:`~.kinds.route.Asked`.
        attempts: times that the request was leased to a worker under this ``seq``, once it has an answer.
    """

    # Slots, since every request has one of these, and the session's loops read them.
    __slots__ = (
        "__dict__",
        "_code",
        "_data",
        "_ended_s",
        "_owner",
        "_state",
        "_value",
        "callback",
        "connection",
        "deadline_s",
        "note",
        "payload",
        "priority",
        "resubmitted",
        "route",
        "seq",
        "submitted_s",
    )

    # Set in the instance's dict when first needed; until then these are seen.
    _made_condition: threading.Condition | None = None
    _made_callbacks: deque[Callable[[Any], object]] | None = None
    _condition_seen = False
    """The thread that ends it has seen its condition, and will use it."""
    trail: tuple[Any, ...] = ()
    attempts = 1

    if TYPE_CHECKING:
        _condition: Any  # a Future's
        _waiters: list[Any]

    def __init__(
        self,
        owner: Any,
        seq: int,
        route: Route,
        payload: bytes,
        submitted_s: float,
        deadline_s: float,
        priority: int,
        callback: Callable[[Any], object] | None,
        note: Any = None,
    ) -> None:
        # super().__init__() is deliberately not called: see the top of this file.
        self._owner = owner
        self._state: str = PENDING
        self._code = 0
        self._data: Any = None
        self._value: Any = UNDECODED
        self._ended_s = 0.0
        self.seq = seq
        self.route = route
        self.payload = payload
        self.submitted_s = submitted_s
        self.deadline_s = deadline_s
        self.priority = priority
        self.callback = callback
        self.note = note
        self.connection = 0
        self.resubmitted: bytes | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds from submission to the end."""
        return self._ended_s - self.submitted_s

    @property
    def facts(self) -> RequestFacts:
        """The details of this request for errors, once it has been answered."""
        # As _make() does, without the call: this is done for every HTTP answer.
        return tuple.__new__(
            RequestFacts,
            (
                self._owner.session_label,
                self.seq,
                self.route.origins[0],
                self.attempts + len(self.trail),
                self._ended_s - self.submitted_s,
            ),
        )

    def is_unsent(self) -> bool:
        """Return whether neither the request nor one that was redirected to it was ever sent to a broker."""
        return not self.connection and self.resubmitted is None and not self.trail

    # --- for the thread that took it out of pending ---------------------------------------------------

    def end(self, state: str, code: int, data: Any, now_s: float) -> None:
        """End the request. Only for the thread that took it out of ``pending``, once."""
        if not self.begin_end(state, code, data, now_s):
            self.end_waited(state)

    def begin_end(self, state: str, code: int, data: Any, now_s: float) -> bool:
        """End the request if no thread may be waiting for it; if not, return False: call :meth:`end_waited`.

        A thread that ends several requests calls this for all of them before it calls :meth:`end_waited`:
        ``concurrent.futures.wait`` holds the condition of one request while it asks for the next one's, and
        there it waits for the end of a request that is just being ended without a condition.
        """
        self._code = code
        self._data = data
        self._ended_s = now_s
        if self.see_condition():
            return False
        self._state = state
        return True

    def see_condition(self) -> bool:
        """Return whether there is a condition, which can then be used without waiting for the end."""
        if self._made_condition is None:
            return False
        self._condition_seen = True
        return True

    def end_waited(self, state: str) -> None:
        """Take the last step if a thread may be waiting; may have to wait for one that is looking."""
        condition = self._made_condition or self._condition
        with condition:
            self._state = state
            for waiter in self._waiters:
                if state is FINISHED and not self._code:
                    waiter.add_result(self)
                elif state is FINISHED:
                    waiter.add_exception(self)
                else:
                    waiter.add_cancelled(self)
            condition.notify_all()

    def has_callbacks(self) -> bool:
        """Return whether :meth:`run_callbacks` has something to run."""
        return self.callback is not None or self._made_callbacks is not None

    def run_callbacks(self) -> None:
        """Run the callbacks that have not run; each is removed first, so that no two threads run the same."""
        callback = self.callback
        if callback is not None:
            self.callback = None
            self._run(callback)
        added = self._made_callbacks
        while added:
            try:
                callback = added.popleft()
            except IndexError:
                break
            self._run(callback)

    def _run(self, callback: Callable[[Any], object]) -> None:
        try:
            callback(self)
        except BaseException:
            # Also SystemExit: a callback does not run on a thread that it may end.
            self._owner.report_callback_error(self)
