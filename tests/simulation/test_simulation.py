"""The simulation itself: fixed seeds, fresh seeds, and faults put back that it has to find."""

from __future__ import annotations

import logging
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from reqpool_broker import large_leases
from reqpool_contract import wire

from .limits import in_force
from .mutations import MUTATIONS, Mutation
from .oracle import NEWS_S
from .plan import Attempt, Fault, Manner, draw_plan
from .shrink import Shrinker, retrace
from .world import World, play

pytestmark = pytest.mark.timeout(600)

TESTS = Path(__file__).parent.parent
FRESH_S = 20.0
"""How long fresh seeds are tried."""


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    """The cores log each of the mishaps, and there is nothing else here."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


REGRESSIONS = (
    ((7000911,), ()),
    ((96000288,), ()),
    ((97000128, 97000148, 97000812), ()),
    ((4202280152,), ()),
    ((150000169,), ()),
    ((9100101,), (Fault.FREEZE_SUPERVISOR, Fault.KILL_WORKER, Fault.KILL_BROKER)),
    ((9100068, 9100075, 9100097), (Fault.FREEZE_BROKER, Fault.KILL_WORKER, Fault.KILL_BROKER)),
    (
        (9100019, 9100033, 9100050),
        (Fault.FREEZE_BROKER, Fault.KILL_SUPERVISOR, Fault.FREEZE_SUPERVISOR),
    ),
)
"""Seeds that once failed, each with the faults it draws from (empty: all of them). See SEEDS.md."""

SMALL_REGRESSIONS = ((1341,), (2075,))
"""The same of seeds with small limits."""


def _check(
    seeds: Iterable[int],
    *,
    calm: bool | None = None,
    only: tuple[Fault, ...] = (),
    small: bool | None = None,
) -> int:
    """Run seeds and return how many steps they took; fails with the first that fails."""
    steps = 0
    for seed in seeds:
        outcome = play(draw_plan(seed, calm=calm, only=only, small=small))
        steps += outcome.steps
        if outcome.wrong is not None:
            how = " --calm" if calm else ""
            how += f" --limits {'small' if small else 'real'}" if small is not None else ""
            how += f" --only {','.join(fault.name for fault in only)}" if only else ""
            pytest.fail(
                f"seed {seed}: {outcome.wrong.value}: {outcome.text}\n"
                f"in tests/: python -m simulation --seed {seed}{how} --shrink",
                pytrace=False,
            )
    return steps


def test_what_is_promised_holds_for_fixed_seeds() -> None:
    assert _check(range(150), small=False) > 1_000_000


def test_what_is_promised_holds_for_fixed_seeds_with_small_limits() -> None:
    assert _check(range(80), small=True) > 500_000


@pytest.mark.parametrize("seeds", SMALL_REGRESSIONS)
def test_seeds_that_failed_once_with_small_limits_no_longer_do(seeds: tuple[int, ...]) -> None:
    assert _check(seeds, small=True) > 0


def test_small_limits_hold_wherever_they_are_imported_and_for_one_run_only() -> None:
    def limits() -> set[int]:
        return {wire.PIECE_BYTES, large_leases.PIECE_BYTES}

    documented = limits()
    with in_force(((("PIECE_BYTES", 8), ("WINDOW_BYTES", 64)),)):
        assert limits() == {8}
    assert limits() == documented


@pytest.mark.parametrize(("seeds", "only"), REGRESSIONS)
def test_seeds_that_failed_once_no_longer_do(seeds: tuple[int, ...], only: tuple[Fault, ...]) -> None:
    assert _check(seeds, only=only, small=False) > 0


@pytest.mark.parametrize("who", ["nobody", "broker", "supervisor", "broker, too late"])
def test_a_loss_explains_doubt_until_its_news_has_had_time_to_reach_the_clients(who: str) -> None:
    world = World(draw_plan(0, calm=False, small=False)._replace(asks=(), strikes=()))
    world.scheduler.run(world.scheduler.now_s + 5.0, 100_000)
    process = world.supervisor if who == "supervisor" else world.broker
    assert process is not None
    lost_s = world.scheduler.now_s
    world.oracle.lost("a worker died")
    world.scheduler.run(lost_s + (NEWS_S + 0.1 if "late" in who else 1.0), 100_000)
    if who != "nobody":
        process.freeze()
        world.oracle.silent(process)
        world.scheduler.run(lost_s + 2.0, 100_000)
        process.thaw()
    world.scheduler.run(lost_s + 9.0, 100_000)
    frozen_s = 2.0 if who in ("broker", "supervisor") else 0.0
    assert world.oracle.known_s(lost_s) == pytest.approx(lost_s + frozen_s + NEWS_S, abs=0.01)


def test_planned_stops_cost_nobody_an_error() -> None:
    # 3972: the cluster is stopped before a client has come to the broker after the one that named doubtful.
    assert _check((*range(30), 3972), calm=True, small=False) > 100_000
    assert _check(range(20), calm=True, small=True) > 50_000


def test_a_stop_keeps_nobody_waiting_for_clients_that_are_frozen_or_killed() -> None:
    drains_s: list[float] = []
    for seed in range(40):
        plan = draw_plan(seed, only=(Fault.FREEZE_CLIENT, Fault.KILL_CLIENT, Fault.STOP_CLUSTER), small=False)
        quick = tuple(ask._replace(attempts=(Attempt(Manner.ANSWER, 0.01),)) for ask in plan.asks)
        world = World(plan._replace(asks=quick))
        assert world.run().wrong is None
        drains_s += world.drains_s
    assert len(drains_s) > 10
    # One that falls silent after the order is waited for until that is known.
    assert max(drains_s) < wire.LIVENESS_MS / 1000 + 0.5
    assert statistics.median(drains_s) < 0.1


def test_what_is_promised_holds_for_fresh_seeds() -> None:
    end_s = time.monotonic() + FRESH_S

    def fresh() -> Iterator[int]:
        while time.monotonic() < end_s:
            yield random.SystemRandom().getrandbits(32)

    assert _check(fresh())


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_what_is_promised_holds_for_many_fresh_seeds() -> None:
    first = random.SystemRandom().getrandbits(32)
    steps = 0
    while steps < 3_000_000:
        steps += _check([first])
        first += 1


def test_a_seed_gives_the_same_run_byte_for_byte() -> None:
    def traced(hash_seed: str) -> str:
        ran = subprocess.run(
            [sys.executable, "-m", "simulation", "--seed", "7", "--trace"],
            cwd=TESTS,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        return ran.stdout

    trace = traced("1")
    assert trace.count("\n") > 200
    assert traced("2") == trace


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.what)
def test_a_fault_put_back_is_found(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation.put_back(monkeypatch)
    for seed in mutation.seeds:
        if play(mutation.draw(seed)).wrong is mutation.wrong:
            return
    pytest.fail(f"not found by seeds {mutation.seeds}")


def test_a_failing_run_is_made_short_and_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    mutation = next(one for one in MUTATIONS if "counts no death" in one.what)
    mutation.put_back(monkeypatch)
    plans = map(mutation.draw, mutation.seeds)
    failing = next(plan for plan in plans if play(plan).wrong is mutation.wrong)
    short = Shrinker(failing).shrink()
    assert len(short.asks) <= 3
    assert len(short.strikes) <= 3
    lines, outcome = retrace(short)
    assert outcome.wrong is mutation.wrong
    assert retrace(short) == (lines, outcome)
    assert "executed" in lines[-1]
