"""When which fault is done: seeded, so that a run can be had again. Knows no process and no clock.

The same seed gives the same faults at the same instants; which requests they hit is up to the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

FIRST_S = 3.0
"""The first fault is not before that: everybody has been served by then."""
ROUND_S, PLANNED_S, PAUSE_S = 60.0, 20.0, 5.0
"""Every round begins with planned faults alone, after a pause: what they cost is seen only there."""
COMBINED = 0.75
"""How many of the times it is several faults at once."""
MOST_AT_ONCE = 8
ALONE_S = 2.1
"""Before and after a single fault there is at least that much time, so that its recovery can be measured."""
SPREADS_S = (0.5, 2.5, 8.0)
"""A combination begins within one of these; one fault in three is at the same instant as the one before."""


@dataclass(frozen=True, slots=True)
class Sort:
    """What the schedule needs to know of a fault.

    Attributes:
        planned: an operator does so on an ordinary day.
        lasts_s: how long it takes at most.
        apart: it concerns one producer alone: nothing waits for its end.
    """

    planned: bool
    lasts_s: float
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Due:
    """A fault to do.

    Attributes:
        at_s: seconds since the load began.
        fault: its name.
    """

    at_s: float
    fault: str


def make(seed: int, seconds: float, faults: Mapping[str, Sort]) -> list[Due]:
    """Make a schedule, in the order of time.

    Args:
        seed: of all choices.
        seconds: how long the load lasts; every fault is over by then.
        faults: what may be done.
    """
    random, dues, at_s = Random(seed), [], FIRST_S
    following = _count(random)
    while at_s < seconds:
        planned_only = at_s % ROUND_S < PLANNED_S
        count, following = following, _count(random)
        over_s, spread_s = at_s, random.choice(SPREADS_S)
        last_s = min(at_s + spread_s, _round_end_s(at_s) - PAUSE_S)
        for _ in range(count):
            fitting = [
                name
                for name, sort in faults.items()
                if at_s + sort.lasts_s <= seconds and (sort.planned or not planned_only)
            ] or [name for name, sort in faults.items() if at_s + sort.lasts_s <= seconds]
            if not fitting:
                break
            name = random.choice(fitting)
            dues.append(Due(at_s, name))
            if not faults[name].apart:
                over_s = max(over_s, at_s + faults[name].lasts_s)
            if random.random() >= 1 / 3:
                at_s = min(at_s + random.uniform(0, spread_s), last_s)
        else:
            alone = 1 in (count, following)
            at_s = _next_s(random, at_s, over_s, planned_only, alone)
            continue
        break
    return dues


def _count(random: Random) -> int:
    return random.randint(2, MOST_AT_ONCE) if random.random() < COMBINED else 1


def _next_s(random: Random, at_s: float, over_s: float, planned_only: bool, alone: bool) -> float:
    if alone:
        next_s = max(over_s, at_s) + random.uniform(ALONE_S, 2 * ALONE_S)
    else:
        next_s = (max(over_s, at_s) if random.random() < 0.5 else at_s) + random.uniform(0.5, 3.0)
    round_end_s = _round_end_s(at_s)
    if not planned_only and next_s > round_end_s - PAUSE_S:
        return max(next_s, over_s + PAUSE_S, round_end_s)
    return next_s


def _round_end_s(at_s: float) -> float:
    return (at_s // ROUND_S + 1) * ROUND_S
