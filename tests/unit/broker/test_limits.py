"""One limit for each server, whatever becomes of workers and brokers: fake clock, no sockets."""

from __future__ import annotations

from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from reqpool_broker.grant_table import GRANT_IDLE_S
from reqpool_broker.slot_allocation import most_waiting
from reqpool_contract.errors import Code
from reqpool_contract.wire import Flag, Verb
from support.fake_peers import Desk, FakeClient, FakeWorker
from support.one_server import KIND, SERVER, WAITING_KIND, Holder, ask, granted, reserved, with_policy


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
        for origin in self.desk.broker.records.origins:
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
        self.client.hello(epoch=before.broker.epoch)
        if pending:
            ask(self.client, *pending, flags=Flag.IDEMPOTENT | Flag.RESUBMITTED)

    @invariant()
    def the_limit_holds(self) -> None:
        if not hasattr(self, "desk"):
            return
        assert sum(sum(holder.open.values()) for holder in self.holders) <= self.limit
        waiting = [n for holder in self.holders for name, n in holder.open.items() if "?exclusive" in name]
        assert sum(waiting) <= most_waiting(self.limit)
        upstream = self.desk.broker.records.origins.upstreams.get(SERVER)
        if upstream is not None:
            assert upstream.reserved <= self.limit
            for holder in self.holders:
                worker = self.desk.broker.records.workers.get(holder.id)
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
    report = desk.broker.status.make(desk.now_s)["origins"]
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
    old = Desk(predecessors=frozenset())
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
    desk.broker.reconfigure(with_policy(max_connections=4, read_timeout_s=7.0))
    first.reconnect(slots=[(SERVER, 1)])
    assert first.grants[SERVER] == (1, 1)
    assert first.policies[SERVER]["read_ms"] == 7_000


def test_connections_that_nobody_asks_for_after_a_restart_are_asked_back() -> None:
    desk, workers, _ = restarted(limit=4)
    for worker, slots in zip(workers, ([(SERVER, 2)], [], []), strict=True):
        worker.reconnect(slots=slots)
    assert reserved(desk) == 2
    desk.pass_time(GRANT_IDLE_S + 1.5)
    assert granted(workers[0]) == 0
    workers[0].confirm(SERVER, 0)
    assert SERVER not in desk.broker.records.origins.upstreams
    desk.check_books()


def test_an_origin_that_is_asked_for_later_knows_of_the_connections_there_are() -> None:
    desk, workers, _ = restarted(limit=4)
    for worker in workers:
        worker.reconnect(slots=[(SERVER, 1)])
    client = desk.client()
    ask(client, 1)
    (origin,) = desk.broker.records.origins.named(SERVER)
    assert origin.granted
    for worker in workers:
        worker.answer()
    desk.pass_time(GRANT_IDLE_S + 1.5)
    assert [granted(worker) for worker in workers] == [0, 0, 0]
