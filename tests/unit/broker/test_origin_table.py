"""Which origins are remembered, and which ways to them."""

from __future__ import annotations

import pytest

from reqpool_broker import origin_table
from reqpool_broker.fair_queue import QueuedGroup
from reqpool_broker.origin import Origin
from reqpool_broker.origin_table import IDLE_SPAN_S, MAX_IDLE, OriginTable
from reqpool_broker.session import Session
from reqpool_broker.terms import Terms
from reqpool_broker.way import Way
from reqpool_broker.worker import Worker


def name(number: int) -> str:
    return f"dns://10.{number >> 16}.{number >> 8 & 255}.{number & 255}:53"


def wait_at(table: OriginTable, origin: Origin) -> QueuedGroup:
    terms = Terms(Session(bytes(16), 0.0), origin.kind, (origin.name,), 0, 1, None, 9.0)
    group = QueuedGroup(terms, (1,), (b"",))
    table.push(origin, group, front=False)
    terms.session.open[1] = group
    return group


def test_no_more_idle_origins_are_remembered_than_allowed_however_fast_they_come() -> None:
    table = OriginTable()
    for number in range(3 * MAX_IDLE):
        origin = table.get("dns", name(number), 0.0)
        table.use(origin)
        if table.is_crowded:  # as the records do when its last request ends
            table.settle(origin)
        assert len(table) <= MAX_IDLE + 1
    assert len(table.upstreams) == len(table.at) == len(table.queued_at) == len(table)


def test_an_origin_that_something_waits_for_is_never_forgotten() -> None:
    table = OriginTable()
    busy = table.get("dns", name(0), 0.0)
    group = wait_at(table, busy)
    for number in range(1, 2 * MAX_IDLE):
        table.settle(table.get("dns", name(number), 0.0))
    table.forget_old(2 * IDLE_SPAN_S)
    assert list(table) == [busy]
    assert not busy.is_forgotten
    del group.terms.session.open[1]
    busy.queue.drop(group)
    table.queued()
    table.forget_old(2 * IDLE_SPAN_S)
    assert list(table) == []
    assert busy.is_forgotten


def test_origins_that_have_become_idle_are_noted_when_the_old_are_forgotten() -> None:
    table = OriginTable()
    origin = table.get("dns", name(0), 0.0)
    table.use(origin)
    table.forget_old(IDLE_SPAN_S / 2)
    assert origin in table.idle
    table.forget_old(IDLE_SPAN_S * 2)
    assert not len(table)


def test_the_ways_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin_table, "MAX_WAYS", 10)
    table = OriginTable()
    origin = table.get("dns", name(0), 0.0)
    way = Way(origin, Worker(bytes(16), "", 0, 0.0), None, 1, (origin.name,), b"", 0)
    for number in range(25):
        table.learn(("dns", (origin.name,), b"%d" % number), way)
        assert len(table.ways) <= 10
    assert ("dns", (origin.name,), b"24") in table.ways
