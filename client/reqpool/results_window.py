"""The result batches of a session: those received, those settled and acknowledged, and the missing one."""

from __future__ import annotations

import math

BATCHES_PER_ACK = 8
"""Result batches after which an acknowledgement is sent without waiting for the next heartbeat."""


class ResultsWindow:
    """The batches that were received.

    Attributes:
        received: number of the last batch received in order; 0 before the first.
        settled: number of the last batch whose outcomes have reached their futures.
        acked: number of the last batch that was acknowledged to the broker.
        repeated: batches that came twice.
        gaps: times that a missing batch was requested.
        gap_asked_s: when one was last requested, monotonic; minus infinity after it has come.
    """

    __slots__ = ("acked", "gap_asked_s", "gaps", "received", "repeated", "settled")

    def __init__(self) -> None:
        self.received = self.settled = self.acked = 0
        self.repeated = self.gaps = 0
        self.gap_asked_s = -math.inf

    def restart(self) -> None:
        """Begin a session that the broker does not know, with numbers from 1."""
        self.received = self.settled = 0

    def accept(self, number: int) -> bool:
        """Return whether the batch of this number is the next, and count it if so.

        If not, it has come before or follows a gap.
        """
        if number == self.received + 1:
            self.received = number
            self.gap_asked_s = -math.inf
            return True
        if number <= self.received:
            self.repeated += 1
        return False

    def asks_again(self, now_s: float, pause_s: float) -> bool:
        """Return whether to request the missing batch now.

        Every batch after it shows the same gap, so it is requested once, then every ``pause_s``.
        """
        if now_s < self.gap_asked_s + pause_s:
            return False
        self.gap_asked_s = now_s
        self.gaps += 1
        return True
