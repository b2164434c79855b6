"""Scripts for :class:`support.tcp_peer.TcpPeer` that speak HTTP, more or less."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .tcp_peer import Connection, Script

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Asked(NamedTuple):
    """A request as it came: ``head`` up to the empty line, ``body`` by its Content-Length."""

    head: bytes
    body: bytes

    @property
    def path(self) -> str:
        return self.head.split(b" ")[1].decode()

    def field(self, name: str) -> str:
        """Return the line of a header field."""
        return next(
            line for line in self.head.decode("latin-1").split("\r\n") if line.startswith(f"{name}: ")
        )


def requests(connection: Connection) -> Iterator[Asked]:
    """Read request after request, until the other side closes."""
    received = b""
    while True:
        while b"\r\n\r\n" not in received:
            data = connection.read()
            if not data:
                return
            received += data
        head, _, received = received.partition(b"\r\n\r\n")
        found = LENGTH.search(head)
        length = int(found[1]) if found else 0
        while len(received) < length:
            data = connection.read()
            if not data:
                return
            received += data
        body, received = received[:length], received[length:]
        yield Asked(head, body)


def answer(body: bytes = b"", *fields: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """Write an answer with its Content-Length, or with a wrong one."""
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Length: {len(body) if length is None else length}",
        *fields,
        "",
        "",
    ]
    return "\r\n".join(lines).encode("latin-1") + body


def serves(answers: Callable[[Asked], bytes]) -> Script:
    """Answer every request."""

    def script(connection: Connection) -> None:
        for asked in requests(connection):
            connection.send(answers(asked))

    return script


def path_of(asked: Asked) -> bytes:
    """Answer with the path that was asked for."""
    return answer(asked.path.encode())
