"""The supervisor's children: how one is started, and when a dead one is started again."""

from __future__ import annotations

import math
import os
import random
import secrets
import subprocess
import sys
from collections.abc import Callable
from typing import IO

BOOT_FAILURE = 2
"""Exit status of a broker or worker that could not start: wrong arguments, or an address it cannot have."""
QUICK_S = 5.0
"""A child that lived shorter than this failed quickly."""
MANY_FAILURES = 4
"""Quick failures in a row after which the supervisor says so, and slows down."""
FIRST_DELAY_S = 0.05
LONGEST_DELAY_S = 30.0


class Backoff:
    """When to start a child again. Knows no clock.

    A child that lived well comes back at once; one that fails again and again comes back after delays
    that double up to 30 s. They are jittered, so that many that died of one cause do not return in step.

    Attributes:
        failures: quick failures in a row.
    """

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self.failures = 0
        self._jitter = jitter

    def delay_s(self, lived_s: float, status: int) -> float:
        """Return the seconds to wait after a child ended.

        Args:
            lived_s: how long it lived.
            status: its exit status; :data:`BOOT_FAILURE` counts as quick however long it took.
        """
        quick = lived_s < QUICK_S or status == BOOT_FAILURE
        self.failures = self.failures + 1 if quick else 0
        if self.failures > MANY_FAILURES:
            span_s = 2.0 ** (self.failures - MANY_FAILURES)
        else:
            span_s = FIRST_DELAY_S * 2**self.failures
        return float(min(span_s, LONGEST_DELAY_S) * (0.5 + self._jitter() / 2))


class Child:
    """One place among the children: ``broker`` or ``worker-3``, and the process that fills it now.

    Attributes:
        name: the place's name; it outlives the process.
        id: 16 random bytes, new for each process.
        process: the process, None while there is none.
        pidfd: readable when the process has ended; -1 while there is none.
        started_s: when it was started, monotonic.
        signals: sent to the process by us.
        due_s: when to start the next one, monotonic; infinity while there is a process, or none is wanted.
        leaving: the place is to go with its process.
        kill_s: when to kill a process that has been told to leave, monotonic; infinity if it has not.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.id = b""
        self.process: subprocess.Popen[bytes] | None = None
        self.pidfd = -1
        self.started_s = 0.0
        self.due_s = math.inf
        self.leaving = False
        self.kill_s = math.inf
        self.signals: set[int] = set()
        self.backoff = Backoff()

    @property
    def stdout(self) -> IO[bytes] | None:
        """The reading end of its standard output, if that was piped to us."""
        return self.process.stdout if self.process else None

    @property
    def pid(self) -> int:
        """Its pid, 0 while there is no process."""
        return self.process.pid if self.process else 0

    def start(self, arguments: list[str], now_s: float, stdout: int) -> None:
        """Start the process.

        Args:
            arguments: what follows the interpreter.
            now_s: monotonic seconds.
            stdout: fd its standard output goes to, or ``subprocess.PIPE``.
        """
        # -P: a module in the folder we happen to be started in must not shadow the library.
        # A group of its own: a terminal's Ctrl-C is for the supervisor, which stops children in order.
        self.process = subprocess.Popen(
            [sys.executable, "-P", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            process_group=0,
        )
        self.pidfd = os.pidfd_open(self.process.pid)
        self.signals = set()
        self.started_s = now_s
        self.due_s = math.inf

    def renew_id(self) -> str:
        """Take a new random id for the next process and return it in hex."""
        self.id = secrets.token_bytes(16)
        return self.id.hex()

    def signal(self, number: int) -> None:
        """Send a signal; nothing if there is no process."""
        if self.process is not None:
            self.signals.add(number)
            self.process.send_signal(number)

    def reap(self) -> int | None:
        """Return the exit status if the process has ended, and forget the process; else None.

        A process that was killed by signal n has status -n.
        """
        if self.process is None or self.process.poll() is None:
            return None
        status = self.process.returncode
        if self.process.stdout is not None:
            self.process.stdout.close()
        os.close(self.pidfd)
        self.process, self.pidfd = None, -1
        return int(status)

    def wait(self) -> None:
        """Wait until a process that was killed is gone."""
        if self.process is not None:
            self.process.wait()
            self.reap()
