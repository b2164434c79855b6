"""Which requests may run again after a death: the client's half and the broker's; a fake clock."""

from __future__ import annotations

import json
from typing import Any

import pytest

from reqpool.session_actions import Opened
from reqpool.session_protocol import BACKOFF_MOST_S, SessionProtocol
from reqpool_broker.broker_spans import COME_S
from reqpool_broker.recovery import LiveWorkers, Recovery
from reqpool_contract import wire
from reqpool_contract.errors import Code, ProtocolError
from reqpool_contract.wire import Flag, Reject, Verb
from support.fake_peers import REIGN, Desk, FakeClient, FakeWorker

ONCE, AGAIN = Flag(0), Flag.RESUBMITTED
FIRST, LATER = b"%016d" % 1, b"%016d" % 2


# --- the client's half ------------------------------------------------------------------------------


def begun(
    now_s: float = 0.0, session: SessionProtocol | None = None, **about: Any
) -> tuple[SessionProtocol, Opened]:
    """A session that a broker has just opened."""
    session = session or SessionProtocol(b"s" * 16, "test", 1, random_unit=lambda: 1.0)
    session.tick(now_s)
    welcome = {
        "epoch": 7, "results": "5571", "heartbeat_ms": 500, "liveness_ms": 2_500, "resumed": False,
        "generation": 1, "expiry_ms": 60_000, "watermark": FIRST, **about,
    }  # fmt: skip
    session.received(wire.encode(Verb.WELCOME, 1, welcome), now_s)
    (opened,) = session.published(wire.encode(Verb.OPEN, welcome["epoch"]), None, now_s)
    assert isinstance(opened, Opened)
    return session, opened


def beat(session: SessionProtocol, now_s: float, *, seen: int = 0, acked: int = 0, latest: int = 0) -> None:
    session.published(wire.encode(Verb.HEARTBEAT, 7, 1, seen, acked, latest, LATER), None, now_s)


def opened_again(session: SessionProtocol, now_s: float) -> Opened:
    session.give_in(now_s, "lost")
    return begun(now_s + 2.0, session, epoch=8)[1]


def test_what_was_sent_has_the_watermark_of_its_connection() -> None:
    session, opened = begun()
    assert opened.watermark == b""  # nothing was sent before
    again = opened_again(session, 0.1)
    assert (again.watermark, again.settled, again.unrun) == (FIRST, False, False)


def test_a_heartbeat_raises_it_when_all_that_was_submitted_again_is_acknowledged() -> None:
    session, _ = begun()
    session.submit([])
    session.resubmission.done(session.submits.number)
    beat(session, 0.1, acked=0)
    beat(session, 0.2, acked=1)
    again = opened_again(session, 0.3)
    assert (again.watermark, again.settled) == (LATER, True)


@pytest.mark.parametrize(
    ("submitted_all", "acked", "latest"), [(False, 1, 0), (True, 0, 0), (True, 1, 1)],
    ids=["some is yet to be submitted", "some is not acknowledged", "a batch is missing"],
)  # fmt: skip
def test_a_heartbeat_does_not_raise_it_before(submitted_all: bool, acked: int, latest: int) -> None:
    session, _ = begun()
    session.submit([])
    if submitted_all:
        session.resubmission.done(session.submits.number)
    beat(session, 0.1, acked=acked, latest=latest)
    again = opened_again(session, 0.2)
    assert (again.watermark, again.settled) == (FIRST, False)


@pytest.mark.parametrize(("silent_s", "known"), [(50.0, True), (55.0, False), (600.0, False)])
def test_who_may_have_been_forgotten_has_none(silent_s: float, known: bool) -> None:
    session, _ = begun()
    session.resubmission.done(session.submits.number)
    session.tick(1.0)  # heartbeat 1
    beat(session, 2.0, seen=1)
    session.tick(2.0)  # heartbeat 2, of which nobody says that it was seen
    session.give_in(2.1, "lost")
    _, again = begun(1.0 + silent_s, session, epoch=8)
    assert (again.watermark, again.settled) == (LATER if known else b"", True)


@pytest.mark.parametrize(
    ("acked", "latest", "unrun", "first", "again"),
    [
        (1, 0, True, True, True),
        (0, 0, True, True, False),
        (1, 1, True, False, False),
        (1, 0, False, False, False),
    ],
)
def test_a_broker_that_ends_in_order_says_that_nothing_has_run(
    acked: int, latest: int, unrun: bool, first: bool, again: bool
) -> None:
    session, _ = begun()
    session.submit([])
    session.resubmission.done(session.submits.number)
    session.published(wire.encode(Verb.GOODBYE, 7, "bye", acked, latest, unrun), None, 0.2)
    _, opened = begun(3.0, session, epoch=8)
    assert (opened.unrun, opened.unrun_all) == (first, again)
    assert opened_again(session, 4.0).unrun is False


def test_a_broker_that_ends_says_which_requests_may_have_run() -> None:
    session, _ = begun()
    session.submit([])
    session.resubmission.done(session.submits.number)
    session.published(wire.encode(Verb.GOODBYE, 7, "bye", 1, 0, False, [(1, 2), (5, 5)]), None, 0.2)
    _, opened = begun(3.0, session, epoch=8)
    assert (opened.unrun, opened.unrun_all, opened.doubtful) == (True, True, ((1, 2), (5, 5)))
    assert opened_again(session, 4.0).doubtful == ()


# --- the broker's half ------------------------------------------------------------------------------


def one_leased() -> tuple[Desk, FakeClient, FakeWorker, FakeWorker]:
    desk = Desk(predecessors=frozenset())
    workers = [desk.worker(), desk.worker()]
    client = desk.client()
    client.submit(1, flags=ONCE, span_ms=600_000)
    holder = next(worker for worker in workers if worker.held())
    other = next(worker for worker in workers if worker is not holder)
    return desk, client, holder, other


def successor(desk: Desk, client: FakeClient, *alive: FakeWorker, epoch: int = 78, deaths: int = 0) -> Desk:
    """The next broker, whom the supervisor has told who lives and how many have died."""
    later = Desk(epoch=epoch, predecessors=frozenset(worker.id for worker in alive), deaths=deaths)
    later.now_s = desk.now_s
    for peer in (client, *alive):
        peer.desk = later
    return later


def test_a_death_that_the_client_has_not_heard_of_leaves_its_requests_in_doubt() -> None:
    desk, client, holder, other = one_leased()
    holder.die()  # its verdict is published to a client that does not read it
    client.outcomes.clear()
    successor(desk, client, other, deaths=1)
    other.reconnect()
    client.hello(epoch=77)
    client.submit(1, flags=ONCE | AGAIN)
    client.submit(2, flags=ONCE)
    assert client.code(1) == Code.OUTCOME_UNKNOWN
    assert other.held() == [2]


def test_a_death_before_a_request_was_sent_does_not_put_it_in_doubt() -> None:
    desk, client, holder, other = one_leased()
    holder.die()
    client.hello(epoch=77)
    client.submit(2, flags=ONCE, settle=False)
    other.leases.clear()  # the lease is lost with the broker
    later = successor(desk, client, other, deaths=1)
    other.reconnect()
    client.hello(epoch=77)
    client.submit(2, flags=ONCE | AGAIN)
    assert other.held() == [2]
    later.check_books()


def test_a_second_hello_in_one_life_clears_nothing() -> None:
    desk, client, holder, other = one_leased()
    later = successor(desk, client, holder, other)
    later.workers[holder.route] = holder
    other.reconnect()
    holder.die()
    client.hello(epoch=77)
    client.hello(epoch=78, generation=client.welcome["generation"])
    assert client.welcome["resumed"] is True
    client.submit(1, flags=ONCE | AGAIN)
    assert client.code(1) == Code.OUTCOME_UNKNOWN
    assert other.held() == []


def test_what_was_acknowledged_while_it_was_held_back_does_not_run_again() -> None:
    desk, client, holder, other = one_leased()
    successor(desk, client, holder, other)
    holder.reconnect()
    holder.answer(1)
    client.hello(epoch=77)
    client.submit(1, flags=ONCE | AGAIN)  # on its way before the result was read
    assert client.code(1) == Code.OK
    client.acknowledge()
    other.reconnect()
    assert holder.held() + other.held() == []


def test_another_supervisor_makes_everything_doubtful() -> None:
    _, client, _, _ = one_leased()
    later = Desk(epoch=78)
    client.desk = later
    worker = later.worker()
    client.hello(epoch=77)
    client.submit(1, flags=ONCE | AGAIN)
    client.submit(2, flags=ONCE)
    later.pass_time(later.broker.liveness_s + 0.1)
    assert client.code(1) == Code.OUTCOME_UNKNOWN
    assert worker.held() == [2]


def test_what_a_worker_that_ended_in_order_still_had_runs_elsewhere() -> None:
    desk, client, holder, other = one_leased()
    del desk.workers[holder.route]
    holder.send(Verb.DEAD, holder.id, 0, True)
    desk.settle()
    assert other.held() == [1]
    assert client.outcomes == {}
    desk.check_books()


def test_no_watermark_is_told_while_something_is_held_back() -> None:
    desk, client, holder, other = one_leased()
    later = successor(desk, client, holder, other)
    told: list[bytes] = []
    take = client.take

    def watch(verb: Verb, values: list[Any], blobs: list[bytes]) -> None:
        if verb is Verb.HEARTBEAT:
            told.append(values[5])
        take(verb, values, blobs)

    client.take = watch  # type: ignore[method-assign]
    client.hello(epoch=77)
    client.submit(1, flags=ONCE | AGAIN)
    later.pass_time(1.0)
    assert set(told) == {b""}
    holder.reconnect()
    other.reconnect()
    told.clear()
    later.pass_time(1.0)
    assert set(told) == {REIGN + bytes(8)}


def test_a_worker_that_the_supervisor_did_not_start_is_leased_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    desk = Desk(predecessors=frozenset())
    stranger = FakeWorker(desk, b"stranger".ljust(16), (("dns", False, 256, 1),))
    stranger.stranger = True
    stranger.hello()
    client = desk.client()
    client.submit(1)
    desk.pass_time(3.0)
    assert stranger.held() == []
    assert [worker["state"] for worker in desk.broker.status.make(desk.now_s)["workers"]] == ["stranger"]
    assert caplog.text.count("was not started by this cluster's supervisor") == 1
    stranger.send(Verb.STARTED, stranger.id)  # it was quicker than the word of it
    desk.settle()
    assert stranger.held() == [1]


def test_results_sent_again_on_a_new_connection_stay_undelivered_until_the_client_has_them() -> None:
    desk, client, holder, _ = one_leased()
    holder.answer(1)
    desk.pass_time(1.0)
    assert holder.undelivered == [1]
    holder.unreceived = {1: ([(client.id, (1,), 0)], (wire.encode_blob([1, 0, b"answer 1"]),))}
    holder.reconnect()
    desk.pass_time(1.0)
    assert holder.undelivered == [1]
    client.acknowledge()
    desk.pass_time(1.0)
    assert holder.undelivered == []


def test_large_results_are_undelivered_from_the_first_word_of_their_receipt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("reqpool_broker.lease_reports.CONFIRM_BYTES", 1)
    monkeypatch.setattr("reqpool_broker.short_way.CONFIRM_BYTES", 1)
    _, _, holder, _ = one_leased()
    holder.answer(1)
    assert holder.unreceived == {}
    assert holder.undelivered == [1]


def test_an_outcome_that_comes_after_the_brokers_own_is_kept_until_the_client_has_that() -> None:
    desk, client, holder, other = one_leased()
    later = successor(desk, client, holder, other)
    other.reconnect()
    client.hello(epoch=77)
    client.submit(1, flags=ONCE | AGAIN)
    later.pass_time(later.broker.liveness_s + 0.1)  # the holder is frozen
    assert client.code(1) == Code.OUTCOME_UNKNOWN
    holder.reconnect()
    holder.answer(1)
    later.pass_time(1.0)
    assert holder.undelivered == [1]  # or the next broker would let it run again
    client.acknowledge()
    later.pass_time(1.0)
    assert holder.undelivered == []


def test_a_client_that_missed_a_welcome_does_not_acknowledge_what_it_never_got() -> None:
    desk, client, holder, _ = one_leased()
    generation = client.welcome["generation"]
    client.awake = False
    desk.pass_time(63.0)
    client.hello(epoch=77, generation=generation, received=0)  # this WELCOME is lost
    assert client.welcome["resumed"] is False
    holder.answer(1)
    client.hello(epoch=77, generation=generation, received=1)
    assert client.welcome["resumed"] is False
    assert client.code(1) == Code.OK
    desk.check_books()


def test_what_ran_and_waited_to_run_again_has_not_never_run_when_its_session_expires() -> None:
    kind = ("dns", False, 2, 1)
    desk = Desk()
    first = desk.worker(kind)
    client, neighbour = desk.client(), desk.client()
    client.submit(1, flags=Flag.IDEMPOTENT, span_ms=600_000)
    second = desk.worker(kind)
    neighbour.submit(7, 8, flags=ONCE, span_ms=600_000)
    neighbour.submit(9, flags=ONCE, span_ms=600_000, priority=0)
    holder, other = (first, second) if 1 in first.held() else (second, first)
    if 7 in holder.held():
        holder.give_back(7)
    holder.die()
    assert 1 not in other.held()
    client.submit(2, flags=Flag.IDEMPOTENT, span_ms=600_000)
    client.awake = False
    desk.pass_time(63.0)
    client.hello(epoch=77)
    assert client.welcome["never_ran"] == ((2, 2),)
    desk.check_books()


def test_what_never_ran_is_forgotten_when_the_session_expires_once_more() -> None:
    desk = Desk()
    worker = desk.worker(("dns", False, 1, 1))
    client, neighbour = desk.client(), desk.client()
    neighbour.submit(9, flags=ONCE, span_ms=600_000)
    client.submit(1, flags=ONCE, span_ms=600_000)
    client.awake = False
    desk.pass_time(63.0)
    client.hello(epoch=77)
    assert client.welcome["never_ran"] == ((1, 1),)
    client.submit(1, flags=ONCE, span_ms=600_000)
    worker.answer(9)
    assert worker.held() == [1]
    client.watermarks.clear()
    desk.pass_time(63.0)  # it is silent again, and 1 is running
    worker.answer(1)
    client.outcomes.clear()
    client.hello(epoch=77)
    assert client.welcome["never_ran"] == ()
    client.submit(1, flags=ONCE | AGAIN)
    assert client.code(1) == Code.OUTCOME_UNKNOWN
    assert worker.held() == []


def test_a_planned_stop_tells_who_has_nothing_with_a_worker() -> None:
    desk = Desk(predecessors=frozenset())
    busy, idle = desk.client(), desk.client()
    worker = desk.worker(("dns", False, 1, 1))
    busy.submit(1, flags=ONCE)
    idle.submit(2, flags=ONCE)
    desk.broker.heartbeats.goodbye("bye")
    said = {topic: wire.decode(head, wire.PUBLISHED)[1] for topic, head in desk.broker.outbox.results}
    assert worker.held() == [1]
    assert [said[client.id][4] for client in (busy, idle)] == [False, True]


def test_a_broker_that_ends_names_what_a_worker_may_have_and_nothing_that_waits() -> None:
    desk = Desk(predecessors=frozenset())
    client = desk.client()
    worker = desk.worker(("dns", False, 2, 1))
    client.submit(1, 2, 3, 4, 5, flags=ONCE)
    desk.broker.heartbeats.goodbye("bye")
    (head,) = (frames[1] for frames in desk.broker.outbox.results)
    *_, unrun, doubtful = wire.decode(head, wire.PUBLISHED)[1]
    assert worker.held() == [1, 2]
    assert (unrun, doubtful) == (False, [(1, 2)])


def test_a_broker_that_follows_one_does_not_stop_before_its_clients_have_had_time_to_come() -> None:
    desk = Desk(predecessors=frozenset({b"w" * 16}))
    assert not desk.broker.may_end(desk.now_s + BACKOFF_MOST_S)
    assert desk.broker.may_end(desk.now_s + COME_S)
    assert COME_S > BACKOFF_MOST_S


@pytest.mark.parametrize("predecessors", [None, frozenset()], ids=["nobody knows them", "there are none"])
def test_a_broker_that_follows_no_workers_may_stop_at_once(predecessors: frozenset[bytes] | None) -> None:
    desk = Desk(predecessors=predecessors)
    assert desk.broker.may_end(desk.now_s)


def test_what_a_client_no_longer_waits_for_puts_nothing_else_in_doubt_at_a_planned_stop() -> None:
    desk = Desk(predecessors=frozenset())
    worker, client = desk.worker(), desk.client()
    client.submit(1)
    later = successor(desk, client, worker)
    worker.reconnect()
    # Its upstream breaks off before the client has come, and that no longer asks for it.
    worker.fail(1, code=Code.CONNECTION_LOST, sent=True)
    client.hello(epoch=77)
    worker.send(Verb.DRAIN, worker.epoch, worker.seen)
    later.settle()
    client.submit(2, flags=ONCE)
    later.broker.heartbeats.goodbye("bye")
    *_, doubtful = wire.decode(later.broker.outbox.results[-1][1], wire.PUBLISHED)[1]
    assert doubtful == [(1, 1)]


def test_a_session_that_only_workers_told_of_is_not_refused_for_the_bound_of_clients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("reqpool_broker.session_lifecycle.MAX_SESSIONS", 0)
    desk, client, holder, other = one_leased_before(monkeypatch)
    later = successor(desk, client, holder, other)
    holder.reconnect()
    assert holder.cancelled == []
    client.hello(epoch=77)
    assert client.replies[-1][0] is Verb.WELCOME
    later.check_books()


def one_leased_before(
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Desk, FakeClient, FakeWorker, FakeWorker]:
    with monkeypatch.context() as unbounded:
        unbounded.setattr("reqpool_broker.session_lifecycle.MAX_SESSIONS", 10)
        return one_leased()


# --- the supervisor's line --------------------------------------------------------------------------


def test_the_supervisors_line_is_read() -> None:
    about = {"reign": REIGN.hex(), "deaths": 7, "workers": [(b"w" * 16).hex()], "later": 1}
    line = json.dumps(about)
    assert LiveWorkers.read(line) == (frozenset({b"w" * 16}), REIGN, 7)


@pytest.mark.parametrize(
    "line",
    ["", "x", "[]", "{}", '{"reign": "00", "deaths": 0, "workers": []}',
     '{"reign": "0011223344556677", "deaths": -1, "workers": []}',
     '{"reign": "0011223344556677", "deaths": 0, "workers": ["00"]}',
     '{"reign": "0011223344556677", "deaths": 0, "workers": [5]}',
     '{"reign": "xx11223344556677", "deaths": 0, "workers": []}'],
)  # fmt: skip
def test_a_line_that_is_not_a_supervisors_is_refused(line: str) -> None:
    with pytest.raises(ProtocolError):
        LiveWorkers.read(line)


def test_one_started_in_this_life_that_never_reported_leaves_nothing_in_doubt() -> None:
    recovery = Recovery(frozenset({b"old"}), REIGN, 3)
    before = recovery.watermark
    recovery.report(b"old")
    recovery.start(b"new")
    recovery.die(b"new", 4, orderly=False)
    assert not recovery.in_doubt(before)
    assert recovery.watermark != before
    recovery.die(b"old", 5, orderly=False)  # what it had is known here
    assert not recovery.in_doubt(before)


def test_an_orderly_end_of_one_that_never_reported_leaves_nothing_in_doubt() -> None:
    recovery = Recovery(frozenset({b"old"}), REIGN, 3)
    before = recovery.watermark
    assert recovery.in_doubt(before)  # it may have anything
    recovery.die(b"old", 3, orderly=True)
    assert not recovery.in_doubt(before)
    assert recovery.in_doubt(b"")


def test_a_message_of_the_supervisor_is_not_for_clients() -> None:
    desk = Desk()
    client = desk.client()
    client.send(Verb.STARTED, b"w" * 16)
    desk.settle()
    assert client.replies[-1][1][0] == Reject.MALFORMED
