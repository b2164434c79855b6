"""A log whose lines may repeat: after a few of a kind they are counted, and one in ten seconds is written.

Whoever misuses a cluster, or is misled by one, can cause a line with every message. Lines are of a kind if
they have the same format, so what differs between them must be passed as arguments. Count for each object to
whom such lines belong (one stub, one peer), so that one's flood hides nothing of another's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

FEW_LINES = 5
"""Lines of a kind that are written before the rest are counted."""
SPAN_S = 10.0
"""Then one is written in this span. A span without one too many starts anew."""


class _Kind:
    """Lines of one kind.

    Attributes:
        since_s: when the current span began.
        left: how many may still be written in it.
        unwritten: how many were not since the last that was.
    """

    __slots__ = ("left", "since_s", "unwritten")

    def __init__(self, now_s: float) -> None:
        self.since_s = now_s
        self.left = FEW_LINES
        self.unwritten = 0


class CountedLog(logging.LoggerAdapter[logging.Logger]):
    """A logger to its users. From any thread: without a lock, as a fork could leave that one taken."""

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with nothing written.

        Args:
            logger: writes the lines.
            clock: in seconds.
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
        # One frame more than a logger has between its caller and the line.
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
        super().log(level, msg, *args, **kwargs)
