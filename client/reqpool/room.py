"""Threads that wait for room in the table of pending requests."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic


class Room:
    """Lets threads wait for room, and notifies them of it.

    Attributes:
        wanted: whether a thread waits. Set before that thread looks, and read after room was made.
    """

    def __init__(self) -> None:
        self.wanted = False
        self._condition = threading.Condition()

    def wait(self, has_room: Callable[[], bool], give_up_s: float, check_wait: Callable[[], None]) -> bool:
        """Wait until ``has_room()``; return False if it does not become true by ``give_up_s``.

        Args:
            has_room: returns whether there is room.
            give_up_s: monotonic.
            check_wait: called before waiting; raises if this thread must not wait.
        """
        with self._condition:
            while True:
                # Set before looking: the thread that makes room does both in the opposite order.
                self.wanted = True
                if has_room():
                    return True
                left_s = give_up_s - monotonic()
                if left_s <= 0:
                    return False
                check_wait()
                self._condition.wait(left_s)

    def tell(self) -> None:
        """Let all waiting threads look again."""
        with self._condition:
            self.wanted = False
            self._condition.notify_all()
