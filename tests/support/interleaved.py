"""Two threads that look at one object at the same time, in every order that lines can have."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import count
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")


def interleaved(
    make: Callable[[], T], first: Callable[[T], object], second: Callable[[T], object]
) -> Iterator[tuple[object, object]]:
    """Let a second look come in before each line of a first one, in turn.

    Args:
        make: makes the object to look at, anew for each line.
        first, second: look at it.

    Yields:
        What both returned, once for each line.
    """
    for line in count(1):
        found = _before_line(line, make(), first, second)
        if len(found) == 1:
            return
        yield found[-1], found[0]


def _before_line(
    line: int, subject: T, first: Callable[[T], object], second: Callable[[T], object]
) -> list[object]:
    found: list[object] = []
    lines = 0

    def trace(_frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        if event == "line":
            lines += 1
            if lines == line:
                found.append(second(subject))  # it is not traced: it runs to its end
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        value = first(subject)
    finally:
        sys.settrace(before)
    return [*found, value]
