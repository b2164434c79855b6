"""What status shows: rates, and the busiest of many."""

from __future__ import annotations

import pytest

from reqpool_broker import status_report
from reqpool_contract.wire import Flag
from support.fake_peers import Desk


def test_rates_are_those_of_the_last_second() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    desk.pass_time(2.0)
    client.submit(*range(1, 41), flags=Flag(0))
    worker.answer(*range(1, 11))
    desk.pass_time(1.0)
    rates = desk.broker.status.make(desk.now_s)["rates"]
    assert rates["submitted_per_s"] == pytest.approx(40, rel=0.1)
    assert rates["done_per_s"] == pytest.approx(10, rel=0.1)
    desk.pass_time(2.0)
    assert desk.broker.status.make(desk.now_s)["rates"] == {"submitted_per_s": 0.0, "done_per_s": 0.0}


def test_of_many_sessions_the_busiest_are_shown_and_all_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_report, "MAX_REPORTED", 2)
    desk = Desk()
    clients = [desk.client() for _ in range(4)]
    for count, client in enumerate(clients):
        if count:
            client.submit(*range(count), flags=Flag(0))
    report = desk.broker.status.make(desk.now_s)
    assert [session["pending"] for session in report["sessions"]] == [3, 2]
    assert report["sessions_total"] == 4
