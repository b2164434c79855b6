"""Large bodies of one client and the others' requests: shares in bytes, fake clock, no sockets."""

from __future__ import annotations

import random

import pytest

from reqpool_broker.client_limits import ClientLimits
from reqpool_broker.config import Config
from reqpool_broker.fair_queue import QUANTUM_BYTES
from reqpool_broker.worker_state import WorkerState
from reqpool_contract import wire
from reqpool_contract.errors import Code
from reqpool_contract.wire import Flag, SubmitGroup, Verb
from support.fake_peers import UPSTREAM, Desk, FakeClient, FakeWorker
from support.pinned import ORIGIN, gone, opened

MIB = 1 << 20
LARGE_BYTES = wire.LARGE_MESSAGE_BYTES
LAST_BYTES = wire.PIECE_BYTES + LARGE_BYTES
ONCE = Flag(0)


def ask(client: FakeClient, *seqs: int, size: int, origin: str = UPSTREAM) -> None:
    """Submit requests with payloads of so many bytes, each a group of its own."""
    for seq in seqs:
        client.say_groups(
            [SubmitGroup("dns", (origin,), 60_000, Flag.IDEMPOTENT, 1, None, None, (seq,), (bytes(size),))]
        )


def body(seq: int, size: int) -> bytes:
    """Of which every byte tells where it belongs."""
    return b"%08d" % seq + random.Random(seq).randbytes(size - 8)


def room_bytes(desk: Desk, worker: FakeWorker) -> int:
    return desk.broker.sender.large[desk.broker.records.workers[worker.id]].room_bytes


def ask_once(client: FakeClient, seq: int, size: int) -> None:
    """Submit a request that must not be repeated."""
    client.say_groups(
        [SubmitGroup("dns", (UPSTREAM,), 60_000, ONCE, 1, None, None, (seq,), (body(seq, size),))]
    )


def read(desk: Desk, worker: FakeWorker) -> None:
    """Let the worker read what was sent to it."""
    worker.heartbeat()
    desk.settle()


def test_small_lease_passes_large_bodies_that_are_on_their_way() -> None:
    desk = Desk()
    worker, hard, other = desk.worker(), desk.client(), desk.client()
    worker.reads = False
    ask(hard, *range(1, 61), size=MIB)
    assert worker.sent_bytes == wire.PIECES_BYTES
    ask(other, 1, size=10)
    assert worker.held() == [1]
    assert worker.leases[-1].session == other.id
    desk.check_books()


@pytest.mark.parametrize("size", [LARGE_BYTES + 1, LAST_BYTES, LAST_BYTES + 1, MIB, wire.MAX_PAYLOAD_BYTES])
def test_body_arrives_as_it_was(size: int) -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    for seq in (1, 2):
        ask_once(client, seq, size)
    assert [lease.payloads for lease in worker.leases] == [(body(1, size),), (body(2, size),)]
    worker.answer()
    assert client.code(1) == client.code(2) == 0
    desk.check_books()


def test_worker_that_has_read_what_is_large_is_sent_more() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    worker.reads = False
    ask(client, *range(1, 13), size=MIB)
    while len(worker.held()) < 12:
        before = worker.sent_bytes
        read(desk, worker)
        assert 0 < worker.sent_bytes - before <= 2 * LAST_BYTES
    desk.check_books()


def test_heartbeat_from_before_the_worker_read_it_makes_no_room() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    worker.reads = False
    seen = worker.seen
    ask(client, *range(1, 13), size=MIB)
    worker.seen, before = seen, worker.sent_bytes
    read(desk, worker)
    assert worker.sent_bytes == before


def test_no_more_than_a_window_of_large_bodies_is_leased_ahead() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    worker.reads = False
    ask(client, *range(1, 13), size=MIB)
    assert desk.broker.records.workers[worker.id].in_flight * MIB == wire.WINDOW_BYTES


def test_new_connection_of_a_worker_has_nothing_on_its_way() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    worker.reads = False
    ask_once(client, 1, MIB)
    worker.reads = True
    worker.reconnect()
    assert [lease.payloads for lease in worker.leases] == [(body(1, MIB),)]
    desk.check_books()


def test_what_has_not_left_when_its_worker_dies_runs_elsewhere() -> None:
    desk = Desk()
    first, client = desk.worker(), desk.client()
    first.reads = False
    ask_once(client, 1, MIB)
    first.die()
    second = desk.worker()
    assert second.held() == [1]
    assert not second.leases[0].flags & Flag.SENT
    second.answer()
    assert client.code(1) == 0
    desk.check_books()


def test_what_has_not_left_when_its_worker_falls_silent_runs_elsewhere() -> None:
    desk = Desk()
    first, client = desk.worker(), desk.client()
    first.reads = first.awake = False
    ask_once(client, 1, MIB)
    second = desk.worker()
    desk.pass_time(3.0)
    desk.settle()
    assert second.held() == [1]
    second.answer()
    first.reads = True
    first.reconnect()
    assert first.held() == []
    assert desk.executions == [(client.id, 1)]
    desk.check_books()


def test_what_has_left_when_its_worker_dies_may_have_run() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    ask_once(client, 1, MIB)
    assert worker.held() == [1]
    worker.die()
    assert client.code(1) == Code.OUTCOME_UNKNOWN
    desk.check_books()


@pytest.mark.parametrize("flags", [ONCE, Flag.IDEMPOTENT])
def test_what_has_not_left_when_its_worker_drains_runs_elsewhere(flags: Flag) -> None:
    # It ends once it knows that its DRAIN was seen: what left for it after that would count as lost there.
    desk = Desk()
    first, client = desk.worker(), desk.client()
    first.reads = False
    for seq in (1, 2):
        group = SubmitGroup("dns", (UPSTREAM,), 60_000, flags, 1, None, None, (seq,), (body(seq, MIB),))
        client.say_groups([group])
    first.send(Verb.DRAIN, first.epoch, first.seen)
    second = desk.worker()
    assert second.held() == [1, 2]
    assert [lease.attempt for lease in second.leases] == [1, 1]
    assert not any(lease.flags & Flag.SENT for lease in second.leases)
    first.reads = True
    read(desk, first)
    assert first.held() == []
    second.answer()
    assert client.code(1) == client.code(2) == 0
    desk.check_books()


@pytest.mark.parametrize("size", [LARGE_BYTES + 1, MIB])
def test_body_that_is_cancelled_half_way_leaves_nothing_behind(size: int) -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    worker.reads = False
    ask_once(client, 1, MIB)
    client.send(Verb.CANCEL, [1])
    worker.reads = True
    read(desk, worker)
    ask_once(client, 2, size)
    assert [lease.payloads for lease in worker.leases] == [(body(2, size),)]
    worker.answer()
    assert room_bytes(desk, worker) == wire.WINDOW_BYTES
    desk.check_books()


def test_part_of_a_group_that_is_cancelled_before_it_has_left_does_not_leave() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    worker.reads = False
    ask_once(client, 1, MIB)
    bodies = tuple(body(seq, 60_000) for seq in (2, 3, 4))
    client.say_groups([SubmitGroup("dns", (UPSTREAM,), 60_000, ONCE, 1, None, None, (2, 3, 4), bodies)])
    client.send(Verb.CANCEL, [3])
    worker.reads = True
    read(desk, worker)
    assert worker.held() == [1, 2, 4]
    assert worker.leases[-1].payloads == (bodies[0], bodies[2])
    worker.answer()
    assert room_bytes(desk, worker) == wire.WINDOW_BYTES
    desk.check_books()


def test_room_of_what_is_cancelled_before_it_has_left_is_used_at_once() -> None:
    desk = Desk()
    worker, client, other = desk.worker(), desk.client(), desk.client()
    worker.reads = False
    ask(client, 1, 2, size=LAST_BYTES)
    ask(client, 3, size=wire.MAX_PAYLOAD_BYTES)
    ask(other, 4, size=LAST_BYTES)
    client.send(Verb.CANCEL, [3])
    for _ in range(3):
        read(desk, worker)
    assert worker.held() == [1, 2, 4]
    desk.check_books()


def test_what_has_not_left_when_its_client_ends_does_not_leave() -> None:
    desk, holder, client = opened()
    holder.reads = False
    for seq, pin, flags in ((2, None, 0), (3, 2, Flag.OPENS)):
        client.say_groups([SubmitGroup("tcp", (ORIGIN,), 60_000, flags, 1, pin, None, (seq,), (bytes(MIB),))])
    client.send(Verb.GOODBYE)
    holder.reads = True
    read(desk, holder)
    assert holder.held() == []
    assert not desk.broker.sessions
    desk.check_books()


def test_what_has_not_left_when_its_time_is_up_was_not_sent() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    worker.reads = worker.awake = False
    client.say_groups([SubmitGroup("dns", (UPSTREAM,), 1_000, ONCE, 1, None, None, (1,), (body(1, MIB),))])
    desk.pass_time(1.5)
    assert client.code(1) == Code.TIMEOUT
    assert client.error(1)["sent"] is False
    assert client.error(1)["phase"] == "queue"
    desk.check_books()


def test_time_on_the_way_counts() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    worker.reads = worker.awake = False
    ask_once(client, 1, MIB)
    desk.pass_time(2.0)
    worker.reads = True
    read(desk, worker)
    (lease,) = worker.leases
    assert 57_000 <= lease.span_ms <= 58_100
    assert 1_900 <= lease.queued_ms <= 2_100


def test_small_request_for_a_held_connection_does_not_pass_a_large_one() -> None:
    desk, holder, client = opened()
    holder.reads = False
    for seq, size in ((2, MIB), (3, 10)):
        client.say_groups([SubmitGroup("tcp", (ORIGIN,), 60_000, 0, 1, 1, None, (seq,), (bytes(size),))])
    assert 3 not in holder.held()
    holder.reads = True
    read(desk, holder)
    assert holder.held()[-2:] == [2, 3]
    desk.check_books()


@pytest.mark.parametrize("opens", [True, False], ids=["the first request", "a later one"])
def test_letting_go_of_a_held_connection_ends_what_has_not_left_for_it(opens: bool) -> None:
    desk, holder, client = opened()
    holder.reads = False
    pin, flags = (2, Flag.OPENS) if opens else (1, ONCE)
    client.say_groups([SubmitGroup("tcp", (ORIGIN,), 60_000, flags, 1, pin, None, (2,), (bytes(MIB),))])
    client.send(Verb.UNPIN, pin)
    desk.settle()
    holder.reads = True
    read(desk, holder)
    assert holder.unpinned == [(client.id, pin)]
    assert holder.held() == []
    assert gone(client, 2)
    assert desk.broker.sessions[client.id].queued_bytes == 0
    desk.check_books()


def test_large_request_for_a_held_connection_waits_for_a_worker_that_is_silent() -> None:
    desk, holder, client = opened()
    holder.reads = holder.awake = False
    client.say_groups([SubmitGroup("tcp", (ORIGIN,), 60_000, 0, 1, 1, None, (2,), (bytes(MIB),))])
    desk.pass_time(3.0)
    holder.reads = holder.awake = True
    holder.reconnect(pins=[(client.id, 1, "tcp", ORIGIN)])
    assert 2 in holder.held()
    desk.check_books()


@pytest.mark.parametrize("away", [False, True], ids=["a worker that reads nothing", "a worker that is away"])
def test_large_requests_for_held_connections_count_while_they_wait(away: bool) -> None:
    desk, holder, client = opened()
    desk.broker.reconfigure(Config(clients=ClientLimits(max_queued_bytes=4 * MIB)))
    holder.reads = False
    if away:
        holder.awake = False
        desk.pass_time(desk.broker.liveness_s + 1.0)
    for seq in range(2, 8):
        client.say_groups([SubmitGroup("tcp", (ORIGIN,), 60_000, 0, 1, 1, None, (seq,), (body(seq, MIB),))])
    assert [client.code(seq) for seq in client.outcomes if seq > 1] == [Code.OVERLOADED] * 2
    assert client.error(7)["sent"] is False
    assert desk.broker.status.make(desk.now_s)["sessions"][0]["bytes_percent"] == 100.0
    desk.check_books()
    holder.awake = holder.reads = True
    holder.reconnect(pins=[(client.id, 1, "tcp", ORIGIN)])
    assert set(holder.held()) >= {2, 3, 4, 5}
    assert desk.broker.sessions[client.id].queued_bytes == 0
    desk.check_books()


def test_large_request_for_a_held_connection_that_dies_before_it_has_left_has_not_run() -> None:
    desk, holder, client = opened()
    holder.reads = holder.awake = False
    client.say_groups([SubmitGroup("tcp", (ORIGIN,), 60_000, 0, 1, 1, None, (2,), (bytes(MIB),))])
    desk.pass_time(3.0)
    assert desk.broker.records.workers[holder.id].state is WorkerState.SUSPECT
    holder.die()
    assert gone(client, 2)
    desk.check_books()


def test_queues_of_several_upstreams_share_the_way_to_a_worker() -> None:
    desk = Desk()
    worker, hard, other = desk.worker(), desk.client(), desk.client()
    worker.reads = False
    ask(hard, *range(1, 41), size=MIB, origin="dns://127.0.0.1:1")
    ask(other, *range(1, 5), size=MIB, origin="dns://127.0.0.1:2")
    while worker.sent_bytes < 16 * MIB:
        read(desk, worker)
    assert {1, 2, 3, 4} <= {s for lease in worker.leases if lease.session == other.id for s in lease.seqs}


@pytest.mark.parametrize("sizes", [(4 * MIB, 256 << 10), (16 * MIB, MIB), (MIB, MIB)])
def test_sessions_that_send_large_bodies_have_equal_shares_in_bytes(sizes: tuple[int, int]) -> None:
    desk = Desk()
    worker = desk.worker(("dns", False, 100_000, 1))
    clients = [desk.client(), desk.client()]
    worker.reads = False
    for client, size in zip(clients, sizes, strict=True):
        ask(client, *range(1, 1 + 96 * MIB // size), size=size)
    worker.leases.clear()
    served = [0, 0]
    while sum(served) < 96 * MIB:
        worker.heartbeat()
        desk.settle()
        served = [
            sum(len(p) for lease in worker.leases if lease.session == client.id for p in lease.payloads)
            for client in clients
        ]
    # What was leased while only one of them waited is in it.
    assert abs(served[0] - served[1]) <= 2 * max(sizes) + wire.WINDOW_BYTES + QUANTUM_BYTES


def test_heartbeats_are_remembered_for_as_long_as_a_message_may_name_them() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, flags=ONCE)
    desk.pass_time(0.1)
    seen = worker.seen
    known = desk.broker.records.workers[worker.id]
    for _ in range(500):  # as many large bodies in one liveness span
        known.heartbeat(desk.now_s)
    worker.seen = seen
    worker.answer(1)
    assert client.code(1) == 0
    assert not worker.rejects
    for _ in range(10):
        desk.now_s += 1.0
        known.heartbeat(desk.now_s)
    assert len(known.heartbeats.sent) <= 3
