"""What a new life of the broker must hear before it runs again what an earlier one may have run.

No I/O, no clock. Every worker of the earlier life either reports what it holds (HELLO) or is said to have
died without a report. Who they were is known from the supervisor, or else from what the clients were told.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

MAX_REMEMBERED = 10_000
"""Workers remembered as having reported, or as having died: far more than a session's life can see."""


class Heirs(NamedTuple):
    """Whom a session has to wait for.

    Attributes:
        awaited: workers that have neither reported nor died.
        known: is that all of them?
        accounted: none of them died without a report.
    """

    awaited: set[bytes]
    known: bool
    accounted: bool


class Succession:
    """The workers of the broker's earlier life.

    Args:
        predecessors: all of them, from a supervisor who knows; None: nobody knows for certain.

    Attributes:
        unheard: those of them that have neither reported nor died.
    """

    def __init__(self, predecessors: frozenset[bytes] | None) -> None:
        self._predecessors = predecessors
        self.unheard = set(predecessors or ())
        self._reported: OrderedDict[bytes, None] = OrderedDict()
        self._died_unheard: OrderedDict[bytes, None] = OrderedDict()

    def report(self, worker: bytes) -> bool:
        """A worker has said what it holds; returns True if it is the first time."""
        first = worker not in self._reported
        self.unheard.discard(worker)
        _remember(self._reported, worker)
        return first

    def die(self, worker: bytes) -> bool:
        """A worker has died; returns True if it never reported here."""
        self.unheard.discard(worker)
        if worker in self._reported:
            return False
        _remember(self._died_unheard, worker)
        return True

    def heirs(self, named: set[bytes]) -> Heirs:
        """Whom to wait for on behalf of a session that was told of ``named`` by the earlier life."""
        earlier = named if self._predecessors is None else self._predecessors
        awaited = {
            worker for worker in earlier if worker not in self._reported and worker not in self._died_unheard
        }
        known = self._predecessors is not None or bool(named)
        return Heirs(awaited, known, not any(worker in self._died_unheard for worker in earlier))


def _remember(table: OrderedDict[bytes, None], worker: bytes) -> None:
    table[worker] = None
    if len(table) > MAX_REMEMBERED:
        table.popitem(last=False)
