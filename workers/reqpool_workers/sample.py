"""The process's figures for its heartbeats, docs/protocol.md#the-workers-sample."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil

from .event_loop import EventLoop

SAMPLE_S = 1.0
"""How long figures are used again: psutil reads /proc for each."""


class Sampler:
    """Takes samples, and keeps the last one.

    Args:
        loop: that of this thread.
    """

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self._process = psutil.Process()
        self._due_s = 0.0
        self._figures: dict[str, Any] = {}
        self._read("cpu_percent", self._process.cpu_percent)  # the first call only starts the measurement

    def take(self, now_s: float) -> dict[str, Any]:
        """Return the sample to send now, at most :data:`SAMPLE_S` old."""
        if now_s >= self._due_s:
            self._due_s = now_s + SAMPLE_S
            times = self._loop.times()
            self._figures = {"loop_lag_ms": times.longest_turn_s * 1000, "busy": times.busy}
            process = self._process
            with process.oneshot():
                self._read("cpu_percent", process.cpu_percent)
                self._read("rss_bytes", lambda: process.memory_info().rss)
                self._read("fds", process.num_fds)
                self._read("threads", process.num_threads)
        return self._figures

    def _read(self, name: str, read: Callable[[], float]) -> None:
        """Note a figure, or omit it if it cannot be read, for lack of a file descriptor for /proc, say."""
        with suppress(psutil.Error, OSError):
            self._figures[name] = read()
