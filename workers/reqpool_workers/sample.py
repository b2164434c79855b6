"""The process's figures for its heartbeats. docs/protocol.md#the-workers-sample"""

from __future__ import annotations

from typing import Any

import psutil

from .loop import Loop

SAMPLE_S = 1.0
"""psutil reads /proc: once per second is enough."""


class Sampler:
    """Takes and keeps the last sample."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._process = psutil.Process()
        self._process.cpu_percent()  # the first call only sets the mark
        self._due_s = 0.0
        self._figures: dict[str, Any] = {}

    def take(self, now_s: float) -> dict[str, Any]:
        """Return the sample to send now, at most :data:`SAMPLE_S` old."""
        if now_s >= self._due_s:
            self._due_s = now_s + SAMPLE_S
            times = self._loop.times()
            with self._process.oneshot():
                self._figures = {
                    "cpu_percent": self._process.cpu_percent(),
                    "rss_bytes": self._process.memory_info().rss,
                    "fds": self._process.num_fds(),
                    "threads": self._process.num_threads(),
                    "loop_lag_ms": times.longest_turn_s * 1000,
                    "busy": times.busy,
                }
        return self._figures
