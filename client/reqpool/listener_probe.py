"""Who accepts connections at a broker's URL, if it does not behave like a broker.

A ZeroMQ socket cannot say: it waits for a silent peer, and reconnects for ever to one that closes. So one
plain connection is made (ZMQ_STREAM: libzmq looks up the name and connects, on its own thread). A broker
speaks first (libzmq sends its greeting as soon as it has accepted), and so do MySQL, SSH and SMTP servers.
HTTP and Redis servers answer :data:`QUESTION`, which a broker takes for the start of a greeting and drops
with the connection.
"""

from __future__ import annotations

import logging
import math
from time import monotonic
from typing import NamedTuple

import zmq

from reqpool_contract import descriptors, zmq_sockets
from reqpool_contract.socket_monitor import Reach

from .watched_fds import WatchedFds

log = logging.getLogger("reqpool")

PROBE_AFTER_S = 0.5
"""How long a peer that accepts a connection may take to say that it speaks ZMTP, before it is looked at."""
PROBE_S = 0.5
"""How long it may take to answer that."""
QUESTION = b"PING\r\n\r\n"
_ZMTP = b"\xff"
"""The first byte of a greeting of ZeroMQ 3 and later (rfc.zeromq.org/spec/23)."""
SHOWN_BYTES = 40


class Loss(NamedTuple):
    """Why the connection can no longer be used.

    Attributes:
        text: what happened.
        final: the peer is certainly not a broker, so waiting is pointless.
    """

    text: str
    final: bool = False


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


class ListenerProbe:
    """Looks at the listener when there is reason to.

    Attributes:
        due_s: when to call :meth:`turn` next, monotonic; infinity: there is no reason to look.
        greeted: the peer that closes connections begins as a ZeroMQ socket does.
        loss: what was found out, for the loop to take.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], watched: WatchedFds) -> None:
        """Begin without suspicion.

        Args:
            context: this process's.
            watched: calls back when the listener has answered.
        """
        self.due_s = math.inf
        self.greeted = False
        self.loss: Loss | None = None
        self._context = context
        self._watched = watched
        self._probe: Probe | None = None

    def expect(self) -> None:
        """Note that a connection was accepted: the peer is to say soon that it speaks ZMTP."""
        self.due_s = min(self.due_s, monotonic() + PROBE_AFTER_S)

    def suspect(self) -> None:
        """Look at the next turn."""
        if self._probe is None:
            self.due_s = -math.inf

    def turn(self, url: str) -> None:
        """Begin to look, or stop. Call it when it is due."""
        if self._probe is not None:  # it is silent, as a frozen broker is: liveness decides what comes of it
            self.end()
            return
        self.due_s = monotonic() + PROBE_S
        try:
            descriptors.check_spare()
            self._probe = Probe(self._context, url)
        except (OSError, zmq.ZMQError) as error:
            log.debug("cannot determine what listens at %s: %s", url, error)
            self.end()
            return
        self._watched.add(self._probe.fd, self._read)
        self._read()

    def _read(self) -> None:
        said = self._probe.read() if self._probe is not None else None
        if said is None:
            return
        self.end()
        if not said:
            self.loss = Loss(Reach.BROKEN_OFF.value)
        elif not is_zmtp(said):
            self.loss = Loss(f"the listener is not a reqpool broker; it sent {said!r}", final=True)
        else:
            # A broker that was being replaced, perhaps, and that takes the next connection.
            self.greeted = True

    def end(self) -> None:
        """Stop looking."""
        self.due_s = math.inf
        if self._probe is not None:
            if self._probe.fd in self._watched.on_news:
                self._watched.remove(self._probe.fd)
            self._probe.close()
            self._probe = None
