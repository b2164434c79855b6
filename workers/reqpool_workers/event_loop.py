"""The epoll loop: file descriptors, timers, wake-ups. One thread owns it and everything in it.

Some facts about epoll that this file relies on:

* Level-triggered (no EPOLLET): an fd that is still readable is reported again at the next wait, so a handler
  may stop early, and each is asked to cap its work per turn (:data:`WORK_PER_TURN`) so that one busy fd does
  not starve the others. (epoll(7))
* The kernel reports (fd number, mask) pairs gathered *before* the first handler runs. A handler may close
  another fd of the same batch and open a new one that gets the same number; the stale report must not reach
  the new owner. So a number that was unregistered in this turn is not dispatched again in this turn; being
  level-triggered, nothing is lost by that.
* Closing an fd removes it from the epoll set only when no duplicate of it is open (a fork makes one), so fds
  are unregistered before they are closed. (epoll(7), "Questions and answers", Q6)
* EPOLLERR and EPOLLHUP are always reported, asked for or not; the read or write that follows names the error.
* CPython rounds the timeout of ``epoll.poll`` up to a whole millisecond, so the loop never spins towards a
  timer; EINTR restarts the wait after the signal handlers have run (PEP 475), hence a handler that wants
  attention must write to the eventfd, which :meth:`EventLoop.wake` does.
* An eventfd write is atomic, never blocks before 2**64 - 1, and many writes are read as one. (eventfd(2))
"""

from __future__ import annotations

import heapq
import logging
import os
import select
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from .large_reads import LargeReads

log = logging.getLogger(__name__)

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT

WORK_PER_TURN = 64
"""Reads that one fd may do in one turn."""
MAX_EVENTS = 256
"""Ready fds taken from the kernel in one turn; the others are reported by the next wait."""

Handler = Callable[[int], None]
"""Called on the loop thread with the epoll mask of its fd."""
Timer = Callable[[float], float | None]
"""Called on the loop thread with ``now_s``; returns when to be called again, or None."""


class Writer(Protocol):
    """A connection for which bytes gather, to be written in one go."""

    def flush(self) -> None:
        """Write what has gathered, if anything."""


class LoopTimes(NamedTuple):
    """What the loop's thread did since the last look.

    Attributes:
        longest_turn_s: longest time between two waits: for so long nothing else could be served.
        busy: 0 to 1, the part of the time in which it did not wait.
    """

    longest_turn_s: float
    busy: float


class EventLoop:
    """A ``select.epoll`` loop. All methods but :meth:`wake` belong to the thread that calls :meth:`run`."""

    def __init__(self) -> None:
        self.now_s = time.monotonic()
        """Monotonic seconds at which the current turn began."""
        self.inflow = LargeReads()
        """Large answers, which are read at the end of a turn."""
        self.unwritten: list[Writer] = []
        """Connections for which something has gathered in this turn, see :meth:`write_out`."""
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._gone: set[int] = set()
        self._timers: list[tuple[float, int, Timer]] = []
        self._timer_count = 0
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._calls: deque[Callable[[], None]] = deque()
        self._running = False
        self._longest_turn_s = 0.0
        self._waited_s = 0.0
        self._looked_s = self.now_s
        self.register(self._wake_fd, self._on_wake, READABLE)

    @property
    def fds(self) -> int:
        """How many fds are registered, the loop's own wake-up not counted."""
        return len(self._handlers) - 1

    def register(self, fd: int, handler: Handler, events: int) -> None:
        """Watch ``fd``; its handler is called in later turns, never in this one."""
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def modify(self, fd: int, events: int) -> None:
        """Change what a registered fd is watched for."""
        self._epoll.modify(fd, events)

    def unregister(self, fd: int) -> None:
        """Stop watching ``fd``; call it before closing. What is reported for it in this turn is dropped."""
        self._epoll.unregister(fd)
        del self._handlers[fd]
        self._gone.add(fd)

    def at(self, due_s: float, timer: Timer) -> None:
        """Call ``timer`` once the monotonic clock has passed ``due_s``.

        A timer cannot be taken back: one whose reason is gone returns None when called, one that is to
        run later returns when. That makes a timer one heap entry in its life, however often its due time
        moves.
        """
        self._timer_count += 1
        heapq.heappush(self._timers, (due_s, self._timer_count, timer))

    def wake(self, call: Callable[[], None]) -> None:
        """Have ``call`` run on the loop thread soon. Any thread and any signal handler may do this.

        Once the loop is closed it does nothing: a signal may come as late as that.
        """
        self._calls.append(call)
        wake_fd = self._wake_fd
        if wake_fd >= 0:
            os.eventfd_write(wake_fd, 1)

    def stop(self) -> None:
        """Leave :meth:`run` at the end of this turn."""
        self._running = False

    def run(self, end_turn: Callable[[], bool], begin_turn: Callable[[float], None] | None = None) -> None:
        """Run until :meth:`stop`.

        Args:
            begin_turn: called with ``now_s`` before the first handler of each turn; None if it does not
                matter how long the wait took.
            end_turn: called after each turn, before sleeping; returns True if it left work to be done, in
                which case the next wait does not sleep.
        """
        self._running = True
        more = end_turn()
        if self.unwritten:
            self.write_out()
        poll = self._epoll.poll
        handlers, gone, timers, unwritten = self._handlers, self._gone, self._timers, self.unwritten
        while self._running:
            slept_s = time.monotonic()
            self._longest_turn_s = max(self._longest_turn_s, slept_s - self.now_s)
            # Calls that each turn would make are written out: a lone request takes two turns.
            if more:
                sleep_s = 0.0
            elif timers:
                sleep_s = max(0.0, timers[0][0] - slept_s)
            else:
                sleep_s = -1.0
            events = poll(sleep_s, MAX_EVENTS)
            self.now_s = time.monotonic()
            self._waited_s += self.now_s - slept_s
            gone.clear()
            if begin_turn is not None:
                begin_turn(self.now_s)
            for fd, mask in events:
                if fd not in gone:
                    handlers[fd](mask)
            if timers and timers[0][0] <= self.now_s:
                self._run_timers()
            more = end_turn()
            if unwritten:
                self.write_out()

    def write_out(self) -> None:
        """Have connections write what has gathered in this turn: one system call for each.

        It is done once more after ``end_turn``, which calls it first if it has to know how that went.
        """
        for writer in self.unwritten:  # one that breaks has others take over, which then come last
            writer.flush()
        self.unwritten.clear()

    def times(self) -> LoopTimes:
        """Figures since the last call; resets them."""
        elapsed_s = max(self.now_s - self._looked_s, 1e-9)
        taken = LoopTimes(self._longest_turn_s, max(0.0, 1.0 - self._waited_s / elapsed_s))
        self._longest_turn_s = self._waited_s = 0.0
        self._looked_s = self.now_s
        return taken

    def close(self) -> None:
        """Close the loop's own fds; those of others are theirs to close."""
        wake_fd, self._wake_fd = self._wake_fd, -1
        self.unregister(wake_fd)
        os.close(wake_fd)
        self._epoll.close()

    def _run_timers(self) -> None:
        timers, now_s = self._timers, self.now_s
        while timers and timers[0][0] <= now_s:
            timer = heapq.heappop(timers)[2]
            due_s = timer(now_s)
            if due_s is not None:
                # Not again in this turn, whatever it says: the loop must get on.
                self.at(max(due_s, now_s + 0.001), timer)

    def _on_wake(self, _mask: int) -> None:
        os.eventfd_read(self._wake_fd)
        while self._calls:
            self._calls.popleft()()
