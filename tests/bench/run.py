"""The parent's side of a measurement: start load processes, open the window, read the clocks around it."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from . import processes

TESTS_FOLDER = Path(__file__).resolve().parent.parent
WATCH_INTERVAL_S = 0.05

Watch = Callable[[processes.Roles], None]
"""Looks at something again and again while the load runs; called with all roles, ``producer`` included."""


class LoadFailed(RuntimeError):
    """A load process ended, or said nothing, when a line was due."""


@dataclass(frozen=True)
class Figures:
    """One measurement.

    Attributes:
        rate_per_s: completions per second inside the window, all producers together.
        cpu_us: CPU microseconds per completed request by role.
        idle: part of the machine's time nobody used, 0 to 1.
        lost: requests without a good outcome, over the whole run and not only the window.
        p50_us, p99_us: latency, where the load takes it (medians over the producers); else None.
        errors: some of the errors, by text.
    """

    rate_per_s: float
    cpu_us: dict[str, float]
    idle: float
    submitted: int
    lost: int
    p50_us: float | None = None
    p99_us: float | None = None
    errors: dict[str, int] = field(default_factory=dict)

    def total_cpu_us(self, *roles: str) -> float:
        """Return the CPU microseconds per request of these roles together."""
        return sum(self.cpu_us[role] for role in roles)


class Load:
    """One load process (``python -m bench.<module>``); a context manager, so none is left running.

    Args:
        module: of this package.
        arguments: of its command line.
        env: its environment; None: as here.
        python: its interpreter, and so the reqpool that it uses.
    """

    def __init__(
        self,
        module: str,
        *arguments: object,
        env: Mapping[str, str] | None = None,
        python: str = sys.executable,
    ) -> None:
        command = [python, "-m", f"bench.{module}", *map(str, arguments)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=TESTS_FOLDER, env=env
        )
        self._name = " ".join(command[2:])
        self.pid = self._process.pid

    def __enter__(self) -> Load:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def say(self, line: str) -> None:
        """Write one line to the process."""
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def hear(self, timeout_s: float) -> dict[str, Any]:
        """Return the next line of the process.

        Raises:
            LoadFailed: if it ended instead, or said nothing for ``timeout_s``.
        """
        assert self._process.stdout
        # One line at a time is under way, so nothing hides in the text buffer behind select.
        if not select.select([self._process.stdout], [], [], timeout_s)[0]:
            raise LoadFailed(f"{self._name}: silent for {timeout_s:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise LoadFailed(f"{self._name}: ended with status {self._process.wait(5)}")
        heard: dict[str, Any] = json.loads(line)
        return heard


@contextmanager
def ending(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """End the process on leaving, kindly first."""
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def measure(
    loads: Sequence[Load],
    roles: processes.Roles,
    *,
    warm_s: float,
    measure_s: float,
    run_out_s: float = 60.0,
    watch: Watch | None = None,
) -> Figures:
    """Let ``loads`` run together and measure what happens between warming up and the end.

    Args:
        loads: started load processes; they count as role ``producer``.
        roles: pids of the other processes to account for.
        warm_s, measure_s: seconds of load before and inside the window.
        run_out_s: seconds given to what is still in flight at the end of the window.
        watch: called from the moment all loads are ready until the window ends, every
            ``WATCH_INTERVAL_S``; what it costs is the machine's time, too.
    """
    roles = {"producer": [load.pid for load in loads], **roles}
    for load in loads:
        load.hear(60)
    if watch is not None:
        watch(roles)
    start_s = time.monotonic() + warm_s
    end_s = start_s + measure_s
    for load in loads:
        load.say(f"go {start_s} {end_s}")
    _sleep_until(start_s, roles, watch)
    before = processes.sample(roles)
    _sleep_until(end_s, roles, watch)
    after = processes.sample(roles)
    return combine([load.hear(run_out_s) for load in loads], before, after)


def _sleep_until(end_s: float, roles: processes.Roles, watch: Watch | None) -> None:
    while (left_s := end_s - time.monotonic()) > 0:
        if watch is None:
            time.sleep(left_s)
        else:
            watch(roles)
            time.sleep(min(left_s, WATCH_INTERVAL_S))


def combine(
    results: Sequence[Mapping[str, Any]], before: processes.Sample, after: processes.Sample
) -> Figures:
    """Make one measurement of the producers' results and the clocks read around them.

    Raises:
        LoadFailed: if nothing came to a good end, of which nothing can be said.
    """
    rate_per_s = sum(result["in_window"] / result["window_s"] for result in results)
    requests = rate_per_s * (after.at_s - before.at_s)
    cpu_s = processes.cpu_between(before, after)
    p50s_us = sorted(result["p50_us"] for result in results if "p50_us" in result)
    p99s_us = sorted(result["p99_us"] for result in results if "p99_us" in result)
    errors: dict[str, int] = {}
    for result in results:
        for text, count in result["errors"].items():
            errors[text] = errors.get(text, 0) + count
    if not requests:
        raise LoadFailed(f"nothing was completed; {errors or 'no errors'}")
    return Figures(
        rate_per_s=rate_per_s,
        cpu_us={role: seconds / requests * 1e6 for role, seconds in cpu_s.items()},
        idle=processes.idle_between(before, after),
        submitted=sum(result["submitted"] for result in results),
        lost=sum(result["lost"] for result in results),
        p50_us=p50s_us[len(p50s_us) // 2] if p50s_us else None,
        p99_us=p99s_us[len(p99s_us) // 2] if p99s_us else None,
        errors=errors,
    )
