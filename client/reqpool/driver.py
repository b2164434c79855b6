"""Who turns a stub's I/O loop: its I/O thread, or the thread that waits for a lone request.

A lone request (submit, wait, submit, wait) served by the I/O thread costs four switches between threads:
two to hand it over and wake the thread, two to hand the answer back; with the GIL that is about as long as
the whole way through broker and worker. So where one request is all that is pending, the thread that waits
for it in ``result()`` turns the loop itself (leader and follower; Schmidt et al. 2000), and the I/O thread
is *parked* meanwhile. It comes back by itself when no thread has led for a while, and at once when something
is submitted that no thread waits for.

The loop's turns are taken under one lock, so the sockets always belong to one thread at a time (ZeroMQ allows
a hand-over with a full memory barrier, which a lock is).

Flags are looked at without the lock, Dekker-style: the I/O thread sets ``parked``, *then* looks for work; a
thread that brings work adds it, *then* looks at ``parked``. A leader releases the lock, *then* looks too.

A third may turn the loop: see :mod:`.relief`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection
from time import monotonic
from typing import Any, Protocol

from .entry import RequestEntry

PARK_FIRST_S = 0.001
"""How long it leaves a request that is pending already to a leader to come."""


class Turnable(Protocol):
    """What a driver turns. It is given with each call: an attribute would make a cycle of the two.

    Attributes:
        brought: requests and the like that only a turn can move on, while any of it is not empty.
        closing: the last turns are to be taken.
    """

    brought: tuple[Collection[Any], ...]
    closing: bool

    def lead(self, entry: RequestEntry, until_s: float) -> None:
        """Take turns until the request has ended or ``until_s`` (monotonic), or others are to take them."""

    def work(self) -> None:
        """Take one turn, however long its sleep, or the last one. For the pool's own threads."""

    def is_lone(self) -> bool:
        """Return True if nothing is pending, or one request whose thread may yet lead."""

    def park_s(self) -> float:
        """Return how long the I/O thread may stay away while no thread leads."""


class Driver:
    """The right to turn one loop.

    Attributes:
        parked: the I/O thread stays away from the loop.
        turning: held by the thread that has the turn.
        disturbed: a leader's turn was cut short by an exception (a signal handler's, Ctrl-C): what it had
            in hand is to be put in order before the next one.
        relieving: another thread turns the loop while the I/O thread is away.
    """

    def __init__(self) -> None:
        self.parked = False
        self.relieving = False
        self.disturbed = False
        self.turning = threading.Lock()
        self._unparked = threading.Event()
        self._park_wanted = False
        self._led_s = -math.inf

    def turn(self, loop: Turnable) -> None:
        """Take one turn, or stay away while others lead. Only the I/O thread may call it."""
        if self._park_wanted:
            self._park(loop)
        with self.turning:
            loop.work()

    def relieve(self, loop: Turnable, away: Callable[[], bool]) -> None:
        """Turn the loop on this thread as long as the I/O thread is ``away()``, unless another thread does.

        When that one is back, it is to end the turn's sleep if this is :attr:`relieving`.
        """
        if not self.turning.acquire(blocking=False):
            return
        self.relieving = True
        try:
            while away():
                loop.work()
        finally:
            self.relieving = False
            self.turning.release()
        if any(loop.brought) or loop.closing:
            self.unpark()

    def _park(self, loop: Turnable) -> None:
        self.parked = True
        if loop.is_lone():
            self._park_wanted = False
            span_s = PARK_FIRST_S if any(loop.brought) else loop.park_s()
            while not self._unparked.wait(span_s):
                if not self.turning.locked() and monotonic() - self._led_s > span_s:
                    break
                span_s = loop.park_s()
        self.parked = False
        self._unparked.clear()

    def unpark(self) -> None:
        """Have the I/O thread come back now. From any thread."""
        if self.parked:
            self._unparked.set()

    def lead(self, loop: Turnable, entry: RequestEntry, until_s: float) -> None:
        """Turn the loop on this thread until the request has ended or ``until_s``.

        If the I/O thread is not parked, it is asked to be so from the next request on. May return before the
        end: the caller then waits as if no thread led.
        """
        if not self.parked:
            self._park_wanted = True
            return
        if not self.turning.acquire(False):
            return
        try:
            loop.lead(entry, until_s)
        except BaseException:
            self.cut_short()
            raise
        finally:
            self.turning.release()
            self._led_s = monotonic()
        if any(loop.brought) or loop.closing:
            self.unpark()

    def cut_short(self) -> None:
        """Note that an exception ended a turn on a caller's thread: the next one puts things in order."""
        self.disturbed = True
        self._unparked.set()
