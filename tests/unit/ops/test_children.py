"""When a dead child is started again."""

from __future__ import annotations

import signal

import pytest

from reqpool_ops.children import (
    BOOT_FAILURE,
    LONGEST_DELAY_S,
    LONGEST_SERVED_S,
    MANY_FAILURES,
    NEVER_BEGAN,
    ORDERLY,
    Backoff,
    ended,
)


def longest() -> Backoff:
    return Backoff(jitter=lambda: 1.0)


def test_a_child_that_lived_well_is_replaced_at_once() -> None:
    backoff = longest()
    assert backoff.delay_s(3600.0, -9) <= 0.1
    assert backoff.failures == 0


def test_quick_failures_slow_down_and_reach_a_bound() -> None:
    backoff = longest()
    delays_s = [backoff.delay_s(0.0, 1) for _ in range(12)]
    assert delays_s == sorted(delays_s)
    assert delays_s[0] <= 0.1
    assert delays_s[MANY_FAILURES] >= 2.0
    assert delays_s[-1] == LONGEST_DELAY_S


def test_failures_without_end_keep_the_longest_delay() -> None:
    backoff = longest()
    assert [backoff.delay_s(0.0, 1) for _ in range(2000)][-1] == LONGEST_DELAY_S


def test_what_a_child_has_lived_counts_as_waited() -> None:
    patient, quick = longest(), longest()
    assert [patient.delay_s(2.0, -9) for _ in range(5)] == [0.0] * 5
    assert patient.delay_s(2.0, -9) == pytest.approx(2.0)  # of 4
    for _ in range(5):
        quick.delay_s(0.1, -9)
    assert quick.delay_s(0.1, -9) == pytest.approx(3.9)


@pytest.mark.parametrize("lived_s", [0.1, 0.5, 2.0, 4.9])
def test_a_child_that_comes_up_each_time_is_started_within_a_second_of_its_last_start(lived_s: float) -> None:
    backoff = longest()
    delays_s = [backoff.delay_s(lived_s, -9, served=True) for _ in range(100)]
    assert max(delays_s) <= max(0.0, LONGEST_SERVED_S - lived_s) + 1e-9
    assert backoff.failures == 100


@pytest.mark.parametrize("status", [ORDERLY, NEVER_BEGAN])
def test_a_child_that_is_told_to_end_again_and_again_is_replaced_at_once(status: int) -> None:
    backoff = longest()
    assert max(backoff.delay_s(0.1, status) for _ in range(20)) <= 0.1
    assert backoff.failures == 0


def test_a_boot_failure_is_quick_however_long_it_took() -> None:
    backoff = longest()
    assert backoff.delay_s(60.0, BOOT_FAILURE) > 0.0
    assert backoff.failures == 1


def test_a_good_life_ends_the_slow_down() -> None:
    backoff = longest()
    for _ in range(10):
        backoff.delay_s(0.1, 1)
    assert backoff.delay_s(100.0, 1) <= 0.1


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (-signal.SIGKILL, "was killed by SIGKILL"),
        (-(signal.SIGRTMIN + 1), f"was killed by signal {signal.SIGRTMIN + 1}"),
        (BOOT_FAILURE, "could not start (exit status 2)"),
        (3, "exited with status 3"),
    ],
)
def test_every_end_has_words(status: int, text: str) -> None:
    assert ended(status) == text


@pytest.mark.parametrize("jitter", [0.0, 1.0])
def test_delays_are_jittered_by_half(jitter: float) -> None:
    assert Backoff(jitter=lambda: jitter).delay_s(0.0, 1) == pytest.approx(0.1 * (0.5 + jitter / 2))
