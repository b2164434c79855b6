"""The supervisor's children: how one is started, and when one that has ended is replaced."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

from reqpool_contract.backoff import backoff_s
from reqpool_contract.counted_log import CountedLog

ORDERLY = 0
"""Exit status of a broker or worker that ended as it was told to, and left nothing in doubt."""
BOOT_FAILURE = 2
"""Exit status of a broker or worker that could not start: wrong arguments, or an address it cannot bind."""
NEVER_BEGAN = -signal.SIGTERM
"""Status of one that was told to end while it was starting. A worker that has got as far as HELLO handles the
signal, and never dies of it."""
QUICK_S = 5.0
"""A child that lived for less than this failed quickly."""
MANY_FAILURES = 4
"""After this many quick failures in a row the supervisor logs it, and slows down."""
FIRST_DELAY_S = 0.05
FIRST_SLOW_DELAY_S = 2.0
"""The first delay after those failures."""
LONGEST_DELAY_S = 30.0
LONGEST_SERVED_S = 0.8
"""The longest delay if the child had come up. It can start, so a longer wait has no benefit, and all clients
wait for a broker. A start costs 0.2 s of CPU."""

log = logging.getLogger("reqpool")


class Backoff:
    """When to start a child again. Uses no clock.

    A child that lived long enough is replaced at once, and so is one that ended as it was told to, however
    often; one that fails again and again is started after delays that double up to 30 s, or to 0.8 s if it
    comes up each time. They count from one start to the next: a child that lived for longer needs no delay.
    They are jittered, so that children that died of one cause do not return in step.

    Attributes:
        failures: quick failures in a row.
    """

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self.failures = 0
        self._jitter = jitter

    def delay_s(self, lived_s: float, status: int, *, served: bool = False) -> float:
        """Return the seconds to wait after a child ended.

        Args:
            lived_s: how long it lived.
            status: its exit status; :data:`BOOT_FAILURE` counts as quick however long it took.
            served: whether it had come up.
        """
        quick = (lived_s < QUICK_S and status not in (ORDERLY, NEVER_BEGAN)) or status == BOOT_FAILURE
        self.failures = self.failures + 1 if quick else 0
        longest_s = LONGEST_SERVED_S if served else LONGEST_DELAY_S
        slow = self.failures - MANY_FAILURES - 1
        if slow < 0:
            span_s = backoff_s(self.failures, FIRST_DELAY_S, longest_s, self._jitter())
        else:
            span_s = backoff_s(slow, FIRST_SLOW_DELAY_S, longest_s, self._jitter())
        return max(0.0, span_s - (0.0 if status == BOOT_FAILURE else lived_s))


class Child:
    """One place among the children: ``broker`` or ``worker-3``, and the process that fills it now.

    Attributes:
        name: the place's name; it outlives the process.
        id: 16 random bytes, new for each process.
        process: the process, None while there is none.
        pidfd: readable when the process has ended; -1 while there is none.
        talk: this process's end of its standard input and output, if they lead here.
        started_s: when it was started, monotonic.
        served: whether the last process, once it has ended, had come up, or was killed before it could and
            its predecessor had. Not set for workers.
        signals: numbers of the signals that were sent to the process from here.
        due_s: when to start the next process, monotonic; infinity while there is one, or none is wanted.
        log: counts repeated messages about the place.
        leaving: whether the place goes with its process.
        kill_s: when to kill a process that has been told to leave, monotonic; infinity if it has not.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.id = b""
        self.process: subprocess.Popen[bytes] | None = None
        self.pidfd = -1
        self.talk: socket.socket | None = None
        self.started_s = 0.0
        self.served = False
        self.due_s = math.inf
        self.leaving = False
        self.kill_s = math.inf
        self.signals: set[int] = set()
        self.backoff = Backoff()
        self.log = CountedLog(log)

    @property
    def pid(self) -> int:
        """Its pid, 0 while there is no process."""
        return self.process.pid if self.process else 0

    def start(self, arguments: list[str], now_s: float, *, talks: bool = False) -> None:
        """Start the process.

        Args:
            arguments: what follows the interpreter.
            now_s: monotonic seconds.
            talks: whether its standard input and output lead to this process; otherwise it has no input, and
                its output goes to this process's standard error.

        Raises:
            OSError: if there are not enough file descriptors, processes or memory; no process is then left.
        """
        with contextlib.ExitStack() as unwind:
            talk = theirs = None
            if talks:
                talk, theirs = socket.socketpair()
                unwind.callback(talk.close)
            # -P: a module in the current folder must not shadow the library.
            # A group of its own: a terminal's Ctrl-C is for the supervisor, which stops children in order.
            try:
                process = subprocess.Popen(
                    [sys.executable, "-P", *arguments],
                    stdin=theirs.fileno() if theirs else subprocess.DEVNULL,
                    stdout=theirs.fileno() if theirs else sys.stderr.fileno(),
                    process_group=0,
                )
            finally:
                if theirs is not None:
                    theirs.close()
            unwind.callback(process.wait)
            unwind.callback(process.kill)
            self.pidfd = os.pidfd_open(process.pid)
            unwind.pop_all()
        self.process, self.talk = process, talk
        self.signals = set()
        self.started_s = now_s
        self.due_s = self.kill_s = math.inf

    def follow(self, other: Child, now_s: float) -> None:
        """Take the place of another with a stand-by process, whose life begins now."""
        self.backoff, self.served, self.started_s = other.backoff, other.served, now_s
        self.log = other.log

    def put_off(self, error: OSError, now_s: float) -> None:
        """Plan another attempt to start a process after one has failed; running processes are left alone."""
        delay_s = self.backoff.delay_s(0.0, BOOT_FAILURE)
        self.due_s = now_s + delay_s
        log.error("cannot start %s: %s; retrying in %.1f s", self.name, error.strerror, delay_s)

    def plan_next(self, pid: int, status: int, now_s: float) -> None:
        """Plan the next process of a place whose last one, which was `pid`, has ended with `status`."""
        delay_s = self.backoff.delay_s(now_s - self.started_s, status, served=self.served)
        self.due_s = now_s + delay_s
        planned = status == ORDERLY and signal.SIGTERM in self.signals
        level = logging.INFO if planned else logging.WARNING
        self.log.log(level, "%s (pid %d) %s; replacing it in %.1f s", self.name, pid, ended(status), delay_s)
        if self.backoff.failures > MANY_FAILURES:
            self.log.error(
                "%s has failed %d times in a row within seconds of its start; see its output above",
                self.name,
                self.backoff.failures,
            )

    def renew_id(self) -> bytes:
        """Take a new random id for the next process and return it."""
        self.id = secrets.token_bytes(16)
        return self.id

    def signal(self, number: int) -> None:
        """Send a signal; do nothing if there is no process."""
        if self.process is not None:
            self.signals.add(number)
            self.process.send_signal(number)

    def kill_late(self, now_s: float) -> bool:
        """Kill a process that was told to leave and has not in time; return whether it was killed now."""
        if self.process is None or now_s < self.kill_s:
            return False
        self.kill_s = math.inf
        self.signal(signal.SIGKILL)
        return True

    def reap(self) -> int | None:
        """Return the exit status if the process has ended, and forget the process; otherwise None.

        A process that was killed by signal n has status -n.
        """
        if self.process is None or self.process.poll() is None:
            return None
        status = self.process.returncode
        if self.talk is not None:
            self.talk.close()
        os.close(self.pidfd)
        self.process, self.talk, self.pidfd = None, None, -1
        return int(status)

    def wait(self) -> None:
        """Wait until a killed process has ended."""
        if self.process is not None:
            self.process.wait()
            self.reap()


def ended(status: int) -> str:
    """Describe how a process ended: ``was killed by SIGKILL``, ``exited with status 3``."""
    if status < 0:
        # Signals over SIGRTMIN have no names.
        name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
        return f"was killed by {name}"
    if status == BOOT_FAILURE:
        return f"could not start (exit status {status})"
    return f"exited with status {status}"
