"""Connections to one origin: who gets which, what is opened, what is closed. Decides; does no I/O.

A worker never holds more connections than the last grant's slots, those that are still closing down included.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from reqpool import wire

from .connection import Connection, State
from .ledger import Pin, Request


class Policy(NamedTuple):
    """How an upstream's connections are treated, as GRANT says it; docs/protocol.md#policy.

    Attributes:
        connect_s: longest time until a connection is ready; a request's own deadline may be sooner.
        read_s: longest wait for an answer, from the request, or from the answer before it; None: no such
        bound.
        idle_s: how long a connection is kept with nothing to do.
        lifetime_s: after so long it takes no more requests: servers move, and addresses with them.
        max_bytes: largest answer; None: the kind's limit.
        pin_idle_s: how long a held connection may have nothing to do.
    """

    connect_s: float = 5.0
    read_s: float | None = None
    idle_s: float = 30.0
    lifetime_s: float = 600.0
    max_bytes: int | None = None
    pin_idle_s: float = 60.0

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> Self:
        """Read the fields of a GRANT; what is absent has its default.

        Raises:
            ProtocolError: if one is no unsigned integer.
        """
        spans = {
            name.removesuffix("_ms") + "_s": wire.uint(value) / 1000
            for name, value in about.items()
            if name in ("connect_ms", "read_ms", "idle_ms", "lifetime_ms", "pin_idle_ms")
        }
        policy = cls(**spans)  # type: ignore[arg-type]  # max_bytes is not among them
        return policy._replace(max_bytes=wire.uint(about["max_bytes"])) if "max_bytes" in about else policy


class Plan(NamedTuple):
    """What is to be done now, in this order."""

    closes: list[tuple[Connection, str]]
    sends: list[tuple[Connection, list[Request]]]
    opens: list[Request]


class ConnectionPool:
    """The pool of one origin.

    Args:
        depth: requests that may be unanswered on one connection.

    Attributes:
        policy: see :class:`Policy`.
        slots: connections granted.
        members: all connections that are not closed.
        pins: those that are one session's own.
        waiting: requests without a connection, in the order they came; ended ones are skipped.
        fresh: requests that must have a new connection.
        overflowed: how many requests found no connection and no slot when they came.
    """

    def __init__(self, depth: int) -> None:
        self.policy = Policy()
        self.slots = 0
        self.members: list[Connection] = []
        self.pins: dict[Pin, Connection] = {}
        self.waiting: deque[Request] = deque()
        self.fresh: deque[Request] = deque()
        self.overflowed = 0
        self._depth = depth
        # The last is the one used last: the others get old, and are closed.
        self._idle: list[Connection] = []

    def remove(self, connection: Connection) -> None:
        """A connection is closed."""
        self.members.remove(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if connection.pin is not None:
            self.pins.pop(connection.pin, None)

    def add(self, requests: list[Request], now_s: float) -> Plan:
        """Requests came."""
        self.waiting.extend(requests)
        plan = self.assign(now_s)
        self.overflowed += min(len(self.waiting), len(requests))
        return plan

    def next_for(self, connection: Connection, now_s: float) -> list[Request]:
        """The requests that a connection with room shall have next; with none it is noted as idle."""
        if connection.pin is not None or connection.retiring:
            return []
        requests = self._take(self._depth - connection.load, now_s)
        if not requests and connection.state is State.READY and connection not in self._idle:
            self._idle.append(connection)
        return requests

    def is_old(self, connection: Connection, now_s: float) -> bool:
        """Has it lived its time?"""
        return now_s - connection.born_s > self.policy.lifetime_s

    def assign(self, now_s: float) -> Plan:
        """Give waiting requests to connections with room, else to new ones.

        Those that are shared are filled first, the least loaded before the others; of the idle ones the one
        that was used last comes first.
        """
        plan = Plan([], [], [])
        room = self.slots - len(self.members)
        while self.fresh:
            request = self.fresh[0]
            if not request.live or request.lease.deadline_s <= now_s:
                self.fresh.popleft()
            elif room > 0:
                room -= 1
                plan.opens.append(self.fresh.popleft())
            elif self._idle:
                plan.closes.append((self._idle.pop(0), "a fresh one is needed"))
                room += 1
            else:
                break
        if not self.waiting:
            return plan
        shared: list[Connection] = []
        if self._depth > 1:
            shared = [
                one
                for one in self.members
                if one.state is State.BUSY
                and one.load < self._depth
                and not one.retiring
                and not self.is_old(one, now_s)
            ]
            shared.sort(key=lambda one: one.load, reverse=True)
        while shared or self._idle or room > 0:
            if shared:
                one = shared.pop()
            elif self._idle:
                one = self._idle.pop()
                if self.is_old(one, now_s):
                    plan.closes.append((one, "old"))
                    room += 1
                    continue
            else:
                requests = self._take(1, now_s)
                if not requests:
                    break
                room -= 1
                plan.opens.extend(requests)
                continue
            requests = self._take(self._depth - one.load, now_s)
            if not requests:
                if one.state is State.READY:
                    self._idle.append(one)
                break
            plan.sends.append((one, requests))
        return plan

    def surplus(self, now_s: float) -> list[tuple[Connection, str]]:
        """What is idle for too long, too old, or over the grant; busy ones of these are marked to retire."""
        closes = []
        over = len(self.members) - self.slots
        # Idle ones go first, then those that were opened last; held ones last of all.
        for one in sorted(
            self.members, key=lambda one: (one.pin is not None, one.state is not State.READY, -one.born_s)
        ):
            idle_s = now_s - one.since_s if one.state is State.READY else 0.0
            if one.pin is not None:
                if over > 0:
                    over -= 1
                    one.retiring = True
                elif self.is_old(one, now_s):
                    one.retiring = True
                if idle_s > self.policy.pin_idle_s:
                    closes.append((one, f"held for {idle_s:.0f} s with nothing to do"))
                continue
            if over > 0:
                over -= 1
                reason = "over the grant"
            elif self.is_old(one, now_s):
                reason = "old"
            elif idle_s > self.policy.idle_s:
                reason = "idle"
            else:
                continue
            if one.state is State.READY:
                closes.append((one, reason))
            else:
                one.retiring = True
        return closes

    def late(self, now_s: float) -> list[Connection]:
        """Those whose oldest unanswered request has waited for longer than :attr:`Policy.read_s`."""
        read_s = self.policy.read_s
        if read_s is None:
            return []
        return [one for one in self.members if one.state is State.BUSY and now_s - one.since_s > read_s]

    def prune(self) -> None:
        """Let go of waiting requests that have ended."""
        self.waiting = deque(request for request in self.waiting if request.live)
        self.fresh = deque(request for request in self.fresh if request.live)

    def _take(self, most: int, now_s: float) -> list[Request]:
        """Take up to ``most`` waiting requests; one that opens a pin comes alone."""
        taken: list[Request] = []
        waiting = self.waiting
        while waiting and len(taken) < most:
            request = waiting[0]
            # One that ended meanwhile is nobody's; one that is late is reported by its lease's timer.
            if request.live and request.lease.deadline_s > now_s:
                if request.lease.pin is not None and taken:
                    break
                taken.append(request)
                if request.lease.pin is not None:
                    most = 0
            waiting.popleft()
        return taken
