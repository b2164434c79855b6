"""The state of the connection below a ZeroMQ socket, from libzmq's socket monitor.

Facts that this relies on (zmq_socket_monitor(3), libzmq 4.3.5):

* A socket does not report that its connection broke: it goes on accepting messages, for the next peer.
* Events come over a PAIR: two for each connection (it is made, it speaks ZMTP) and one for its end, but none
  for messages. libzmq's thread *blocks* when the PAIR is full, so it has no high-water mark.
* The event of the handshake comes before the first message of the connection. A peer that does not speak ZMTP
  is taken for one of ZeroMQ 2 (``zmtp_engine.cpp``): there is no such event, and what it sends arrives as
  messages.
* A connection that ends before its handshake causes ``HANDSHAKE_FAILED_NO_DETAIL``, then ``DISCONNECTED``.
  ``DISCONNECTED`` alone means that the handshake violated the protocol: a socket of another type.
* Monitored or not, libzmq reconnects by itself, but not after a violation of the protocol.
"""

from __future__ import annotations

import struct
from enum import Enum

import zmq

from . import zmq_sockets


class Reach(Enum):
    """How far the connection of a socket has got."""

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

# Other events change nothing. LOST and FOREIGN are final: the owner has not said hello to the peer to which
# libzmq reconnects.
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
        fd: ``ZMQ_FD`` of the monitor's socket; when it is readable, call :meth:`read`.
        reach: the state at the last :meth:`read`.

    Args:
        context: that of ``socket``.
        socket: the socket to monitor.

    Raises:
        zmq.ZMQError: no more sockets can be opened.
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
            # After a read that found nothing, the next event makes the fd readable.
            self.read()
        except BaseException:
            self.close()
            raise

    def read(self) -> Reach:
        """Process the events and return :attr:`reach`."""
        while zmq_sockets.readable(self._pair):
            event, _ = _EVENT.unpack_from(zmq_sockets.receive(self._pair)[0])
            self.reach = TRANSITIONS.get((self.reach, event), self.reach)
        return self.reach

    def close(self) -> None:
        """Stop monitoring. Call this before the socket is closed."""
        self._socket.disable_monitor()
        self._pair.close(0)
