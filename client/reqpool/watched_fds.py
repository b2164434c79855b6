"""The epoll on which a session's loop sleeps, with a wake-up for any thread."""

from __future__ import annotations

import os
import select
import weakref
from collections.abc import Callable


class WatchedFds:
    """File descriptors, and what to call when one is readable.

    Attributes:
        epoll: has all of them, and also those of sockets, which the loop reads by itself.
        on_news: functions that the loop calls when their file descriptor is readable.
    """

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.on_news: dict[int, Callable[[], object]] = {}
        self._wake_fd = wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # Closed with the last reference, not with the thread: a late wake() must not write to another file.
        weakref.finalize(self, os.close, wake_fd).atexit = False
        self.add(wake_fd, lambda: os.eventfd_read(wake_fd))

    def wake(self) -> None:
        """End a sleep, or the next one. From any thread."""
        os.eventfd_write(self._wake_fd, 1)

    def add(self, fd: int, on_news: Callable[[], object]) -> None:
        """Call ``on_news`` whenever ``fd`` is readable."""
        self.epoll.register(fd, select.EPOLLIN)
        self.on_news[fd] = on_news

    def remove(self, fd: int) -> None:
        """Forget a file descriptor, which must still be open."""
        self.epoll.unregister(fd)
        del self.on_news[fd]
