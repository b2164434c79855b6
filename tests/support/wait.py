"""Waiting for what must happen, with a bound."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_INTERVAL_S = 0.005


def wait_until(condition: Callable[[], T], timeout_s: float = 10.0, what: str = "") -> T:
    """Call ``condition`` until it gives something true; return that.

    Args:
        condition: cheap, no side effects.
        timeout_s: how long at most.
        what: what is waited for, for the failure's text.

    Raises:
        AssertionError: if the time is up.
    """
    deadline_s = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() >= deadline_s:
            raise AssertionError(f"not within {timeout_s} s: {what or condition}")
        time.sleep(POLL_INTERVAL_S)
    return value
