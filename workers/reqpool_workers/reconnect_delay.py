"""A server refuses connections: when to connect again. No I/O, no clock."""

from __future__ import annotations

from reqpool_contract.backoff import backoff_s

FIRST_DELAY_S, LONGEST_DELAY_S = 0.05, 0.4
"""Between two tries at such a server; doubled each time."""
LONGEST_OUTAGE_S = 2.0
"""How long requests wait for it before they end: an upstream that is down is reported within seconds."""
FORGET_OUTAGE_S = 10.0
"""After this long without a try, the next failure begins another outage."""


class ReconnectDelay:
    """When to connect again to a server that refuses connections, and for how long requests wait for it.

    A server that restarts refuses connections for a moment. One that is down for longer is reported as down,
    and is then tried with each request.

    Attributes:
        retry_s: no connection is opened before this instant.
    """

    __slots__ = ("_began_s", "_failures", "_seen_s", "retry_s")

    def __init__(self) -> None:
        self.end()

    def end(self) -> None:
        """Note that the server serves."""
        self.retry_s = self._seen_s = self._began_s = float("-inf")
        self._failures = 0

    def goes_on(self, now_s: float, random_unit: float) -> bool:
        """Note that a connection has failed; return whether requests wait until :attr:`retry_s`.

        Args:
            now_s: monotonic seconds.
            random_unit: a random number from 0 to 1, so that not all workers try at the same instant.
        """
        if now_s - self._seen_s > FORGET_OUTAGE_S:
            self.end()
            self._began_s = now_s
        self._seen_s = now_s
        if now_s < self.retry_s:
            return True
        if now_s - self._began_s >= LONGEST_OUTAGE_S:
            return False
        self.retry_s = now_s + backoff_s(self._failures, FIRST_DELAY_S, LONGEST_DELAY_S, random_unit)
        self._failures += 1
        return True
