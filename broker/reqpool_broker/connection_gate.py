"""Who is connected to the broker's sockets, and who is turned away, so that file descriptors never run out.

Facts it relies on (libzmq 4.3.5):

- Each connection is one file descriptor of the process. With none left, ``accept`` on a Unix socket aborts
  the process (``ipc_listener.cpp``: EMFILE is not among the errors it expects); on TCP it is tried over and
  over.
- ``unbind`` closes all connections that came through the address: they are the listener's children. So those
  that are too many are accepted, and closed by ``shutdown(2)`` on a duplicate of their descriptor.
- Descriptors are told by the socket's monitor. Its pipe holds as many events as the marks of its two ends
  add up to, 1,000 and what the reader asks for (``socket_base.cpp``, ``inproc``); then libzmq's I/O thread
  waits until some are read, and accepts nothing meanwhile. So no more than that come in unnoticed through
  one listener; each has its own pipe.
- An XPUB with ``XPUB_MANUAL`` keeps every topic that is asked for, also those that are refused, until the
  connection ends (``_manual_subscriptions`` in ``xpub.cpp``). A message tells the descriptor that it came
  through (``ZMQ_SRCFD``) and the peer: an address, or for a Unix socket ``localhost:uid:gid:pid``.
- A pipe's reader counts as awake until it has looked once (``ypipe.hpp``): what is written before that is not
  signalled. So a monitor is asked before anything can come, else its descriptor stays silent for ever.
- Events of one monitor are in order, those of several are not: a descriptor that was closed may be used
  again through another listener before its end is read. So a connection is known by its monitor, too. What
  is asked of a descriptor then is asked of the connection that has it now, and is right for that one.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import zmq

from reqpool_contract import zmq_sockets
from reqpool_contract.peer_credentials import PeerCredentials

from .client_limits import ClientLimits
from .publisher import READ_S

UNNOTICED = 1_100
"""Connections that one listener may have accepted before any of them is counted."""
MOST_LISTENERS = 162
"""Intake, workers, and a results socket for every 64 sessions."""
BAN_S, LONGEST_BAN_S = 10.0, 640.0
"""For how long a process is turned away that sent refused subscriptions, twice as long each time: libzmq
connects again by itself and repeats all of them. An address is not turned away: many processes may share it.
"""
MOST_BANS = 1_000
OWN_FILES = 32
"""File descriptors of a broker that nobody is connected to."""
FILES_OF_RESULTS = 640
"""Of 160 further results sockets and their monitors; there is one for every 64 sessions."""
EVENTS_PER_TURN = 512
TOLD_S = 60.0
"""How often the log says that connections are turned away."""
HANDSHAKE_MS = 5_000
"""How long a connection may take for ZeroMQ's handshake."""
_EVENT = struct.Struct("=HI")


def file_limit() -> int:
    """Return how many file descriptors this process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class ConnectionGate:
    """Counts the connections of bound sockets.

    Args:
        files: file descriptors that the process may have.
        limits: what one client may take.

    Attributes:
        most: connections of clients at most; workers come in for a while longer.
        most_of_one: connections of one process (through Unix sockets) or address (TCP) at most.
        open: connections now.
        refused: connections that were turned away.
    """

    def __init__(self, files: int, limits: ClientLimits) -> None:
        # Room for what comes in uncounted; where descriptors are few, there can only be less.
        self._reserve = min(UNNOTICED * MOST_LISTENERS, files // 4)
        room = files - self._reserve - OWN_FILES
        self.most = max(8, room - min(room // 16, FILES_OF_RESULTS))
        self.reconfigure(limits)
        self.open = 0
        self.refused = 0
        self._files = files
        self._told = 0
        self._next_told_s = 0.0
        self._peers: dict[tuple[int, int], str] = {}
        self._by_peer: dict[str, int] = {}
        self._strange: dict[int, int] = {}
        self._bans: dict[str, tuple[float, float]] = {}
        self._monitors: dict[int, tuple[zmq.Socket[bytes], bool]] = {}

    def reconfigure(self, limits: ClientLimits) -> None:
        """Take new limits; connections that are open stay."""
        self.most_of_one = limits.max_connections or self.most // 2
        self._most_strange = limits.max_refused_subscriptions

    @property
    def backlog(self) -> int:
        """Connections that the kernel holds until they are accepted."""
        return 100 if self._reserve >= UNNOTICED else 4

    def watch(self, bound: zmq.Socket[bytes], *, clients: bool) -> int:
        """Watch a socket, before it is bound; returns the descriptor that says when to call :meth:`take`."""
        address = f"inproc://connections/{bound.FD}"
        bound.monitor(address, zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        monitor = bound.context.socket(zmq.PAIR)
        monitor.setsockopt(zmq.RCVHWM, 1)
        monitor.connect(address)
        zmq_sockets.readable(monitor)
        fd = int(monitor.FD)
        self._monitors[fd] = (monitor, clients)
        return fd

    def unwatch(self, fd: int, bound: zmq.Socket[bytes]) -> None:
        """Forget a socket that could not be bound."""
        bound.disable_monitor()
        self._monitors.pop(fd)[0].close(0)

    def take(self, fd: int) -> bool:
        """Read a monitor's events; returns True if there may be more."""
        monitor, clients = self._monitors[fd]
        end_s = time.monotonic() + READ_S
        for _ in range(EVENTS_PER_TURN):
            if not zmq_sockets.readable(monitor):
                return False
            event, value = _EVENT.unpack(zmq_sockets.receive(monitor)[0])
            if event == zmq.EVENT_ACCEPTED:
                self._enter((fd, value), clients)
            else:
                self._leave((fd, value))
            if time.monotonic() > end_s:
                break
        return True

    def _enter(self, place: tuple[int, int], clients: bool) -> None:
        """Count a connection, or turn it away. ``place``: the monitor that reports it, and its descriptor."""
        self._strange.pop(place[1], None)
        with contextlib.suppress(OSError), _connection(place[1]) as connection:
            peer = _peer_of(connection)
            count = self._by_peer.get(peer, 0) + 1
            if self.open >= (self.most if clients else self.most + self._reserve // 4) or (
                clients and (count > self.most_of_one or self._is_banned(peer))
            ):
                self.refused += 1
                _shut(connection)
            self.open += 1
            self._peers[place] = peer
            self._by_peer[peer] = count

    def _leave(self, place: tuple[int, int]) -> None:
        self._strange.pop(place[1], None)
        peer = self._peers.pop(place, None)
        if peer is None:
            return
        self.open -= 1
        self._by_peer[peer] -= 1
        if not self._by_peer[peer]:
            del self._by_peer[peer]

    def note_strange(self, fd: int, address: str) -> None:
        """Note that a subscription was refused; a connection that sends one after the other is closed.

        Args:
            fd: what it came through (``ZMQ_SRCFD``).
            address: of the peer (``Peer-Address``).
        """
        count = self._strange[fd] = self._strange.get(fd, 0) + 1
        if count < self._most_strange:
            return
        del self._strange[fd]
        peer = address
        if address.startswith("localhost:"):
            peer = f"process {address.rpartition(':')[2]}"
            if not self._is_banned(peer):
                _, span_s = self._bans.pop(peer, (0.0, BAN_S / 2))
                span_s = min(2 * span_s, LONGEST_BAN_S)
                self._bans[peer] = (time.monotonic() + span_s, span_s)
                if len(self._bans) > MOST_BANS:
                    del self._bans[next(iter(self._bans))]
        with contextlib.suppress(OSError), _connection(fd) as connection:
            if _peer_of(connection) == peer:  # else it has gone, and another has its descriptor
                self.refused += 1
                _shut(connection)

    def _is_banned(self, peer: str) -> bool:
        end_s, _ = self._bans.get(peer, (0.0, 0.0))
        return time.monotonic() < end_s

    def news(self, now_s: float) -> str:
        """Return a log line about those that were turned away, at most once a minute; empty if none."""
        if self.refused == self._told or now_s < self._next_told_s:
            return ""
        count, self._told, self._next_told_s = self.refused - self._told, self.refused, now_s + TOLD_S
        return (
            f"{count} connections were turned away: {self.open} are open; the limits are {self.most} in all "
            f"and {self.most_of_one} of one process or address (file descriptors: ulimit -n {self._files})"
        )

    def report(self) -> dict[str, Any]:
        """Return what ``status`` shows."""
        return {
            "open": self.open,
            "limit": self.most,
            "limit_of_one": self.most_of_one,
            "most_of_one": max(self._by_peer.values(), default=0),
            "refused": self.refused,
            "fd_limit": self._files,
        }

    def close(self, *watched: zmq.Socket[bytes]) -> None:
        """Stop watching; before the sockets are closed."""
        for fd in self._monitors:
            # A full one would keep libzmq's thread waiting, and with it the end.
            while self.take(fd):
                pass
        for bound in watched:
            bound.disable_monitor()
        for monitor, _ in self._monitors.values():
            monitor.close(0)
        self._monitors.clear()


@contextlib.contextmanager
def _connection(fd: int) -> Iterator[socket.socket]:
    """Give the connection that has a descriptor now, under a descriptor of its own that no other can get.

    Raises:
        OSError: if nothing has it, or something else than a connection.
    """
    own = os.dup(fd)
    try:
        connection = socket.socket(fileno=own)
    except OSError:
        os.close(own)
        raise
    with connection:
        yield connection


def _peer_of(connection: socket.socket) -> str:
    """Return the process at the other end of a Unix socket, or the address of a TCP one."""
    try:
        if connection.family == socket.AF_UNIX:
            return f"process {PeerCredentials.of(connection).pid}"
        return str(connection.getpeername()[0])
    except OSError:
        return "gone"


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has gone already
        connection.shutdown(socket.SHUT_RDWR)
