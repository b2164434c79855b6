"""Requests that wait at their upstream for as long as they like leave connections to all others there."""

from __future__ import annotations

from typing import Any

import pytest

from reqpool_broker.config import Config, NamedUpstream
from reqpool_broker.policy import Policy
from reqpool_contract.origin_names import endpoint
from reqpool_contract.wire import Flag
from support.fake_peers import Desk, FakeClient, FakeWorker

SERVER = "redis://127.0.0.1:9/0"
WAITING = SERVER + "?exclusive"
KINDS = (("redis", True, 64, 128), ("redis-exclusive", True, 64, 1))
LONG_MS = 600_000


def desk_of(limit: int | None) -> Desk:
    if limit is None:
        return Desk()
    found = endpoint(SERVER, {})
    return Desk(
        config=Config([NamedUpstream("cache", ("redis",), found, found, Policy(max_connections=limit))])
    )


def ask(client: FakeClient, *seqs: int, origin: str) -> None:
    kind = "redis" if origin == SERVER else "redis-exclusive"
    options: dict[str, Any] = {"kind": kind, "origins": (origin,), "flags": Flag(0), "span_ms": LONG_MS}
    client.submit(*seqs, **options)


def granted(worker: FakeWorker, origin: str) -> int:
    return worker.grants.get(origin, (0, 0))[1]


@pytest.mark.parametrize(("limit", "most"), [(None, 56), (100, 88), (8, 7), (2, 1), (1, 1)])
def test_commands_that_wait_never_take_the_last_connections(limit: int | None, most: int) -> None:
    desk = desk_of(limit)
    worker, client = desk.worker(*KINDS), desk.client()
    ask(client, *range(1, 301), origin=WAITING)
    assert granted(worker, WAITING) == most
    assert len(worker.held()) >= most
    desk.check_books()


def test_a_command_of_another_client_does_not_wait_for_those_that_wait() -> None:
    desk = desk_of(4)
    worker, one, other = desk.worker(*KINDS), desk.client(), desk.client()
    ask(one, *range(1, 301), origin=WAITING)
    ask(other, 1, origin=SERVER)
    assert granted(worker, SERVER) == 1
    assert [lease.seqs for lease in worker.leases if lease.origin == SERVER] == [(1,)]
    desk.check_books()


def test_sorts_of_waiting_at_one_server_share_what_they_may_have() -> None:
    desk = desk_of(8)
    worker, client = desk.worker(*KINDS), desk.client()
    other = WAITING + "&resp3"
    ask(client, *range(1, 4), origin=other)
    ask(client, *range(101, 301), origin=WAITING)
    assert granted(worker, WAITING) + granted(worker, other) == 7
    assert granted(worker, other) == 3
    desk.check_books()
