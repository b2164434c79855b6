"""Whether the pool is well, judged from reports and psutil samples; uses no socket and no clock.

:func:`judge` reads one STATUS report; :class:`Watch` reads them as they come, and finds workers that hang.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import psutil

from reqpool_contract import wire

from .report_values import maps, members, number, text

HUNG_AFTER_S = 3 * wire.LIVENESS_MS / 1000
"""A worker whose process is alive but that has been silent for this long is killed and replaced."""
BLOCKING_AFTER_S = wire.LIVENESS_MS / 1000
"""The same, if requests wait for its connections: these count until it is certainly dead."""
UNEASY_AFTER_S = 2 * wire.HEARTBEAT_MS / 1000
"""If a worker misses more than one heartbeat, reports are fetched more often."""
REPORT_GAP_S = 2.0
"""Reports further apart than this show nothing about the time between them."""
LAG_LIMIT_MS = 1_000
"""A loop whose turn takes longer than this is not well; it is nearly half the liveness span."""


class Watch:
    """Finds workers that have fallen silent, from the broker's reports.

    Silence is counted on the supervisor's clock, and only over time that reports cover, so that no worker
    looks hung while a broker is being replaced, or after the supervisor itself was stopped.

    Attributes:
        is_uneasy: whether a worker has been silent for longer than the interval of its heartbeats, and not
            for so long that it is killed.
    """

    def __init__(self) -> None:
        self.is_uneasy = False
        self._heard_s: dict[bytes, float] = {}
        self._epoch: object = None
        self._last_report_s = float("-inf")

    def started(self, worker: bytes, now_s: float) -> None:
        """Note that a worker process with this id has been started."""
        self._heard_s[worker] = now_s

    def ended(self, worker: bytes) -> None:
        """Note that the process with this id has ended."""
        self._heard_s.pop(worker, None)

    def hung(self, report: Mapping[str, Any], now_s: float) -> dict[bytes, str]:
        """Read a report and return which workers hang.

        Args:
            report: the broker's STATUS report.
            now_s: monotonic seconds.

        Returns:
            Worker ids, and why each must be killed: silent for longer than ``HUNG_AFTER_S``, or than
            ``BLOCKING_AFTER_S`` while requests wait for its connections.
        """
        if report.get("epoch") != self._epoch or now_s - self._last_report_s > REPORT_GAP_S:
            self._heard_s = dict.fromkeys(self._heard_s, now_s)
        self._epoch, self._last_report_s = report.get("epoch"), now_s
        told = [*maps(report.get("workers")), *maps(report.get("awaited"))]
        reported = {worker["id"]: worker for worker in told if isinstance(worker.get("id"), str)}
        reasons = {}
        self.is_uneasy = False
        for identity, heard_s in self._heard_s.items():
            about = reported.get(identity.hex(), {})
            silent_s = number(about.get("since_heartbeat_s"))
            if silent_s is not None:
                heard_s = self._heard_s[identity] = max(heard_s, now_s - silent_s)
            if now_s - heard_s > HUNG_AFTER_S:
                reasons[identity] = f"has been silent for {HUNG_AFTER_S:.1f} s"
            elif about.get("blocking") is True and now_s - heard_s > BLOCKING_AFTER_S:
                reasons[identity] = (
                    f"has been silent for {now_s - heard_s:.1f} s and holds connections that "
                    "other workers wait for"
                )
            elif about and now_s - heard_s > UNEASY_AFTER_S:
                self.is_uneasy = True
        return reasons


def judge(report: Mapping[str, Any], expected_workers: int | None) -> list[str]:
    """Return what is not well with a pool.

    Args:
        report: the broker's STATUS report.
        expected_workers: how many workers the supervisor runs; None if that is not known.

    Returns:
        One sentence for each ailment; empty if the pool is well.
    """
    ailments = []
    workers = maps(report.get("workers"))
    live = sum(worker.get("state") == "live" for worker in workers)
    if expected_workers is not None and live < expected_workers:
        ailments.append(f"{live} of {expected_workers} workers are live")
    elif not live:
        ailments.append("no worker is live")
    for worker in workers:
        name, state = text(worker.get("name")), text(worker.get("state"))
        silent_s = number(worker.get("since_heartbeat_s")) or 0.0
        if silent_s * 1000 > wire.LIVENESS_MS:
            ailments.append(f"{name} has been silent for {silent_s:.1f} s")
        elif state == "stranger":
            ailments.append(f"{name} was not started by this cluster's supervisor: it gets no requests")
        elif state not in ("live", "draining"):
            ailments.append(f"{name} is {state}")
        ailments += lag(name, members(worker.get("sample")))
    return ailments + lag("broker", members(report.get("broker")))


def lag(name: str, sample: Mapping[str, Any]) -> list[str]:
    """Return an ailment if a process's loop took too long for one turn."""
    lag_ms = number(sample.get("loop_lag_ms")) or 0.0
    return [f"{name}'s loop lags by {lag_ms:.0f} ms"] if lag_ms > LAG_LIMIT_MS else []


def sample(pid: int) -> dict[str, Any] | None:
    """Return the psutil sample of a process as heartbeats carry it, without the figures of its loop.

    Args:
        pid: a process of the same user; it is watched for 50 ms to measure its CPU use.

    Returns:
        ``cpu_percent``, ``rss_bytes``, ``fds``, ``threads``; None if there is no such process.
    """
    try:
        process = psutil.Process(pid)
        return {
            "cpu_percent": process.cpu_percent(interval=0.05),
            "rss_bytes": process.memory_info().rss,
            "fds": process.num_fds(),
            "threads": process.num_threads(),
        }
    except (psutil.Error, OSError):  # OSError: no file descriptor is left to read /proc with
        return None


def cpu_s(pids: Iterable[int]) -> float:
    """Return the CPU seconds, user and system, that these processes have used; ended ones count 0."""
    total_s = 0.0
    for pid in pids:
        try:
            times = psutil.Process(pid).cpu_times()
        except (psutil.Error, OSError):
            continue
        total_s += times.user + times.system
    return total_s
