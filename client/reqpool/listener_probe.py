"""Who is it that accepts connections at a broker's URL and then does not behave like one?

A ZeroMQ socket does not tell: it waits for a peer that says nothing, and connects again, for ever, to one
that closes. So one plain connection is made (ZMQ_STREAM: libzmq does the look-up of the name and the
connecting, on its own thread). A broker speaks first (libzmq sends its greeting as soon as it has accepted),
as MySQL, SSH and SMTP servers do; HTTP and Redis servers answer :data:`QUESTION`, which a broker takes for
the beginning of something and forgets with the connection.
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
        context: this process's.
        url: what was dialled.

    Raises:
        zmq.ZMQError: if it cannot be dialled.
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
        """Return the first bytes that the peer said, empty if it closed instead; None: not yet."""
        while zmq_sockets.readable(self._socket):
            route, said = zmq_sockets.receive(self._socket)
            # An empty message tells of the connection's beginning, the next one of its end: zmq_socket(3).
            if said or self._asked:
                return bytes(said[:SHOWN_BYTES])
            self._asked = True
            zmq_sockets.send(self._socket, [route, QUESTION])
        return None

    def close(self) -> None:
        """Close it."""
        self._socket.close(0)


def is_zmtp(said: bytes) -> bool:
    """Is this how a ZeroMQ socket begins?"""
    return said.startswith(_ZMTP)
