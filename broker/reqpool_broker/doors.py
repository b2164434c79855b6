"""Who is connected to the broker's sockets, and who is turned away, so that file descriptors never run out.

Facts it relies on (libzmq 4.3.5):

- Each connection is one file descriptor of the process. With none left, ``accept`` on a Unix socket aborts
  the process (``ipc_listener.cpp``: EMFILE is not among the errors it expects); on TCP it is tried over and
  over.
- ``unbind`` closes all connections that came through the address: they are the listener's children. So those
  that are too many are accepted, and closed by ``shutdown(2)`` on a duplicate of their descriptor.
- Descriptors are told by the socket's monitor. Its pipe holds some 1,000 events; then libzmq's I/O thread
  waits until they are read, and accepts nothing meanwhile: so no more than that come in unnoticed.
- A descriptor may be closed, and its number used again, by the time its event is read. What is asked of it
  then is asked of the connection that has it now, and is right for that one.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import struct
from typing import Any

import zmq

from reqpool import sockets

UNNOTICED = 1_100
"""Connections that may have been accepted before any of them is noticed."""
OWN_FILES = 32
"""File descriptors of a broker that nobody is connected to."""
FILES_OF_RESULTS = 640
"""Of 160 further results sockets and their monitors; there is one for every 64 sessions."""
EVENTS_PER_TURN = 512
TOLD_S = 60.0
"""How often it is logged that some are turned away."""
HANDSHAKE_MS = 5_000
"""For so long a connection may say nothing that ZeroMQ does."""
_EVENT = struct.Struct("=HI")
_CREDENTIALS = struct.Struct("=iII")


def raise_file_limit() -> None:
    """Allow this process as many file descriptors as it may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def file_limit() -> int:
    """How many file descriptors may this process have?"""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class Doors:
    """Counts the connections of bound sockets.

    Args:
        files: file descriptors that the process may have.

    Attributes:
        most: connections of clients at most; workers come in for a while longer.
        most_of_one: connections of one process (through Unix sockets) or address (TCP) at most.
        open: connections now.
        refused: connections that were turned away.
    """

    def __init__(self, files: int, most_of_one: int | None = None) -> None:
        # Room for what comes in unnoticed; where files are few, it cannot be as much.
        self._reserve = min(UNNOTICED, files // 4)
        room = files - self._reserve - OWN_FILES
        self.most = max(8, room - min(room // 16, FILES_OF_RESULTS))
        self.most_of_one = most_of_one or self.most // 2
        self.open = 0
        self.refused = 0
        self._files = files
        self._told = 0
        self._next_told_s = 0.0
        self._peers: dict[int, str] = {}
        self._by_peer: dict[str, int] = {}
        self._monitors: dict[int, tuple[zmq.Socket[bytes], bool]] = {}

    @property
    def backlog(self) -> int:
        """Connections that the kernel holds until they are accepted."""
        return 100 if self._reserve == UNNOTICED else 4

    def watch(self, bound: zmq.Socket[bytes], *, clients: bool) -> int:
        """Watch a socket, before it is bound; returns the descriptor that says when to call :meth:`take`."""
        monitor = bound.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        fd = int(monitor.FD)
        self._monitors[fd] = (monitor, clients)
        return fd

    def unwatch(self, fd: int, bound: zmq.Socket[bytes]) -> None:
        """Forget a socket that could not be bound."""
        bound.disable_monitor()
        self._monitors.pop(fd)[0].close(0)

    def take(self, fd: int) -> bool:
        """Read what a monitor tells; returns True if there may be more."""
        monitor, clients = self._monitors[fd]
        for _ in range(EVENTS_PER_TURN):
            if not sockets.readable(monitor):
                return False
            event, value = _EVENT.unpack(sockets.receive(monitor)[0])
            if event == zmq.EVENT_ACCEPTED:
                self._enter(value, clients)
            else:
                self._leave(value)
        return True

    def _enter(self, fd: int, clients: bool) -> None:
        self._leave(fd)  # its end is told by another monitor, perhaps later
        try:
            connection = socket.socket(fileno=os.dup(fd))
        except OSError:
            return  # it has gone already
        with connection:
            peer = _peer_of(connection)
            count = self._by_peer.get(peer, 0) + 1
            if self.open >= (self.most if clients else self.most + self._reserve // 4) or (
                clients and count > self.most_of_one
            ):
                self.refused += 1
                _shut(connection)
        self.open += 1
        self._peers[fd] = peer
        self._by_peer[peer] = count

    def _leave(self, fd: int) -> None:
        peer = self._peers.pop(fd, None)
        if peer is None:
            return
        self.open -= 1
        self._by_peer[peer] -= 1
        if not self._by_peer[peer]:
            del self._by_peer[peer]

    def news(self, now_s: float) -> str:
        """What to log of those that were turned away, at most once a minute; empty if nothing."""
        if self.refused == self._told or now_s < self._next_told_s:
            return ""
        count, self._told, self._next_told_s = self.refused - self._told, self.refused, now_s + TOLD_S
        return (
            f"{count} connections were turned away: {self.open} are open, at most {self.most} may be, and "
            f"{self.most_of_one} of one process or address (file descriptors: ulimit -n {self._files})"
        )

    def report(self) -> dict[str, Any]:
        """What ``status`` shows."""
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
            # One that is full would keep libzmq's thread, and with it the end, waiting.
            while self.take(fd):
                pass
        for bound in watched:
            bound.disable_monitor()
        for monitor, _ in self._monitors.values():
            monitor.close(0)
        self._monitors.clear()


def _peer_of(connection: socket.socket) -> str:
    """The process at the other end of a Unix socket, or the address of a TCP one."""
    try:
        if connection.family == socket.AF_UNIX:
            said = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            return f"process {_CREDENTIALS.unpack(said)[0]}"
        return str(connection.getpeername()[0])
    except OSError:
        return "gone"


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has gone already
        connection.shutdown(socket.SHUT_RDWR)
