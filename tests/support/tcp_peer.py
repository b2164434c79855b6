"""A TCP server that does what a test tells it.

A *script* talks with one connection, on a thread of its own, and returns or raises OSError when it is done:

    with TcpPeer(echo_until(b"\\n")) as peer:
        pool.tcp(peer.address, b"hello\\n", until=b"\\n")

``peer.accepted`` counts connections, ``peer.received`` has what came. Nothing sleeps: what has to be late
waits for ``peer.go``.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

from .ports import HOST
from .wait import wait_until


class Connection:
    """One accepted connection, as a script sees it."""

    def __init__(self, sock: socket.socket, peer: TcpPeer) -> None:
        self.sock = sock
        self.peer = peer

    def read(self) -> bytes:
        """Return some bytes; b"" at the end."""
        data = self.sock.recv(65_536)
        self.peer.received += data
        return data

    def read_until(self, delimiter: bytes) -> bytes:
        """Return everything up to the delimiter and with it, or what came before the other side's end."""
        data = b""
        while delimiter not in data and (more := self.read()):
            data += more
        return data

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.sock.sendall(data)

    def reset(self) -> None:
        """Close with RST (socket(7): SO_LINGER on, 0 seconds)."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def wait_for_end(self) -> None:
        """Read until the other side closes."""
        while self.read():
            pass


Script = Callable[[Connection], None]

# --- scripts -------------------------------------------------------------------------------------


def echo_until(delimiter: bytes) -> Script:
    """Send every message that ends in the delimiter back, until the other side closes."""

    def script(connection: Connection) -> None:
        rest = b""
        while data := connection.read():
            *messages, rest = (rest + data).split(delimiter)
            for message in messages:
                connection.send(message + delimiter)

    return script


def answers(data: bytes, *, request_ends: bytes = b"\n") -> Script:
    """Wait for a request, send ``data``, close."""

    def script(connection: Connection) -> None:
        connection.read_until(request_ends)
        connection.send(data)

    return script


def resets_after(data: bytes, *, request_ends: bytes = b"\n") -> Script:
    """Wait for a request, send ``data`` (perhaps none), reset."""

    def script(connection: Connection) -> None:
        connection.read_until(request_ends)
        connection.send(data)
        connection.reset()

    return script


def drips(data: bytes, *, request_ends: bytes = b"\n") -> Script:
    """Send one byte, and each further one only when the test calls ``peer.go.release()``; then close."""

    def script(connection: Connection) -> None:
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.read_until(request_ends)
        for at in range(len(data)):
            if at and not connection.peer.wait_for_go():
                return
            connection.send(data[at : at + 1])

    return script


def never_answers(connection: Connection) -> None:
    """Read what comes and say nothing, until the other side closes."""
    connection.wait_for_end()


def floods(connection: Connection) -> None:
    """Send for ever, from the first byte that came."""
    connection.read()
    while True:
        connection.send(b"\x00" * 65_536)


def closes_at_once(connection: Connection) -> None:
    """Close without reading."""


# --- peer ----------------------------------------------------------------------------------------


class TcpPeer:
    """A listening socket, and a thread for each connection; a context manager.

    Args:
        script: what is done with each connection.
        port: 0: any that is free.

    Attributes:
        address: ``"127.0.0.1:port"``.
        accepted: connections so far.
        open: connections whose script still runs.
        received: all bytes that came, of all connections.
        go: a semaphore for scripts that wait for the test's word.
    """

    def __init__(self, script: Script, port: int = 0) -> None:
        self._script = script
        self._port = port
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._ending = False
        self.accepted = 0
        self.open = 0
        self.received = b""
        self.go = threading.Semaphore(0)
        self.address = ""

    def __enter__(self) -> TcpPeer:
        self._listener = socket.create_server((HOST, self._port))
        self.address = f"{HOST}:{self._listener.getsockname()[1]}"
        self._start(self._accept)
        return self

    def __exit__(self, *_: Any) -> None:
        self._ending = True
        # shutdown wakes a thread in accept() or recv(); close alone would leave it there (Linux).
        for sock in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            self.go.release()
            thread.join(5)
            assert not thread.is_alive(), "a TCP peer's thread did not end"
        self._listener.close()

    def wait_for_go(self) -> bool:
        """Wait for the test's word; False when the peer is to end."""
        self.go.acquire()
        return not self._ending

    def wait_accepted(self, count: int, timeout_s: float = 10.0) -> None:
        """Wait until so many connections have been accepted."""
        wait_until(lambda: self.accepted >= count, timeout_s, f"{count} connections")

    def wait_all_closed(self, timeout_s: float = 10.0) -> None:
        """Wait until no connection is open any more."""
        wait_until(lambda: self.open == 0, timeout_s, "all connections closed")

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, name="tcp-peer", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(sock)
            self.accepted += 1
            self.open += 1
            self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        try:
            with sock, contextlib.suppress(OSError):
                self._script(Connection(sock, self))
        finally:
            self.open -= 1
