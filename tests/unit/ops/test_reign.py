"""What a supervisor tells its brokers about its workers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from reqpool_contract import wire
from reqpool_contract.wire import Verb
from reqpool_ops.reign import Reign

ID = bytes(range(8))
ONE, TWO, THREE = (bytes([number]) * 16 for number in (1, 2, 3))


@pytest.fixture
def reign() -> Reign:
    return Reign(ID)


def line(reign: Reign) -> dict[str, Any]:
    said = reign.broker_starts()
    assert said.endswith(b"\n")
    assert said.count(b"\n") == 1
    found: dict[str, Any] = json.loads(said)
    assert found.pop("reign") == ID.hex()
    return found


def news(reign: Reign) -> list[tuple[Any, ...]]:
    decoded = (wire.decode(head, wire.WORKER_TO_BROKER) for head in reign.take_news())
    return [(verb, *values) for verb, values in decoded]


def test_a_worker_is_announced_before_it_is_started(reign: Reign) -> None:
    line(reign)
    reign.worker_starts(ONE)
    assert news(reign) == [(Verb.STARTED, ONE)]
    assert news(reign) == []


@pytest.mark.parametrize(("orderly", "deaths"), [(True, 0), (False, 1)])
def test_an_end_counts_unless_it_was_in_order(reign: Reign, orderly: bool, deaths: int) -> None:
    line(reign)
    reign.worker_starts(ONE)
    reign.worker_ended(ONE, orderly=orderly)
    assert news(reign) == [(Verb.STARTED, ONE), (Verb.DEAD, ONE, deaths, orderly)]
    reign.broker_ended()
    assert line(reign) == {"deaths": deaths, "workers": []}


def test_what_happens_before_the_broker_can_be_reached_is_not_lost(reign: Reign) -> None:
    reign.worker_starts(ONE)
    line(reign)
    reign.worker_starts(TWO)
    reign.worker_ended(ONE, orderly=False)
    assert news(reign) == [(Verb.STARTED, ONE), (Verb.STARTED, TWO), (Verb.DEAD, ONE, 1, False)]


def test_workers_that_end_after_the_broker_was_killed_are_counted_for_its_successor(reign: Reign) -> None:
    line(reign)
    for worker in (ONE, TWO, THREE):
        reign.worker_starts(worker)
    reign.broker_ended()
    reign.worker_ended(ONE, orderly=False)
    assert line(reign) == {"deaths": 1, "workers": [TWO.hex(), THREE.hex()]}
    assert news(reign) == []
    reign.worker_ended(TWO, orderly=False)
    assert news(reign) == [(Verb.DEAD, TWO, 2, False)]


def test_an_orderly_exit_without_a_broker_leaves_nothing_to_wait_for(reign: Reign) -> None:
    line(reign)
    reign.worker_starts(ONE)
    reign.broker_ended()
    reign.worker_ended(ONE, orderly=True)
    assert line(reign) == {"deaths": 0, "workers": []}


def test_no_broker_is_told_old_news(reign: Reign) -> None:
    line(reign)
    reign.worker_starts(ONE)
    reign.worker_ended(ONE, orderly=False)
    reign.broker_ended()
    assert news(reign) == []
    assert line(reign) == {"deaths": 1, "workers": []}
    assert news(reign) == []


def test_a_broker_that_hangs_does_not_swallow_a_death(reign: Reign) -> None:
    line(reign)
    reign.worker_starts(ONE)
    reign.worker_ended(ONE, orderly=False)
    assert len(reign.take_news()) == 2  # into a pipe that is never read
    reign.broker_ended()
    assert line(reign) == {"deaths": 1, "workers": []}


def test_a_death_is_remembered_however_many_brokers_follow(reign: Reign) -> None:
    line(reign)
    for worker in (ONE, TWO):
        reign.worker_starts(worker)
    reign.broker_ended()
    reign.worker_ended(ONE, orderly=False)
    for _ in range(1_000):
        assert line(reign) == {"deaths": 1, "workers": [TWO.hex()]}
        reign.broker_ended()


def test_a_worker_that_no_broker_lived_beside_is_neither_awaited_nor_counted(reign: Reign) -> None:
    line(reign)
    reign.broker_ended()
    reign.worker_starts(ONE)
    reign.worker_starts(TWO)
    reign.worker_ended(ONE, orderly=False)
    assert line(reign) == {"deaths": 0, "workers": []}
    assert news(reign) == [(Verb.STARTED, TWO)]
    reign.broker_ended()
    assert line(reign) == {"deaths": 0, "workers": [TWO.hex()]}  # this one may have been leased something
    reign.worker_ended(TWO, orderly=False)
    assert reign.deaths == 1


def test_nothing_is_kept_of_workers_that_ended(reign: Reign) -> None:
    line(reign)
    for number in range(10_000):
        worker = number.to_bytes(16, "big")
        reign.worker_starts(worker)
        reign.worker_ended(worker, orderly=number % 2 == 0)
        assert len(reign.take_news()) == 2
    reign.broker_ended()
    assert line(reign) == {"deaths": 5_000, "workers": []}


def test_every_broker_hears_once_that_the_cluster_stops(reign: Reign) -> None:
    line(reign)
    reign.worker_starts(ONE)
    reign.stops()
    assert news(reign) == [(Verb.STARTED, ONE), (Verb.STOPPING,)]
    reign.broker_ended()
    line(reign)
    assert news(reign) == [(Verb.STOPPING,)]


def test_a_cluster_that_stops_without_a_broker_tells_the_next_one(reign: Reign) -> None:
    reign.stops()
    assert news(reign) == []
    line(reign)
    assert news(reign) == [(Verb.STOPPING,)]
