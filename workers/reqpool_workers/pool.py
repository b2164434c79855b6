"""Connections to one origin: who gets which, what is opened, what is closed. Decides; does no I/O.

A worker never holds more connections than the last grant's slots, those that are still closing down included.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from .connection import Connection, State
from .ledger import Request

IDLE_S = 30.0
"""How long a connection is kept with nothing to do."""
LIFETIME_S = 600.0
"""After so long a connection takes no more requests: servers move, and addresses with them."""


class Plan(NamedTuple):
    """What is to be done now, in this order."""

    closes: list[tuple[Connection, str]]
    sends: list[tuple[Connection, Request]]
    opens: list[Request]


class ConnectionPool:
    """The pool of one origin.

    Args:
        depth: requests that may be unanswered on one connection.

    Attributes:
        slots: connections granted.
        members: all connections that are not closed.
        waiting: requests without a connection, in the order they came; ended ones are skipped.
        overflowed: how many requests found no connection and no slot when they came.
    """

    def __init__(self, depth: int) -> None:
        self.slots = 0
        self.members: list[Connection] = []
        self.waiting: deque[Request] = deque()
        self.overflowed = 0
        self._depth = depth

    def add(self, requests: list[Request], now_s: float) -> Plan:
        """Requests came."""
        self.waiting.extend(requests)
        plan = self.assign(now_s)
        self.overflowed += min(len(self.waiting), len(requests))
        return plan

    def next_for(self, connection: Connection, now_s: float) -> Request | None:
        """The request that a connection with room shall have next: :meth:`assign` for one, in O(1)."""
        if not self.waiting or connection.retiring or now_s - connection.born_s > LIFETIME_S:
            return None
        return self._next_waiting(now_s)

    def assign(self, now_s: float) -> Plan:
        """Give waiting requests to connections with room, the one used last first; then to new ones."""
        plan = Plan(self.surplus(now_s), [], [])
        closing = {connection for connection, _ in plan.closes}
        room = self.slots - len(self.members) + len(closing)
        usable = [one for one in self.members if not one.retiring and one not in closing]
        idle = sorted((one for one in usable if one.state is State.READY), key=lambda one: one.idle_since_s)
        shared = {one: one.load for one in usable if one.state is State.BUSY and one.load < self._depth}
        while idle or room > 0 or shared:
            request = self._next_waiting(now_s)
            if request is None:
                break
            if idle:
                one = idle.pop()
                plan.sends.append((one, request))
                shared[one] = 1
            elif room > 0:
                room -= 1
                plan.opens.append(request)
                continue
            else:
                one = min(shared, key=shared.__getitem__)
                plan.sends.append((one, request))
                shared[one] += 1
            if shared[one] >= self._depth:
                del shared[one]
        return plan

    def surplus(self, now_s: float) -> list[tuple[Connection, str]]:
        """What is idle for too long, too old, or over the grant; busy ones of these are marked to retire."""
        closes = []
        over = len(self.members) - self.slots
        # Idle ones go first, then those that were opened last.
        for one in sorted(self.members, key=lambda one: (one.state is not State.READY, -one.born_s)):
            if over > 0:
                over -= 1
                reason = "over the grant"
            elif now_s - one.born_s > LIFETIME_S:
                reason = "old"
            elif one.state is State.READY and now_s - one.idle_since_s > IDLE_S:
                reason = "idle"
            else:
                continue
            if one.state is State.READY:
                closes.append((one, reason))
            else:
                one.retiring = True
        return closes

    def prune(self) -> None:
        """Let go of waiting requests that have ended."""
        self.waiting = deque(request for request in self.waiting if request.live)

    def _next_waiting(self, now_s: float) -> Request | None:
        while self.waiting:
            request = self.waiting.popleft()
            # One that ended meanwhile is nobody's; one that is late is reported by its lease's timer.
            if request.live and request.lease.deadline_s > now_s:
                return request
        return None
