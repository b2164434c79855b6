"""One run: start everything, do the faults in time, stop everything, judge."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from . import journal, leaks, upstreams
from .arena import Arena, NoTarget
from .faults import Fault, Hit, Steps
from .judge import Happened, Producer, Verdict, judge
from .recovery import Answers, Lane, lanes, recoveries
from .relay import Relays
from .schedule import Due, make

LONGEST_SLEEP_S = 0.25
UPSTREAMS_BACK_S = 1.0


@dataclass
class Result:
    """What came of a run.

    Attributes:
        seed, seconds: of the schedule.
        verdict: the judge's.
        faults: what was done.
        in_vain: faults that found nothing to be done to, by name.
        recoveries: seconds by fault.
        leaks: a line for each.
        failures: a line for whatever else is not as it should be.
        missing: a line for each program that is not installed.
    """

    seed: int
    seconds: float
    verdict: Verdict = field(default_factory=Verdict)
    faults: list[Happened] = field(default_factory=list)
    in_vain: Counter[str] = field(default_factory=Counter)
    recoveries: dict[str, list[float]] = field(default_factory=dict)
    leaks: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Do all zeros hold?"""
        return self.verdict.holds and not self.leaks and not self.failures


def run(folder: Path, seed: int, seconds: float, faults: Mapping[str, Fault], rate_per_s: float) -> Result:
    """Do a run; blocks for as long as it lasts.

    Args:
        folder: an empty one, 0700, with a short path; journals and logs stay in it.
        seed: of the schedule and all choices.
        seconds: how long there is load.
        faults: what may be done, by name.
        rate_per_s: requests a second of all producers together.
    """
    result = Result(seed, seconds)
    dues = make(seed, seconds, {name: fault.sort for name, fault in faults.items()})
    with upstreams.running() as (servers, result.missing), Relays() as relays:
        arena = Arena(folder, servers, seed, rate_per_s)
        try:
            fds, rss_bytes = leaks.most_fds(arena), leaks.most_bytes(arena)
            arena.connect_producers(relays)
            arena.wait_served()
            begin_s = time.monotonic()
            _Doer(arena, Random(seed), faults, result).do(dues, begin_s, begin_s + seconds)
            if not arena.wait_back():
                result.failures.append("the cluster did not come back after the last fault")
            until_s = time.monotonic()
            result.failures += arena.finish_producers()
            result.leaks = leaks.in_service(arena, fds, rss_bytes) + leaks.after_the_end(arena)
            executions = servers.executions()
        finally:
            arena.kill_all()
    answers: dict[Lane, Answers] = {}
    result.verdict = judge(_producers(arena, answers), executions, result.faults, begin_s)
    result.recoveries = recoveries(result.faults, answers, until_s)
    return result


def _producers(arena: Arena, answers: dict[Lane, Answers]) -> Iterator[Producer]:
    """Yield one journal after the other; note its good answers in ``answers``."""
    for process in arena.producers:
        requests: list[journal.Request] = []
        with contextlib.suppress(FileNotFoundError), process.journal.open() as lines:  # killed at once
            requests = journal.read(lines)
        producer = Producer(process.name, requests, process.killed)
        answers |= lanes(producer)
        yield producer


class _Doer:
    """Does faults in time: a heap of generators and the instant of their next step."""

    def __init__(self, arena: Arena, random: Random, faults: Mapping[str, Fault], result: Result) -> None:
        self._arena = arena
        self._random = random
        self._faults = faults
        self._result = result
        self._order = itertools.count()
        self._going: list[tuple[float, int, str, float, Hit, Steps]] = []

    def do(self, dues: Sequence[Due], begin_s: float, until_s: float) -> None:
        """Do all faults, wait until each is over, and until the load has lasted long enough."""
        waiting = list(reversed(dues))
        try:
            while waiting or self._going or time.monotonic() < until_s:
                now_s = time.monotonic()
                while waiting and begin_s + waiting[-1].at_s <= now_s:
                    self._begin(waiting.pop().fault)
                while self._going and self._going[0][0] <= now_s:
                    _, _, name, start_s, hit, steps = heapq.heappop(self._going)
                    self._step(name, start_s, hit, steps)
                self._arena.children("")  # to have seen them all
                self._arena.tend_producers()
                # 1: its first broker was killed before it was ready.
                if (status := self._arena.tend_cluster()) not in (None, 1):
                    self._result.failures.append(f"the supervisor ended by itself with status {status}")
                next_s = [step[0] for step in self._going[:1]] + [begin_s + due.at_s for due in waiting[-1:]]
                time.sleep(max(0.0, min([LONGEST_SLEEP_S, *(at_s - time.monotonic() for at_s in next_s)])))
        finally:
            for *_, steps in self._going:
                steps.close()  # type: ignore[attr-defined]
        time.sleep(UPSTREAMS_BACK_S)

    def _begin(self, name: str) -> None:
        hit, start_s = Hit(), time.monotonic()
        try:
            steps = self._faults[name].do(self._arena, self._random, hit)
        except NoTarget:
            self._result.in_vain[name] += 1
        else:
            self._step(name, start_s, hit, steps)

    def _step(self, name: str, start_s: float, hit: Hit, steps: Steps) -> None:
        try:
            wait_s = next(steps)
        except StopIteration:
            planned, back_s = self._faults[name].sort.planned, time.monotonic()
            end_s = back_s if hit.end_s is None else hit.end_s
            happened = Happened(name, planned, start_s, end_s, back_s, hit.producer, hit.note)
            self._result.faults.append(happened)
        except NoTarget:
            self._result.in_vain[name] += 1
        else:
            due_s = time.monotonic() + wait_s
            heapq.heappush(self._going, (due_s, next(self._order), name, start_s, hit, steps))
