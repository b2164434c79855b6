"""A server that counts who is connected: each line is answered with itself, a little later.

    with LineServer() as server:
        pool.tcp(server.address, b"hello\\n", until=b"\\n")
        assert server.most <= 5

The count is exact. A connection that was closed before another was opened has sent its FIN before the
other's SYN, and on loopback they arrive in that order: so before one that was accepted is counted, all that
have ended are taken off.
"""

from __future__ import annotations

import heapq
import select
import socket
import threading
import time
from typing import Any

from .ports import HOST


class LineServer:
    """A listening socket and a thread; a context manager.

    Args:
        delay_s: how long an answer takes.

    Attributes:
        address: ``"127.0.0.1:port"``.
        open: connections now.
        most: connections at any one time, the most so far.
        accepted: connections so far.
        answered: lines so far.
    """

    def __init__(self, delay_s: float = 0.002) -> None:
        self._delay_s = delay_s
        self._connections: dict[int, socket.socket] = {}
        self._rest: dict[int, bytes] = {}
        self._due: list[tuple[float, int, int, bytes]] = []
        self._count = 0
        self._ending = False
        self.open = self.most = self.accepted = self.answered = 0

    def __enter__(self) -> LineServer:
        self._listener = socket.create_server((HOST, 0), backlog=512)
        self._listener.setblocking(False)
        self.address = f"{HOST}:{self._listener.getsockname()[1]}"
        self._epoll = select.epoll()
        self._clients = select.epoll()
        self._epoll.register(self._clients.fileno(), select.EPOLLIN)
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="line-server", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ending = True
        self._thread.join(5)
        assert not self._thread.is_alive(), "the line server's thread did not end"
        for sock in (*self._connections.values(), self._listener):
            sock.close()
        self._clients.close()
        self._epoll.close()

    def _run(self) -> None:
        while not self._ending:
            wait_s = 0.05
            if self._due:
                wait_s = min(wait_s, max(0.0, self._due[0][0] - time.monotonic()))
            ready = {fd for fd, _ in self._epoll.poll(wait_s)}
            self._read()
            if self._listener.fileno() in ready:
                self._accept()
            self._answer()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            self._read()
            sock.setblocking(False)
            self._connections[sock.fileno()] = sock
            self._rest[sock.fileno()] = b""
            self._clients.register(sock.fileno(), select.EPOLLIN)
            self.accepted += 1
            self.open += 1
            self.most = max(self.most, self.open)

    def _read(self) -> None:
        for fd, _ in self._clients.poll(0, 4096):
            try:
                data = self._connections[fd].recv(65_536)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                self._end(fd)
                continue
            *lines, self._rest[fd] = (self._rest[fd] + data).split(b"\n")
            for line in lines:
                self._count += 1
                entry = (time.monotonic() + self._delay_s, self._count, fd, line + b"\n")
                heapq.heappush(self._due, entry)

    def _end(self, fd: int) -> None:
        self._clients.unregister(fd)
        self._connections.pop(fd).close()
        del self._rest[fd]
        self.open -= 1
        self._due = [entry for entry in self._due if entry[2] != fd]
        heapq.heapify(self._due)

    def _answer(self) -> None:
        now_s = time.monotonic()
        while self._due and self._due[0][0] <= now_s:
            _, _, fd, line = heapq.heappop(self._due)
            try:
                self._connections[fd].sendall(line)
            except OSError:
                continue  # its end is read in a moment
            self.answered += 1
