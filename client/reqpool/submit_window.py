"""The SUBMITs of one connection: their numbers, and the large payloads that the broker has yet to take."""

from __future__ import annotations

import math
from collections import deque


class SubmitWindow:
    """What was submitted on a connection.

    Attributes:
        number: number of the last SUBMIT; 0 before the first.
        unacked: numbers of the SUBMITs that the broker has not acknowledged, with the bytes of their large
            payloads.
        room_bytes: bytes of large payloads that may be sent; 0 or below: none.
    """

    __slots__ = ("number", "room_bytes", "unacked")

    def __init__(self) -> None:
        self.number = 0
        self.unacked: deque[tuple[int, int]] = deque()
        self.room_bytes: float = math.inf

    def restart(self) -> None:
        """Begin a new connection."""
        self.number = 0
        self.unacked.clear()

    def acknowledge(self, number: int) -> None:
        """Note that the broker has taken every SUBMIT up to this number."""
        unacked = self.unacked
        while unacked and unacked[0][0] <= number:
            self.room_bytes += unacked.popleft()[1]
