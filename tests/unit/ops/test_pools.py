"""Connections by upstream, from what the broker and its workers report of origins."""

from __future__ import annotations

import json
from typing import Any

import pytest

from reqpool_ops.pools import pools
from reqpool_ops.report_values import plain
from support.reports import pooled


def test_connections_are_summed_over_workers_and_the_origins_of_an_upstream() -> None:
    summed = pools(pooled())
    assert summed["redis://127.0.0.1:6379"] == {
        "names": ["cache", "sessions"], "limit": 8, "granted": 4, "reserved": 5, "in_flight": 65, "in_use": 4,
        "idle": 1, "open": 5, "waiting": 5, "overflowed": 8, "pinned": 1,
    }  # fmt: skip
    assert summed["http://127.0.0.1:80"]["open"] == 0


def test_connections_that_the_broker_does_not_report_count_for_their_upstream() -> None:
    summed = pools(pooled(**{"redis://app@127.0.0.1:6379/2#0a": [0, 1, 1, 0, 0, 0], "tcp://[::1]:7": [1]}))
    assert summed["redis://127.0.0.1:6379"]["open"] == 7
    assert summed["tcp://[::1]:7"]["in_flight"] == 1


@pytest.mark.parametrize("nonsense", ["x", b"x", None, [None, "x", float("nan"), -0.2], {"a": 1}, 5, True])
def test_figures_that_are_none_are_nothing(nonsense: Any) -> None:
    report = pooled(**{"tcp://127.0.0.1:7": nonsense})
    report["origins"]["http://127.0.0.1:80"] |= dict.fromkeys(
        ("names", "limit", "granted", "upstream"), nonsense
    )
    report["origins"][b"\xff"] = report["origins"]["x\n"] = nonsense
    summed = pools(report)
    assert summed["redis://127.0.0.1:6379"]["open"] == 5
    assert summed["tcp://127.0.0.1:7"]["in_flight"] in (0, 5)
    json.dumps(plain(summed))
    for key in ("origins", "workers"):
        pools(report | {key: nonsense})
