"""Who turns a stub's I/O loop: its I/O thread, or the thread that waits for a lone request.

A lone request (submit, wait, submit, wait) served by the I/O thread costs four switches between threads:
two to hand it over and wake the thread, two to hand the answer back; with the GIL that is about as long as
the whole way through broker and worker. So where one request is all that is pending, the thread that waits
for it in ``result()`` turns the loop itself (leader and follower; Schmidt et al. 2000), and the I/O thread
is *parked* meanwhile. It comes back by itself when nobody has led for :data:`PARK_S`, and at once when
something is submitted that nobody waits for.

The loop's turns are taken under one lock, so the sockets always belong to one thread at a time (ZeroMQ allows
a hand-over with a full memory barrier, which a lock is).

Flags are looked at without the lock, Dekker-style: the I/O thread says ``parked``, *then* looks for work; who
brings work adds it, *then* looks at ``parked``. A leader gives the lock back, *then* looks for work.

A third may turn the loop: see :mod:`.relief`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from time import monotonic
from typing import Protocol

PARK_S = 0.02
"""How long after the last lone request the I/O thread comes back; heartbeats may be late by that."""
PARK_FIRST_S = 0.001
"""How long it leaves a request that is pending already to a leader to come."""


class Turnable(Protocol):
    """What a driver turns. It is given with each call: an attribute would make a cycle of the two."""

    def turn(self, until_s: float) -> None:
        """Take one turn; sleep until something happens, or until ``until_s`` (monotonic)."""

    def work(self) -> None:
        """Take one turn, however long its sleep, or the last one. For the pool's own threads."""

    def is_waiting(self) -> bool:
        """Return True if there is something that only a turn can move on."""

    def is_lone(self) -> bool:
        """Return True if nothing is pending, or one request whose thread may yet lead."""


class Driver:
    """The right to turn one loop.

    Attributes:
        parked: the I/O thread stays away from the loop.
        disturbed: a leader's turn was cut short by an exception (a signal handler's, Ctrl-C): what it had
            in hand is to be put in order before the next one.
        relieving: the loop is turned in the I/O thread's stead, while it is away.
    """

    def __init__(self) -> None:
        self.parked = False
        self.relieving = False
        self.disturbed = False
        self._turning = threading.Lock()
        self._unparked = threading.Event()
        self._park_wanted = False
        self._led_s = -math.inf

    def turn(self, loop: Turnable) -> None:
        """Take one turn, or stay away while others lead. Only the I/O thread may call it."""
        if self._park_wanted:
            self._park(loop)
        with self._turning:
            loop.work()

    def relieve(self, loop: Turnable, away: Callable[[], bool]) -> None:
        """Turn the loop on this thread as long as the I/O thread is ``away()``; not if somebody else does.

        When that one is back, it is to end the turn's sleep if this is :attr:`relieving`.
        """
        if not self._turning.acquire(blocking=False):
            return
        self.relieving = True
        try:
            while away():
                loop.work()
        finally:
            self.relieving = False
            self._turning.release()
        if loop.is_waiting():
            self.unpark()

    def _park(self, loop: Turnable) -> None:
        self.parked = True
        if loop.is_lone():
            self._park_wanted = False
            span_s = PARK_FIRST_S if loop.is_waiting() else PARK_S
            while not self._unparked.wait(span_s):
                if not self._turning.locked() and monotonic() - self._led_s > span_s:
                    break
                span_s = PARK_S
        self.parked = False
        self._unparked.clear()

    def unpark(self) -> None:
        """Have the I/O thread come back now. From any thread."""
        if self.parked:
            self._unparked.set()

    def lead(self, loop: Turnable, ended: Callable[[], bool], until_s: float) -> None:
        """Turn the loop on this thread until ``ended()`` or ``until_s``, if the I/O thread is parked.

        If it is not, it is asked to be so from the next request on. May return before the end: the caller
        then waits as if nobody led.
        """
        if not self.parked:
            self._park_wanted = True
            return
        if not self._turning.acquire(blocking=False):
            return
        try:
            while self.parked and not ended() and monotonic() < until_s:
                loop.turn(until_s)
        except BaseException:
            self.disturbed = True
            self._unparked.set()
            raise
        finally:
            self._turning.release()
            self._led_s = monotonic()
        if loop.is_waiting():
            self.unpark()

    def serve(self, send: Callable[[], None]) -> None:
        """Call ``send`` under the right to use the sockets, while the I/O thread is parked.

        If somebody else has the right, that one sees what was brought.
        """
        if self._turning.acquire(blocking=False):
            try:
                send()
            except BaseException:
                self.disturbed = True
                self._unparked.set()
                raise
            finally:
                self._turning.release()
