"""When what ran at an instant has ended, as the broker's report tells."""

from __future__ import annotations

from typing import Any

import pytest

from reqpool_ops.fleet import has_ended
from support.fake_peers import Desk


def report(*oldest_s: Any) -> dict[str, Any]:
    return {"workers": [{"oldest_s": age_s} for age_s in oldest_s]}


@pytest.mark.parametrize(
    ("told", "ended"),
    [
        (report(0.0, 0.0), True),
        (report(0.9, 0.0), True),
        (report(0.0, 1.1), False),
        (report("much", None), True),
        (report(), True),
        ({}, True),
    ],
)
def test_what_ran_at_an_instant_has_ended_once_nothing_older_is_reported(
    told: dict[str, Any], ended: bool
) -> None:
    assert has_ended(told, asked_s=101.0, since_s=100.0) is ended


def test_a_report_asked_for_before_the_instant_says_nothing() -> None:
    assert not has_ended(report(0.0), asked_s=99.9, since_s=100.0)


def test_the_broker_reports_the_age_of_what_a_worker_has_had_for_longest() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()

    def oldest_s() -> float:
        (told,) = desk.broker.report(desk.now_s)["workers"]
        return float(told["oldest_s"])

    assert oldest_s() == 0.0
    client.submit(1)
    desk.pass_time(2.0)
    client.submit(2)
    desk.pass_time(1.0)
    assert 3.0 <= oldest_s() < 3.5
    worker.answer(1)
    assert 1.0 <= oldest_s() < 1.5
    worker.answer(2)
    assert oldest_s() == 0.0
