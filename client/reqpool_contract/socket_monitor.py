"""What becomes of the connection below a ZeroMQ socket, told by libzmq's socket monitor.

Facts it relies on (zmq_socket_monitor(3), libzmq 4.3.5):

* A socket says nothing when its connection breaks: it goes on taking messages, for whoever is there next.
* Events come over a PAIR. Each connection makes two (it is there, it speaks ZMTP), its end one more: what a
  message costs stays as it was. libzmq's thread *blocks* when that PAIR is full, so it has no mark.
* The event of a handshake comes before the first message of its connection. A peer that speaks no ZMTP at
  all is taken for one of ZeroMQ 2 (``zmtp_engine.cpp``): it makes no such event, and what it says comes out
  as messages.
* A connection that ends before its handshake makes ``HANDSHAKE_FAILED_NO_DETAIL`` and then ``DISCONNECTED``;
  ``DISCONNECTED`` alone means that the handshake itself was against the protocol: a socket of another type.
* Monitored or not, libzmq connects again by itself, but not after an offence against the protocol.
"""

from __future__ import annotations

import struct
from enum import Enum

import zmq

from . import zmq_sockets


class Reach(Enum):
    """How far a socket has come in reaching its peer."""

    NOBODY = "nothing listens there"
    ACCEPTED = "it accepts connections, but does not answer"
    BROKEN_OFF = "it closes connections before it has identified itself"
    STANDING = "it speaks ZMTP"
    LOST = "the connection broke"
    FOREIGN = "it speaks ZMTP, but is not the expected socket"


_FAILED = int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
_FAILED_PROTOCOL = int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
_FAILED_AUTH = int(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
_CONNECTED = int(zmq.EVENT_CONNECTED)
_SUCCEEDED = int(zmq.EVENT_HANDSHAKE_SUCCEEDED)
_DISCONNECTED = int(zmq.EVENT_DISCONNECTED)
_EVENTS = _FAILED | _FAILED_PROTOCOL | _FAILED_AUTH | _CONNECTED | _SUCCEEDED | _DISCONNECTED
_EVENT = struct.Struct("=hi")

# What is not listed changes nothing: LOST and FOREIGN are the end, what libzmq connects to after that is not
# what the owner has said hello to.
TRANSITIONS: dict[tuple[Reach, int], Reach] = {
    (Reach.NOBODY, _CONNECTED): Reach.ACCEPTED,
    (Reach.BROKEN_OFF, _CONNECTED): Reach.ACCEPTED,
    (Reach.ACCEPTED, _SUCCEEDED): Reach.STANDING,
    (Reach.ACCEPTED, _FAILED): Reach.BROKEN_OFF,
    (Reach.ACCEPTED, _FAILED_PROTOCOL): Reach.FOREIGN,
    (Reach.ACCEPTED, _FAILED_AUTH): Reach.FOREIGN,
    (Reach.ACCEPTED, _DISCONNECTED): Reach.FOREIGN,
    (Reach.STANDING, _DISCONNECTED): Reach.LOST,
}


class Monitor:
    """The monitor of one socket with one connection; made before the socket connects.

    Attributes:
        fd: ``ZMQ_FD`` of the monitor's own socket; when it is readable, call :meth:`read`.
        reach: see :class:`Reach`, as of the last :meth:`read`.

    Args:
        context: that of ``socket``.
        socket: whose connection is looked at.

    Raises:
        zmq.ZMQError: if no more sockets can be opened.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], socket: zmq.Socket[bytes]) -> None:
        self.reach = Reach.NOBODY
        self._socket = socket
        address = f"inproc://monitor-{int(socket.FD)}"
        socket.monitor(address, _EVENTS)
        self._pair: zmq.Socket[bytes] = context.socket(zmq.PAIR)
        try:
            self._pair.setsockopt(zmq.LINGER, 0)
            self._pair.setsockopt(zmq.RCVHWM, 0)
            self._pair.connect(address)
            self.fd = int(self._pair.FD)
            # Once asked, and with nothing to be read, the next event makes the fd readable.
            self.read()
        except BaseException:
            self.close()
            raise

    def read(self) -> Reach:
        """Take in what has happened; returns :attr:`reach`."""
        while zmq_sockets.readable(self._pair):
            event, _ = _EVENT.unpack_from(zmq_sockets.receive(self._pair)[0])
            self.reach = TRANSITIONS.get((self.reach, event), self.reach)
        return self.reach

    def close(self) -> None:
        """Look no longer; call it before the socket is closed."""
        self._socket.disable_monitor()
        self._pair.close(0)
