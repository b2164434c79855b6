"""Whether this process was frozen (SIGSTOP, a cgroup's freezer), and not only busy, or waiting for a CPU.

Linux facts it relies on (Documentation/scheduler/sched-stats.rst): the first two numbers of
``/proc/thread-self/schedstat`` are the nanoseconds that the thread spent on a CPU and waiting on a run queue
for one. A stopped or frozen thread does neither, so what is missing of the clock's time is its sleep.
"""

from __future__ import annotations

import os
import time

_PATH = "/proc/thread-self/schedstat"


class FreezeDetector:
    """What one thread did with its time; made and called by that thread.

    Args:
        most_s: how long it may sleep in one go.
    """

    def __init__(self, most_s: float) -> None:
        self.most_s = most_s
        try:
            # Kept open: when it is needed there may be no file descriptor left.
            self._fd = os.open(_PATH, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1
        self._noted_s = self._active_s()

    def note(self) -> None:
        """Note how long the thread has been at work so far; call it several times a second."""
        self._noted_s = self._active_s()

    def slept(self, span_s: float) -> bool:
        """Return whether the thread slept for longer than it may during the last ``span_s`` seconds.

        Reads a file: call it only if ``span_s`` exceeds :attr:`most_s`, without which the answer is no.
        """
        return span_s - (self._active_s() - self._noted_s) > self.most_s

    def _active_s(self) -> float:
        """Seconds on a CPU or waiting for one; where the kernel does not tell, on a CPU."""
        if self._fd < 0:
            return time.thread_time()
        running_ns, waiting_ns, _ = os.pread(self._fd, 64, 0).split()
        return (int(running_ns) + int(waiting_ns)) / 1e9

    def close(self) -> None:
        """Close its file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
