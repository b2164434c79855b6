"""Judging reports, and noticing workers that hang."""

from __future__ import annotations

import os
from typing import Any

import pytest

from reqpool_broker.worker import Worker
from reqpool_ops import health

ONE, TWO = b"1" * 16, b"2" * 16


def worker(name: str = "worker-1", **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "state": "live",
        "since_heartbeat_s": 0.2,
        "sample": {"loop_lag_ms": 3.0},
        **changes,
    }


def report(*workers: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"epoch": 7, "broker": {"loop_lag_ms": 1.0}, "workers": list(workers), **changes}


def heard(identity: bytes, silent_s: float, epoch: int = 7) -> dict[str, Any]:
    """A report as the broker itself writes it: the two must mean the same by a worker's id."""
    return report(
        Worker(identity, "worker-1", 1, 0.0).report(silent_s, silent_s, blocking=False), epoch=epoch
    )


def test_a_pool_with_all_its_workers_is_well() -> None:
    assert health.judge(report(worker("worker-1"), worker("worker-2")), 2) == []


def test_without_a_known_number_one_live_worker_is_enough() -> None:
    assert health.judge(report(worker()), None) == []


@pytest.mark.parametrize(
    ("ailing", "expected", "said"),
    [
        (report(worker()), 2, "1 of 2 workers are live"),
        (report(), None, "no worker is live"),
        (report(worker(), worker("worker-2", state="suspect")), 1, "worker-2 is suspect"),
        (
            report(worker(), worker("intruder", state="stranger")),
            1,
            "intruder was not started by this cluster's supervisor: it gets no requests",
        ),
        (report(worker(since_heartbeat_s=4.0)), 1, "worker-1 has been silent for 4.0 s"),
        (report(worker(sample={"loop_lag_ms": 1500.0})), 1, "worker-1's loop lags by 1500 ms"),
        (report(worker(), broker={"loop_lag_ms": 2000.0}), 1, "broker's loop lags by 2000 ms"),
    ],
)
def test_what_is_not_well_is_named(ailing: dict[str, Any], expected: int | None, said: str) -> None:
    assert health.judge(ailing, expected) == [said]


@pytest.mark.parametrize("nonsense", ["abc", b"x", None, [1], {"a": 1}, float("nan"), float("inf"), True])
def test_figures_that_are_none_are_ignored(nonsense: Any) -> None:
    odd = worker(since_heartbeat_s=nonsense, sample={"loop_lag_ms": nonsense})
    assert health.judge(report(odd, broker={"loop_lag_ms": nonsense}), 1) == []
    assert health.judge(report(worker(sample=nonsense), broker=nonsense), 1) == []
    assert health.judge({"workers": nonsense}, None) == ["no worker is live"]
    watch = health.Watch()
    watch.started(ONE, 100.0)
    assert watch.hung(report({"id": nonsense}, {"id": ONE.hex(), "since_heartbeat_s": nonsense}), 101.0) == {}


def test_names_cannot_move_the_cursor() -> None:
    said = health.judge(report(worker("x\x1b[2J\n\u202e", state="a\rb")), 1)
    assert said[-1] == r"x\x1b[2J\n\u202e is a\rb"


def test_a_draining_worker_is_no_ailment_of_its_own() -> None:
    assert health.judge(report(worker(), worker("worker-2", state="draining")), 1) == []


def test_a_silent_worker_hangs_after_three_liveness_spans() -> None:
    watch = health.Watch()
    watch.started(ONE, 100.0)
    hung_at = [second for second in range(1, 20) if watch.hung(heard(ONE, second), 100.0 + second)]
    assert hung_at[0] == 9  # the first report after 7.5 s that reports cover


def blocking(identity: bytes, silent_s: float, value: Any = True) -> dict[str, Any]:
    about = heard(identity, silent_s)
    about["workers"][0]["blocking"] = value
    return about


def test_a_silent_worker_that_others_wait_for_hangs_after_one_liveness_span() -> None:
    watch = health.Watch()
    watch.started(ONE, 100.0)
    tenths = range(1, 40)
    hung_at = [tenth for tenth in tenths if watch.hung(blocking(ONE, tenth / 10), 100.0 + tenth / 10)]
    assert hung_at[0] == 27  # the first report says nothing about the time before it
    assert "other workers wait" in watch.hung(blocking(ONE, 4.0), 104.0)[ONE]


def test_a_worker_that_a_new_broker_awaits_and_others_wait_for_hangs_likewise() -> None:
    watch = health.Watch()
    watch.started(ONE, 100.0)
    for second in range(1, 6):
        awaited = {"id": ONE.hex(), "since_heartbeat_s": second, "blocking": True}
        hung = watch.hung(report(awaited=[awaited]), 100.0 + second)
        assert list(hung) == ([ONE] if second > 3 else [])


@pytest.mark.parametrize("value", [False, None, 1, "yes"])
def test_only_a_broker_that_says_so_makes_a_worker_blocking(value: Any) -> None:
    watch = health.Watch()
    watch.started(ONE, 100.0)
    assert not any(watch.hung(blocking(ONE, second, value), 100.0 + second) for second in range(1, 7))


def test_time_that_no_report_covers_makes_no_worker_blocking() -> None:
    watch = health.Watch()
    watch.started(ONE, 100.0)
    assert watch.hung(blocking(ONE, 4.0), 104.0) == {}
    assert watch.hung(blocking(ONE, 5.0), 105.0) == {}


def test_a_missed_heartbeat_makes_uneasy_until_it_is_heard_or_ends() -> None:
    watch = health.Watch()
    watch.started(ONE, 100.0)
    uneasy = []
    for second in range(1, 5):
        watch.hung(heard(ONE, second / 2), 100.0 + second)
        uneasy.append(watch.is_uneasy)
    assert uneasy == [False, False, True, True]
    watch.hung(heard(ONE, 0.1), 105.0)
    assert not watch.is_uneasy
    watch.hung(heard(ONE, 2.0), 107.0)
    watch.ended(ONE)
    watch.hung(report(), 108.0)
    assert not watch.is_uneasy


def test_a_worker_that_never_says_hello_hangs() -> None:
    watch = health.Watch()
    watch.started(ONE, 100.0)
    hung = [watch.hung(report(), 100.0 + second) for second in range(1, 10)]
    assert hung[6] == {}
    assert list(hung[8]) == [ONE]


def test_a_heard_worker_does_not_hang() -> None:
    watch = health.Watch()
    watch.started(ONE, 100.0)
    assert not any(watch.hung(heard(ONE, 0.4), 100.0 + second) for second in range(1, 60))


def test_an_ended_worker_does_not_hang() -> None:
    watch = health.Watch()
    watch.started(ONE, 100.0)
    watch.started(TWO, 100.0)
    watch.ended(ONE)
    reports = [watch.hung(report(), 100.0 + second) for second in range(1, 12)]
    assert list(reports[-1]) == [TWO]


@pytest.mark.parametrize(
    ("epoch", "at_s"), [(8, 108.0), (7, 120.0)], ids=["new broker", "gap in the reports"]
)
def test_time_that_no_report_covers_makes_nobody_look_hung(epoch: int, at_s: float) -> None:
    watch = health.Watch()
    watch.started(ONE, 100.0)
    for second in range(1, 8):
        assert watch.hung(heard(ONE, second), 100.0 + second) == {}
    assert watch.hung(heard(ONE, at_s - 100.0, epoch), at_s) == {}
    assert watch.hung(heard(ONE, at_s - 99.0, epoch), at_s + 1) == {}


def test_a_sample_of_this_process_has_its_figures() -> None:
    sample = health.sample(os.getpid())
    assert sample is not None
    assert sample["rss_bytes"] > 1_000_000
    assert sample["fds"] >= 3
    assert sample["threads"] >= 1
    assert health.cpu_s([os.getpid()]) > 0


def test_a_dead_process_has_no_sample() -> None:
    pid = os.spawnlp(os.P_NOWAIT, "true", "true")
    os.waitpid(pid, 0)
    assert health.sample(pid) is None
    assert health.cpu_s([pid]) == 0
