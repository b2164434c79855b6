"""A log for lines that may repeat: after a few of a kind, one in ten seconds is written and the rest counted.

A peer that misuses a cluster, or is misled by one, can cause a line with every message. Lines with the same
format are of one kind, so pass what differs between them as arguments. Use a log for each object that such
lines are about (one stub, one peer), so that a flood about one does not hide lines about another.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

FEW_LINES = 5
"""Lines of a kind that are written before further ones are counted."""
SPAN_S = 10.0
"""Then one is written per span of this length. After a span with few lines, all are written again."""


class _Kind:
    """Lines of one kind.

    Attributes:
        since_s: start of the current span.
        left: lines that may still be written in it.
        unwritten: lines that were not written since the last one that was.
    """

    __slots__ = ("left", "since_s", "unwritten")

    def __init__(self, now_s: float) -> None:
        self.since_s = now_s
        self.left = FEW_LINES
        self.unwritten = 0


class CountedLog(logging.LoggerAdapter[logging.Logger]):
    """A logger, for any thread. It has no lock, since a fork could leave one locked in the child."""

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        """Make a log without any lines yet.

        Args:
            logger: writes the lines.
            clock: returns seconds.
        """
        super().__init__(logger, {})
        self._clock = clock
        self._kinds: dict[object, _Kind] = {}

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Write a line, or count it."""
        if not self.isEnabledFor(level):
            return
        now_s = self._clock()
        kind = self._kinds.get(msg)
        if kind is None:
            kind = self._kinds[msg] = _Kind(now_s)
        elif now_s >= kind.since_s + SPAN_S:
            kind.since_s = now_s
            kind.left = 1 if kind.unwritten else FEW_LINES
        if kind.left <= 0:
            kind.unwritten += 1
            return
        kind.left -= 1
        if kind.unwritten:
            msg = f"{msg} ({kind.unwritten} similar messages were not written)"
            kind.unwritten = 0
        elif kind.left == 0:
            msg = f"{msg} (similar messages are counted, and one is written every {SPAN_S:.0f} s)"
        # There is one more frame here between the caller and the logger.
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
        super().log(level, msg, *args, **kwargs)
