"""Upstreams that are played on the thread on which calls are counted: they answer when they are asked to."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod

from reqpool_contract.payloads.dns_query import query
from reqpool_contract.payloads.http import HEADER


class PlayedUpstream(ABC):
    """Answers each request, whatever it is, with the same value.

    Attributes:
        kind: which one.
        origins: its names: one, or many.
        payload: a request.
        granted: connections to each origin that the worker may have.
    """

    kind: str
    origins: list[str]
    payload: bytes
    granted: int

    @abstractmethod
    def answer(self) -> None:
        """Answer what has come."""

    @abstractmethod
    def is_answer(self, data: bytes) -> bool:
        """Whether this is what the worker makes of the answer."""

    @abstractmethod
    def close(self) -> None:
        """Close all sockets."""


class PlayedStreams(PlayedUpstream):
    """Of a kind with connections."""

    def __init__(self, origins: int) -> None:
        self._listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(origins)]
        for listener in self._listeners:
            listener.setblocking(False)
        self._connections: list[socket.socket] = []
        self.origins = [
            f"{self.kind}://127.0.0.1:{listener.getsockname()[1]}" for listener in self._listeners
        ]

    def answer(self) -> None:
        for listener in self._listeners:
            try:
                while True:
                    connection, _ = listener.accept()
                    connection.setblocking(False)
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._connections.append(connection)
            except BlockingIOError:
                pass
        for connection in self._connections:
            try:
                data = connection.recv(1 << 20)
            except BlockingIOError:
                continue
            connection.sendall(self.replies(data))

    @abstractmethod
    def replies(self, data: bytes) -> bytes:
        """Return the replies to what has come on one connection."""

    def close(self) -> None:
        for one in (*self._listeners, *self._connections):
            one.close()


class PlayedRedis(PlayedStreams):
    """Answers GET."""

    kind = "redis"
    payload = b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n"
    granted = 4

    def replies(self, data: bytes) -> bytes:
        return b"".join(
            b"+OK\r\n" if b"SETNAME" in command else b"$5\r\nvalue\r\n" for command in data.split(b"*")[1:]
        )

    def is_answer(self, data: bytes) -> bool:
        return data == b'"value'


class PlayedHttp(PlayedStreams):
    """Answers GET."""

    kind = "http"
    payload = HEADER.pack(0, 1 << 20) + b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    granted = 64
    reply = b"HTTP/1.1 200 OK\r\nServer: played\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nvalue"

    def replies(self, data: bytes) -> bytes:
        return self.reply

    def is_answer(self, data: bytes) -> bool:
        return data == self.reply


class PlayedDns(PlayedUpstream):
    """Answers with an address."""

    kind = "dns"
    payload = query("www.example.com", "A")
    granted = 200
    record = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x01\x2c\x00\x04\x7f\x00\x00\x01"

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind(("127.0.0.1", 0))
        self.origins = [f"dns://127.0.0.1:{self._socket.getsockname()[1]}"]
        # After the id: flags and counts, question, record, OPT.
        question, opt = self.payload[12:-11], self.payload[-11:]
        self.reply = b"\x81\x80\x00\x01\x00\x01\x00\x00\x00\x01" + question + self.record + opt

    def answer(self) -> None:
        try:
            while True:
                data, place = self._socket.recvfrom(1 << 16)
                self._socket.sendto(data[:2] + self.reply, place)
        except BlockingIOError:
            pass

    def is_answer(self, data: bytes) -> bool:
        return data[2:] == self.reply

    def close(self) -> None:
        self._socket.close()
