"""The span between two tries."""

from __future__ import annotations

import pytest

from reqpool_contract.backoff import backoff_s


def test_the_span_doubles_with_each_failure_up_to_the_longest() -> None:
    assert [backoff_s(failures, 0.05, 1.0) for failures in range(7)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_failures_without_end_keep_the_longest_span() -> None:
    assert backoff_s(10**6, 0.05, 30.0) == 30.0


@pytest.mark.parametrize("failures", [0, 3, 50])
def test_random_numbers_spread_tries_over_the_second_half_of_the_span(failures: int) -> None:
    whole_s = backoff_s(failures, 0.05, 1.0)
    assert backoff_s(failures, 0.05, 1.0, 0.0) == whole_s / 2
    assert backoff_s(failures, 0.05, 1.0, 0.5) == pytest.approx(0.75 * whole_s)
