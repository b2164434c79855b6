"""The thread that turns the loop while the I/O thread is delayed by callbacks.

Callbacks run on the I/O thread: a separate thread would cost two thread switches and two of the GIL for every
batch of answers (Redis GET, 1,000 in flight: 118,000 a second with it, 168,000 without). Nearly all callbacks
are short. For the others there is a second thread, which notices that the I/O thread has been away for long
and turns the loop until it is back, so that a slow callback stops neither heartbeats nor other threads'
requests.

Watching costs one check every 5 ms while callbacks run, and nothing while none run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

LOOK_S = 0.005
"""The I/O thread is relieved after it has run the same callbacks for one to two of these intervals. Other
threads may wait that long for the GIL in any case (``sys.getswitchinterval()``)."""


class Relief:
    """The second thread. Its context means that the I/O thread is away, running callbacks.

    Each field is written by only one thread, and read by the other in the opposite order (Dekker).

    Attributes:
        away: whether the I/O thread is running callbacks.
    """

    def __init__(self) -> None:
        self.away = False
        self._rounds = 0
        self._dormant = True
        self._roused = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, relieve: Callable[[], None]) -> None:
        """Start the thread.

        Args:
            relieve: turns the loop until the I/O thread is back. Only the thread refers to it, so there is
                no reference cycle.
        """
        self._thread = threading.Thread(target=self._run, args=(relieve,), name="reqpool-relief", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread: the loop is not turned any more. From any thread."""
        self._stopping.set()
        self._roused.set()

    def join(self) -> None:
        """Wait for the thread's end, after :meth:`stop`."""
        if self._thread is not None:
            self._thread.join()

    def is_current_thread(self) -> bool:
        """Return whether the caller runs on the second thread."""
        return threading.current_thread() is self._thread

    def __enter__(self) -> None:
        self._rounds += 1
        self.away = True
        if self._dormant:
            self._dormant = False
            self._roused.set()

    def __exit__(self, *_: object) -> None:
        self.away = False

    def _run(self, relieve: Callable[[], None]) -> None:
        seen = -1
        while not self._stopping.is_set():
            if self._rounds != seen:
                seen = self._rounds
                self._stopping.wait(LOOK_S)
            elif self.away:
                relieve()
                self._stopping.wait(LOOK_S)
            else:
                self._roused.clear()
                self._dormant = True
                if self._rounds == seen and not self._stopping.is_set():
                    self._roused.wait()
