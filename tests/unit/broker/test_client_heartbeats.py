"""Heartbeats to clients: who gets them, and which workers wait for whom."""

from __future__ import annotations

import pytest

from reqpool_broker.client_heartbeats import seq_ranges
from reqpool_contract.wire import Flag
from support.fake_peers import Desk, FakeClient


@pytest.mark.parametrize(
    ("seqs", "ranges"),
    [
        ((), []),
        ((7,), [(7, 7)]),
        ((3, 1, 2), [(1, 3)]),
        ((1, 3, 2, 9, 5), [(1, 3), (5, 5), (9, 9)]),
    ],
)
def test_seqs_are_reported_as_runs(seqs: tuple[int, ...], ranges: list[tuple[int, int]]) -> None:
    assert seq_ranges(seqs) == ranges


def test_a_client_gets_heartbeats_only_once_it_has_subscribed() -> None:
    desk = Desk()
    client = FakeClient(desk, b"s" * 16)
    client.hello(subscribe=False)
    desk.pass_time(2.0)
    assert client.heard_beats == 0
    assert desk.broker.lifecycle.subscription(client.id, 0)
    desk.broker.lifecycle.subscribed(client.id)
    desk.pass_time(2.0)
    assert client.heard_beats > 0


def test_a_worker_waits_for_clients_that_are_heard_since_the_one_heard_longest_ago() -> None:
    desk = Desk()
    peer, first, second = desk.worker(), desk.client(), desk.client()
    worker = desk.broker.records.workers[peer.id]
    assert desk.broker.heartbeats.awaited(desk.now_s) == {}
    for client in (first, second):
        client.submit(1, flags=Flag(0))
        peer.answer(1, session=client.id)
    first.awake = second.awake = False
    heard_s = desk.now_s
    desk.pass_time(1.0)
    second.heartbeat()
    assert desk.broker.heartbeats.awaited(desk.now_s) == {worker: heard_s}
    desk.pass_time(desk.broker.liveness_s - 0.5)
    assert desk.broker.heartbeats.awaited(desk.now_s) == {worker: pytest.approx(heard_s + 1.0, abs=0.1)}
    second.acknowledge()
    assert desk.broker.heartbeats.awaited(desk.now_s) == {}
