"""What a session's loop sleeps on: an epoll, with a wake-up that any thread may send."""

from __future__ import annotations

import os
import select
import weakref
from collections.abc import Callable


class WatchedFds:
    """File descriptors, and what is to be called when one has news.

    Attributes:
        epoll: all of them are registered there, and also those of sockets, which are read in turn.
        on_news: called by the loop when the file descriptor is readable.
    """

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.on_news: dict[int, Callable[[], object]] = {}
        self._wake_fd = wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # Closed with the last reference, not with the thread: a late wake() must not hit another file.
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
        """Forget a file descriptor; it is still open."""
        self.epoll.unregister(fd)
        del self.on_news[fd]
