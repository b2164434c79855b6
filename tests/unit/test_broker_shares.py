"""Large bodies of one client and the others' requests: shares in bytes, fake clock, no sockets."""

from __future__ import annotations

import pytest

from reqpool import wire
from reqpool.wire import Flag, Group
from reqpool_broker.queue import QUANTUM_BYTES
from support.fake_peers import UPSTREAM, Desk, FakeClient

MIB = 1 << 20
ONCE = Flag(0)


def ask(client: FakeClient, *seqs: int, size: int, origin: str = UPSTREAM) -> None:
    """Submit requests with payloads of so many bytes, each a group of its own."""
    for seq in seqs:
        client.say_groups(
            [Group("dns", (origin,), 60_000, Flag.IDEMPOTENT, 1, None, None, (seq,), (bytes(size),))]
        )


def test_small_lease_does_not_wait_behind_large_bodies() -> None:
    desk = Desk()
    worker, hard, other = desk.worker(), desk.client(), desk.client()
    worker.reads = False
    ask(hard, *range(1, 61), size=MIB)
    assert len(worker.held()) * MIB == wire.WINDOW_BYTES
    ask(other, 1, size=10)
    assert worker.leases[-1].session == other.id
    desk.check_books()


def test_worker_that_has_read_what_is_large_is_sent_more() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    worker.reads = False
    ask(client, *range(1, 13), size=MIB)
    for held in (4, 8, 12):
        assert len(worker.held()) == held
        worker.heartbeat()
        desk.settle()
    desk.check_books()


def test_heartbeat_from_before_the_worker_read_it_makes_no_room() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    worker.reads = False
    seen = worker.seen
    ask(client, *range(1, 13), size=MIB)
    worker.seen = seen
    worker.heartbeat()
    desk.settle()
    assert len(worker.held()) == 4


def test_body_larger_than_the_window_travels_alone() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    worker.reads = False
    ask(client, 1, 2, size=wire.MAX_PAYLOAD_BYTES)
    assert worker.held() == [1]
    worker.heartbeat()
    desk.settle()
    assert worker.held() == [1, 2]


def test_new_connection_of_a_worker_has_nothing_on_its_way() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    worker.reads = False
    ask(client, *range(1, 13), size=MIB)
    worker.leases.clear()  # none of it has arrived
    worker.reconnect()
    assert len(worker.held()) == 4
    desk.check_books()


def test_queues_of_several_upstreams_share_the_way_to_a_worker() -> None:
    desk = Desk()
    worker, hard, other = desk.worker(), desk.client(), desk.client()
    worker.reads = False
    ask(hard, *range(1, 41), size=MIB, origin="dns://127.0.0.1:1")
    ask(other, *range(1, 5), size=MIB, origin="dns://127.0.0.1:2")
    for _ in range(3):
        worker.heartbeat()
        desk.settle()
    assert {1, 2, 3, 4} <= {s for lease in worker.leases if lease.session == other.id for s in lease.seqs}


@pytest.mark.parametrize("sizes", [(4 * MIB, 256 << 10), (16 * MIB, MIB), (MIB, MIB)])
def test_sessions_that_send_large_bodies_have_equal_shares_in_bytes(sizes: tuple[int, int]) -> None:
    desk = Desk()
    worker = desk.worker(("dns", False, 100_000, 1))
    clients = [desk.client(), desk.client()]
    worker.reads = False
    for client, size in zip(clients, sizes, strict=True):
        ask(client, *range(1, 1 + 96 * MIB // size), size=size)
    worker.leases.clear()  # what was leased while only one of them waited
    served = [0, 0]
    while sum(served) < 96 * MIB:
        worker.heartbeat()
        desk.settle()
        served = [
            sum(len(p) for lease in worker.leases if lease.session == client.id for p in lease.payloads)
            for client in clients
        ]
    assert abs(served[0] - served[1]) <= max(sizes) + wire.WINDOW_BYTES + QUANTUM_BYTES


def test_heartbeats_are_remembered_for_as_long_as_a_message_may_name_them() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, flags=ONCE)
    desk.pass_time(0.1)
    seen = worker.seen
    known = desk.broker.ledger.workers[worker.id]
    for _ in range(500):  # as many large bodies in one liveness span
        known.heartbeat(worker.epoch, desk.now_s, 2.5)
    worker.seen = seen
    worker.answer(1)
    assert client.code(1) == 0
    assert not worker.rejects
    for _ in range(10):
        desk.now_s += 1.0
        known.heartbeat(worker.epoch, desk.now_s, 2.5)
    assert len(known.heartbeat_times) <= 3
