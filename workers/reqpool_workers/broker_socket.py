"""The ZeroMQ socket to the broker, made fit for an epoll loop.

``ZMQ_FD`` is edge-triggered in meaning: it becomes readable when something has *changed*, and reading
``EVENTS`` takes that note away (zmq_getsockopt(3)), as do send and receive. A message that arrives while this
thread is sending leaves the fd silent. So the fd only wakes the loop; whether there is anything to read is
asked of ``EVENTS`` before the loop sleeps, after the last send. Without that, throughput collapses while the
CPU idles. In a turn in which neither the fd nor a send gave cause, it is not asked: that is two
system calls.
"""

from __future__ import annotations

import zmq

from reqpool.wire import MAX_MESSAGE_BYTES

from .loop import READABLE, Loop

MESSAGES_PER_TURN = 16
POLLIN = int(zmq.POLLIN)
"""As a plain int: the operators of enum.IntFlag take 2 µs."""
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
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
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
        self._socket.send_multipart(frames, zmq.NOBLOCK)

    @property
    def readable(self) -> bool:
        """Is a message there? Must be asked before each sleep."""
        if self._stirred:
            self._stirred = bool(int(self._socket.getsockopt(zmq.EVENTS)) & POLLIN)
        return self._stirred

    def receive(self) -> list[bytes]:
        """Take the frames of one message; only when :attr:`readable`."""
        return self._socket.recv_multipart(zmq.NOBLOCK)

    def close(self, *, goodbye: bool = False) -> None:
        """Close it; with ``goodbye`` what was sent still goes out, for a second at most."""
        self._loop.unregister(self._fd)
        self._socket.close(GOODBYE_LINGER_MS if goodbye else 0)

    def _on_event(self, _mask: int) -> None:
        """Woken up: the end of the turn reads."""
        self._stirred = True
