"""The ZeroMQ socket to the broker, as an epoll loop needs it: see :mod:`reqpool_contract.zmq_sockets`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import zmq

from reqpool_contract import zmq_sockets
from reqpool_contract.socket_monitor import Monitor, Reach

from .event_loop import READABLE, EventLoop
from .worker_spans import GOODBYE_LINGER_S

MESSAGES_PER_TURN = 16
READ_S = 0.002
"""For how long a turn may read messages of the broker: 16 full batches would take some 100 ms, in which no
connection is served."""
RECONNECT_MS = 50
RECONNECT_MOST_MS = 100
"""ZMQ_RECONNECT_IVL_MAX: a broker that is back is found within that. Workers are few, and while they live so
does the supervisor, which starts a broker."""


class BrokerSocket:
    """One DEALER, from dial to close; what sits in its pipes goes with it.

    Args:
        context: ZeroMQ context of this process.
        loop: that of this thread.
        url: the broker's workers socket.
        on_loss: called on the loop thread, with the reason, once the connection can no longer be used. What
            was received and has not been read must not be read then.

    Raises:
        zmq.ZMQError: if it cannot be opened, mostly for lack of file descriptors; nothing is left open.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        loop: EventLoop,
        url: str,
        on_loss: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._on_loss = on_loss
        self._stirred = True
        with ExitStack() as unwind:
            self._socket = context.socket(zmq.DEALER)
            unwind.callback(self._socket.close, 0)
            # What can be in the pipe is bounded by what was leased; a bound here would only lose messages.
            self._socket.setsockopt(zmq.SNDHWM, 0)
            self._socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
            self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MOST_MS)
            self._monitor = Monitor(context, self._socket)
            unwind.callback(self._monitor.close)
            self._socket.connect(url)
            self._fd: int = int(self._socket.getsockopt(zmq.FD))
            loop.register(self._fd, self._on_event, READABLE)
            loop.register(self._monitor.fd, self._on_news, READABLE)
            unwind.pop_all()

    def send(self, frames: list[bytes]) -> None:
        """Queue one message; never blocks."""
        self._stirred = True
        zmq_sockets.send(self._socket, frames)

    @property
    def readable(self) -> bool:
        """Whether there is a message. Must be asked before each sleep."""
        if self._stirred:
            self._stirred = zmq_sockets.readable(self._socket)
        return self._stirred

    def receive(self) -> list[bytes] | None:
        """Take the frames of one message; None if there is none."""
        if self._stirred:
            try:
                return zmq_sockets.receive(self._socket)
            except zmq.Again:
                self._stirred = False
        return None

    def close(self, *, goodbye: bool = False) -> None:
        """Close it; with ``goodbye`` what was sent still goes out, for a second at most."""
        self._loop.unregister(self._monitor.fd)
        self._monitor.close()
        self._loop.unregister(self._fd)
        self._socket.close(round(GOODBYE_LINGER_S * 1000) if goodbye else 0)

    def _on_event(self, _mask: int) -> None:
        """Note that there may be a message: the end of the turn reads it."""
        self._stirred = True

    def _on_news(self, _mask: int) -> None:
        """See what has become of the connection."""
        reach = self._monitor.read()
        if reach in (Reach.BROKEN_OFF, Reach.LOST, Reach.FOREIGN):
            self._on_loss(reach.value)
