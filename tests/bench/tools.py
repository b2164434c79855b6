"""The C tools that show the limit of server and kernel: dnsperf, wrk, redis-benchmark."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence

from . import processes
from .asked import COUNT, ZONE
from .run import Figures

_UNITS_US = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 6e7}


class UnknownOutput(RuntimeError):
    """A tool has not said what it was run for."""


class Said:
    """What a tool has said of its run.

    Attributes:
        rate_per_s: as the tool has it.
        completed, lost: requests.
        p50_us, p99_us: None if it does not say.
    """

    def __init__(
        self,
        rate_per_s: float,
        completed: float,
        lost: float = 0,
        p50_us: float | None = None,
        p99_us: float | None = None,
    ) -> None:
        self.rate_per_s, self.completed, self.lost = rate_per_s, int(completed), int(lost)
        self.p50_us, self.p99_us = p50_us, p99_us


def dnsperf(server: str, window: int, server_pids: list[int], measure_s: float) -> Figures:
    """Measure dnsperf: one client, one thread."""
    host, port = server.rsplit(":", 1)
    with tempfile.NamedTemporaryFile("w", suffix=".names") as names:
        names.writelines(f"h{i}.{ZONE} A\n" for i in range(COUNT))
        names.flush()
        command = ["dnsperf", "-s", host, "-p", port, "-d", names.name, "-e", "-q", str(window)]
        command += ["-l", str(max(1, round(measure_s)))]
        return _run(command, read_dnsperf, server_pids, measure_s)


def wrk(url: str, connections: int, server_pids: list[int], measure_s: float) -> Figures:
    """Measure wrk: one thread, so many connections."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(measure_s))}s", "--latency", url]
    return _run(command, read_wrk, server_pids, measure_s)


def redis_benchmark(port: int, count: int, server_pids: list[int], *options: object) -> Figures:
    """Measure redis-benchmark: ``count`` GETs of the keys that everybody asks for; it does not look at the
    answers."""
    command = ["redis-benchmark", "-p", str(port), "-t", "get", "-r", str(COUNT), "-n", str(count)]
    command += [*map(str, options), "--csv"]
    return _run(command, lambda text: read_redis_benchmark(text, count), server_pids, 60)


def _run(
    command: Sequence[str], read: Callable[[str], Said], server_pids: list[int], expected_s: float
) -> Figures:
    roles = {"server": server_pids}
    before = processes.sample(roles)
    used = os.times()
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=expected_s + 30)
    after = processes.sample(roles)
    now = os.times()
    said = read(done.stdout)
    # No child of ours but this one has been waited for between the two.
    own_s = now.children_user + now.children_system - used.children_user - used.children_system
    return Figures(
        rate_per_s=said.rate_per_s,
        cpu_us={
            "producer": own_s / said.completed * 1e6,
            "server": processes.cpu_between(before, after)["server"] / said.completed * 1e6,
        },
        idle=processes.idle_between(before, after),
        submitted=said.completed + said.lost,
        lost=said.lost,
        p50_us=said.p50_us,
        p99_us=said.p99_us,
    )


def read_dnsperf(text: str) -> Said:
    """Read dnsperf's statistics.

    Raises:
        UnknownOutput: if they are not there.
    """
    return Said(
        rate_per_s=_figure(r"Queries per second:\s+([\d.]+)", text),
        completed=_figure(r"Queries completed:\s+(\d+)", text),
        lost=_figure(r"Queries lost:\s+(\d+)", text),
    )


def read_wrk(text: str) -> Said:
    """Read wrk's report, made with ``--latency``; it speaks of errors only if there are any.

    Raises:
        UnknownOutput: if it is not there.
    """
    wrong = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    refused = float(wrong[1]) if wrong else 0
    return Said(
        rate_per_s=_figure(r"Requests/sec:\s+([\d.]+)", text),
        completed=_figure(r"(\d+) requests in ", text) - refused,
        lost=refused + (sum(map(float, broken.groups())) if broken else 0),
        p50_us=_latency_us(50, text),
        p99_us=_latency_us(99, text),
    )


def read_redis_benchmark(text: str, count: int) -> Said:
    """Read what ``redis-benchmark --csv`` says of one command, of which ``count`` were sent.

    It ends at the first error reply, so none is lost if it says anything.

    Raises:
        UnknownOutput: if it says nothing of a command.
    """
    for row in csv.DictReader(text.splitlines()):
        if row.get("rps"):
            return Said(
                rate_per_s=float(row["rps"]),
                completed=count,
                p50_us=float(row["p50_latency_ms"]) * 1e3,
                p99_us=float(row["p99_latency_ms"]) * 1e3,
            )
    raise UnknownOutput(f"redis-benchmark said nothing of a rate:\n{text}")


def _latency_us(percent: int, text: str) -> float:
    found = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s|m)$", text, re.MULTILINE)
    if found is None:
        raise UnknownOutput(f"no {percent} % latency in:\n{text}")
    return float(found[1]) * _UNITS_US[found[2]]


def _figure(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    if found is None:
        raise UnknownOutput(f"no {pattern} in:\n{text}")
    return float(found[1])
