"""Who accepts connections at a broker's URL, if it does not behave like a broker.

A ZeroMQ socket cannot say: it waits for a silent peer, and reconnects for ever to one that closes. So one
plain connection is made (ZMQ_STREAM: libzmq looks up the name and connects, on its own thread). A broker
speaks first (libzmq sends its greeting as soon as it has accepted), and so do MySQL, SSH and SMTP servers.
HTTP and Redis servers answer :data:`QUESTION`, which a broker takes for the start of a greeting and drops
with the connection.
"""

from __future__ import annotations

import zmq

from reqpool_contract import zmq_sockets

QUESTION = b"PING\r\n\r\n"
_ZMTP = b"\xff"
"""The first byte of a greeting of ZeroMQ 3 and later (rfc.zeromq.org/spec/23)."""
SHOWN_BYTES = 40


class Probe:
    """One plain connection.

    Attributes:
        fd: ``ZMQ_FD``; when it is readable, call :meth:`read`.

    Args:
        context: this process's context.
        url: the broker's URL.

    Raises:
        zmq.ZMQError: it cannot connect to the URL.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], url: str) -> None:
        self._socket: zmq.Socket[bytes] = context.socket(zmq.STREAM)
        self._asked = False
        try:
            self._socket.setsockopt(zmq.LINGER, 0)
            if "[" in url:
                self._socket.setsockopt(zmq.IPV6, 1)
            self._socket.connect(url)
            self.fd = int(self._socket.FD)
        except BaseException:
            self._socket.close(0)
            raise

    def read(self) -> bytes | None:
        """Return the peer's first bytes, empty if it closed the connection; None: nothing has come yet."""
        while zmq_sockets.readable(self._socket):
            route, said = zmq_sockets.receive(self._socket)
            # The first empty message reports the connection's begin, the second its end: zmq_socket(3).
            if said or self._asked:
                return bytes(said[:SHOWN_BYTES])
            self._asked = True
            zmq_sockets.send(self._socket, [route, QUESTION])
        return None

    def close(self) -> None:
        """Close it."""
        self._socket.close(0)


def is_zmtp(said: bytes) -> bool:
    """Return whether these first bytes are those of a ZeroMQ socket."""
    return said.startswith(_ZMTP)
