"""What a worker says to its broker, under virtual time: what it keeps, how it drains, how it wakes up."""

from __future__ import annotations

import logging

import pytest

from reqpool_contract import wire
from reqpool_contract.errors import Code
from reqpool_contract.grace import ASKED_AGAIN_S
from reqpool_contract.wire import Flag, Reject, Verb
from reqpool_workers.worker_spans import ACKNOWLEDGE_S, DRAIN_S
from support.worker_conversation import EPOCH, OTHER_SESSION, SESSION, Talk


@pytest.fixture
def talk() -> Talk:
    talk = Talk()
    talk.welcome()
    return talk


def run_once(talk: Talk, seq: int = 1, **lease: int) -> None:
    """Have a request run that must not be repeated, and its result be told."""
    talk.lease(seq, **lease)
    talk.upstreams.answer(seq)
    talk.turn()


def lose_connection(talk: Talk) -> None:
    talk.conversation.take([wire.encode(Verb.REJECT, Reject.UNKNOWN, "send HELLO", {})], talk.now_s)
    talk.turn()


# --- large answers ---------------------------------------------------------------------------------


def told_large(*, flags: int = Flag.IDEMPOTENT) -> Talk:
    """A large answer is on its way to the broker."""
    talk = Talk(retained_bytes=8 << 20)
    talk.welcome()
    assert talk.conversation.has_room
    talk.lease(1, flags=flags)
    talk.upstreams.answer(1, bytes(wire.RESULTS_WINDOW_BYTES))
    talk.turn()
    assert not talk.conversation.has_room
    return talk


def test_large_answers_have_room_again_once_the_broker_has_those_before() -> None:
    talk = told_large()
    talk.beat()
    assert not talk.conversation.has_room
    talk.beat(received=1)
    assert talk.conversation.has_room


def test_what_only_waits_for_its_client_takes_no_room_from_large_answers() -> None:
    talk = told_large(flags=0)
    talk.beat(received=1, undelivered=(1,))
    assert talk.conversation.has_room
    lose_connection(talk)
    assert talk.held() == {1}


def test_large_answers_are_read_on_while_no_broker_is_there() -> None:
    talk = told_large()
    talk.conversation.lose("cut", talk.now_s)
    assert talk.conversation.has_room
    talk.turn()
    talk.welcome()
    assert not talk.conversation.has_room  # all is on its way again


# --- what is kept ----------------------------------------------------------------------------------


def test_an_outcome_is_held_until_its_client_has_acknowledged_it(talk: Talk) -> None:
    run_once(talk)
    talk.beat(received=1, undelivered=(1,))
    lose_connection(talk)
    assert talk.held() == {1}
    talk.welcome()
    assert talk.results() == {1: (0, b"yes")}
    talk.beat(received=1)
    lose_connection(talk)
    assert talk.held() == set()


def test_a_pin_whose_first_request_is_held_is_told_before_it_has_its_connection(talk: Talk) -> None:
    talk.lease(1, flags=Flag.OPENS, pin=7)
    lose_connection(talk)
    assert talk.hellos[-1]["pins"] == ((SESSION, 7, "x", "x://y"),)


def test_what_waits_for_a_connection_is_not_held_for_a_broker_that_may_have_given_it_away(talk: Talk) -> None:
    talk.welcome()
    talk.upstreams.slots_granted = 1
    talk.lease(1)
    assert list(talk.conversation.ledger.running()) == [(SESSION, (1,))]
    lose_connection(talk)
    assert talk.held() == set()  # so it is leased anew, where a connection can be had


def test_an_outcome_is_held_until_the_request_s_deadline_has_passed_for_everybody(talk: Talk) -> None:
    run_once(talk, span_ms=10_000)
    talk.pass_s(10.0 + ASKED_AGAIN_S - 0.2, received=1, undelivered=(1,))
    lose_connection(talk)
    assert talk.held() == {1}
    talk.welcome()
    talk.pass_s(0.3)
    lose_connection(talk)
    assert talk.held() == set()


def test_with_other_origins_left_an_outcome_is_held_for_the_whole_of_the_request_s_time(talk: Talk) -> None:
    run_once(talk, span_ms=1_000, flags=Flag.OTHERS)
    talk.pass_s(7.0, received=1, undelivered=(1,))
    lose_connection(talk)
    assert talk.held() == {1}


def test_an_outcome_told_while_no_broker_was_there_is_held(talk: Talk) -> None:
    talk.lease(1)
    talk.up = False
    talk.upstreams.answer(1)
    talk.pass_s(8.0)
    talk.up = True
    talk.pass_s(4.0, beating=False)
    assert talk.held() == {1}


def test_what_was_cancelled_after_it_was_sent_is_held_as_having_run(talk: Talk) -> None:
    talk.lease(1)
    talk.say(Verb.CANCEL, [(SESSION, (1,))])
    code, details = talk.results()[1]
    assert code == Code.CANCELLED
    assert wire.decode_error(details)["sent"] is True
    lose_connection(talk)
    assert talk.held() == {1}


@pytest.mark.parametrize("slots", [0, None], ids=["not sent", "may be repeated"])
def test_of_what_was_cancelled_nothing_else_is_told(talk: Talk, slots: int | None) -> None:
    talk.upstreams.slots_granted = slots
    talk.lease(1, flags=0 if slots == 0 else Flag.IDEMPOTENT)
    talk.say(Verb.CANCEL, [(SESSION, (1,))])
    assert talk.results() == {}
    lose_connection(talk)
    assert talk.held() == set()


def test_a_client_that_acknowledges_nothing_keeps_no_lease_of_others_away() -> None:
    talk = Talk(retained_bytes=10_000)
    talk.welcome()
    for number in range(1, 101):
        talk.lease(number)
        talk.upstreams.answer(number, bytes(1_000))
        talk.turn()
        talk.beat(received=number, undelivered=range(1, number + 1))
    talk.lease(1, session=OTHER_SESSION)
    assert talk.heard(Verb.RETURN) == []
    assert talk.upstreams.sent[-1] == 1
    assert talk.conversation.outbox.retained_bytes <= 11_000
    lose_connection(talk)
    assert talk.held() == set(range(1, 101))
    talk.welcome()
    codes = [code for code, _ in talk.results().values()]
    assert len(codes) == 100
    assert set(codes) == {Code.OK, Code.OUTCOME_UNKNOWN}


def test_a_broker_that_receives_nothing_gets_its_leases_back() -> None:
    talk = Talk(retained_bytes=10_000)
    talk.welcome()
    for number in range(1, 11):
        talk.lease(number)
        talk.upstreams.answer(number, bytes(1_000))
        talk.turn()
    talk.lease(20)
    ((_, _, groups),) = talk.heard(Verb.RETURN)
    assert groups == [(SESSION, (20,), False)]
    talk.beat(received=10, undelivered=range(1, 11))
    talk.lease(21)
    assert talk.heard(Verb.RETURN) == []


def test_a_connection_that_broke_is_no_warning(talk: Talk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    talk.conversation.lose("the connection broke", talk.now_s)
    assert [record.levelname for record in caplog.records if "hung up" in record.message] == ["INFO"]


# --- the drain -------------------------------------------------------------------------------------


def test_a_drain_ends_in_order_once_the_clients_have_what_must_not_be_repeated(talk: Talk) -> None:
    run_once(talk)
    talk.conversation.drain(talk.now_s)
    talk.pass_s(ACKNOWLEDGE_S - 0.5, received=1, undelivered=(1,))
    assert not talk.conversation.over
    talk.pass_s(1.0, received=1)
    assert talk.conversation.over
    assert talk.conversation.in_doubt == 0
    assert talk.heard(Verb.GOODBYE)


def test_a_drain_ends_in_order_once_nobody_can_ask_again(talk: Talk) -> None:
    run_once(talk, span_ms=100)
    talk.conversation.drain(talk.now_s)
    talk.pass_s(ASKED_AGAIN_S - 0.1, received=1, undelivered=(1,))
    assert not talk.conversation.over
    talk.pass_s(0.3, received=1, undelivered=(1,))
    assert talk.conversation.over
    assert talk.conversation.in_doubt == 0


def test_a_drain_that_nobody_acknowledges_ends_in_doubt_and_without_goodbye(talk: Talk) -> None:
    run_once(talk, span_ms=60_000)
    talk.conversation.drain(talk.now_s)
    talk.pass_s(ACKNOWLEDGE_S - 0.2, received=1, undelivered=(1,))
    assert not talk.conversation.over
    talk.pass_s(0.5, received=1, undelivered=(1,))
    assert talk.conversation.over
    assert talk.conversation.in_doubt == 1
    assert talk.heard(Verb.GOODBYE) == []


def test_a_drain_does_not_wait_for_clients_that_are_silent(talk: Talk) -> None:
    run_once(talk, span_ms=60_000)
    talk.conversation.drain(talk.now_s)
    talk.pass_s(0.2, received=1, undelivered=(1,))
    assert not talk.conversation.over
    talk.pass_s(0.2, received=1, undelivered=(1,), excused=True)
    assert talk.conversation.over
    assert talk.conversation.in_doubt == 1
    assert talk.heard(Verb.GOODBYE) == []


def test_a_drain_waits_for_what_has_not_arrived_whoever_is_silent(talk: Talk) -> None:
    run_once(talk, span_ms=60_000)
    talk.lease(2, span_ms=60_000)
    talk.conversation.drain(talk.now_s)
    talk.pass_s(0.5, received=1, undelivered=(1,))
    assert not talk.conversation.over, "a request runs"
    talk.upstreams.answer(2)
    talk.pass_s(0.5, received=1, undelivered=(1,), excused=True)
    assert not talk.conversation.over, "its result is on its way"
    talk.pass_s(0.5, received=2, undelivered=(1, 2))
    assert not talk.conversation.over
    talk.pass_s(0.2, received=2, undelivered=(1,), excused=True)
    assert talk.conversation.over


def test_a_drain_ends_in_doubt_when_the_broker_says_that_what_runs_has_had_its_time(talk: Talk) -> None:
    talk.lease(1, span_ms=60_000)
    talk.conversation.drain(talk.now_s)
    talk.pass_s(0.5)
    assert not talk.conversation.over
    talk.pass_s(0.2, excused=True)
    assert talk.conversation.over
    assert talk.conversation.in_doubt == 1
    assert talk.heard(Verb.GOODBYE) == []


def test_what_is_leased_to_a_draining_worker_later_gets_its_own_time(talk: Talk) -> None:
    talk.lease(1, span_ms=60_000, pin=1)
    talk.conversation.drain(talk.now_s)
    talk.beat()
    excused = wire.encode(Verb.HEARTBEAT, EPOCH, 0, 9, 0, (), True)
    talk.conversation.take([excused], talk.now_s)
    talk.lease(2, span_ms=60_000, pin=1)  # came in the same turn
    assert not talk.conversation.over


def test_a_drain_that_is_to_end_in_doubt_waits_until_the_broker_has_what_it_hands_back(talk: Talk) -> None:
    run_once(talk, span_ms=60_000)
    talk.upstreams.slots_granted = 0
    talk.lease(2, span_ms=60_000)
    talk.conversation.drain(talk.now_s)
    talk.beat(received=1, undelivered=(1,), excused=True)
    assert talk.heard(Verb.RETURN)
    assert not talk.conversation.over
    talk.beat(received=1, undelivered=(1,), excused=True)
    assert talk.conversation.over


def test_what_a_broker_said_of_silent_clients_ends_with_its_connection(talk: Talk) -> None:
    run_once(talk, span_ms=60_000)
    talk.lease(2, span_ms=60_000)
    talk.conversation.drain(talk.now_s)
    talk.pass_s(0.2, received=1, undelivered=(1,), excused=True)
    talk.upstreams.answer(2)
    lose_connection(talk)
    talk.welcome()
    talk.pass_s(0.5, received=2, undelivered=(1, 2))
    assert not talk.conversation.over


def test_a_drain_gives_clients_their_time_with_the_broker_that_is_there_now(talk: Talk) -> None:
    run_once(talk, span_ms=60_000)
    talk.conversation.drain(talk.now_s)
    talk.pass_s(ACKNOWLEDGE_S - 0.5, received=1, undelivered=(1,))
    lose_connection(talk)
    talk.welcome()
    talk.pass_s(ACKNOWLEDGE_S - 0.5, received=1, undelivered=(1,))
    assert not talk.conversation.over
    talk.pass_s(1.0, received=1)
    assert talk.conversation.over
    assert talk.conversation.in_doubt == 0


def test_a_long_request_gets_its_own_time_to_be_acknowledged(talk: Talk) -> None:
    talk.lease(1, span_ms=60_000)
    talk.conversation.drain(talk.now_s)
    talk.pass_s(DRAIN_S - 2.5)
    assert not talk.conversation.over
    talk.upstreams.answer(1)
    talk.pass_s(1.0, received=1, undelivered=(1,))
    assert not talk.conversation.over
    talk.pass_s(1.0, received=1)
    assert talk.conversation.over
    assert talk.conversation.in_doubt == 0


def test_a_drain_ends_in_its_time_whatever_still_runs(talk: Talk) -> None:
    talk.lease(1, span_ms=60_000)
    talk.conversation.drain(talk.now_s)
    talk.pass_s(DRAIN_S - 0.1)
    assert not talk.conversation.over
    talk.pass_s(0.2)
    assert talk.conversation.over
    assert not talk.conversation.said_goodbye


def test_a_drain_whose_last_request_ends_late_ends_in_its_time_whoever_acknowledges(talk: Talk) -> None:
    talk.lease(1, span_ms=60_000)
    talk.conversation.drain(talk.now_s)
    talk.pass_s(DRAIN_S - 0.5)
    talk.upstreams.answer(1)
    talk.pass_s(0.6, received=1, undelivered=(1,))
    assert talk.conversation.over
    assert talk.conversation.in_doubt == 1
    assert not talk.conversation.said_goodbye


def test_without_a_broker_a_drain_waits_for_one_while_something_is_kept(talk: Talk) -> None:
    run_once(talk, span_ms=60_000)
    talk.up = False
    talk.conversation.drain(talk.now_s)
    talk.pass_s(DRAIN_S - 0.2)
    assert not talk.conversation.over
    talk.pass_s(0.5)
    assert talk.conversation.over
    assert talk.conversation.in_doubt == 1


def test_without_a_broker_what_was_not_sent_is_dropped_and_the_end_is_in_order(talk: Talk) -> None:
    talk.upstreams.slots_granted = 0
    talk.lease(1, 2, span_ms=60_000)
    talk.up = False
    talk.conversation.drain(talk.now_s)
    talk.pass_s(3.0)
    assert talk.conversation.over
    assert talk.conversation.in_doubt == 0
    assert talk.upstreams.sent == []


def test_a_drain_goes_on_with_the_next_broker(talk: Talk) -> None:
    run_once(talk, span_ms=60_000)
    talk.up = False
    talk.conversation.drain(talk.now_s)
    talk.pass_s(5.0)
    talk.up = True
    talk.pass_s(3.0, beating=False)
    assert talk.held() == {1}
    talk.welcome()
    assert talk.results() == {1: (0, b"yes")}
    assert talk.heard(Verb.DRAIN)
    talk.pass_s(0.1, received=1)
    assert talk.conversation.over
    assert talk.heard(Verb.GOODBYE)


# --- after a freeze --------------------------------------------------------------------------------


def test_after_a_freeze_grants_have_lapsed_before_anything_else_is_done(talk: Talk) -> None:
    talk.say(Verb.GRANT, "x://y", 1, 2, {})
    talk.lease(1)
    talk.freeze_s(3.0)
    talk.conversation.wake(talk.now_s)
    assert talk.upstreams.slots_granted == 0
    talk.turn()
    assert talk.held() == set(), "what waited was handed back: the broker leases it again"


def test_after_a_freeze_what_was_sent_is_held(talk: Talk) -> None:
    talk.lease(1)
    talk.freeze_s(3.0)
    talk.turn()
    assert talk.held() == {1}


def test_a_broker_that_is_away_costs_a_few_lines(caplog: pytest.LogCaptureFixture, talk: Talk) -> None:
    for _ in range(1_000):
        talk.conversation.take([b"garbage"], talk.now_s)
    talk.conversation.take([wire.encode(Verb.LEASE, EPOCH, 10_000, [])], talk.now_s)
    for _ in range(1_000):
        lose_connection(talk)
        talk.now_s += 1.0
        talk.turn()
    assert len(caplog.records) < 20
    assert talk.conversation.ledger.reports.ignored == 1_000


def test_without_a_socket_for_the_broker_it_is_dialled_again(talk: Talk) -> None:
    talk.lease(1)
    talk.sockets = False
    lose_connection(talk)
    talk.pass_s(5.0)
    assert len(talk.hellos) == 1
    talk.sockets = True
    talk.pass_s(1.1)
    assert len(talk.hellos) == 2
    assert talk.held() == {1}


def test_results_that_could_wait_are_told_before_a_grant_is_answered(talk: Talk) -> None:
    talk.lease(1)
    talk.upstreams.backlog = 5
    talk.upstreams.answer(1)
    talk.conversation.reports.answered(talk.upstreams, 1)
    talk.turn()
    assert talk.results() == {}
    talk.say(Verb.GRANT, "x://y", 1, 0, {})
    assert talk.heard(Verb.GRANTED)
    assert talk.results() == {1: (0, b"yes")}
