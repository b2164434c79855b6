"""An upstream that counts: HTTP POST, lines over TCP, datagrams over UDP; a process of its own.

    python counting.py JOURNAL HTTP_PORT TCP_PORT UDP_PORT

It is asked ``NUMBER DELAY_S``, writes the number into its journal *before* it does anything else, waits for
the delay, and answers with the number. So what has run is known exactly, even if the server is killed.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Callable

HOST = "127.0.0.1"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class Counter:
    """Writes down executions."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def execute(self, question: bytes, answer: Callable[[bytes], None]) -> None:
        """Count a question and answer it after the delay it asks for."""
        number, _, delay_s = question.partition(b" ")
        os.write(self._fd, number + b"\n")
        asyncio.get_running_loop().call_later(float(delay_s), answer, number)


class Lines(asyncio.Protocol):
    """One TCP connection; questions may follow each other without waiting."""

    transport: asyncio.Transport

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._rest = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._counter.execute(line, self._answer)

    def _answer(self, number: bytes) -> None:
        self.transport.write(number + b"\n")


class Posts(Lines):
    """One HTTP/1.1 connection that serves POST with a Content-Length."""

    def data_received(self, data: bytes) -> None:
        self._rest += data
        while (at := self._rest.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._rest, 0, at + 2)
            end = at + 4 + (int(length[1]) if length else 0)
            if len(self._rest) < end:
                return
            body, self._rest = self._rest[at + 4 : end], self._rest[end:]
            self._counter.execute(body, self._answer)

    def _answer(self, number: bytes) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(number), number))


class Datagrams(asyncio.DatagramProtocol):
    """The UDP socket."""

    transport: asyncio.DatagramTransport

    def __init__(self, counter: Counter) -> None:
        self._counter = counter

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self._counter.execute(data, lambda number: self.transport.sendto(number, address))

    def error_received(self, error: Exception) -> None:
        """An answer found nobody: the worker that asked is gone."""


async def serve(path: str, http_port: int, tcp_port: int, udp_port: int) -> None:
    """Serve for ever."""
    counter, loop = Counter(path), asyncio.get_running_loop()
    await loop.create_server(lambda: Posts(counter), HOST, http_port, backlog=512)
    await loop.create_datagram_endpoint(lambda: Datagrams(counter), (HOST, udp_port))
    lines = await loop.create_server(lambda: Lines(counter), HOST, tcp_port, backlog=512)
    await lines.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], *map(int, sys.argv[2:])))
