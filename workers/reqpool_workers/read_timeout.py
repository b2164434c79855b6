"""Ends requests whose answers are late by their upstream's measure, before their own deadline."""

from __future__ import annotations

from reqpool_contract.errors import Code, RequestTimeout

from .connection import Connection
from .connection_pool import ConnectionPool
from .event_loop import EventLoop
from .lease_outcomes import LeaseOutcomes

CHECKS_PER_SPAN = 8
"""How often late answers are looked for within ``Policy.read_timeout_s``."""
SHORTEST_CHECK_S = 0.02


class ReadTimeout:
    """The read timeout of one origin. Its timer runs only while there are connections and a timeout.

    Args:
        loop: that of this thread.
        pool: the connections, and their policy.
        outcomes: where requests end.
    """

    def __init__(self, loop: EventLoop, pool: ConnectionPool[Connection], outcomes: LeaseOutcomes) -> None:
        self._loop = loop
        self._pool = pool
        self._outcomes = outcomes
        self._watching = False

    def watch(self) -> None:
        """Look for late answers from now on, if there can be any: a connection or a policy is new."""
        read_s = self._pool.policy.read_timeout_s
        if read_s is not None and self._pool.members and not self._watching:
            self._watching = True
            self._loop.at(self._next_s(read_s), self._check)

    def _next_s(self, read_s: float) -> float:
        return self._loop.now_s + max(SHORTEST_CHECK_S, read_s / CHECKS_PER_SPAN)

    def _check(self, now_s: float) -> float | None:
        read_s = self._pool.policy.read_timeout_s
        if read_s is None or not self._pool.members:
            self._watching = False
            return None
        for connection in self._pool.late(now_s):
            text = f"no answer within {read_s:g} s (read timeout of this upstream)"
            if connection.shared and not connection.overdue:
                # One request's slow command is no reason to lose the answers to those behind it.
                request = connection.pass_over_oldest("read timeout")
                if request is not None:
                    self._outcomes.conclude(request, Code.TIMEOUT, text, phase="read", sent=True)
            else:
                connection.close("read timeout", RequestTimeout(text))
        return self._next_s(read_s)
