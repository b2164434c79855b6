"""Held connections when the broker, or its configuration, is another: fake clock, no sockets."""

from __future__ import annotations

import pytest

from reqpool_broker.config import Config, NamedUpstream
from reqpool_contract import wire
from reqpool_contract.errors import Code
from reqpool_contract.origin_names import endpoint
from reqpool_contract.policy import Policy
from reqpool_contract.wire import SubmitGroup, Verb
from support.fake_peers import Desk, FakeClient, FakeWorker
from support.pinned import AGAIN, LONG_MS, OPENS, ORIGIN, ask, gone, held_kind, opened

# --- the broker comes back as another ---------------------------------------------------------------


def restarted() -> tuple[Desk, FakeWorker, FakeWorker, FakeClient]:
    """The successor of a broker; the first worker holds pin 1 and runs request 2 there. Nobody has called."""
    old, holder, client = opened(workers=2)
    (other,) = (worker for worker in old.workers.values() if worker is not holder)
    ask(client, 2, pin=1)
    desk = Desk(epoch=78, predecessors=frozenset({holder.id, other.id}))
    holder.desk = other.desk = client.desk = desk
    return desk, holder, other, client


def report(holder: FakeWorker, client: FakeClient) -> None:
    holder.reconnect(slots=[(ORIGIN, 1)], pins=[(client.id, 1, "tcp", ORIGIN)])


@pytest.mark.parametrize("client_first", [True, False])
def test_a_new_broker_learns_of_pins_from_the_workers(client_first: bool) -> None:
    desk, holder, other, client = restarted()

    def come_back() -> None:
        client.hello(epoch=77)
        ask(client, 2, pin=1, flags=AGAIN)
        ask(client, 3, pin=1)  # submitted while there was no broker: it was never sent

    if client_first:
        come_back()
    report(holder, client)
    other.reconnect()
    if not client_first:
        come_back()
    assert holder.held() == [2, 3]
    assert other.held() == []
    holder.answer()
    assert [client.code(seq) for seq in (2, 3)] == [Code.OK] * 2
    client.send(Verb.UNPIN, 1)
    desk.settle()
    assert holder.unpinned == [(client.id, 1)]
    desk.check_books()


def test_a_pinned_request_that_never_reached_the_old_worker_goes_to_it_now() -> None:
    desk, holder, other, client = restarted()
    holder.leases = []
    client.hello(epoch=77)
    ask(client, 2, pin=1, flags=AGAIN)
    report(holder, client)
    other.reconnect()
    assert holder.held() == [2]
    assert holder.leases[0].pin == 1
    desk.check_books()


def test_what_is_let_go_of_before_its_worker_has_reported_is_let_go_of_then() -> None:
    desk, holder, other, client = restarted()
    client.hello(epoch=77)
    client.send(Verb.UNPIN, 1)
    desk.settle()
    report(holder, client)
    desk.settle()
    assert holder.unpinned == [(client.id, 1)]
    ask(client, 3, pin=1)
    other.reconnect()
    assert gone(client, 3)
    desk.check_books()


def test_a_pin_of_a_session_that_has_ended_is_let_go_of() -> None:
    desk, holder, other, client = restarted()
    client.hello(epoch=77)
    other.reconnect()
    client.submit(9, kind="tcp", origins=(ORIGIN,), span_ms=LONG_MS)  # keeps the session in the books
    client.send(Verb.GOODBYE)
    report(holder, client)
    desk.settle()
    desk.pass_time(62.0)  # at the latest
    assert (client.id, 1) in holder.unpinned
    desk.check_books()


@pytest.mark.parametrize("runs", [True, False])
def test_a_pin_that_is_released_while_its_first_request_is_deferred_is_not_opened(runs: bool) -> None:
    old = Desk(predecessors=frozenset())
    holder, client = old.worker(held_kind()), old.client()
    ask(client, 1, pin=1, opens=True)
    desk = Desk(epoch=78, predecessors=frozenset({holder.id}))
    holder.desk = client.desk = desk
    client.hello(epoch=77)
    ask(client, 1, pin=1, flags=OPENS | AGAIN)  # nobody has reported yet
    client.send(Verb.UNPIN, 1)  # its time is up at the client
    desk.settle()
    if not runs:
        holder.leases = []
    holder.reconnect()
    desk.settle()
    if runs:
        assert holder.unpinned == [(client.id, 1)]
        holder.answer(1)
    assert holder.held() == []
    assert desk.broker.records.pins_of(desk.broker.sessions[client.id]) == {}
    desk.check_books()


def test_a_first_request_known_by_report_alone_is_a_pin_once_its_client_says_so() -> None:
    old = Desk()
    holder, client = old.worker(held_kind()), old.client()
    ask(client, 1, pin=1, opens=True)
    desk = Desk(epoch=78, predecessors=frozenset({holder.id}))
    holder.desk = client.desk = desk
    holder.reconnect()  # it waits for a connection there
    client.hello(epoch=77)
    ask(client, 1, pin=1, flags=OPENS | AGAIN)
    holder.answer(1)
    ask(client, 2, pin=1)
    assert holder.held() == [2]
    client.send(Verb.GOODBYE)
    desk.settle()
    assert holder.unpinned == [(client.id, 1)]
    desk.check_books()


def test_a_first_request_that_is_handed_back_to_a_new_broker_opens_its_pin_anew() -> None:
    old = Desk(predecessors=frozenset())
    holder, client = old.worker(held_kind()), old.client()
    ask(client, 1, pin=1, opens=True)
    desk = Desk(epoch=78, predecessors=frozenset({holder.id}))
    holder.desk = client.desk = desk
    report(holder, client)
    holder.give_back(1)
    client.hello(epoch=77)
    ask(client, 1, pin=1, flags=OPENS | AGAIN)
    assert client.outcomes == {}
    assert holder.held() == [1]
    assert holder.leases[0].pin == 1
    holder.answer(1)
    ask(client, 2, pin=1)
    holder.answer(2)
    assert [client.code(seq) for seq in (1, 2)] == [Code.OK] * 2
    desk.check_books()


# --- with a configuration ---------------------------------------------------------------------------


def named(password: str, policy: Policy | None = None) -> Config:
    found = endpoint(ORIGIN, {"password": password})
    return Config([NamedUpstream("shop", ("tcp",), found, found, policy or Policy())])


def test_a_held_connection_outlives_a_changed_password_and_a_name_that_is_taken_away() -> None:
    desk = Desk(config=named("old"))
    worker, client = desk.worker(held_kind()), desk.client()
    ask(client, 1, pin=1, opens=True, origins=("@shop",))
    worker.answer(1)
    desk.broker.reconfigure(named("new"))
    ask(client, 2, pin=1, origins=("@shop",))
    assert worker.held() == [2]
    assert worker.leases[0].origin == endpoint(ORIGIN, {"password": "old"}).origin
    worker.answer(2)
    desk.broker.reconfigure(Config())
    ask(client, 3, pin=1, origins=("@shop",))
    assert worker.held() == [3]
    desk.check_books()


def test_pins_are_part_of_the_status_report() -> None:
    desk, _, _ = opened()
    report = desk.broker.status.make(desk.now_s)
    assert report["origins"][ORIGIN]["pinned"] == 1
    assert wire.encode(Verb.STATUS, report)


def test_what_comes_in_the_turn_in_which_its_worker_is_said_to_be_dead_was_never_sent() -> None:
    desk, holder, client = opened()
    client.submitted += 1
    group = SubmitGroup("tcp", (ORIGIN,), LONG_MS, 0, 1, 1, None, (2,), (b"x",))
    client.send(Verb.SUBMIT, client.submitted, 0, [group])
    holder.die()
    assert gone(client, 2)
    desk.check_books()


def opened_at_a_silent_worker() -> tuple[Desk, FakeWorker, FakeClient]:
    desk, holder, client = opened()
    holder.awake = False
    desk.pass_time(3.0)
    ask(client, 2, pin=1)
    assert holder.held() == []
    return desk, holder, client


def test_what_waited_for_a_silent_worker_that_then_died_was_never_sent() -> None:
    desk, holder, client = opened_at_a_silent_worker()
    holder.die()
    assert gone(client, 2)
    desk.check_books()


def test_what_waited_for_a_silent_worker_goes_to_it_when_it_is_back() -> None:
    desk, holder, client = opened_at_a_silent_worker()
    ask(client, 3, pin=1)
    holder.awake = True
    holder.reconnect(pins=[(client.id, 1, "tcp", ORIGIN)])
    assert holder.held() == [2, 3]
    holder.answer()
    assert client.code(2) == client.code(3) == Code.OK
    desk.check_books()


# --- a worker that drains ----------------------------------------------------------------------------


def drain(holder: FakeWorker) -> None:
    holder.send(Verb.DRAIN, holder.epoch, holder.seen)
    holder.desk.settle()


def test_a_worker_that_drains_lets_go_of_what_it_holds_for_a_silent_client() -> None:
    desk, holder, client = opened()
    client.awake = False
    desk.pass_time(3.0)
    assert holder.unpinned == []
    drain(holder)
    desk.pass_time(0.1)
    assert holder.unpinned == [(client.id, 1)]
    client.awake = True
    ask(client, 2, pin=1)
    assert gone(client, 2)
    desk.check_books()


def test_a_client_that_falls_silent_while_its_worker_drains_loses_what_is_held_for_it() -> None:
    desk, holder, client = opened()
    other = desk.client()
    ask(other, 1, pin=1, opens=True)
    holder.answer(1)
    drain(holder)
    desk.pass_time(1.0)
    client.awake = False
    desk.pass_time(2.0)
    assert holder.unpinned == []
    desk.pass_time(1.0)
    assert holder.unpinned == [(client.id, 1)]
    ask(other, 2, pin=1)
    assert holder.held() == [2]
    desk.check_books()


def test_what_a_silent_client_has_running_on_a_held_connection_goes_on_while_its_worker_drains() -> None:
    desk, holder, client = opened()
    ask(client, 2, pin=1)
    client.awake = False
    drain(holder)
    desk.pass_time(5.0)
    assert holder.unpinned == []
    holder.answer(2)
    assert client.code(2) == Code.OK
    desk.pass_time(0.1)
    assert holder.unpinned == [(client.id, 1)]
    desk.check_books()


def test_what_runs_on_a_held_connection_goes_on_though_only_its_worker_knows_of_it() -> None:
    desk, holder, _, client = restarted()
    report(holder, client)
    client.awake = False
    drain(holder)
    desk.pass_time(5.0)
    assert holder.unpinned == []


def test_what_has_been_held_for_long_is_let_go_of_when_the_cluster_stops() -> None:
    desk, holder, client = opened()
    desk.stop()
    desk.pass_time(9.0)
    drain(holder)
    desk.pass_time(0.9)
    assert holder.unpinned == []
    ask(client, 2, pin=1)
    desk.pass_time(1.0)
    assert holder.unpinned == []
    holder.answer(2)
    assert client.code(2) == Code.OK
    desk.pass_time(0.1)
    assert holder.unpinned == [(client.id, 1)]
    ask(client, 3, pin=1)
    assert gone(client, 3)
    desk.check_books()


def test_what_has_been_held_for_long_is_waited_for_while_the_cluster_goes_on() -> None:
    desk, holder, client = opened()
    desk.pass_time(11.0)
    drain(holder)
    desk.pass_time(3.0)
    ask(client, 2, pin=1)
    assert holder.held() == [2]
    desk.stop()
    holder.answer(2)
    desk.pass_time(0.1)
    assert holder.unpinned == [(client.id, 1)]
