"""What the pool may do to each server: fair shares, policies, names. Fake clock, no sockets."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from reqpool_broker.config import Config, NamedUpstream
from reqpool_contract import wire
from reqpool_contract.errors import Code
from reqpool_contract.origin_names import endpoint
from reqpool_contract.policy import Policy
from reqpool_contract.wire import Flag, Verb
from support.fake_peers import Desk, FakeWorker
from support.one_server import (
    KIND,
    ONCE,
    SERVER,
    WAITING_KIND,
    Holder,
    ask,
    granted,
    reserved,
    with_policy,
)

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
    desk.broker.reconfigure(with_policy(max_connections=1))
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
    desk = Desk(config=Config([NamedUpstream("ns", ("dns",), found, found, Policy(max_in_flight=3))]))
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
    desk.broker.reconfigure(with_policy(max_connections=5))
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
    desk.broker.reconfigure(with_policy(max_connections=2))
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
    desk.broker.reconfigure(Config())
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
    desk.broker.reconfigure(with_policy(max_connections=3, idle_timeout_s=5.0, read_timeout_s=2.0))
    desk.settle()
    assert worker.grants == before
    assert worker.held() == held
    assert worker.policies.keys() == {SERVER}  # only whom it concerns
    assert worker.policies[SERVER]["idle_ms"] == 5_000
    assert worker.policies[SERVER]["read_ms"] == 2_000
    worker.policies.clear()
    desk.broker.reconfigure(with_policy(max_connections=3, idle_timeout_s=5.0, read_timeout_s=2.0))
    desk.settle()
    assert worker.policies == {}


# --- names ------------------------------------------------------------------------------------------


def test_a_name_stands_for_its_origin_and_settings() -> None:
    found = endpoint("tcp://app@127.0.0.1:9", {"password": "secret"})
    bare = endpoint("tcp://app@127.0.0.1:9", {})
    desk = Desk(config=Config([NamedUpstream("shop", ("tcp",), found, found, Policy())]))
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
    assert "secret" not in str(desk.broker.status.make(desk.now_s))


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
    desk.broker.reconfigure(Config())
    client.hello(epoch=77, received=0)
    ask(client, 1, 2, origins=("@shop",), flags=ONCE | Flag.RESUBMITTED)
    assert client.outcomes.keys() == {2}
    assert client.code(2) == Code.USAGE
    worker.answer(1)
    assert client.code(1) == Code.OK
    desk.check_books()


@pytest.mark.parametrize(
    ("flags", "lose", "code", "sent"),
    [
        (ONCE, lambda worker: worker.give_back(1), Code.USAGE, False),
        (ONCE, lambda worker: worker.fail(1, code=Code.CONNECT_FAILED, sent=False), Code.USAGE, False),
        (ONCE, FakeWorker.die, Code.OUTCOME_UNKNOWN, True),
        (Flag.IDEMPOTENT, FakeWorker.die, Code.USAGE, True),
        (ONCE, lambda worker: worker.desk.pass_time(5.2), Code.TIMEOUT, True),
    ],
    ids=["handed back", "failed", "worker died", "worker died, may be repeated", "its time is up"],
)
def test_what_ran_before_a_restart_at_a_name_that_is_gone_is_not_leased_to_that_name(
    flags: Flag, lose: Callable[[FakeWorker], None], code: Code, sent: bool
) -> None:
    desk = Desk(config=with_policy(), predecessors=frozenset())
    worker, client = desk.worker(KIND), desk.client()
    client.submit(1, kind="tcp", origins=("@shop",), flags=flags)
    desk.restart([worker])
    desk.broker.reconfigure(Config())
    worker.reconnect()
    other = desk.worker(KIND)
    client.hello(epoch=77)
    client.submit(1, kind="tcp", origins=("@shop",), flags=flags | Flag.RESUBMITTED)
    assert client.outcomes == {}
    desk.broker.reconfigure(Config())
    assert "@shop" not in worker.grants.keys() | other.grants.keys()
    lose(worker)
    desk.settle()
    assert "@shop" not in {lease.origin for lease in other.leases}
    assert (client.code(1), client.error(1)["sent"]) == (code, sent)
    desk.check_books()


def test_servers_to_be_tried_in_turn_cannot_have_unequal_settings() -> None:
    one, two = (
        NamedUpstream(name, ("tcp",), found, found, Policy())
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
    from reqpool_broker.origin_table import MAX_IDLE

    desk = Desk()
    for n in range(MAX_IDLE + 500):
        desk.broker.records.origins.get("tcp", f"tcp://127.0.0.1:{n + 1}", desk.now_s)
    desk.pass_time(1.1)
    assert len(desk.broker.records.origins) <= MAX_IDLE
    assert len(desk.broker.records.origins.upstreams) <= MAX_IDLE
    desk.check_books()
