"""The time for which nobody listens at a server: when to connect again. No I/O, no clock."""

from __future__ import annotations

import random

FIRST_DELAY_S, LONGEST_DELAY_S = 0.05, 0.4
"""Between two tries at a server that nobody listens at; doubled each time."""
LONGEST_OUTAGE_S = 2.0
"""How long requests wait for it before they end: a dead upstream is reported within seconds."""
FORGET_OUTAGE_S = 10.0
"""After so long without a try, the next failure begins another outage."""


class ReconnectDelay:
    """When to connect again to a server that nobody listens at, and for how long that is worth waiting for.

    A server that restarts refuses connections for a moment. One that is down for longer is reported as down,
    and is then tried whenever somebody asks for it.

    Attributes:
        retry_s: until then nothing is connected.
    """

    __slots__ = ("_began_s", "_delay_s", "_seen_s", "retry_s")

    def __init__(self) -> None:
        self.end()

    def end(self) -> None:
        """It serves."""
        self.retry_s = self._seen_s = self._began_s = float("-inf")
        self._delay_s = FIRST_DELAY_S

    def goes_on(self, now_s: float) -> bool:
        """A connection has failed. Is the next one, at :attr:`retry_s`, worth waiting for?"""
        if now_s - self._seen_s > FORGET_OUTAGE_S:
            self.end()
            self._began_s = now_s
        self._seen_s = now_s
        if now_s < self.retry_s:
            return True
        if now_s - self._began_s >= LONGEST_OUTAGE_S:
            return False
        # Not all workers at the same instant.
        self.retry_s = now_s + self._delay_s * random.uniform(0.5, 1.0)
        self._delay_s = min(2 * self._delay_s, LONGEST_DELAY_S)
        return True
