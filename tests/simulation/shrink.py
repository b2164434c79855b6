"""Makes a failing plan short: takes out of it what it fails without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from .plan import Plan
from .world import Outcome, play

T = TypeVar("T")

MOST_RUNS = 400


class Shrinker:
    """Shrinks one plan.

    Args:
        plan: one that fails.

    Attributes:
        plan: the shortest so far that fails in the same way.
        runs: how many were tried.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.runs = 0
        self._wrong = play(plan).wrong

    def shrink(self) -> Plan:
        """Shrink as far as it goes, or as :data:`MOST_RUNS` runs take it."""
        before = None
        while before != self.plan and self.runs < MOST_RUNS:
            before = self.plan
            self._take_out(lambda plan, strikes: plan._replace(strikes=tuple(strikes)), self.plan.strikes)
            self._take_out(lambda plan, asks: plan._replace(asks=tuple(asks)), self.plan.asks)
            self._take_out(lambda plan, limits: plan._replace(limits=tuple(limits)), self.plan.limits)
            for simpler in self._simpler():
                self._try(simpler)
        return self.plan

    def _try(self, plan: Plan) -> bool:
        if plan == self.plan or self.runs >= MOST_RUNS:
            return False
        self.runs += 1
        if play(plan).wrong is not self._wrong:
            return False
        self.plan = plan
        return True

    def _take_out(self, put: Callable[[Plan, Sequence[T]], Plan], items: Sequence[T]) -> None:
        """Take out as many items as possible: halves first, then quarters, and so on (Zeller's ddmin)."""
        size = max(1, len(items) // 2)
        while items:
            begin = 0
            while begin < len(items):
                fewer = [*items[:begin], *items[begin + size :]]
                if self._try(put(self.plan, fewer)):
                    items = fewer
                else:
                    begin += size
            if size == 1:
                return
            size //= 2

    def _simpler(self) -> list[Plan]:
        plan = self.plan
        return [
            plan._replace(slow=0.0),
            plan._replace(workers=1),
            plan._replace(workers=2),
            plan._replace(clients=1, asks=tuple(ask._replace(client=0) for ask in plan.asks)),
            plan._replace(asks=tuple(ask._replace(cancel_s=None) for ask in plan.asks)),
            plan._replace(asks=tuple(ask._replace(steps=None) for ask in plan.asks)),
            plan._replace(
                span_s=max(
                    [
                        0.1,
                        *(strike.at_s + 0.1 for strike in plan.strikes),
                        *(ask.at_s + 0.1 for ask in plan.asks),
                    ]
                )
            ),
        ]


def retrace(plan: Plan) -> tuple[list[str], Outcome]:
    """Run a plan once more and return its trace."""
    lines: list[str] = []
    outcome = play(plan, lines.append)
    return lines, outcome
