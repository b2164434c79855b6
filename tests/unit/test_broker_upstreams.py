"""One limit for each server, whoever asks for whatever there: fake clock, no sockets."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from reqpool import wire
from reqpool.errors import Code
from reqpool.kinds.origin import endpoint
from reqpool.wire import Flag, Verb
from reqpool_broker import grants
from reqpool_broker.config import Config, Upstream
from reqpool_broker.policy import Policy
from reqpool_broker.scheduler import most_waiting
from support.fake_peers import Desk, FakeClient, FakeWorker

ONCE = Flag(0)
SERVER = "tcp://127.0.0.1:9"
LONG_MS = 600_000
KIND = ("tcp", True, 8, 1)
WAITING_KIND = ("redis-exclusive", True, 8, 1)


def with_policy(**policy: Any) -> Config:
    """The server's policy, under a name."""
    found = endpoint(SERVER, {})
    return Config([Upstream("shop", ("tcp", "deep"), found, found, Policy(**policy))])


def ask(client: FakeClient, *seqs: int, place: str = "", **options: Any) -> None:
    client.submit(
        *seqs,
        **{"kind": "tcp", "origins": (SERVER + place,), "flags": ONCE, "span_ms": LONG_MS, **options},
    )


def reserved(desk: Desk) -> int:
    return desk.broker.ledger.origins.upstreams[SERVER].reserved


def granted(worker: FakeWorker, place: str = "") -> int:
    return worker.grants.get(SERVER + place, (0, 0))[1]


# --- the limit --------------------------------------------------------------------------------------


class Holder(FakeWorker):
    """A worker that opens what it was granted, and reads what it is told when the test says."""

    def __init__(self, desk: Desk, id_: bytes, kinds: tuple[tuple[Any, ...], ...]) -> None:
        super().__init__(desk, id_, kinds)
        self.inbox: list[tuple[Verb, list[Any]]] = []
        self.open: dict[str, int] = {}
        self.slots: dict[str, int] = {}
        self.unconfirmed: dict[str, int] = {}

    def take(self, verb: Verb, values: list[Any]) -> None:
        self.inbox.append((verb, values))

    def read(self, most: int = 1_000) -> None:
        """Read messages; what one is told of a grant is kept from then on."""
        for _ in range(min(most, len(self.inbox))):
            verb, values = self.inbox.pop(0)
            if verb is Verb.REJECT:
                self.come_back()
                return
            super().take(verb, values)
            if verb is Verb.GRANT:
                self.slots[values[2]] = values[4]
                self.unconfirmed[values[2]] = values[3]

    def work(self) -> None:
        """Open what is needed and granted, answer what has a connection, hand back what can have none."""
        for name, slots in self.slots.items():
            leased = [seq for lease in self.leases if lease.origin == name for seq in lease.seqs]
            held = self.open.get(name, 0)
            self.open[name] = max(held, min(slots, len(leased)))
            running = leased[: self.open[name]]
            if running:
                self.answer_all(name, len(running))
            if not slots and not self.open[name]:
                left = [seq for lease in self.leases if lease.origin == name for seq in lease.seqs]
                if left:
                    self.give_back(*left)

    def answer_all(self, name: str, count: int) -> None:
        for lease in list(self.leases):
            if lease.origin == name and count > 0:
                count -= len(lease.seqs[:count])
                self.answer(*lease.seqs, session=lease.session)

    def obey(self) -> None:
        """Close what is over a grant, and say so."""
        for name, number in list(self.unconfirmed.items()):
            slots = self.slots[name]
            self.open[name] = min(self.open.get(name, 0), slots)
            del self.unconfirmed[name]
            self.send(Verb.GRANTED, self.epoch, self.seen, name, number, self.open[name])
            self.desk.settle()

    def come_back(self) -> None:
        """Say HELLO over a new socket: from then on no more than is open."""
        self.inbox.clear()
        self.unconfirmed.clear()
        self.slots = {name: count for name, count in self.open.items() if count}
        # What waits for a connection that it may not have any more never arrived.
        self.leases = [lease for lease in self.leases if lease.origin in self.slots]
        finished, self.unreceived = list(self.unreceived.values()), {}
        held = [(lease.session, lease.seqs) for lease in self.leases]
        held += [group[:2] for groups, _ in finished for group in groups]
        self.hello(epoch=self.epoch, held=held, slots=list(self.slots.items()))
        self.read()
        for groups, blobs in finished:
            self._report(groups, blobs)


class Limits(RuleBasedStateMachine):
    """Load and workers come and go; at no moment are more connections open than the limit allows."""

    @initialize(
        limit=st.integers(1, 6), workers=st.integers(1, 4), places=st.integers(1, 4), owners=st.integers(1, 4)
    )
    def begin(self, limit: int, workers: int, places: int, owners: int) -> None:
        self.limit = limit
        self.owners = owners
        self.desk = Desk(config=with_policy(max_connections=limit))
        self.count = 0
        self.holders: list[Holder] = []
        self.frozen: set[Holder] = set()
        self.places = ["", "/other", "?exclusive", "/other?exclusive"][:places]
        self.seq = 0
        self.client = self.desk.client()
        self.asked: set[int] = set()
        for _ in range(workers):
            self.start_worker()

    def start_worker(self) -> None:
        self.count += 1
        holder = Holder(self.desk, b"h%015d" % self.count, (KIND, WAITING_KIND))
        holder.hello()
        holder.read()
        self.holders.append(holder)

    def awake(self) -> list[Holder]:
        return [holder for holder in self.holders if holder not in self.frozen]

    @rule(count=st.integers(1, 12), data=st.data())
    def submit(self, count: int, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(self.places))
        seqs = range(self.seq + 1, self.seq + count + 1)
        self.seq += count
        self.asked.update(seqs)
        # Such as may run again, so that each of them has to end with an answer.
        kind = WAITING_KIND[0] if place.endswith("?exclusive") else KIND[0]
        ask(self.client, *seqs, place=place, flags=Flag.IDEMPOTENT, kind=kind)
        for origin in self.desk.broker.ledger.origins:
            origin.owner_count = self.owners

    @rule(data=st.data(), reads=st.sampled_from([0, 1, 3, 1_000]), works=st.booleans(), obeys=st.booleans())
    def worker_has_a_turn(self, data: st.DataObject, reads: int, works: bool, obeys: bool) -> None:
        if self.awake():
            holder = data.draw(st.sampled_from(self.awake()))
            holder.read(reads)
            if works:
                holder.work()
            if obeys:
                holder.obey()

    @rule()
    def all_but_the_frozen_have_a_turn(self) -> None:
        for holder in self.awake():
            holder.read()
            holder.work()
            holder.obey()

    @rule(data=st.data())
    def worker_closes_an_idle_connection(self, data: st.DataObject) -> None:
        if self.awake():
            holder = data.draw(st.sampled_from(self.awake()))
            for name in holder.open:
                holder.open[name] = max(0, holder.open[name] - 1)

    @rule(data=st.data())
    def worker_comes_back(self, data: st.DataObject) -> None:
        if self.awake():
            holder = data.draw(st.sampled_from(self.awake()))
            holder.come_back()
            holder.work()

    @rule(data=st.data())
    def worker_freezes_or_wakes(self, data: st.DataObject) -> None:
        if self.holders:
            holder = data.draw(st.sampled_from(self.holders))
            holder.awake = holder in self.frozen
            self.frozen ^= {holder}

    @rule(data=st.data())
    def worker_dies(self, data: st.DataObject) -> None:
        if self.holders:
            holder = data.draw(st.sampled_from(self.holders))
            self.holders.remove(holder)
            self.frozen.discard(holder)
            self.desk.workers.setdefault(holder.route, holder)
            holder.open.clear()
            holder.die()

    @precondition(lambda self: self.count < 8)
    @rule()
    def worker_comes(self) -> None:
        self.start_worker()

    @rule(data=st.data())
    def worker_drains(self, data: st.DataObject) -> None:
        if self.awake():
            holder = data.draw(st.sampled_from(self.awake()))
            holder.send(Verb.DRAIN, holder.epoch, holder.seen)
            self.desk.settle()

    @rule(span_s=st.sampled_from([0.05, 0.6, 1.2, 3.0]))
    def time_passes(self, span_s: float) -> None:
        self.desk.pass_time(span_s)

    @rule()
    def broker_restarts(self) -> None:
        ids = frozenset(holder.id for holder in self.holders)
        before = self.desk
        self.desk = Desk(
            epoch=before.broker.epoch + 1, config=with_policy(max_connections=self.limit), predecessors=ids
        )
        self.desk.now_s = before.now_s
        for holder in self.holders:
            holder.desk = self.desk
            holder.inbox.clear()
            self.desk.workers[holder.route] = holder
        self.client.desk = self.desk
        pending = [seq for seq in self.asked if seq not in self.client.outcomes]
        self.client.hello(epoch=before.broker.epoch, workers=list(ids))
        if pending:
            ask(self.client, *pending, flags=Flag.IDEMPOTENT | Flag.RESUBMITTED)

    @invariant()
    def the_limit_holds(self) -> None:
        if not hasattr(self, "desk"):
            return
        assert sum(sum(holder.open.values()) for holder in self.holders) <= self.limit
        waiting = [n for holder in self.holders for name, n in holder.open.items() if "?exclusive" in name]
        assert sum(waiting) <= most_waiting(self.limit)
        upstream = self.desk.broker.ledger.origins.upstreams.get(SERVER)
        if upstream is not None:
            assert upstream.reserved <= self.limit
            for holder in self.holders:
                worker = self.desk.broker.ledger.workers.get(holder.id)
                if worker is not None and not (holder.inbox or self.frozen):
                    for name, count in holder.open.items():
                        grant = worker.grants.get(name)
                        assert count <= (grant.reserved if grant else 0)
        self.desk.check_books()

    def teardown(self) -> None:
        """When all is well again everything that waits is answered, and that soon."""
        if not hasattr(self, "desk"):
            return
        for holder in self.holders:
            holder.awake = True
            holder.come_back()
        if not self.holders:
            self.start_worker()
        left, idle_turns = self.left(), 0
        while left:
            # With more origins than connections these take turns, of a second each.
            idle_turns = 0 if len(self.left()) < len(left) else idle_turns + 1
            assert idle_turns < 20 * (2 + len(self.places)), left
            left = self.left()
            for holder in self.holders:
                holder.read()
                holder.work()
                holder.obey()
            self.client.acknowledge()
            self.desk.pass_time(0.05)
            self.frozen.clear()
            self.the_limit_holds()

    def left(self) -> set[int]:
        """What has not ended, or not as it should: only so many workers may die under a request."""
        outcomes = self.client.outcomes
        well = (Code.OK, Code.WORKER_LOST)
        return {seq for seq in self.asked if seq not in outcomes or outcomes[seq][0][0] not in well}


Limits.TestCase.settings = examples(max_examples=60, stateful_step_count=50, deadline=None)
TestLimits = Limits.TestCase


def test_one_limit_counts_for_all_users_and_variants_and_workers() -> None:
    desk = Desk(config=with_policy(max_connections=4))
    workers = [desk.worker(KIND, ("deep", True, 8, 16)) for _ in range(3)]
    client = desk.client()
    seq = iter(range(1, 10_000))
    for place in ("", "/other", "?exclusive"):
        ask(client, *(next(seq) for _ in range(20)), place=place)
    ask(client, *(next(seq) for _ in range(20)), place="/deep", kind="deep")
    assert reserved(desk) == 4
    for _ in range(4):
        for worker in workers:
            for name, (_, level) in list(worker.grants.items()):
                worker.confirm(name, level)
        assert reserved(desk) == 4
    assert sum(level for worker in workers for _, level in worker.grants.values()) == 4
    report = desk.broker.report(desk.now_s)["origins"]
    assert [origin["granted"] for origin in report.values()] == [1, 1, 1, 1]
    assert {origin["upstream"] for origin in report.values()} == {SERVER}
    assert sum(origin["reserved"] for origin in report.values()) == 4
    desk.check_books()


def test_each_server_has_a_limit_of_its_own() -> None:
    desk = Desk(config=with_policy(max_connections=1))
    worker, client = desk.worker(KIND), desk.client()
    ask(client, 1, 2, 3)
    ask(client, 4, 5, 6, origins=("tcp://127.0.0.2:9",))
    assert granted(worker) == 1
    assert worker.grants["tcp://127.0.0.2:9"][1] == 3  # up to the kind's limit


# --- after a restart --------------------------------------------------------------------------------


def restarted(
    limit: int, predecessors: frozenset[bytes] | None = None
) -> tuple[Desk, list[FakeWorker], FakeClient]:
    """A broker's successor, and three workers and a client of the life before."""
    old = Desk()
    workers = [old.worker(KIND) for _ in range(3)]
    client = old.client()
    known = frozenset(worker.id for worker in workers) if predecessors is None else predecessors
    desk = Desk(epoch=78, config=with_policy(max_connections=limit), predecessors=known)
    for peer in (*workers, client):
        peer.desk = desk  # type: ignore[attr-defined]
    return desk, workers, client


def test_a_new_broker_grants_nothing_that_a_worker_it_has_not_heard_of_may_hold() -> None:
    desk, (first, second, third), _ = restarted(limit=4)
    client = desk.client()
    first.reconnect(slots=[(SERVER, 1)])
    ask(client, *range(1, 20))
    assert granted(first) == 1
    second.reconnect(slots=[(SERVER, 2)])
    assert reserved(desk) == 3
    third.reconnect()  # it has none: all is known now
    desk.settle()
    assert reserved(desk) == 4
    desk.check_books()


def test_a_predecessors_death_settles_what_it_held() -> None:
    desk, (first, second, third), _ = restarted(limit=4)
    client = desk.client()
    first.reconnect()
    second.reconnect()
    ask(client, *range(1, 20))
    assert reserved(desk) == 0
    desk.pass_time(3.0)
    assert reserved(desk) == 0  # silence is not death
    third.send(Verb.DEAD, third.id)
    desk.settle()
    assert reserved(desk) == 4
    desk.check_books()


def test_what_was_inherited_may_move_while_a_predecessor_is_awaited() -> None:
    desk, (first, second, _), _ = restarted(limit=8)
    client = desk.client()
    first.reconnect(slots=[(SERVER, 3)])
    first.reconnect(slots=[(SERVER, 3)])  # said twice, it counts once
    second.reconnect()
    ask(client, *range(1, 20), place="/other")
    assert granted(first) == 0
    first.confirm(SERVER, 0)
    assert reserved(desk) == 3
    assert granted(first, "/other") + granted(second, "/other") == 3
    desk.check_books()


def test_where_nobody_knows_the_earlier_workers_they_have_one_liveness_span() -> None:
    old = Desk()
    workers = [old.worker(KIND) for _ in range(2)]
    desk = Desk(epoch=78, config=with_policy(max_connections=4))
    for worker in workers:
        worker.desk = desk
    client = desk.client()
    workers[0].reconnect(slots=[(SERVER, 1)])
    ask(client, *range(1, 20))
    assert reserved(desk) == 1
    workers[1].reconnect(slots=[(SERVER, 2)])
    assert reserved(desk) == 3
    desk.pass_time(desk.broker.liveness_s + 0.1)
    assert reserved(desk) == 4
    desk.check_books()


def test_the_first_broker_of_a_cluster_waits_for_nobody() -> None:
    desk = Desk(config=with_policy(max_connections=4))
    worker, client = desk.worker(KIND), desk.client()
    ask(client, 1)
    assert worker.held() == [1]


def test_a_worker_is_told_at_hello_how_its_connections_are_treated_now() -> None:
    desk, (first, *_), _ = restarted(limit=4)
    desk.broker.reconfigure(with_policy(max_connections=4, read_timeout_s=7.0), desk.now_s)
    first.reconnect(slots=[(SERVER, 1)])
    assert first.grants[SERVER] == (1, 1)
    assert first.policies[SERVER]["read_ms"] == 7_000


def test_connections_that_nobody_asks_for_after_a_restart_are_asked_back() -> None:
    desk, workers, _ = restarted(limit=4)
    for worker, slots in zip(workers, ([(SERVER, 2)], [], []), strict=True):
        worker.reconnect(slots=slots)
    assert reserved(desk) == 2
    desk.pass_time(grants.GRANT_IDLE_S + 1.5)
    assert granted(workers[0]) == 0
    workers[0].confirm(SERVER, 0)
    assert SERVER not in desk.broker.ledger.origins.upstreams
    desk.check_books()


def test_an_origin_that_is_asked_for_later_knows_of_the_connections_there_are() -> None:
    desk, workers, _ = restarted(limit=4)
    for worker in workers:
        worker.reconnect(slots=[(SERVER, 1)])
    client = desk.client()
    ask(client, 1)
    (origin,) = desk.broker.ledger.origins.named(SERVER)
    assert origin.granted
    for worker in workers:
        worker.answer()
    desk.pass_time(grants.GRANT_IDLE_S + 1.5)
    assert [granted(worker) for worker in workers] == [0, 0, 0]


# --- fairness ---------------------------------------------------------------------------------------


def test_idle_connections_of_one_origin_are_taken_back_when_another_goes_short() -> None:
    desk = Desk(config=with_policy(max_connections=4))
    worker, client = desk.worker(KIND), desk.client()
    ask(client, *range(1, 9))
    assert granted(worker) == 4
    worker.answer()
    assert granted(worker) == 4  # idle, and nobody needs them
    ask(client, *range(20, 24), place="/other")
    assert granted(worker) == 0
    worker.confirm(SERVER, 0)
    assert granted(worker, "/other") == 4
    desk.check_books()


def test_two_busy_origins_have_half_each() -> None:
    desk = Desk(config=with_policy(max_connections=4))
    worker, client = desk.worker(KIND), desk.client()
    ask(client, *range(1, 50))
    ask(client, *range(100, 150), place="/other")
    assert (granted(worker), granted(worker, "/other")) == (2, 0)
    worker.confirm(SERVER, 2)
    assert (granted(worker), granted(worker, "/other")) == (2, 2)
    assert [seq for seq in worker.held() if seq >= 100] == [100, 101, 102, 103]
    desk.check_books()


def test_what_ends_at_one_origin_is_offered_at_once_to_another_of_its_server() -> None:
    desk = Desk(config=with_policy(max_connections=1))
    worker, client = desk.worker(KIND), desk.client()
    ask(client, 1)
    ask(client, 2, place="/other")
    assert worker.held() == [1]
    worker.answer(1)
    assert granted(worker) == 0  # without a second's delay
    worker.confirm(SERVER, 0)
    assert worker.held() == [2]
    desk.check_books()


def test_with_more_origins_than_connections_each_has_its_turn() -> None:
    desk = Desk(config=with_policy(max_connections=1))
    holder = Holder(desk, b"h" * 16, (KIND,))
    holder.hello()
    client = desk.client()
    places = ["", "/a", "/b"]
    for n, place in enumerate(places):
        for block in range(10):
            first = n * 10_000 + block * 500
            ask(client, *range(first, first + 500), place=place, settle=False)
    for _ in range(120):
        holder.read()
        holder.work()
        holder.obey()
        client.acknowledge()
        desk.pass_time(0.05)
        assert sum(holder.open.values()) <= 1
    answered = [sum(n * 10_000 <= seq < (n + 1) * 10_000 for seq in client.outcomes) for n in range(3)]
    assert min(answered) > 0
    assert len(client.outcomes) < 15_000
    desk.check_books()


def test_those_that_wait_at_the_upstream_take_turns_as_well() -> None:
    desk = Desk(config=with_policy(max_connections=2))  # of which those that wait may have one
    holder = Holder(desk, b"h" * 16, (WAITING_KIND,))
    holder.hello()
    client = desk.client()
    for n, place in enumerate(["", "/a"]):
        first = n * 10_000
        ask(client, *range(first, first + 500), place=place, kind="redis-exclusive", settle=False)
    for _ in range(80):
        holder.read()
        holder.work()
        holder.obey()
        client.acknowledge()
        desk.pass_time(0.05)
    answered = [sum(n * 10_000 <= seq < (n + 1) * 10_000 for seq in client.outcomes) for n in range(2)]
    assert min(answered) > 0
    assert len(client.outcomes) < 1_000


def test_a_kind_that_is_broken_here_is_one_that_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> None:
        raise ImportError("no module named what")

    monkeypatch.setattr("reqpool.kinds.find", find)
    desk = Desk(config=with_policy(max_connections=4))
    worker, client = desk.worker(("broken", True, 8, 1)), desk.client()
    ask(client, *range(1, 9), kind="broken")
    assert granted(worker) == 4


def test_a_connectionless_request_takes_no_connections_of_the_same_server() -> None:
    desk = Desk(config=with_policy(max_connections=2))
    worker = desk.worker(KIND, ("dns", False, 8, 1))
    client = desk.client()
    ask(client, 50, kind="dns", place="/dns")
    ask(client, 1, 2)
    assert granted(worker) == 2
    assert granted(worker, "/dns") == 0
    assert worker.held() == [50, 1, 2]


# --- policies ---------------------------------------------------------------------------------------


def test_waiting_for_a_connection_ends_after_the_queue_timeout() -> None:
    desk = Desk(config=with_policy(max_connections=1, queue_timeout_s=1.5))
    worker, client = desk.worker(KIND), desk.client()
    ask(client, *range(1, 6))
    running = worker.held()
    desk.pass_time(1.4)
    assert client.outcomes == {}
    desk.pass_time(0.2)
    waited = [seq for seq in range(1, 6) if seq not in running]
    assert waited
    for seq in waited:
        assert client.code(seq) == Code.TIMEOUT
        about = client.error(seq)
        assert (about["phase"], about["sent"]) == ("queue", False)
        assert about["text"] == "no connection within 1.5 s (queue timeout of this upstream)"
    worker.answer()
    assert [client.code(seq) for seq in running] == [Code.OK] * len(running)
    desk.check_books()


def test_a_queue_timeout_that_is_taken_away_meanwhile_harms_nothing() -> None:
    desk = Desk(config=with_policy(max_connections=1, queue_timeout_s=1.0))
    desk.worker(KIND)
    client = desk.client()
    ask(client, *range(1, 6))
    desk.broker.reconfigure(with_policy(max_connections=1), desk.now_s)
    desk.pass_time(1.2)
    assert client.error(5)["text"] == "no connection in time (queue timeout of this upstream)"


def test_without_retries_a_lost_connection_or_worker_is_final() -> None:
    desk = Desk(config=with_policy(retries=0))
    worker, client = desk.worker(KIND), desk.client()
    ask(client, 1, 2, flags=Flag.IDEMPOTENT)
    worker.fail(1, code=Code.CONNECTION_LOST, sent=True)
    assert client.code(1) == Code.CONNECTION_LOST
    assert client.error(1)["text"] == "it failed"
    worker.die()
    assert client.code(2) == Code.WORKER_LOST
    desk.check_books()


def test_as_many_retries_as_configured() -> None:
    desk = Desk(config=with_policy(retries=4))
    worker, client = desk.worker(KIND), desk.client()
    ask(client, 1, flags=Flag.IDEMPOTENT)
    for attempt in range(1, 6):
        assert worker.leases[0].attempt == attempt
        worker.fail(1, code=Code.CONNECTION_LOST, sent=True)
    assert client.code(1) == Code.CONNECTION_LOST


def test_requests_in_flight_are_capped_where_there_are_no_connections() -> None:
    found = endpoint("dns://127.0.0.1:53", {})
    desk = Desk(config=Config([Upstream("ns", ("dns",), found, found, Policy(max_in_flight=3))]))
    workers = [desk.worker(("dns", False, 256, 1)) for _ in range(2)]
    client = desk.client()
    client.submit(*range(1, 11), origins=("@ns",))
    client.submit(*range(11, 21), origins=("dns://127.0.0.1:53?tcp",))
    for _ in range(7):
        assert sum(len(worker.held()) for worker in workers) <= 3
        for worker in workers:
            worker.answer()
        desk.check_books()
    assert len(client.outcomes) == 20


# --- a new configuration ----------------------------------------------------------------------------


def test_a_raised_limit_is_used_at_once() -> None:
    desk = Desk(config=with_policy(max_connections=1))
    worker, client = desk.worker(KIND), desk.client()
    ask(client, *range(1, 20))
    assert granted(worker) == 1
    number = worker.grants[SERVER][0]
    desk.broker.reconfigure(with_policy(max_connections=5), desk.now_s)
    desk.settle()
    assert worker.grants[SERVER] == (number + 1, 5)
    assert len(worker.held()) == 10
    desk.check_books()


@pytest.mark.parametrize("load", [0, 1, 20])
def test_a_lowered_limit_holds_as_soon_as_the_workers_confirm(load: int) -> None:
    desk = Desk(config=with_policy(max_connections=6))
    worker, client = desk.worker(KIND), desk.client()
    ask(client, *range(1, 7))
    worker.answer()
    assert granted(worker) == 6
    if load:
        ask(client, *range(100, 100 + load))
    desk.broker.reconfigure(with_policy(max_connections=2), desk.now_s)
    desk.settle()
    assert granted(worker) == 2
    assert reserved(desk) == 6
    worker.confirm(SERVER, 2)
    assert reserved(desk) == 2
    desk.pass_time(1.2)
    assert reserved(desk) == 2
    desk.check_books()


def test_a_limit_that_is_taken_away_is_the_kinds_own_again() -> None:
    desk = Desk(config=with_policy(max_connections=100))
    worker, client = desk.worker(KIND), desk.client()
    ask(client, *range(1, 50))
    assert granted(worker) == 49
    desk.broker.reconfigure(Config(), desk.now_s)
    desk.settle()
    assert granted(worker) == KIND[2]


def test_a_changed_policy_is_told_under_the_same_number_and_nothing_else_changes() -> None:
    desk = Desk(config=with_policy(max_connections=3, idle_timeout_s=30.0))
    worker, client = desk.worker(KIND), desk.client()
    ask(client, *range(1, 10))
    ask(client, 50, origins=("tcp://127.0.0.2:9",))
    before, held = dict(worker.grants), worker.held()
    assert worker.policies[SERVER]["idle_ms"] == 30_000
    assert "read_ms" not in worker.policies[SERVER]
    worker.policies.clear()
    desk.broker.reconfigure(
        with_policy(max_connections=3, idle_timeout_s=5.0, read_timeout_s=2.0), desk.now_s
    )
    desk.settle()
    assert worker.grants == before
    assert worker.held() == held
    assert worker.policies.keys() == {SERVER}  # only whom it concerns
    assert worker.policies[SERVER]["idle_ms"] == 5_000
    assert worker.policies[SERVER]["read_ms"] == 2_000
    worker.policies.clear()
    desk.broker.reconfigure(
        with_policy(max_connections=3, idle_timeout_s=5.0, read_timeout_s=2.0), desk.now_s
    )
    desk.settle()
    assert worker.policies == {}


# --- names ------------------------------------------------------------------------------------------


def test_a_name_stands_for_its_origin_and_settings() -> None:
    found = endpoint("tcp://app@127.0.0.1:9", {"password": "secret"})
    bare = endpoint("tcp://app@127.0.0.1:9", {})
    desk = Desk(config=Config([Upstream("shop", ("tcp",), found, found, Policy())]))
    worker, client = desk.worker(KIND), desk.client()
    ask(client, 1, origins=("@shop",))
    ask(client, 2, origins=("@shop?exclusive",))
    ask(client, 3, origins=(bare.origin,))  # whoever knows the URL need not know the password
    ask(client, 4, origins=("tcp://other@127.0.0.1:9",))
    places = {lease.seqs[0]: (lease.origin, lease.settings) for lease in worker.leases}
    digest = found.origin.partition("#")[2]
    assert places == {
        1: (found.origin, found.settings),
        2: (f"tcp://app@127.0.0.1:9?exclusive#{digest}", found.settings),
        3: (found.origin, found.settings),
        4: ("tcp://other@127.0.0.1:9", b""),
    }
    assert "secret" not in str(desk.broker.report(desk.now_s))


@pytest.mark.parametrize("config", [Config(), with_policy()], ids=["no configuration", "others"])
@pytest.mark.parametrize("origins", [("@shpo",), (SERVER, "@shpo")])
def test_a_name_that_nobody_knows_is_said(config: Config, origins: tuple[str, ...]) -> None:
    desk = Desk(config=config)
    desk.worker(KIND)
    client = desk.client()
    ask(client, 1, 2, origins=origins)
    for seq in (1, 2):
        assert client.code(seq) == Code.USAGE
        assert "no upstream 'shpo'" in client.error(seq)["text"]
        assert client.error(seq)["sent"] is False
    desk.check_books()


def test_what_runs_goes_on_when_its_name_is_taken_away_and_it_is_submitted_again() -> None:
    desk = Desk(config=with_policy())
    worker, client = desk.worker(KIND), desk.client()
    ask(client, 1, origins=("@shop",))
    desk.broker.reconfigure(Config(), desk.now_s)
    client.hello(epoch=77, received=0)
    ask(client, 1, 2, origins=("@shop",), flags=ONCE | Flag.RESUBMITTED)
    assert client.outcomes.keys() == {2}
    assert client.code(2) == Code.USAGE
    worker.answer(1)
    assert client.code(1) == Code.OK
    desk.check_books()


def test_servers_to_be_tried_in_turn_cannot_have_unequal_settings() -> None:
    one, two = (
        Upstream(name, ("tcp",), found, found, Policy())
        for name, found in (
            ("one", endpoint("tcp://127.0.0.1:9", {"password": "1"})),
            ("two", endpoint("tcp://127.0.0.2:9", {"password": "2"})),
        )
    )
    desk = Desk(config=Config([one, two]))
    worker, client = desk.worker(KIND), desk.client()
    ask(client, 1, origins=("@one", "@two"))
    assert client.code(1) == Code.USAGE
    assert "equal settings" in client.error(1)["text"]
    assert worker.held() == []


# --- what clients could do to others ----------------------------------------------------------------


def test_a_variant_that_makes_an_origin_too_long_is_refused() -> None:
    desk = Desk(config=with_policy())
    worker, client = desk.worker(KIND), desk.client()
    ask(client, 1, origins=("@shop?" + "v" * (wire.MAX_ORIGIN_CHARS - 6),))
    assert client.code(1) == Code.USAGE
    assert worker.held() == []  # else the worker would read none of the leases that travel with it


def test_a_kinds_name_is_not_repeated_at_length() -> None:
    desk = Desk()
    desk.worker(KIND)
    client = desk.client()
    ask(client, 1, 2, kind="x" * 100_000)
    assert client.code(1) == Code.USAGE
    assert len(client.outcomes[1][0][1]) < 1_000


def test_settings_count_as_what_a_session_has_queued() -> None:
    desk = Desk()
    client = desk.client()
    for seq in range(10):
        ask(client, seq, settings=b"s" * 60_000)
    session = desk.broker.sessions[client.id]
    assert session.queued_bytes >= 600_000
    client.send(Verb.CANCEL, tuple(range(5)))
    desk.check_books()
    worker = desk.worker(KIND)
    while worker.held():
        worker.answer()
    assert session.queued_bytes == 0
    desk.check_books()


def test_leases_with_large_settings_travel_in_several_messages() -> None:
    desk = Desk()
    client = desk.client()
    for seq in range(40):
        ask(client, seq, settings=b"s" * 60_000, origins=(f"tcp://127.0.0.1:{seq + 1}",))
    worker = desk.worker(KIND)
    assert len(worker.held()) == 40
    sizes: list[int] = []
    for seq in range(100, 140):
        ask(client, seq, settings=b"s" * 60_000, origins=(f"tcp://127.0.0.1:{seq + 1}",), settle=False)
    desk.broker.flush(desk.now_s)
    sizes = [len(head) for _, head in desk.broker.outbox.workers]
    desk.deliver()
    assert max(sizes) < 2 * wire.MAX_BATCH_BYTES


def test_origins_that_were_only_looked_at_are_forgotten() -> None:
    from reqpool_broker.origins import MAX_IDLE

    desk = Desk()
    for n in range(MAX_IDLE + 500):
        desk.broker.ledger.origins.get("tcp", f"tcp://127.0.0.1:{n + 1}", desk.now_s)
    desk.pass_time(1.1)
    assert len(desk.broker.ledger.origins) <= MAX_IDLE
    assert len(desk.broker.ledger.origins.upstreams) <= MAX_IDLE
    desk.check_books()
