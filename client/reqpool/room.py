"""Room in the table of pending requests: the threads that wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic


class Room:
    """Waits for room, and is told of it.

    Attributes:
        wanted: a thread waits. It is set before that thread looks, and read after room was made.
    """

    def __init__(self) -> None:
        self.wanted = False
        self._condition = threading.Condition()

    def wait(self, has_room: Callable[[], bool], give_up_s: float, check_wait: Callable[[], None]) -> bool:
        """Wait until ``has_room()``; return False if it is not so by ``give_up_s``.

        Args:
            has_room: looks.
            give_up_s: monotonic.
            check_wait: called before waiting; raises if this thread must not wait.
        """
        with self._condition:
            while True:
                # First said, then looked: the thread that makes room looks the other way round.
                self.wanted = True
                if has_room():
                    return True
                left_s = give_up_s - monotonic()
                if left_s <= 0:
                    return False
                check_wait()
                self._condition.wait(left_s)

    def tell(self) -> None:
        """Have all that wait look again."""
        with self._condition:
            self.wanted = False
            self._condition.notify_all()
