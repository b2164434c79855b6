"""When leases are looked at: to send again, to end a wait, to expire. Sans-IO."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from reqpool_contract.errors import Code

from .lease import Dropped, Request, WorkerLease
from .lease_outcomes import LeaseOutcomes

if TYPE_CHECKING:
    from .event_loop import Timer

LEASE_LOOK_S = 1.0
"""Longest time until it is noticed that all of a lease has ended."""


class LeaseTimers:
    """One timer for all leases: most of them end before theirs would be due.

    Args:
        outcomes: where late requests end.
        at: has a timer called at an instant.
    """

    def __init__(self, outcomes: LeaseOutcomes, at: Callable[[float, Timer], None]) -> None:
        self._outcomes = outcomes
        self._at = at
        self._watched: list[WorkerLease] = []
        self._due_s = math.inf

    def watch(self, lease: WorkerLease, now_s: float) -> None:
        """Look at a new lease in time."""
        self._watched.append(lease)
        due_s = min(lease.resend_s, lease.wait_s, now_s + LEASE_LOOK_S)
        if due_s < self._due_s:
            self._set(due_s)

    def _set(self, due_s: float) -> None:
        self._due_s = due_s
        self._at(due_s, partial(self._look, due_s))

    def _look(self, due_s: float, now_s: float) -> None:
        """Send again, or end what is late. The only place where leases expire."""
        if due_s != self._due_s:
            return  # an earlier one has been set since, and set the next
        watched, self._watched = self._watched, []
        next_s = now_s + LEASE_LOOK_S
        for lease in watched:
            if now_s >= lease.deadline_s:
                self._expire(lease)
            elif lease.live and lease.upstream is not None:
                if now_s >= lease.wait_s:
                    self._end_waiting(lease)
                again_s = lease.upstream.resend(lease, now_s)
                next_s = min(next_s, lease.deadline_s, lease.deadline_s if again_s is None else again_s)
                if now_s < lease.wait_s:
                    next_s = min(next_s, lease.wait_s)
                self._watched.append(lease)
        self._due_s = math.inf
        if self._watched:
            self._set(next_s)

    def _end_waiting(self, lease: WorkerLease) -> None:
        """End the requests that have waited for a connection for as long as they may."""
        waiting = [request for request in lease.unended() if request.place is None]
        if not waiting or lease.upstream is None:
            return
        awaited = lease.upstream.drop(waiting[0], "queue timeout").awaited
        text = "no connection within the queue timeout of this upstream" + (awaited and f": {awaited}")
        self._outcomes.fail(waiting, Code.TIMEOUT, text, phase="queue", sent=False)

    def _expire(self, lease: WorkerLease) -> None:
        if lease.upstream is None:
            return
        late: dict[Dropped, list[Request]] = {}
        for request in lease.unended():
            # A drop may close a connection, and with it end requests of the same lease.
            if request.live:
                late.setdefault(lease.upstream.drop(request, "timeout"), []).append(request)
        for dropped, requests in late.items():
            unended = [request for request in requests if request.live]
            self._outcomes.fail(
                unended, Code.TIMEOUT, lease.spent(dropped), phase=dropped.phase, sent=dropped.sent
            )
