"""The result batches of a session: which have come, which are settled and acknowledged, which is missing."""

from __future__ import annotations

import math

BATCHES_PER_ACK = 8
"""Result batches after which an acknowledgement is sent without waiting for the next heartbeat."""


class ResultsWindow:
    """What was received.

    Attributes:
        received: number of the last batch received in order; 0 before the first.
        settled: of the last whose outcomes have reached their futures.
        acked: of the last that the broker was told of.
        repeated: batches that came twice.
        gaps: times a missing batch was asked for.
        gap_asked_s: when that was last, monotonic; minus infinity once it has come.
    """

    __slots__ = ("acked", "gap_asked_s", "gaps", "received", "repeated", "settled")

    def __init__(self) -> None:
        self.received = self.settled = self.acked = 0
        self.repeated = self.gaps = 0
        self.gap_asked_s = -math.inf

    def restart(self) -> None:
        """Begin a session that the broker does not know: it numbers from 1."""
        self.received = self.settled = 0

    def accept(self, number: int) -> bool:
        """Take the batch of this number if it is the next; if not, it came before or follows a gap."""
        if number == self.received + 1:
            self.received = number
            self.gap_asked_s = -math.inf
            return True
        if number <= self.received:
            self.repeated += 1
        return False

    def asks_again(self, now_s: float, pause_s: float) -> bool:
        """Return whether to ask for the missing batch now.

        Every batch that follows it shows the same gap: it is asked for once, then every ``pause_s``.
        """
        if now_s < self.gap_asked_s + pause_s:
            return False
        self.gap_asked_s = now_s
        self.gaps += 1
        return True
