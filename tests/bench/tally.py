"""The child's side of a measurement: what to ask, until when, and what came of it.

Every contestant is a process of its own that speaks the same three lines with :mod:`bench.run`, so that
all are timed and counted by the same code:

    child  -> {"ready": true}
    parent -> go START END        (seconds on CLOCK_MONOTONIC, which all processes of a host share)
    child  -> {"done": …, …}      (the result, after everything submitted has ended)
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any


def ready() -> tuple[float, float]:
    """Say that the load can start; return the instants between which completions count."""
    print(json.dumps({"ready": True}), flush=True)
    word, start_s, end_s = sys.stdin.readline().split()
    if word != "go":
        raise ValueError(f"expected go, got {word!r}")
    return float(start_s), float(end_s)


def percentile(sorted_values: list[float], fraction: float) -> float:
    """Return the value below which ``fraction`` of the (sorted, not empty) values lie."""
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * fraction))]


class Tally:
    """Hands out targets in turn while the window is open and counts outcomes.

    The load runs from the moment of ``go``; only what completes between START and END is counted in
    ``in_window``, so that warming up and running out are not measured.

    Args:
        targets: what to ask for, made beforehand: building strings is not what is measured.
        share: which part of the targets to begin with, 0 to 1, so that many producers do not ask in
            lockstep.
        count: end after so many requests, whatever the clock says; None: by the clock alone.

    Attributes:
        targets: all of them, in the order in which they are handed out.
    """

    def __init__(self, targets: Sequence[Any], share: float = 0.0, count: int | None = None) -> None:
        first = int(len(targets) * share)
        self.targets = [*targets[first:], *targets[:first]]
        self._targets_count = len(targets)
        self._count = sys.maxsize if count is None else count
        self._start_s = self.end_s = 0.0
        self._done_at_start = self._done_at_end = 0
        self._started_s = self._ended_s = 0.0
        self.submitted = 0
        self.done = 0
        self.errors: Counter[str] = Counter()
        self.latencies_s: list[float] = []

    def open(self, window: tuple[float, float]) -> None:
        """Set the window, as :func:`ready` returned it."""
        self._start_s, self.end_s = window

    def next(self) -> Any:
        """Return the next target to ask for, or None when it is time to stop."""
        now_s = time.monotonic()
        if not self._started_s and now_s >= self._start_s:
            self._started_s, self._done_at_start = now_s, self.done
        if now_s >= self.end_s or self.submitted >= self._count:
            if not self._ended_s:
                self._ended_s, self._done_at_end = now_s, self.done
            return None
        target = self.targets[self.submitted % self._targets_count]
        self.submitted += 1
        return target

    def failed(self, error: BaseException) -> None:
        """Count a request that ended with an error."""
        self.errors[f"{type(error).__name__}: {error}"[:200]] += 1

    def report(self, **more: Any) -> None:
        """Print the result line. Call it when nothing is under way any more."""
        failed = sum(self.errors.values())
        result: dict[str, Any] = {
            "in_window": self._done_at_end - self._done_at_start,
            # A load that stood still has not looked at the clock: it got nothing done in all of the window.
            "window_s": self._ended_s - self._started_s or self.end_s - self._start_s,
            "submitted": self.submitted,
            "done": self.done,
            "failed": failed,
            "lost": self.submitted - self.done,
            "errors": dict(self.errors.most_common(3)),
            **more,
        }
        if self.latencies_s:
            ordered = sorted(self.latencies_s)
            result["p50_us"] = percentile(ordered, 0.5) * 1e6
            result["p99_us"] = percentile(ordered, 0.99) * 1e6
        print(json.dumps(result), flush=True)
