"""How long service was away after a fault.

Only faults that happened alone are measured: nothing else was going on within :data:`QUIET_S` before and
after. A *lane* is a pool of a producer and a kind.

* After a fault that was not planned: from its start to the first good answer of the slowest lane, to a
  request that was asked after the start.
* After a planned one, which may go on serving for a while before it stops: the longest span without a good
  answer in any lane, from its start until :data:`QUIET_S` after its end.

A lane asks several times a second, so either has that much grain.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .journal import GOOD
from .judge import Happened, Producer
from .work import KIND_OF, TRANSACTION

QUIET_S = 2.0
BEFORE_S = 3.0
"""A lane that had no good answer for so long before a fault is not waited for."""

TARGETS_S: Mapping[str, float] = {
    "worker-kill": 1.0, "broker-kill": 1.5, "both-kill": 2.0, "worker-drain": 1.0, "broker-term": 1.0,
    "restart": 1.0, "rolling": 1.0, "scale-up": 1.0, "scale-down": 1.0, "reload": 1.0,
}  # fmt: skip
"""What the median of a fault's recovery is to stay under."""

Lane = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class Answers:
    """The good answers of one lane, by their end.

    Attributes:
        ends_s: when they came, ascending.
        asked_s: when each was asked.
    """

    ends_s: list[float]
    asked_s: list[float]

    def first_after(self, instant_s: float) -> float:
        """Return when the first answer came to a request asked after an instant; infinity if none did."""
        for at in range(bisect.bisect_left(self.ends_s, instant_s), len(self.ends_s)):
            if self.asked_s[at] >= instant_s:
                return self.ends_s[at]
        return math.inf

    def served(self, start_s: float, end_s: float) -> bool:
        """Was there an answer within a span?"""
        at = bisect.bisect_left(self.ends_s, start_s)
        return at < len(self.ends_s) and self.ends_s[at] <= end_s

    def longest_gap_s(self, start_s: float, end_s: float) -> float:
        """Return the longest span without an answer between two instants."""
        first, last = bisect.bisect_left(self.ends_s, start_s), bisect.bisect_right(self.ends_s, end_s)
        marks = [start_s, *self.ends_s[first:last], end_s]
        return max(later - earlier for earlier, later in itertools.pairwise(marks))


def lanes(producer: Producer) -> dict[Lane, Answers]:
    """Collect a producer's good answers by pool and kind."""
    found: dict[Lane, list[tuple[float, float]]] = defaultdict(list)
    for request in producer.requests:
        if request.stream != TRANSACTION and request.ends and request.ends[0].outcome == GOOD:
            lane = producer.name, request.pool, KIND_OF[request.stream]
            found[lane].append((request.ends[0].at_s, request.at_s))
    return {
        lane: Answers([end for end, _ in sorted(pairs)], [asked for _, asked in sorted(pairs)])
        for lane, pairs in found.items()
    }


def recoveries(
    faults: Sequence[Happened], answers: Mapping[Lane, Answers], until_s: float
) -> dict[str, list[float]]:
    """Measure every fault that happened alone.

    Args:
        faults: what was done.
        answers: of all producers.
        until_s: when producers were told to stop.

    Returns:
        Seconds by fault. A lane that had not recovered when the next fault came counts with the span until
        then.
    """
    measured: dict[str, list[float]] = defaultdict(list)
    shared = [fault for fault in faults if fault.producer is None]
    own = [fault for fault in faults if fault.producer is not None]
    for fault in shared:
        others = [other for other in shared if other is not fault]
        next_s = min((o.start_s for o in others if o.start_s >= fault.start_s), default=until_s)
        before = any(o.start_s < fault.start_s < o.back_s + QUIET_S for o in others)
        if before or next_s < fault.end_s + QUIET_S:
            continue
        away = {o.producer for o in own if o.start_s < next_s and o.end_s > fault.start_s - BEFORE_S}
        waiting = [
            lane_answers
            for (producer, _, _), lane_answers in answers.items()
            if producer not in away and lane_answers.served(fault.start_s - BEFORE_S, fault.start_s)
        ]
        if waiting:
            measured[fault.fault].append(_recovery_s(fault, waiting, next_s))
    return dict(measured)


def _recovery_s(fault: Happened, waiting: Iterable[Answers], next_s: float) -> float:
    if fault.planned:
        return max(lane.longest_gap_s(fault.start_s, fault.end_s + QUIET_S) for lane in waiting)
    # A lane that never came back counts until the next fault.
    return max(min(lane.first_after(fault.start_s), next_s) for lane in waiting) - fault.start_s


def quantile(values: Sequence[float], part: float) -> float:
    """Return the value that `part` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]
