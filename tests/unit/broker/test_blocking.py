"""Which silent worker others wait for, as the broker reports it: fake clock, no sockets."""

from __future__ import annotations

from typing import Any

import pytest

from reqpool_broker.config import EMPTY, Config
from support.fake_peers import Desk, FakeWorker
from support.one_server import KIND, ask, granted, with_policy

PLACES = ("dns", False, 2, 2)
"""A kind without connections: two requests at a time."""


def blocking(desk: Desk) -> dict[str, bool]:
    report = desk.broker.status.make(desk.now_s)
    return {worker["id"]: worker["blocking"] for worker in (*report["workers"], *report["awaited"])}


def frozen_holder(
    config: Config, *kinds: Any, others: int = 1, requests: int = 20
) -> tuple[Desk, FakeWorker]:
    """The first worker was leased what it can take, and has been silent for 3 s; then others came."""
    desk = Desk(config=config)
    holder = desk.worker(*(kinds or (KIND,)))
    client = desk.client()
    if kinds:
        client.submit(*range(1, requests + 1), flags=0, span_ms=60_000)
    else:
        ask(client, *range(1, requests + 1))
    desk.settle()
    for _ in range(others):
        desk.worker(*(kinds or (KIND,)))
    holder.awake = False
    desk.pass_time(3.0)
    return desk, holder


def test_a_frozen_worker_with_all_slots_is_blocking() -> None:
    desk, holder = frozen_holder(with_policy(max_connections=2))
    found = blocking(desk)
    assert found.pop(holder.id.hex()) is True
    assert not any(found.values())


def test_a_worker_that_beats_is_not_blocking_however_many_wait() -> None:
    desk = Desk(config=with_policy(max_connections=2))
    holder = desk.worker(KIND)
    ask(desk.client(), *range(1, 20))
    desk.pass_time(3.0)
    assert blocking(desk) == {holder.id.hex(): False}


def test_a_frozen_worker_is_not_blocking_where_the_limit_has_room() -> None:
    desk, holder = frozen_holder(with_policy(max_connections=100))
    assert blocking(desk)[holder.id.hex()] is False


def test_a_frozen_worker_is_not_blocking_while_nobody_waits() -> None:
    desk, holder = frozen_holder(with_policy(max_connections=2), requests=1)
    assert granted(holder) >= 1
    assert blocking(desk)[holder.id.hex()] is False


def test_a_frozen_worker_with_all_places_of_a_connectionless_upstream_is_blocking() -> None:
    desk, holder = frozen_holder(EMPTY, PLACES)
    assert blocking(desk)[holder.id.hex()] is True


def test_its_certain_death_frees_what_it_held() -> None:
    desk, holder = frozen_holder(with_policy(max_connections=2))
    holder.die()
    desk.settle()
    assert sum(granted(worker) for worker in desk.workers.values() if worker is not holder) == 2
    assert not any(blocking(desk).values())
    desk.check_books()


@pytest.mark.parametrize("waits", [True, False])
def test_a_worker_that_a_new_broker_awaits_is_blocking_if_others_wait_for_slots(waits: bool) -> None:
    old = Desk()
    frozen, other = old.worker(KIND), old.worker(KIND)
    desk = Desk(
        epoch=78, config=with_policy(max_connections=2), predecessors=frozenset({frozen.id, other.id})
    )
    other.desk = desk
    other.reconnect()
    if waits:
        ask(desk.client(), *range(1, 20))
    desk.pass_time(1.0)
    assert blocking(desk) == {other.id.hex(): False, frozen.id.hex(): waits}
