"""Connections held for one session, as the broker sees them: fake clock, no sockets."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from reqpool_broker.client_limits import ClientLimits
from reqpool_broker.config import Config
from reqpool_broker.pin import MAX_PINS, Pin
from reqpool_contract.errors import Code
from reqpool_contract.wire import Flag, Verb
from support.fake_peers import Desk, FakeClient
from support.pinned import OPENS, ORIGIN, ask, gone, held_kind, opened

# --- the way of its requests ------------------------------------------------------------------------


def test_the_first_request_waits_its_turn_and_is_leased_as_the_one_that_opens() -> None:
    desk = Desk()
    worker = desk.worker(held_kind(1))
    other, client = desk.client(), desk.client()
    ask(other, 1, 2, 3)
    assert worker.held() == [1, 2]
    ask(client, 10, pin=1, opens=True)
    assert worker.held() == [1, 2]
    worker.answer(1, 2)
    assert worker.held() == [3, 10]
    lease = worker.leases[-1]
    assert (lease.session, lease.pin, lease.flags & OPENS) == (client.id, 1, OPENS)
    desk.check_books()


def test_later_requests_go_to_that_worker_at_once_past_a_full_queue() -> None:
    desk, holder, client = opened(limit=2, workers=3)
    others = desk.client()
    ask(others, *range(100, 200))
    busy = {worker: worker.held() for worker in desk.workers.values()}
    ask(client, 2, pin=1)
    assert holder.leases[-1].seqs == (2,)
    assert holder.leases[-1].pin == 1
    assert not holder.leases[-1].flags & OPENS
    for worker in desk.workers.values():
        assert worker.held() == busy[worker] + ([2] if worker is holder else [])
    holder.answer(2)
    ask(client, 3, pin=1)
    assert holder.held()[-1] == 3
    desk.check_books()


def test_another_sessions_number_is_another_pin() -> None:
    desk, _, client = opened()
    stranger = desk.client()
    ask(stranger, 1, pin=1)
    assert gone(stranger, 1)
    ask(stranger, 2, pin=1, opens=True)
    ask(client, 2, pin=1)
    assert len(pins(desk, client)) == len(pins(desk, stranger)) == 1
    stranger.send(Verb.UNPIN, 1)
    desk.settle()
    ask(client, 3, pin=1)
    assert 3 not in client.outcomes
    desk.check_books()


def test_a_held_connection_is_one_of_the_upstreams_and_is_not_for_others() -> None:
    desk, holder, client = opened(limit=2)
    others = desk.client()
    ask(others, *range(100, 120))
    assert holder.grants[ORIGIN][1] == 2
    assert holder.held() == [100, 101]  # what one connection takes, and a prefetch
    report = desk.broker.status.make(desk.now_s)["origins"][ORIGIN]
    assert (report["pinned"], report["reserved"], report["limit"]) == (1, 2, 2)
    client.send(Verb.UNPIN, 1)
    desk.settle()
    assert holder.held() == [100, 101, 102, 103]
    desk.check_books()


def test_as_many_pins_as_slots_work_while_all_others_wait() -> None:
    desk = Desk()
    worker = desk.worker(held_kind(3))
    clients = [desk.client() for _ in range(5)]
    for client in clients:
        ask(client, 1, pin=1, opens=True, span_ms=5_000)
    assert len(worker.held()) == 3
    worker.answer()
    holders = [client for client in clients if client.outcomes]
    assert len(holders) == 3
    for turn in range(2, 10):
        for client in holders:
            ask(client, turn, pin=1)
        assert len(worker.held()) == 3
        worker.answer()
    assert all(client.code(9) == Code.OK for client in holders)
    desk.pass_time(5.2)
    for client in clients:
        if client not in holders:
            assert client.code(1) == Code.TIMEOUT
            assert (client.error(1)["phase"], client.error(1)["sent"]) == ("queue", False)
    desk.check_books()


def test_pins_of_a_deep_kind_get_a_connection_each_at_once() -> None:
    desk = Desk()
    worker = desk.worker(held_kind(limit=8, depth=128))
    clients = [desk.client() for _ in range(5)]
    for client in clients:
        ask(client, 1, pin=1, opens=True, settle=False)
    desk.settle()
    assert len(worker.held()) == 5
    assert 5 <= worker.grants[ORIGIN][1] <= 6  # a spare one, where others could share it
    desk.check_books()


def pins(desk: Desk, client: FakeClient) -> Mapping[int, Pin]:
    return desk.broker.records.pins_of(desk.broker.sessions[client.id])


@pytest.mark.parametrize("depth", [1, 4])
def test_pins_and_what_is_leased_ahead_never_need_more_than_the_slots(depth: int) -> None:
    desk = Desk()
    worker = desk.worker(held_kind(4, depth))
    client, others = desk.client(), desk.client()
    seqs = iter(range(1, 10_000))
    for pin in range(1, 7):
        ask(others, *(next(seqs) for _ in range(8)))
        ask(client, pin, pin=pin, opens=True)
        worker.answer(*worker.held()[: 2 * depth])
        origin = desk.broker.records.origins.named(ORIGIN)[0]
        pinned = sum(origin.pins.values())
        assert pinned <= 4
        assert worker.grants[ORIGIN][1] <= 4
        desk.check_books()


# --- what is wrong ----------------------------------------------------------------------------------


def refused(client: FakeClient, seq: int) -> str:
    assert client.code(seq) == Code.USAGE
    assert client.error(seq)["sent"] is False
    return str(client.error(seq)["text"])


def test_what_cannot_open_a_pin_is_told_why() -> None:
    desk = Desk()
    worker, client = desk.worker(held_kind()), desk.client()
    alone = "opened by a single non-idempotent request to a single upstream"
    ask(client, 1, 2, pin=1, opens=True)
    assert alone in refused(client, 1)
    assert alone in refused(client, 2)
    ask(client, 3, pin=1, flags=OPENS | Flag.IDEMPOTENT)
    assert alone in refused(client, 3)
    ask(client, 4, pin=1, opens=True, origins=(ORIGIN, "tcp://127.0.0.2:9"))
    assert alone in refused(client, 4)
    assert worker.held() == []
    ask(client, 5, pin=1, opens=True)
    ask(client, 6, pin=1, opens=True)
    assert "pin 1 is already open" in refused(client, 6)
    assert worker.held() == [5]
    desk.check_books()


def test_too_many_pins_are_refused() -> None:
    desk = Desk()
    desk.worker(held_kind())
    client = desk.client()
    for pin in range(1, MAX_PINS + 1):
        ask(client, pin, pin=pin, opens=True, settle=False)
    desk.settle()
    assert client.outcomes == {}
    ask(client, 5000, pin=5000, opens=True)
    assert f"{MAX_PINS} connections are already pinned" in refused(client, 5000)
    client.send(Verb.UNPIN, 1)
    ask(client, 5001, pin=5001, opens=True)
    assert 5001 not in client.outcomes
    desk.check_books()


@pytest.mark.parametrize(
    "options",
    [{"flags": Flag.IDEMPOTENT}, {"origins": (ORIGIN, "tcp://127.0.0.2:9")}],
    ids=["idempotent", "several upstreams"],
)
def test_a_later_request_that_could_run_elsewhere_is_refused(options: dict[str, object]) -> None:
    desk, holder, client = opened()
    ask(client, 2, pin=1, **options)
    assert "one at a time and not be idempotent" in refused(client, 2)
    ask(client, 3, 4, pin=1)
    assert "one at a time" in refused(client, 3)
    assert "one at a time" in refused(client, 4)
    assert holder.held() == []
    ask(client, 5, pin=1)
    assert holder.held() == [5]
    desk.check_books()


def test_an_unknown_pin_is_a_lost_connection() -> None:
    desk, holder, client = opened()
    ask(client, 2, pin=7)
    assert gone(client, 2)
    assert holder.held() == []
    desk.check_books()


def test_a_pin_of_a_kind_that_nobody_serves_is_not_kept() -> None:
    desk, _, client = opened()
    ask(client, 2, pin=2, opens=True, kind="bogus")
    assert "no worker serves kind 'bogus'" in refused(client, 2)
    assert set(pins(desk, client)) == {1}


def test_a_client_that_acknowledges_nothing_is_served_no_more_through_its_pins() -> None:
    desk, holder, client = opened()
    desk.broker.reconfigure(Config(clients=ClientLimits(max_queued_bytes=100)))
    for seq in range(2, 10):
        ask(client, seq, pin=1)
        holder.answer()
    assert client.code(9) == Code.OVERLOADED
    assert client.error(9)["sent"] is False
    client.acknowledge()
    ask(client, 10, pin=1)
    assert holder.held() == [10]
    desk.check_books()


# --- letting go -------------------------------------------------------------------------------------


def test_letting_go_reaches_the_worker_and_frees_the_slot_for_who_waits_there() -> None:
    desk, holder, client = opened(limit=1)
    other = desk.client()
    ask(other, 50, origins=(f"{ORIGIN}/other",))  # another origin of the same server
    assert holder.held() == []
    client.send(Verb.UNPIN, 1)
    desk.settle()
    assert holder.unpinned == [(client.id, 1)]
    assert holder.grants[ORIGIN][1] == 0
    holder.confirm(ORIGIN, 0)
    assert holder.held() == [50]
    ask(client, 2, pin=1)
    assert gone(client, 2)
    client.send(Verb.UNPIN, 1)  # again: it is ignored
    desk.settle()
    assert holder.unpinned == [(client.id, 1)]
    desk.check_books()


def test_a_worker_lets_go_when_the_connection_is_gone() -> None:
    desk, holder, client = opened(limit=1)
    other = desk.client()
    ask(other, 50)
    assert holder.held() == []
    holder.unpin(client.id, 1)
    assert holder.held() == [50]
    assert holder.unpinned == []
    ask(client, 2, pin=1)
    assert gone(client, 2)
    desk.check_books()


def test_only_the_worker_that_holds_it_can_say_that_it_is_gone() -> None:
    desk, holder, client = opened(workers=2)
    (other,) = (worker for worker in desk.workers.values() if worker is not holder)
    other.unpin(client.id, 1)
    other.unpin(b"nobody".ljust(16), 1)
    ask(client, 2, pin=1)
    assert holder.held() == [2]
    desk.check_books()


@pytest.mark.parametrize("how", ["goodbye", "expiry", "another hello on its route"])
def test_the_end_of_a_session_lets_go_of_its_connections(how: str) -> None:
    desk, holder, client = opened(limit=2)
    ask(client, 2, pin=1)
    holder.answer(2)
    ask(client, 3, pin=2, opens=True)
    if how == "goodbye":
        client.send(Verb.GOODBYE)
    elif how == "expiry":
        client.awake = False
        desk.pass_time(62.0)
    else:
        client.send(Verb.HELLO, 1, 1, {"session": b"n" * 16})
    desk.settle()
    assert sorted(holder.unpinned) == [(client.id, 1), (client.id, 2)]
    desk.check_books()
    other = desk.client()
    ask(other, 1, 2)
    assert sorted(lease.session == other.id for lease in holder.leases)[-1]


def test_cancelling_the_first_request_while_it_waits_ends_the_pin() -> None:
    desk = Desk()
    worker, client = desk.worker(held_kind(1)), desk.client()
    ask(client, 1, 2)
    ask(client, 3, pin=1, opens=True)
    client.send(Verb.CANCEL, (3,))
    client.send(Verb.UNPIN, 1)
    desk.settle()
    worker.answer()
    assert worker.held() == []
    assert pins(desk, client) == {}
    assert worker.unpinned == []
    ask(client, 4, pin=1)
    assert gone(client, 4)
    desk.check_books()


def test_letting_go_before_the_first_request_has_run_ends_it() -> None:
    desk = Desk()
    worker, client = desk.worker(held_kind(1)), desk.client()
    ask(client, 1, 2)
    ask(client, 3, pin=1, opens=True)
    client.send(Verb.UNPIN, 1)
    desk.settle()
    worker.answer()
    assert gone(client, 3)
    assert worker.held() == []
    desk.check_books()


def test_cancelling_the_first_request_at_the_worker_ends_the_pin_there_too() -> None:
    desk = Desk()
    worker, client = desk.worker(held_kind(1)), desk.client()
    ask(client, 1, pin=1, opens=True)
    ask(client, 2)
    client.send(Verb.CANCEL, (1,))
    desk.settle()
    assert worker.cancelled == [(client.id, 1)]
    assert worker.unpinned == [(client.id, 1)]
    assert 2 in worker.held()  # a slot that nobody holds is not kept from others
    desk.check_books()


def test_a_first_request_that_ends_in_the_queue_leaves_no_pin() -> None:
    desk = Desk()
    worker, client = desk.worker(held_kind(1)), desk.client()
    ask(client, 1, 2)
    ask(client, 3, pin=1, opens=True, span_ms=1_000)
    desk.pass_time(1.2)
    assert client.code(3) == Code.TIMEOUT
    assert pins(desk, client) == {}
    worker.answer()
    assert worker.held() == []
    desk.check_books()


def test_a_first_request_that_its_worker_never_answers_leaves_no_pin() -> None:
    desk = Desk()
    worker, client = desk.worker(held_kind(1)), desk.client()
    ask(client, 1, pin=1, opens=True, span_ms=1_000)
    ask(client, 2)
    desk.pass_time(1.3)
    assert client.code(1) == Code.TIMEOUT
    assert worker.unpinned == [(client.id, 1)]
    assert 2 in worker.held()
    desk.check_books()


@pytest.mark.parametrize(
    ("code", "sent"), [(Code.CONNECT_FAILED, False), (Code.CONNECTION_LOST, True), (Code.TIMEOUT, False)]
)
def test_a_first_request_that_failed_for_good_leaves_no_pin(code: Code, sent: bool) -> None:
    desk = Desk()
    worker, client = desk.worker(held_kind(1)), desk.client()
    ask(client, 1, pin=1, opens=True)
    ask(client, 2)
    worker.fail(1, code=code, sent=sent)
    assert client.code(1) == code
    assert worker.held() == [2]
    ask(client, 3, pin=1)
    assert gone(client, 3)
    desk.check_books()


# --- workers come and go ----------------------------------------------------------------------------


def test_a_dead_workers_pins_are_gone_and_what_ran_on_them_is_unknown() -> None:
    desk, holder, client = opened(workers=2)
    ask(client, 2, pin=1)
    holder.die()
    assert client.code(2) == Code.OUTCOME_UNKNOWN
    ask(client, 3, pin=1)
    assert gone(client, 3)
    assert all(worker.held() == [] for worker in desk.workers.values())
    ask(client, 4, pin=2, opens=True)  # a new one may be had
    assert [worker.held() for worker in desk.workers.values()] == [[4]]
    desk.check_books()


def test_a_silent_worker_keeps_its_pins_until_it_is_dead_or_the_request_ends() -> None:
    desk, holder, client = opened(limit=1, workers=2)
    (other,) = (worker for worker in desk.workers.values() if worker is not holder)
    ask(client, 2, pin=1, span_ms=5_000)
    holder.awake = False
    desk.pass_time(3.0)
    ask(client, 3, pin=1)
    others = desk.client()
    ask(others, 50)
    assert client.outcomes.keys() == {1}
    assert other.held() == []  # the one connection there may be is held
    desk.pass_time(2.5)
    assert client.code(2) == Code.OUTCOME_UNKNOWN
    holder.die()
    assert client.code(3) in (Code.CONNECTION_LOST, Code.OUTCOME_UNKNOWN)
    assert other.held() == [50]
    desk.check_books()


def test_a_worker_that_was_away_for_a_moment_goes_on_with_its_pins() -> None:
    desk, holder, client = opened(workers=2)
    ask(client, 2, pin=1)
    holder.send(Verb.HEARTBEAT, 12345, 0, 1, {})  # of another epoch: it is told to say HELLO
    ask(client, 3, pin=1)  # while it has no connection to the broker
    assert 3 not in client.outcomes
    holder.reconnect(slots=[(ORIGIN, 1)], pins=[(client.id, 1, "tcp", ORIGIN)])
    assert holder.held() == [2, 3]
    holder.answer()
    assert [client.code(seq) for seq in (2, 3)] == [Code.OK] * 2
    desk.check_books()


def test_a_worker_that_comes_back_without_a_pin_has_lost_it() -> None:
    desk, holder, client = opened(limit=1, workers=2)
    others = desk.client()
    ask(others, 50)
    holder.reconnect()
    assert [50] in [worker.held() for worker in desk.workers.values()]
    ask(client, 2, pin=1)
    assert gone(client, 2)
    desk.check_books()


def test_a_pinned_lease_lost_on_the_way_is_given_again_to_its_holder_alone() -> None:
    desk, holder, client = opened(workers=2)
    ask(client, 2, pin=1)
    holder.leases = []
    holder.hello(epoch=holder.epoch, slots=[(ORIGIN, 1)], pins=[(client.id, 1, "tcp", ORIGIN)])
    assert holder.held() == [2]
    holder.answer(2)
    assert client.code(2) == Code.OK
    holder.leases = []
    ask(client, 3, pin=1)
    holder.leases = []
    holder.hello(epoch=holder.epoch)  # and the pin is gone
    assert holder.held() == [3]  # which says itself that it has no such connection
    ask(client, 4, pin=1)
    assert gone(client, 4)
    desk.check_books()


def test_a_pin_whose_first_request_still_waits_at_a_worker_outlives_its_reconnect() -> None:
    desk = Desk()
    worker, client = desk.worker(held_kind()), desk.client()
    ask(client, 1, pin=1, opens=True)
    worker.reconnect()  # it has no connection for it yet
    worker.answer(1)
    ask(client, 2, pin=1)
    assert worker.held() == [2]
    client.send(Verb.GOODBYE)
    desk.settle()
    assert worker.unpinned == [(client.id, 1)]
    desk.check_books()


def test_a_first_request_that_is_handed_back_opens_its_pin_elsewhere() -> None:
    desk = Desk()
    first = desk.worker(held_kind())
    client = desk.client()
    ask(client, 1, pin=1, opens=True)
    second = desk.worker(held_kind())
    first.send(Verb.DRAIN, first.epoch, first.seen)
    first.give_back(1)
    assert second.held() == [1]
    assert (second.leases[0].pin, second.leases[0].attempt) == (1, 1)
    first.unpin(client.id, 1)  # late, and no more its affair
    second.answer(1)
    ask(client, 2, pin=1)
    assert second.held() == [2]
    desk.check_books()


def test_a_first_request_that_was_not_sent_is_tried_again_with_its_pin() -> None:
    desk = Desk()
    worker, client = desk.worker(held_kind()), desk.client()
    ask(client, 1, pin=1, opens=True)
    worker.fail(1, code=Code.CONNECTION_LOST, sent=False)
    assert worker.held() == [1]
    assert worker.leases[0].flags & OPENS
    worker.answer(1)
    ask(client, 2, pin=1)
    assert worker.held() == [2]
    desk.check_books()


def test_a_pinned_request_that_is_handed_back_runs_nowhere_else() -> None:
    desk, holder, client = opened(workers=2)
    ask(client, 2, pin=1)
    holder.send(Verb.DRAIN, holder.epoch, holder.seen)
    ask(client, 3, pin=1)  # a draining worker's pins may finish
    assert holder.held() == [2, 3]
    holder.give_back(2)
    assert gone(client, 2)
    holder.answer(3)
    assert client.code(3) == Code.OK
    holder.send(Verb.GOODBYE, holder.epoch, holder.seen)
    desk.settle()
    ask(client, 4, pin=1)
    assert gone(client, 4)
    desk.check_books()


def test_a_lost_connections_pinned_request_runs_nowhere_else() -> None:
    desk, holder, client = opened(workers=2)
    ask(client, 2, pin=1)
    holder.fail(2, code=Code.CONNECTION_LOST, sent=False)
    assert client.code(2) == Code.CONNECTION_LOST
    assert all(worker.held() == [] for worker in desk.workers.values())
    desk.check_books()
