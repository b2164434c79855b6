"""Requests that wait at their upstream for as long as they like leave connections to all others there."""

from __future__ import annotations

from typing import Any

import pytest

from reqpool.kinds.redis import KIND
from reqpool_broker.config import Config, NamedUpstream
from reqpool_contract.origin_names import endpoint
from reqpool_contract.policy import Policy
from reqpool_contract.wire import Flag
from reqpool_workers.protocols.redis import EXCLUSIVE_WORKER_KIND
from support.fake_peers import Desk, FakeClient, FakeWorker

SERVER = "redis://127.0.0.1:9/0"
WAITING = SERVER + "?exclusive"
KINDS = (("redis", True, 64, 128), ("redis-exclusive", True, 64, 1, True, "alone"))
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


def waits(origin: str) -> bool:
    """Are some of the server's connections kept from these requests?"""
    desk = Desk()
    worker, client = desk.worker(tuple(EXCLUSIVE_WORKER_KIND.info)), desk.client()
    ask(client, *range(1, 301), origin=origin)
    return granted(worker, origin) < EXCLUSIVE_WORKER_KIND.limit


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


def test_scripts_do_not_wait_and_take_what_there_is() -> None:
    assert waits(KIND.encode("redis://:pw@h/0", ("BLPOP", "q", 0))[0].origins[0])
    assert not waits(KIND.encode("redis://:pw@h/0", ("EVAL", "x", 0))[0].origins[0])
    assert not waits("redis://h:6379/0?alone&resp3")


@pytest.mark.parametrize("more", [(), (True,)])
def test_a_worker_that_does_not_report_which_requests_wait_is_served(more: tuple[bool, ...]) -> None:
    desk = Desk()
    worker, client = desk.worker(("redis-exclusive", True, 64, 1, *more)), desk.client()
    ask(client, *range(1, 301), origin=WAITING)
    assert granted(worker, WAITING) == (56 if more else 64)
    desk.check_books()
