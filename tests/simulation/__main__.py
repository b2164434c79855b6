"""``python -m simulation`` (in ``tests/``): run seeds; exit status 1 if one of them fails."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
import time
from collections import Counter

from .plan import Plan, draw_plan
from .shrink import Shrinker, retrace
from .world import Outcome, World


def seeds(text: str) -> range:
    """Read ``A..B``, or one seed; both ends included."""
    first, _, last = text.partition("..")
    return range(int(first), int(last or first) + 1)


def run_seed(asked: tuple[int, bool | None]) -> Outcome:
    """Run one seed."""
    logging.disable(logging.CRITICAL)  # the cores tell of every mishap, and there is nothing else here
    seed, calm = asked
    return World(draw_plan(seed, calm=calm)).run()


def show(plan: Plan) -> None:
    """Print a plan and its trace."""
    lines, _ = retrace(plan)
    for line in lines:
        print(line)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--seed", type=int, metavar="S", help="one seed")
    which.add_argument("--seeds", type=seeds, metavar="A..B", help="all of these")
    parser.add_argument("--steps", type=int, metavar="N", help="as many seeds as it takes")
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="processes (1)")
    parser.add_argument("--calm", action="store_true", help="only planned stops: no error at all")
    parser.add_argument("--shrink", action="store_true", help="make the first that fails short")
    parser.add_argument("--trace", action="store_true", help="print what happens in the first run")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    calm = True if arguments.calm else None
    if arguments.seed is not None:
        wanted = range(arguments.seed, arguments.seed + (1 if arguments.steps is None else 1 << 30))
    else:
        wanted = arguments.seeds or range(1 << 30)
        if arguments.seeds is None and arguments.steps is None:
            parser.error("say --seed, --seeds or --steps")
    if arguments.trace:
        show(draw_plan(wanted[0], calm=calm))
        return 0
    failed = _run(wanted, calm, arguments.steps, arguments.jobs)
    if failed and arguments.shrink:
        shrinker = Shrinker(draw_plan(failed[0], calm=calm))
        plan = shrinker.shrink()
        print(f"seed {failed[0]}, made short in {shrinker.runs} runs: {plan._replace(asks=(), strikes=())}")
        show(plan)
    return 1 if failed else 0


def _run(wanted: range, calm: bool | None, most_steps: int | None, jobs: int) -> list[int]:
    """Run seeds, print a summary, return those that failed."""
    began_s = time.monotonic()
    steps = faults = asked = runs = 0
    codes: Counter[str] = Counter()
    failed: list[int] = []
    with multiprocessing.Pool(jobs) as pool:
        for outcome in pool.imap(run_seed, ((seed, calm) for seed in wanted), chunksize=1):
            runs += 1
            steps += outcome.steps
            faults += outcome.faults
            asked += outcome.asked
            codes.update(outcome.codes)
            if outcome.wrong is not None:
                failed.append(outcome.seed)
                print(f"seed {outcome.seed}: {outcome.wrong.value}: {outcome.text}", flush=True)
            if most_steps is not None and steps >= most_steps:
                pool.terminate()
                break
    rate = steps / (time.monotonic() - began_s)
    ends = ", ".join(f"{name} {count}" for name, count in codes.most_common())
    print(f"{runs} runs, {steps} steps ({rate:,.0f}/s, {rate / jobs:,.0f}/s a process), {faults} faults")
    print(f"{asked} requests: {ends}")
    print(f"{len(failed)} of {runs} seeds failed" if failed else "all that is promised held")
    return failed


if __name__ == "__main__":
    sys.exit(main())
