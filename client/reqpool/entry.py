"""A request in the pending table and in the queues, until it has ended; :class:`~.future.Future` is what its
caller sees of it. No threads and no clock, apart from the condition of those that wait.

A ``concurrent.futures.Future`` makes a ``Condition`` at birth: that costs 2 µs and 1.6 kB a request, and most
requests are never waited for. The rules that make it safe without:

* Whoever takes the request out of ``pending`` (one dict operation) ends it, and no other thread may.
* The ender looks for a condition *after* taking it out. None there: the state changes without a lock.
  One there: the state changes, and waiters are told, under it.
* Whoever makes a condition looks into ``pending`` *after* making it. The request still there: its ender
  will find the condition. Gone: the change is only a few bytecodes away, and is waited for.

So a waiter that saw the old state is always told, and one that saw the new state never is:
``concurrent.futures.wait`` counts on both.
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
"""The value of a request that nobody has looked at yet."""


class EntryOwner(Protocol):
    """What an entry needs of the session it belongs to."""

    @property
    def session_label(self) -> str:
        """Stands for the session wherever people see it."""

    def report_callback_error(self, entry: RequestEntry) -> None:
        """Log and count the exception being handled."""


class RequestEntry:
    """One request.

    Attributes:
        seq: its number. One that goes on after an answer gets another.
        route, payload, note: what its kind made of it; the payload is dropped when it ends.
        submitted_s, deadline_s: monotonic.
        priority: 0 (first) to 2.
        callback: called with it when it has ended; None, or once it was called.
        connection: number of the connection it was last sent on, 0 if never sent, -1 if only another process
            knows.
        resubmitted: its watermark once a broker that was lost may know it (empty: nothing is known), else
            None.
        trail: see :class:`~.kinds.route.Asked`.
        attempts: how many times the request that goes on under ``seq`` was handed to a worker, once it has an
            answer.
    """

    # Slots, because there is one of these for every request, and the session's loops read them.
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

    # Made in the instance's dict when first needed; these are what is seen until then.
    _made_condition: threading.Condition | None = None
    _made_callbacks: deque[Callable[[Any], object]] | None = None
    _condition_seen = False
    """Whoever ends it has seen its condition, and will use it."""
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
        # Not calling super().__init__() is the point: see the top of this file.
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
        """What errors say of this request, which has been answered."""
        # As _make() does, without its call: this is made for every HTTP answer.
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
        """Return True if no broker was ever given it, or the request that was redirected to it."""
        return not self.connection and self.resubmitted is None and not self.trail

    # --- for the one who took it out of pending ---------------------------------------------------

    def end(self, state: str, code: int, data: Any, now_s: float) -> None:
        """End the request. Only for the thread that took it out of ``pending``, once."""
        if not self.begin_end(state, code, data, now_s):
            self.end_waited(state)

    def begin_end(self, state: str, code: int, data: Any, now_s: float) -> bool:
        """End the request if nobody may wait for it; if not, return False: :meth:`end_waited` is to follow.

        The thread that ends several begins with all of them: ``concurrent.futures.wait`` holds the condition
        of one while it asks for the next's, and must wait for that of one that is about to be ended unseen.
        """
        self._code = code
        self._data = data
        self._ended_s = now_s
        if self.see_condition():
            return False
        self._state = state
        return True

    def see_condition(self) -> bool:
        """Return whether there is a condition: then asking for it takes no wait for the end."""
        if self._made_condition is None:
            return False
        self._condition_seen = True
        return True

    def end_waited(self, state: str) -> None:
        """Take the last step when a thread may wait; may have to wait for one that looks."""
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
        """Return True if :meth:`run_callbacks` has something to run."""
        return self.callback is not None or self._made_callbacks is not None

    def run_callbacks(self) -> None:
        """Run what has not run; each is taken out first, so two threads here run none twice."""
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
            # Also SystemExit: a callback has no thread of its own that it could end.
            self._owner.report_callback_error(self)
