"""How long to wait before the next try after failures in a row. No clock, no random numbers."""

from __future__ import annotations

MOST_DOUBLINGS = 64
"""More than any caller needs. Without a bound a float overflows after 1,000 failures: some hours."""


def backoff_s(failures: int, first_s: float, longest_s: float, random_unit: float = 1.0) -> float:
    """Return the seconds to wait: doubled with each failure, up to a longest span.

    Args:
        failures: how many there were before this one.
        first_s: the span after the first failure.
        longest_s: the longest span.
        random_unit: a random number from 0 to 1, where many could otherwise return in step: it shortens the
            span by up to a half. 1 leaves the whole span.
    """
    span_s = first_s * 2.0 ** min(failures, MOST_DOUBLINGS)
    return min(span_s, longest_s) * (0.5 + random_unit / 2)
