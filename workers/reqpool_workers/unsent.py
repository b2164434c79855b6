"""What a connection has not sent yet: joined to nothing and copied nowhere, and sent a part at a time."""

from __future__ import annotations

import socket
from collections import deque
from itertools import islice

PIECES = 64
"""Sent by one system call at most (sendmsg(2)): small ones come in numbers."""


class Unsent:
    """Bytes that wait for room in a socket, in order.

    Attributes:
        pieces: what waits, for its owner to look at; empty when nothing does.
    """

    __slots__ = ("pieces",)

    def __init__(self) -> None:
        self.pieces: deque[memoryview] = deque()

    def add(self, data: bytes | memoryview) -> None:
        """Let these bytes, at least one, wait behind the others."""
        self.pieces.append(memoryview(data))

    def send(self, to: socket.socket, most_bytes: int) -> None:
        """Send about so many of them.

        Raises:
            BlockingIOError: there is no room for more.
            OSError: the connection is broken.
        """
        pieces = self.pieces
        while pieces and most_bytes > 0:
            sent = to.sendmsg(self._first(most_bytes))
            most_bytes -= sent
            while sent:
                size = len(pieces[0])
                if sent < size:
                    pieces[0] = pieces[0][sent:]
                    break
                pieces.popleft()
                sent -= size

    def _first(self, most_bytes: int) -> list[memoryview]:
        first = []
        for piece in islice(self.pieces, PIECES):
            first.append(piece[:most_bytes])
            most_bytes -= len(first[-1])
            if not most_bytes:
                break
        return first

    def clear(self) -> None:
        """Give up on them."""
        self.pieces.clear()
