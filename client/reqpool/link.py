"""A session's two sockets, and what its loop sleeps on: an epoll with both and a wake-up.

Facts it relies on:

* ``ZMQ_FD`` is edge-triggered: see :mod:`.sockets` for when a socket must be asked before sleeping.
* A ZeroMQ socket belongs to one thread at a time: the one that takes the turn, see :mod:`.driver`. Only
  :meth:`Link.wake` may be called from any.
* What sits in an old socket's pipe may be delivered later, to the next broker: on loss both sockets
  are closed with linger 0 and new ones opened.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import weakref
from collections.abc import Iterator

import zmq

from . import sockets, wire

log = logging.getLogger("reqpool")

MESSAGES_PER_TURN = 64
"""Most messages read from a socket, and batches sent, before timers are looked at again."""
SEND_QUEUE_MESSAGES = 256
"""ZMQ_SNDHWM of the intake socket: what is over it stays in the outbox."""


@contextlib.contextmanager
def _os_errors() -> Iterator[None]:
    """Raise ZeroMQ's errors as what they stand for: who dials need not know ZeroMQ."""
    try:
        yield
    except zmq.ZMQError as error:
        raise OSError(error.errno, error.strerror) from error


class Link:
    """The sockets of one connection at a time.

    Attributes:
        blocked: the intake socket took no more when last asked.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], topic: bytes) -> None:
        """Open nothing yet.

        Args:
            context: this process's.
            topic: what to subscribe to, the session id.
        """
        self.blocked = False
        self._context = context
        self._topic = topic
        self._intake: zmq.Socket[bytes] | None = None
        self._results: zmq.Socket[bytes] | None = None
        self._intake_fd = self._results_fd = -1
        self._readable: set[int] = set()
        self._intake_sent = False
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # Closed with the last reference, not with the thread: a late wake() must not hit another file.
        weakref.finalize(self, os.close, self._wake_fd).atexit = False
        self._epoll.register(self._wake_fd, select.EPOLLIN)

    def wake(self) -> None:
        """End a sleep, or the next one. From any thread."""
        os.eventfd_write(self._wake_fd, 1)

    # --- opening and closing --------------------------------------------------------------------

    def dial(self, url: str, hello: bytes) -> None:
        """Open the intake socket and send ``hello``.

        Raises:
            OSError: if it cannot be; none is open then.
        """
        with _os_errors():
            self._intake, self._intake_fd = self._open(zmq.DEALER, url)
            self.send(hello)

    def subscribe(self, url: str) -> None:
        """Open the results socket.

        Raises:
            OSError: if it cannot be; none is open then.
        """
        with _os_errors():
            self._results, self._results_fd = self._open(zmq.SUB, url)

    def _open(self, kind: int, url: str) -> tuple[zmq.Socket[bytes], int]:
        socket: zmq.Socket[bytes] = self._context.socket(kind)
        try:
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_MESSAGE_BYTES)
            socket.setsockopt(zmq.RECONNECT_IVL, 20)
            socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
            socket.setsockopt(zmq.SNDHWM, SEND_QUEUE_MESSAGES)
            if "[" in url:
                socket.setsockopt(zmq.IPV6, 1)
            if kind == zmq.SUB:
                socket.setsockopt(zmq.SUBSCRIBE, self._topic)
            socket.connect(url)
            fd = int(socket.FD)
            self._epoll.register(fd, select.EPOLLIN)
        except BaseException:
            socket.close(0)
            raise
        return socket, fd

    def hang_up(self, linger_ms: int = 0) -> None:
        """Close both sockets; what was received and not read is dropped."""
        for socket, fd in ((self._intake, self._intake_fd), (self._results, self._results_fd)):
            if socket is not None:
                self._epoll.unregister(fd)
                socket.close(linger_ms)
        self._intake = self._results = None
        self._readable.clear()

    def close(self, linger_ms: int) -> None:
        """Close everything for good but the wake-up."""
        self.hang_up(linger_ms)
        self._epoll.close()

    # --- writing and reading --------------------------------------------------------------------

    def has_room(self) -> bool:
        """Ask the intake socket if it takes another message."""
        if self._intake is None:
            return False
        self._intake_sent = True
        return sockets.events(self._intake)[1]

    def send(self, frame: bytes) -> bool:
        """Send one head through the intake socket; never blocks. Returns False if it was not taken."""
        if self._intake is None:
            return False
        self._intake_sent = True
        try:
            sockets.send(self._intake, [frame])
        except zmq.Again:
            # A heartbeat or the like that finds the queue full: liveness tells what comes of it.
            log.debug("the broker takes no more for now")
            return False
        return True

    def has_messages(self) -> bool:
        """Is there more to be read at once? Reads EVENTS where that is needed before a sleep."""
        if self._intake_sent and self._intake is not None:
            self._intake_sent = False
            readable, writable = sockets.events(self._intake)
            self.blocked = not writable
            if readable:
                self._readable.add(self._intake_fd)
        return bool(self._readable)

    def sleep(self, span_s: float) -> None:
        """Sleep until a socket may be read, or a wake-up, or ``span_s``."""
        for fd, _ in self._epoll.poll(max(0.0, span_s)):
            if fd == self._wake_fd:
                os.eventfd_read(fd)
            else:
                self._readable.add(fd)

    def messages(self) -> Iterator[tuple[bool, list[bytes]]]:
        """Take what has come in, up to a limit; hanging up meanwhile ends it.

        Yields:
            True if it came through the intake socket, False if through the results socket; its frames.
        """
        readable, self._readable = self._readable, set()
        if self.blocked:
            # The fd told of room, perhaps: POLLOUT is not asked for by itself.
            self._intake_sent = True
        for socket, fd in ((self._results, self._results_fd), (self._intake, self._intake_fd)):
            if socket is None or socket.closed or fd not in readable:
                continue
            from_intake = socket is self._intake
            for _ in range(MESSAGES_PER_TURN):
                if not sockets.readable(socket):
                    break
                yield from_intake, sockets.receive(socket)
                # Both are closed when one of them brings the session's loss.
                if socket.closed:
                    break
            else:
                self._readable.add(fd)
