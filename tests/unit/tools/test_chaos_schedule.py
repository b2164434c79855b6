"""When faults are done, how recovery is measured, and the table at the end."""

from __future__ import annotations

from collections import Counter

import pytest

from chaos.faults import FAULTS
from chaos.journal import GOOD, End, Request
from chaos.judge import Happened, Producer
from chaos.recovery import TARGETS_S, Answers, lanes, quantile, recoveries
from chaos.report import as_json, render
from chaos.run import Result
from chaos.schedule import FIRST_S, PAUSE_S, PLANNED_S, ROUND_S, Sort, make

SORTS = {name: fault.sort for name, fault in FAULTS.items()}
LANE = ("p1", 0, "dns")


def steady(*gaps: tuple[float, float], until_s: float = 40.0) -> Answers:
    """Answers every 0.1 s, 0.01 s after they were asked for, but for these spans without any."""
    instants = [tick / 10 for tick in range(int(until_s * 10))]
    ends = [at for at in instants if not any(start <= at < end for start, end in gaps)]
    return Answers(ends, [end - 0.01 for end in ends])


def test_a_seed_gives_the_same_schedule_again() -> None:
    assert make(7, 300, SORTS) == make(7, 300, SORTS)
    assert make(7, 300, SORTS) != make(8, 300, SORTS)


@pytest.mark.parametrize("seed", range(20))
def test_every_fault_is_over_when_the_load_is(seed: int) -> None:
    dues = make(seed, 60, SORTS)
    assert dues == sorted(dues, key=lambda due: due.at_s)
    assert all(FIRST_S <= due.at_s <= 60 - SORTS[due.fault].lasts_s for due in dues)


def test_all_faults_come_alone_and_together() -> None:
    dues = make(1, 3600, SORTS)
    assert {due.fault for due in dues} == set(FAULTS)
    assert len(dues) > 1000
    instants = Counter(due.at_s for due in dues)
    assert max(instants.values()) > 1


def test_a_round_begins_with_planned_faults_alone_after_a_pause() -> None:
    dues = make(3, 3600, SORTS)
    for due in dues:
        if not SORTS[due.fault].planned:
            assert due.at_s % ROUND_S >= PLANNED_S
            if not SORTS[due.fault].apart:
                following = [d for d in dues if d.at_s > due.at_s and d.at_s // ROUND_S > due.at_s // ROUND_S]
                assert not following or following[0].at_s >= due.at_s + PAUSE_S


def test_only_what_was_asked_for_is_done_whatever_the_round() -> None:
    assert {due.fault for due in make(1, 40, {"worker-kill": SORTS["worker-kill"]})} == {"worker-kill"}


def test_a_fault_that_lasts_longer_than_the_load_is_not_done() -> None:
    assert make(1, 30, {"producer-freeze-long": Sort(False, 73, True)}) == []


def test_recovery_of_a_kill_is_the_first_good_answer_of_the_slowest_lane() -> None:
    kill = Happened("worker-kill", False, 10.0, 10.0, 10.0)
    answers = {LANE: steady((10.0, 10.5)), ("p1", 0, "tcp"): steady((10.0, 11.2))}
    assert recoveries([kill], answers, 40.0) == {"worker-kill": [pytest.approx(1.2, abs=0.11)]}


def test_an_answer_to_what_was_asked_before_the_fault_is_no_recovery() -> None:
    answers = Answers([9.9, 10.4, 12.0, 39.0], [9.8, 9.9, 11.5, 38.0])
    kill = Happened("worker-kill", False, 10.0, 10.0, 10.0)
    assert recoveries([kill], {LANE: answers}, 40.0) == {"worker-kill": [2.0]}


def test_a_lane_that_does_not_come_back_counts_until_the_next_fault() -> None:
    faults = [Happened("broker-kill", False, 10.0, 10.0, 10.0), Happened("reload", True, 25.0, 25.5, 25.5)]
    measured = recoveries(faults, {LANE: steady((10.0, 24.9)), ("p1", 1, "dns"): steady((10.0, 39.0))}, 40.0)
    assert measured["broker-kill"] == [15.0]


def test_a_planned_fault_is_measured_by_the_longest_span_without_an_answer() -> None:
    restart = Happened("restart", True, 10.0, 14.0, 14.0)
    measured = recoveries([restart], {LANE: steady((12.0, 13.0))}, 40.0)
    assert measured == {"restart": [pytest.approx(1.1)]}


def test_faults_that_overlap_are_not_measured() -> None:
    faults = [
        Happened("worker-kill", False, 10.0, 10.0, 10.0),
        Happened("broker-kill", False, 11.0, 11.0, 11.0),
    ]
    assert recoveries(faults, {LANE: steady()}, 40.0) == {}


def test_a_frozen_producer_is_not_waited_for() -> None:
    faults = [
        Happened("worker-kill", False, 10, 10, 10),
        Happened("producer-freeze", False, 9.5, 12.5, 12.5, "p2"),
    ]
    answers = {LANE: steady(), ("p2", 0, "dns"): steady((9.5, 12.5))}
    assert recoveries(faults, answers, 40.0) == {"worker-kill": [pytest.approx(0.0, abs=0.11)]}


def test_lanes_hold_good_answers_by_pool_and_kind() -> None:
    requests = [
        Request("p1-1", 0, "tcp", 3.0, 1.0, [End(1.5, GOOD)]),
        Request("p1-2", 0, "tcp-idempotent", 3.0, 1.1, [End(1.2, GOOD)]),
        Request("p1-3", 1, "dns", 3.0, 1.2, [End(1.3, "ConnectFailed")]),
        Request("p1-4", 1, "dns", 3.0, 1.2),
    ]
    assert lanes(Producer("p1", requests)) == {("p1", 0, "tcp"): Answers([1.2, 1.5], [1.1, 1.0])}


def test_quantiles_are_values_that_occurred() -> None:
    assert [quantile([3.0, 1.0, 2.0], part) for part in (0.5, 0.99, 1.0)] == [2.0, 3.0, 3.0]


def test_targets_are_of_faults_that_exist() -> None:
    assert TARGETS_S.keys() <= FAULTS.keys()


def test_the_table_says_what_was_found_missed_and_left_out() -> None:
    result = Result(7, 60.0, missing=["knotd (Debian: apt-get install knot)"])
    result.faults.append(Happened("worker-kill", False, 1.0, 1.0, 1.0))
    result.recoveries["worker-kill"] = [1.5]
    assert "All zeros hold." in render(result)
    assert "LEFT OUT: knotd" in render(result)
    assert "< 1 MISSED" in render(result)
    result.verdict.note("executed twice", "p1-7 ran twice")
    assert not result.holds
    assert "NOT all zeros hold." in render(result)
    assert "p1-7 ran twice" in render(result)
    assert '"holds": false' in as_json(result)


@pytest.mark.parametrize("what", ["leaks", "failures"])
def test_a_leak_or_a_failure_is_not_well(what: str) -> None:
    result = Result(7, 60.0)
    getattr(result, what).append("process 7 runs on")
    assert not result.holds
    assert "process 7 runs on" in render(result)
