"""How much work a function takes, measured so that a test can tell linear from quadratic."""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeAlias

import pytest

Job: TypeAlias = Callable[[], object]


def lines_run(job: Job) -> int:
    """Count the lines of Python that a job runs, in this thread. Unlike its time, this is exact."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        job()
    finally:
        sys.settrace(before)
    return count


def cpu_s(job: Job) -> float:
    """Return the CPU seconds of this thread that a job takes."""
    gc.disable()  # its passes over all of a test run's objects are not the job's work
    try:
        began_s = time.thread_time()
        job()
        return time.thread_time() - began_s
    finally:
        gc.enable()


def assert_lines_grow_linearly(job: Callable[[int], Job], size: int) -> None:
    """Assert that a job of twice the size runs about twice the lines; it would be four times if quadratic.

    Args:
        job: makes the job of a size, which may run once.
        size: the smaller of the two.
    """
    small, large = lines_run(job(size)), lines_run(job(2 * size))
    assert large < 2.4 * small, f"{small} lines for {size}, {large} for twice as much"


def assert_time_grows_linearly(job: Callable[[int], Job], size: int) -> None:
    """Assert that a job of four times the size takes about four times as long, sixteen if quadratic.

    For work that a single call into C does: a search, a copy. A busy machine only ever adds to a time, so the
    least of several counts, and of many if these do not yet show what is claimed.

    Args:
        job: makes the job of a size, which runs several times.
        size: the smaller of the two, so large that what grows with its square outweighs the rest.
    """
    small, large = job(size), job(4 * size)
    small_s = large_s = math.inf
    for times in range(1, 11):
        small_s, large_s = min(small_s, cpu_s(small)), min(large_s, cpu_s(large))
        if times >= 3 and large_s < 6 * small_s:
            return
    pytest.fail(f"{small_s:.4f} s for {size}, {large_s:.4f} s for four times as much")
