"""Requests that have not ended, and when to look for those whose time is up. Sans-IO.

There is no timer per request. A sweep looks at all of them when the earliest may be due; requests that were
answered between two sweeps cost nothing.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from reqpool_contract.grace import CLUSTER_GRACE_S

from .entry import RequestEntry

SWEEP_INTERVAL_S = 0.05
"""Shortest interval of sweeps: limits their cost while many requests time out."""


class Pending:
    """The table, and when it is next due.

    Attributes:
        futures: maps sequence numbers to requests. ``futures.pop(seq, None)`` claims the right to end a
            request: one dict operation, from any thread.
        due_s: when to sweep next, or infinity.
    """

    __slots__ = ("_swept_s", "due_s", "futures")

    def __init__(self) -> None:
        self.futures: dict[int, RequestEntry] = {}
        self.due_s = math.inf
        self._swept_s = -math.inf

    def expect(self, due_s: float) -> None:
        """Sweep at ``due_s`` at the latest. Only the I/O thread may call it."""
        if due_s < self.due_s:
            self.due_s = max(due_s, self._swept_s + SWEEP_INTERVAL_S)

    def sweep(self, now_s: float) -> list[RequestEntry]:
        """Take out what is due, and set when to sweep next. Only the I/O thread may call it.

        Returns:
            The requests taken out, which the caller ends.
        """
        taken = []
        earliest_s = math.inf
        for future in list(self.futures.values()):
            due_s = future.deadline_s + CLUSTER_GRACE_S
            if due_s > now_s:
                earliest_s = min(earliest_s, due_s)
            elif self.futures.pop(future.seq, None) is not None:
                taken.append(future)
        self._swept_s = now_s
        self.due_s = max(earliest_s, now_s + SWEEP_INTERVAL_S)
        return taken

    def take_all(self) -> list[RequestEntry]:
        """Take everything out. From any thread."""
        pop = self.futures.pop
        return [future for seq in list(self.futures) if (future := pop(seq, None)) is not None]

    def take_submitted(self, connection: int) -> list[RequestEntry]:
        """Take out what was last sent on this connection. Only the I/O thread may call it."""
        sent = [future for future in list(self.futures.values()) if future.connection == connection]
        return [future for future in sent if self.futures.pop(future.seq, None) is not None]


def within(seqs: Iterable[int], ranges: Iterable[tuple[int, int]]) -> set[int]:
    """Return the sequence numbers in one of the ranges, ends included; both may be in any order."""
    ordered = sorted(seqs)
    found: set[int] = set()
    for first, last in ranges:
        found.update(ordered[bisect_left(ordered, first) : bisect_right(ordered, last)])
    return found
