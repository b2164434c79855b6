"""Bytes that a connection has not sent yet: neither joined nor copied, and sent in parts."""

from __future__ import annotations

import socket
from collections import deque
from itertools import islice

PIECES = 64
"""The most that one system call sends (sendmsg(2)): there may be many small ones."""


class Unsent:
    """Bytes that wait for room in a socket, in order.

    Attributes:
        pieces: the bytes that wait; only their owner's to look at.
    """

    __slots__ = ("pieces",)

    def __init__(self) -> None:
        self.pieces: deque[memoryview] = deque()

    def add(self, data: bytes | memoryview) -> None:
        """Append bytes, at least one."""
        self.pieces.append(memoryview(data))

    def send(self, to: socket.socket, most_bytes: int) -> None:
        """Send some of them.

        Args:
            to: a non-blocking socket.
            most_bytes: about how many at most.

        Raises:
            BlockingIOError: if there is no room for more.
            OSError: if the connection is broken.
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
        """Forget them."""
        self.pieces.clear()
