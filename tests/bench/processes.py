"""What processes cost, by role: CPU seconds and memory, read from /proc."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

Roles = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Sample:
    """CPU seconds spent so far by role (user + system, all threads), and the machine's idle share of time."""

    at_s: float
    cpu_s: dict[str, float]
    machine_busy_s: float
    machine_total_s: float


def sample(roles: Roles) -> Sample:
    """Read the CPU clocks of all processes of ``roles``.

    Raises:
        psutil.NoSuchProcess: if one has ended: what it spent is lost, so nothing can be said of the rest.
    """
    cpu_s = {role: sum(map(_cpu_s, pids)) for role, pids in roles.items()}
    times = psutil.cpu_times()
    # guest is contained in user (proc(5)); steal is another machine's, so neither busy nor ours.
    busy_s = times.user + times.nice + times.system + times.irq + times.softirq
    total_s = busy_s + times.idle + times.iowait + times.steal
    return Sample(time.monotonic(), cpu_s, busy_s, total_s)


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def cpu_between(before: Sample, after: Sample) -> dict[str, float]:
    """Return CPU seconds by role between two samples."""
    return {role: after.cpu_s[role] - before.cpu_s[role] for role in after.cpu_s}


def idle_between(before: Sample, after: Sample) -> float:
    """Return the part of the machine's time, 0 to 1, that nobody used between two samples."""
    total_s = after.machine_total_s - before.machine_total_s
    busy_s = after.machine_busy_s - before.machine_busy_s
    return max(0.0, 1 - busy_s / total_s) if total_s > 0 else 0.0


def pss_bytes(roles: Roles) -> dict[str, int]:
    """Return the proportional set size by role: shared pages are counted once over all processes."""
    return {role: sum(_rollup(pid, "Pss:") for pid in pids) for role, pids in roles.items()}


def rss_bytes(roles: Roles) -> dict[str, int]:
    """Return the resident set size by role."""
    return {role: sum(_rollup(pid, "Rss:") for pid in pids) for role, pids in roles.items()}


def _rollup(pid: int, field: str) -> int:
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as lines:
        for line in lines:
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    raise OSError(f"no {field} in smaps_rollup of {pid}")


def descendants(pid: int) -> list[psutil.Process]:
    """Return all processes below ``pid``."""
    return psutil.Process(pid).children(recursive=True)
