"""The phases of a stop, and when what ran at an instant has ended according to the broker's report."""

from __future__ import annotations

from typing import Any

import pytest

from reqpool_contract.wire import Verb
from reqpool_ops.shutdown import TRANSITIONS, Phase, PhaseEvent, Shutdown, WrongPhase, has_ended
from support.fake_peers import Desk
from support.pinned import ask, opened


def report(*oldest_s: Any, number: Any = 101_000) -> dict[str, Any]:
    return {"number": number, "workers": [{"oldest_s": age_s} for age_s in oldest_s]}


ORDER = list(Phase)
IN_TURN = [PhaseEvent.ORDERED, PhaseEvent.SERVED, PhaseEvent.WORKERS_GONE, PhaseEvent.BROKER_GONE]


def after(moves: int) -> Shutdown:
    """Return a shutdown that has come that far in order."""
    shutdown = Shutdown(10.0)
    for event in IN_TURN[:moves]:
        shutdown.order(100.0) if event is PhaseEvent.ORDERED else shutdown.move(event)
    return shutdown


@pytest.mark.parametrize("event", PhaseEvent)
@pytest.mark.parametrize("moves", range(len(ORDER)))
def test_every_move_is_one_phase_on_or_to_the_end(moves: int, event: PhaseEvent) -> None:
    shutdown = after(moves)
    assert (shutdown.phase, shutdown.status) == (ORDER[moves], 0)
    expected = None
    if shutdown.phase is not Phase.OVER:
        if event is PhaseEvent.CUT_SHORT:
            expected = Phase.OVER
        elif event is IN_TURN[moves]:
            expected = ORDER[moves + 1]
    assert TRANSITIONS.get((shutdown.phase, event)) is expected
    if expected is None:
        with pytest.raises(WrongPhase, match=shutdown.phase.value):
            shutdown.move(event)
        assert shutdown.phase is ORDER[moves]
    else:
        shutdown.move(event)
        assert shutdown.phase is expected


@pytest.mark.parametrize("moves", range(4))
def test_a_stop_that_is_cut_short_says_so_by_its_status(moves: int) -> None:
    shutdown = after(moves)
    shutdown.cut_short()
    assert (shutdown.phase, shutdown.status) == (Phase.OVER, 1)


def test_a_broker_is_replaced_until_the_workers_have_gone() -> None:
    assert [after(moves).wants_broker for moves in range(5)] == [True, True, True, False, False]


def test_a_cluster_serves_on_for_its_span_after_the_order() -> None:
    assert not after(0).is_late(1e9)
    assert not after(1).is_late(109.9)
    assert after(1).is_late(110.0)
    assert after(1).is_served(report(0.9))
    assert not after(1).is_served(report(1.1))


@pytest.mark.parametrize(
    ("told", "ended"),
    [
        (report(0.0, 0.0), True),
        (report(0.9, 0.0), True),
        (report(0.0, 1.1), False),
        (report("much", None), True),
        (report(), True),
        ({"number": 101_000}, True),
        ({}, False),
        (report(0.0, number="now"), False),
    ],
)
def test_what_ran_at_an_instant_has_ended_once_nothing_older_is_reported(
    told: dict[str, Any], ended: bool
) -> None:
    assert has_ended(told, since_s=100.0) is ended


@pytest.mark.parametrize(
    ("oldest_s", "awaited", "ended"), [(0.0, [], True), (0.2, [], False), (0.0, [{"id": "77"}], False)]
)
def test_a_broker_that_came_after_the_instant_cannot_tell_what_ran_then(
    oldest_s: float, awaited: list[dict[str, str]], ended: bool
) -> None:
    told = {**report(oldest_s), "uptime_s": 0.5, "awaited": awaited}
    assert has_ended(told, since_s=100.0) is ended
    assert has_ended({**told, "uptime_s": 50.0, "awaited": []}, since_s=100.0)


def test_a_report_asked_for_before_the_instant_says_nothing() -> None:
    assert not has_ended(report(0.0, number=99_900), since_s=100.0)


def test_a_report_says_which_question_it_answers() -> None:
    client = Desk().client()
    client.send(Verb.STATUS, {"number": 99_900})
    client.send(Verb.STATUS, {})
    client.desk.settle()
    reports = [fields[0] for verb, fields in client.replies if verb is Verb.STATUS]
    assert [told.get("number") for told in reports] == [99_900, None]


def test_a_question_with_a_number_that_is_none_is_malformed() -> None:
    client = Desk().client()
    client.send(Verb.STATUS, {"number": "now"})
    client.desk.settle()
    assert client.replies[-1][0] is Verb.REJECT


def oldest_s(desk: Desk) -> float:
    (told,) = desk.broker.status.make(desk.now_s)["workers"]
    return float(told["oldest_s"])


def test_the_broker_reports_the_age_of_what_a_worker_has_had_for_longest() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    assert oldest_s(desk) == 0.0
    client.submit(1)
    desk.pass_time(2.0)
    client.submit(2)
    desk.pass_time(1.0)
    assert 3.0 <= oldest_s(desk) < 3.5
    worker.answer(1)
    client.acknowledge()
    assert 1.0 <= oldest_s(desk) < 1.5
    worker.answer(2)
    client.acknowledge()
    assert oldest_s(desk) == 0.0


def test_the_age_of_a_held_connection_counts_until_it_is_let_go_of() -> None:
    desk, _, client = opened()
    client.acknowledge()
    desk.pass_time(2.0)
    ask(client, 2, pin=1)
    assert 2.0 <= oldest_s(desk) < 2.5
    client.send(Verb.UNPIN, 1)
    desk.workers[next(iter(desk.workers))].answer(2)
    client.acknowledge()
    assert oldest_s(desk) == 0.0


def test_what_is_held_for_a_silent_client_is_waited_for_no_longer() -> None:
    desk, _, client = opened()
    client.acknowledge()
    client.awake = False
    desk.pass_time(2.0)
    assert oldest_s(desk) >= 2.0
    desk.pass_time(1.0)
    assert oldest_s(desk) == 0.0
    client.awake = True
    desk.pass_time(1.0)
    assert oldest_s(desk) >= 4.0


def test_a_client_that_has_not_acknowledged_counts_from_when_it_was_heard() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1)
    worker.answer(1)
    desk.pass_time(5.0)
    assert oldest_s(desk) < 0.6, "it lives"
    client.awake = False
    desk.pass_time(2.0)
    assert 1.4 <= oldest_s(desk) <= 2.5
    desk.pass_time(1.0)
    assert oldest_s(desk) == 0.0
