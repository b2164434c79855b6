"""Virtual time, and the order in which things happen."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

Happening = Callable[[Any], None]


class Scheduler:
    """A heap of what is to happen.

    Args:
        seed: of everything that is drawn in a run.

    Attributes:
        now_s: virtual seconds.
        steps: how much has happened: messages that arrived, turns that processes took, faults.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now_s = 1000.0
        self.steps = 0
        self._heap: list[tuple[float, int, Happening, Any]] = []
        self._count = 0

    def random(self, name: str) -> random.Random:
        """Return a source of chance of its own: what is drawn here changes nothing elsewhere.

        So a plan from which something was dropped goes on much as before, and can be shrunk further.
        """
        return random.Random(f"{self.seed}/{name}")

    def at(self, when_s: float, happening: Happening, about: Any = None) -> None:
        """Have something happen at an instant; what was asked for first comes first among equals."""
        self._count += 1
        heapq.heappush(self._heap, (when_s, self._count, happening, about))

    def run(self, until_s: float, most_steps: int) -> None:
        """Let things happen until an instant, or until there were so many steps in all."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= until_s and self.steps < most_steps:
            self.now_s, _, happening, about = pop(heap)
            happening(about)
        if self.steps < most_steps:
            self.now_s = max(self.now_s, until_s)
