"""``python -m simulation`` (in ``tests/``): run seeds; exit status 1 if one of them fails."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import chain, islice

from .plan import Fault, Plan, draw_plan
from .shrink import Shrinker, retrace
from .world import Outcome, play

BATCH_RUNS = 32


def seeds(text: str) -> range:
    """Read ``A..B``, or one seed; both ends included."""
    first, _, last = text.partition("..")
    return range(int(first), int(last or first) + 1)


def faults(text: str) -> tuple[Fault, ...]:
    """Read ``KILL_BROKER,FREEZE_CLIENT``."""
    return tuple(Fault[name] for name in text.upper().split(","))


def run_plan(plan: Plan) -> Outcome:
    """Run one plan."""
    logging.disable(logging.CRITICAL)  # the cores tell of every mishap, and there is nothing else here
    return play(plan)


def show(plan: Plan) -> None:
    """Print what happens in a run."""
    for line in retrace(plan)[0]:
        print(line)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--seed", type=int, metavar="S", help="this seed; with --steps, from it on")
    which.add_argument("--seeds", type=seeds, metavar="A..B", help="all of these")
    parser.add_argument("--steps", type=int, metavar="N", help="as many seeds as it takes")
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="processes (1)")
    parser.add_argument("--calm", action="store_true", help="only planned stops: no error at all")
    parser.add_argument("--limits", choices=("small", "real"), help="instead of some with small ones")
    parser.add_argument("--only", type=faults, default=(), metavar="FAULT,FAULT", help=f"of {_NAMES}")
    parser.add_argument("--shrink", action="store_true", help="make the first that fails short, and trace it")
    parser.add_argument("--trace", action="store_true", help="print what happens in the first run")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if arguments.seeds is None and arguments.seed is None and arguments.steps is None:
        parser.error("say --seed, --seeds or --steps")
    if arguments.seeds is not None:
        wanted = arguments.seeds
    else:
        first = arguments.seed or 0
        wanted = range(first, first + (1 if arguments.steps is None else 1 << 30))
    small = None if arguments.limits is None else arguments.limits == "small"
    draw = partial(draw_plan, calm=True if arguments.calm else None, only=arguments.only, small=small)
    if arguments.trace:
        show(draw(wanted[0]))
        return 0
    failed = _run(map(draw, wanted), arguments.steps, arguments.jobs)
    if failed and arguments.shrink:
        shrinker = Shrinker(draw(failed[0]))
        plan = shrinker.shrink()
        print(f"seed {failed[0]}, made short in {shrinker.runs} runs: {plan._replace(asks=(), strikes=())}")
        show(plan)
    return 1 if failed else 0


def _run(plans: Iterator[Plan], most_steps: int | None, jobs: int) -> list[int]:
    """Run plans, print a summary, return the seeds of those that failed."""
    began_s = time.monotonic()
    steps = struck = asked = runs = 0
    codes: Counter[str] = Counter()
    failed: list[int] = []
    with multiprocessing.Pool(jobs) as pool:
        # Batch by batch: imap() would draw all plans at once.
        batches = iter(lambda: list(islice(plans, BATCH_RUNS * jobs)), [])
        for outcome in chain.from_iterable(pool.imap(run_plan, batch) for batch in batches):
            runs += 1
            steps += outcome.steps
            struck += outcome.faults
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
    print(f"{runs} runs, {steps} steps ({rate:,.0f}/s, {rate / jobs:,.0f}/s a process), {struck} faults")
    print(f"{asked} requests: {ends}")
    print(f"{len(failed)} of {runs} seeds failed" if failed else "all that is promised held")
    return failed


_NAMES = ", ".join(fault.name for fault in Fault)


if __name__ == "__main__":
    sys.exit(main())
