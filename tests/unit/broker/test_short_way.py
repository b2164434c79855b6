"""The short way of usual messages: what takes it, what does not, and that nothing comes out differently."""

from __future__ import annotations

import random
from typing import Any

import pytest

from reqpool.kinds.origin import endpoint
from reqpool_broker.config import Config, NamedUpstream
from reqpool_contract import wire
from reqpool_contract.errors import Code
from reqpool_contract.policy import Policy
from reqpool_contract.wire import Flag, SubmitGroup, Verb
from support.fake_peers import Desk, FakeClient, FakeWorker
from support.short_ways import ShortWays
from support.storm import MIXES, Mix, Storm

TCP = ("tcp", True, 64, 1)
DEEP = ("redis", True, 64, 16)
DATAGRAMS = ("dns", False, 64, 1)
ORIGIN = "tcp://127.0.0.1:9"
PLACE = "dns://127.0.0.1:53"
PLACES = {"tcp": ORIGIN, "dns": PLACE, "redis": "redis://h:6379"}
SHARES = (0.0, 0.5, 1.0)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> ShortWays:
    return ShortWays(monkeypatch)


def ask(client: FakeClient, *seqs: int, origin: str = ORIGIN, **options: Any) -> None:
    client.submit(*seqs, **{"origins": (origin,), "kind": origin.partition(":")[0], **options})


def known(desk: Desk, *seqs: int, kind: tuple[Any, ...] = TCP) -> tuple[FakeWorker, FakeClient]:
    """A worker and a client, of which each of ``seqs`` has been served: the broker knows the way."""
    worker, client = desk.worker(kind), desk.client()
    ask(client, *seqs, origin=PLACES[kind[0]])
    worker.answer()
    client.acknowledge()
    return worker, client


def test_a_request_like_one_before_it_is_leased_and_ends_by_the_short_way(short: ShortWays) -> None:
    desk = Desk()
    worker, client = known(desk, 1)
    assert not short.taken["ShortSubmit"]
    ask(client, 2, span_ms=5_000)
    (lease,) = worker.leases
    assert (lease.seqs, lease.payloads, lease.span_ms, lease.attempt, lease.wait_ms) == (
        (2,), (b"p2",), 5_000, 1, None,
    )  # fmt: skip
    desk.check_books()
    worker.answer()
    assert client.code(2) == Code.OK
    assert short.taken == {"ShortSubmit": 1, "ShortResults": 2}
    client.acknowledge()
    desk.check_books()
    assert desk.broker.records.done == desk.broker.records.submitted == 2


def test_what_the_broker_keeps_of_results_is_acknowledged_by_the_next_submit(short: ShortWays) -> None:
    desk = Desk()
    worker, client = known(desk, 1)
    ask(client, 2)
    worker.answer()
    client.acked = max(client.batches)
    ask(client, 3)
    assert short.taken["ShortSubmit"] == 2
    assert not desk.broker.sessions[client.id].unacked
    assert not desk.broker.records.workers[worker.id].parts
    desk.check_books()


def test_a_seq_that_is_open_is_not_leased_again(short: ShortWays) -> None:
    desk = Desk()
    worker, client = known(desk, 1, kind=DATAGRAMS)
    ask(client, 2, origin=PLACE)
    ask(client, 2, 3, origin=PLACE)
    assert sorted(worker.held()) == [2, 3]
    desk.check_books()


def test_seqs_that_come_twice_in_one_submit_are_leased_once(short: ShortWays) -> None:
    desk = Desk()
    worker, client = known(desk, 1)
    group = SubmitGroup("tcp", (ORIGIN,), 5_000, 1, 1, None, None, (2,), (b"p2",))
    client.say_groups([group, group])
    client.say_groups([group._replace(seqs=(3, 3), payloads=(b"p", b"q"))])
    assert sorted(worker.held()) == [2, 3]
    desk.check_books()


def test_seqs_that_come_twice_in_one_results_end_once(short: ShortWays) -> None:
    desk = Desk()
    worker, client = known(desk, 1)
    ask(client, 2)
    blob = wire.encode_blob((2, 0, b"first"))
    groups = [(client.id, (2,), 0), (client.id, (2,), 0)]
    worker.numbered += 1
    worker.send(Verb.RESULTS, worker.epoch, worker.seen, worker.numbered, groups, blobs=(blob, blob))
    desk.settle()
    assert client.code(2) == Code.OK
    assert desk.broker.records.done == 2
    desk.check_books()


def test_a_repeated_submit_is_ignored_and_one_after_a_gap_rejected(short: ShortWays) -> None:
    desk = Desk()
    worker, client = known(desk, 1)
    ask(client, 2)
    client.submitted -= 1
    ask(client, 3)
    assert worker.held() == [2]
    client.submitted += 1
    ask(client, 4)
    assert client.replies[-1][0] is Verb.REJECT
    assert worker.held() == [2]


@pytest.mark.parametrize(("epoch", "ahead"), [(1, 1), (0, 2), (0, 0)])
def test_results_of_another_epoch_or_out_of_order_are_not_taken(
    epoch: int, ahead: int, short: ShortWays
) -> None:
    desk = Desk()
    worker, client = known(desk, 1)
    ask(client, 2)
    blob = wire.encode_blob((2, 0, b"x"))
    about = (worker.epoch + epoch, worker.seen, worker.numbered + ahead)
    worker.send(Verb.RESULTS, *about, [(client.id, (2,), 0)], blobs=(blob,))
    desk.settle()
    assert 2 not in client.outcomes
    desk.check_books()


def test_how_many_attempts_it_took_is_told(short: ShortWays) -> None:
    desk = Desk()
    worker, client = known(desk, 1)
    ask(client, 2)
    worker.fail(2, code=Code.CONNECTION_LOST, sent=True)
    assert [lease.attempt for lease in worker.leases] == [2]
    worker.answer()
    assert client.attempts == {2: 2}
    desk.check_books()


def test_a_queue_timeout_goes_with_the_lease(short: ShortWays) -> None:
    desk = Desk()
    upstream = NamedUpstream(
        "lines", ("tcp",), endpoint(ORIGIN, {}), endpoint(ORIGIN, {}), Policy(queue_timeout_s=0.5)
    )
    desk.broker.reconfigure(Config([upstream]))
    worker, client = known(desk, 1)
    ask(client, 2, span_ms=5_000)
    assert worker.leases[0].wait_ms == 500
    worker.answer()
    ask(client, 3, span_ms=300)
    assert worker.leases[0].wait_ms is None
    assert short.taken["ShortSubmit"] == 2


def test_a_new_configuration_is_looked_at(short: ShortWays) -> None:
    desk = Desk()
    worker = desk.worker(DEEP)
    client = desk.client()
    one, two = "redis://10.0.0.1:6379/0", "redis://10.0.0.2:6379/0"
    for seq, place in ((1, one), (2, one), (3, two), (4, two)):
        found = endpoint(place, {})
        if seq in (1, 3):
            desk.broker.reconfigure(Config([NamedUpstream("cache", ("redis",), found, found, Policy())]))
        ask(client, seq, origin="@cache", kind="redis")
        assert [lease.origin for lease in worker.leases] == [place]
        worker.answer()
    assert short.taken["ShortSubmit"] == 2
    desk.broker.reconfigure(Config())
    ask(client, 5, origin="@cache", kind="redis")
    assert client.code(5) == Code.USAGE


def test_what_waited_while_the_configuration_changed_is_no_example_for_others(short: ShortWays) -> None:
    desk = Desk()
    client = desk.client()
    one, two = (endpoint(f"redis://10.0.0.{n}:6379/0", {"password": f"p{n}"}) for n in (1, 2))
    desk.broker.reconfigure(Config([NamedUpstream("cache", ("redis",), one, one, Policy())]))
    ask(client, 1, origin="@cache", kind="redis")  # which waits, as there is no worker
    desk.broker.reconfigure(Config([NamedUpstream("cache", ("redis",), two, two, Policy())]))
    worker = desk.worker(DEEP)
    assert [lease.origin for lease in worker.leases] == [one.origin]
    worker.answer()
    for seq in (2, 3):
        ask(client, seq, origin="@cache", kind="redis")
        assert [(lease.origin, lease.settings) for lease in worker.leases] == [two]
        worker.answer()
    assert short.taken["ShortSubmit"] == 1
    desk.check_books()


def test_a_worker_that_drains_or_falls_silent_is_given_nothing_more(short: ShortWays) -> None:
    desk = Desk()
    worker, client = known(desk, 1)
    other = desk.worker(TCP)
    for seq in range(2, 20):
        ask(client, seq)
        owner = worker if worker.held() else other
        owner.answer()
    owner.send(Verb.DRAIN, owner.epoch, owner.seen)
    rest = other if owner is worker else worker
    ask(client, 20)
    assert owner.held() == []
    owner.confirm(ORIGIN, 0)
    assert rest.held() == [20]
    assert short.taken["ShortSubmit"] > 10


def test_more_owners_share_the_load_as_soon_as_there_are_more(short: ShortWays) -> None:
    desk = Desk()
    workers = [desk.worker(DATAGRAMS), desk.worker(DATAGRAMS)]
    client = desk.client()
    ask(client, 1, origin=PLACE)
    owner = next(worker for worker in workers if worker.held())
    owner.cpu_percent = 95.0
    desk.pass_time(3.0)
    assert desk.broker.records.origins.named(PLACE)[0].owner_count == 2
    for seq in range(2, 8):
        ask(client, seq, origin=PLACE)
    assert all(worker.held() for worker in workers)
    desk.check_books()


def test_an_origin_that_was_forgotten_begins_again(short: ShortWays) -> None:
    desk = Desk()
    worker, client = desk.worker(DATAGRAMS), desk.client()
    for seq in (1, 2):
        ask(client, seq, origin=PLACE)
        worker.answer()
        client.acknowledge()
    desk.pass_time(400.0)
    assert not list(desk.broker.records.origins)
    ask(client, 3, origin=PLACE)
    assert worker.held() == [3]
    assert [origin.in_flight for origin in desk.broker.records.origins] == [1]
    desk.check_books()


def test_the_way_to_an_origin_that_was_forgotten_is_learned_anew(short: ShortWays) -> None:
    desk = Desk()
    worker, client = known(desk, 1, kind=DATAGRAMS)
    desk.pass_time(400.0)
    ask(client, 2, origin=PLACE)
    origins = desk.broker.records.origins
    assert [way.origin for way in origins.ways.values()] == list(origins)
    assert worker.held() == [2]
    desk.check_books()


def test_nobody_overtakes_those_that_wait(short: ShortWays) -> None:
    desk = Desk()
    worker, first = known(desk, 1)
    second = desk.client()
    ask(first, *range(2, 200), settle=False)
    ask(second, 1, settle=False)
    desk.settle()
    leases, worker.leases = worker.leases, []
    groups = [(lease.session, lease.seqs, 0) for lease in leases[:2]]
    blobs = tuple(wire.encode_blob((seqs[0], 0, b"x")) for _, seqs, _ in groups)
    late = desk.client()
    worker.numbered += 1
    worker.send(Verb.RESULTS, worker.epoch, worker.seen, worker.numbered, groups, blobs=blobs)
    ask(late, 1)
    assert {lease.session for lease in worker.leases[:1]} == {first.id}
    desk.check_books()


def test_sessions_of_one_turn_share_what_there_is_room_for(short: ShortWays) -> None:
    """The first of a turn fill at most half of the room; the others take turns for what is left."""
    desk = Desk()
    limit = TCP[2]
    worker, warm = known(desk, *range(1, limit + 1))
    worker.confirm(ORIGIN, worker.grants[ORIGIN][1])
    clients = [desk.client() for _ in range(64)]
    for client in clients:  # four requests each, and there is room for half of all
        for seq in range(1, 5):
            ask(client, seq, settle=False)
    desk.settle()
    held = {client.id: 0 for client in clients}
    for lease in worker.leases:
        held[lease.session] += len(lease.seqs)
    assert sum(held.values()) == 2 * limit
    first, others = clients[: limit // 4], clients[limit // 4 :]
    assert all(held[client.id] == 4 for client in first)
    assert {held[client.id] for client in others} == {1, 2}
    worker.answer()
    assert all(client.outcomes for client in clients)
    assert warm.outcomes
    desk.check_books()


@pytest.mark.parametrize("flags", [Flag(0), Flag.IDEMPOTENT])
@pytest.mark.parametrize("share", SHARES)
def test_the_books_count_alike_on_either_way(
    share: float, flags: Flag, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = ShortWays(monkeypatch, share, seed=1)
    desk = Desk()
    worker, client = known(desk, 1, kind=DEEP)
    for seq in range(2, 30):
        ask(client, seq, origin="redis://h:6379", flags=flags)
        if seq % 3:
            desk.check_books()
            worker.answer()
    worker.answer()
    client.acknowledge()
    (report,) = [about for name, about in desk.broker.records.origins.report(9).items() if "redis" in name]
    assert (report["done"], report["in_flight"], report["queued"]) == (29, 0, 0)
    assert desk.broker.records.submitted == 29
    desk.check_books()
    assert bool(short.taken["ShortSubmit"]) is bool(share)


def played(share: float, seed: int, patch: pytest.MonkeyPatch) -> tuple[Any, ShortWays]:
    """Have clients ask and workers answer; what becomes of a request depends on its name alone.

    Returns:
        What came of it all, and how.
    """
    short = ShortWays(patch, share, seed)
    chance = random.Random(seed)
    desk = Desk()
    workers = [desk.worker(TCP, DEEP, DATAGRAMS) for _ in range(2)]
    clients = [FakeClient(desk, b"p%015d" % n) for n in range(6)]
    for client in clients:
        client.hello()
    places = [f"{kind}://10.0.0.{n}:99" for kind in ("tcp", "redis", "dns") for n in range(3)]
    next_seq = dict.fromkeys(clients, 1)
    for _ in range(120):
        for client in chance.sample(clients, chance.randrange(1, 4)):
            groups = []
            for _ in range(chance.randrange(1, 4)):
                place = chance.choice(places)
                count = chance.randrange(1, 5)
                seqs = tuple(range(next_seq[client], next_seq[client] + count))
                next_seq[client] += count
                payloads = tuple(b"p%d" % seq for seq in seqs)
                flags, priority = chance.randrange(2), chance.randrange(3)
                kind = place.partition(":")[0]
                groups.append(
                    SubmitGroup(kind, (place,), 60_000, flags, priority, None, None, seqs, payloads)
                )
            client.say_groups(groups)
        if chance.random() < 0.3:
            client.acknowledge()
        if chance.random() < 0.2:
            desk.pass_time(0.1)
        for worker in workers:
            failing = [seq for seq in worker.held() if seq % 7 == 0]
            if failing:
                worker.fail(*failing, code=Code.UPSTREAM, sent=True)
            worker.answer()
        desk.check_books()
    outcomes = {client.id: {seq: ends[0][0] for seq, ends in client.outcomes.items()} for client in clients}
    records = desk.broker.records
    patch.undo()
    return (outcomes, records.submitted, records.done, records.failed), short


@pytest.mark.parametrize("seed", range(6))
def test_no_outcome_depends_on_the_way(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    results, ways = zip(*[played(share, seed, monkeypatch) for share in SHARES], strict=True)
    assert results[0] == results[1] == results[2]
    assert all(results[0][0].values())
    assert not ways[0].taken
    for way in ways[1:]:
        assert way.taken["ShortSubmit"] > 20
        assert way.taken["ShortResults"] > 20


@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: mix.name)
def test_a_storm_in_which_half_of_the_messages_go_the_long_way(
    mix: Mix, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(4):
        short = ShortWays(monkeypatch, 0.5, seed)
        Storm(1_000 + seed, mix).run()
        monkeypatch.undo()
        assert short.barred
        assert short.taken["ShortResults"]
