"""The ZeroMQ socket to the broker, made fit for an epoll loop: see :mod:`reqpool.sockets` for why."""

from __future__ import annotations

import zmq

from reqpool import sockets

from .loop import READABLE, Loop

MESSAGES_PER_TURN = 16
GOODBYE_LINGER_MS = 1_000


class BrokerSocket:
    """One DEALER, from dial to close; what sits in its pipes goes with it.

    Args:
        context: ZeroMQ context of this process.
        loop: that of this thread.
        url: the broker's workers socket.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], loop: Loop, url: str) -> None:
        self._loop = loop
        self._socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        # What can be in the pipe is bounded by what was leased; a bound here would only lose messages.
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 50)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1_000)
        self._socket.connect(url)
        self._fd: int = int(self._socket.getsockopt(zmq.FD))
        self._stirred = True
        loop.register(self._fd, self._on_event, READABLE)

    def send(self, frames: list[bytes]) -> None:
        """Queue one message; never blocks."""
        self._stirred = True
        sockets.send(self._socket, frames)

    @property
    def readable(self) -> bool:
        """Is a message there? Must be asked before each sleep."""
        if self._stirred:
            self._stirred = sockets.readable(self._socket)
        return self._stirred

    def receive(self) -> list[bytes]:
        """Take the frames of one message; only when :attr:`readable`."""
        return sockets.receive(self._socket)

    def close(self, *, goodbye: bool = False) -> None:
        """Close it; with ``goodbye`` what was sent still goes out, for a second at most."""
        self._loop.unregister(self._fd)
        self._socket.close(GOODBYE_LINGER_MS if goodbye else 0)

    def _on_event(self, _mask: int) -> None:
        """Woken up: the end of the turn reads."""
        self._stirred = True
