"""How a worker ends in order: each step, and what it waits for in each."""

from __future__ import annotations

from itertools import product

import pytest

from reqpool_workers.draining import TRANSITIONS, Drain, DrainEvent, DrainState, Remaining
from reqpool_workers.worker_spans import ACKNOWLEDGE_S, DRAIN_PINS_S, DRAIN_S

NOW_S = 100.0
LIVENESS_S = 2.5
BEAT = 7
NOTHING = Remaining(running=False, pinned=False, reported=True, arrived=True, in_doubt=False)
RUNNING = NOTHING._replace(running=True, reported=False, in_doubt=True)
DOUBT = NOTHING._replace(in_doubt=True)
AWAY = NOTHING._replace(reported=False)

STEPS = {
    (DrainState.SERVING, DrainEvent.TOLD): DrainState.ANNOUNCED,
    (DrainState.ANNOUNCED, DrainEvent.SEEN): DrainState.FINISHING,
    (DrainState.FINISHING, DrainEvent.ENDED): DrainState.ACKNOWLEDGED,
    (DrainState.ACKNOWLEDGED, DrainEvent.LEASED): DrainState.FINISHING,
    (DrainState.FINISHING, DrainEvent.LOST): DrainState.ANNOUNCED,
    (DrainState.ACKNOWLEDGED, DrainEvent.LOST): DrainState.ANNOUNCED,
    (DrainState.ANNOUNCED, DrainEvent.GONE): DrainState.OVER,
    (DrainState.FINISHING, DrainEvent.GONE): DrainState.OVER,
    (DrainState.ACKNOWLEDGED, DrainEvent.GONE): DrainState.OVER,
    (DrainState.OVER, DrainEvent.LOST): DrainState.ANNOUNCED,
}


@pytest.mark.parametrize(("state", "event"), list(product(DrainState, DrainEvent)))
def test_each_event_in_each_state(state: DrainState, event: DrainEvent) -> None:
    assert TRANSITIONS.get((state, event), state) is STEPS.get((state, event), state)


class Draining:
    """A drain that began at NOW_S, with the broker there."""

    def __init__(self) -> None:
        self.drain = Drain()
        self.drain.begin(NOW_S)
        self.drain.announced(BEAT)

    def look(
        self, remaining: Remaining, *, after_s: float = 0.0, answered: int = BEAT, live: bool = True
    ) -> DrainState:
        return self.drain.look(
            NOW_S + after_s,
            remaining,
            answered=answered,
            welcomed_s=NOW_S - 1 if live else None,
            liveness_s=LIVENESS_S,
        )


@pytest.fixture
def draining() -> Draining:
    return Draining()


def test_it_ends_in_order_once_the_broker_has_seen_that_it_drains(draining: Draining) -> None:
    assert draining.look(NOTHING, answered=BEAT - 1) is DrainState.ANNOUNCED
    assert draining.look(NOTHING) is DrainState.OVER
    assert draining.drain.in_order


def test_what_runs_is_waited_for(draining: Draining) -> None:
    assert draining.look(RUNNING) is DrainState.FINISHING
    assert draining.look(RUNNING, after_s=DRAIN_S) is DrainState.FINISHING
    assert draining.look(RUNNING, after_s=DRAIN_S + 0.1) is DrainState.OVER
    assert not draining.drain.in_order


def test_pinned_connections_are_waited_for_for_a_while_after_what_runs(draining: Draining) -> None:
    pinned = NOTHING._replace(pinned=True)
    assert draining.look(RUNNING, after_s=1.0) is DrainState.FINISHING
    assert draining.look(pinned, after_s=1.0 + DRAIN_PINS_S - 0.01) is DrainState.FINISHING
    assert draining.look(pinned, after_s=1.0 + DRAIN_PINS_S) is DrainState.OVER


def test_what_is_in_doubt_is_waited_for_from_the_end_of_what_ran(draining: Draining) -> None:
    assert draining.look(RUNNING, after_s=1.0) is DrainState.FINISHING
    assert draining.look(DOUBT, after_s=1.0 + ACKNOWLEDGE_S) is DrainState.ACKNOWLEDGED
    assert draining.look(RUNNING, after_s=1.0 + ACKNOWLEDGE_S) is DrainState.FINISHING
    assert draining.look(DOUBT, after_s=1.1 + 2 * ACKNOWLEDGE_S) is DrainState.OVER
    assert not draining.drain.in_order


def test_what_is_in_doubt_is_not_waited_for_if_the_broker_excuses_the_worker(draining: Draining) -> None:
    draining.drain.excused = True
    assert draining.look(DOUBT._replace(arrived=False)) is DrainState.ACKNOWLEDGED
    draining.drain.returned(BEAT + 1)
    assert draining.look(DOUBT) is DrainState.ACKNOWLEDGED
    assert draining.look(DOUBT, answered=BEAT + 1) is DrainState.OVER
    assert not draining.drain.in_order


def test_even_what_runs_is_not_waited_for_if_the_broker_excuses_the_worker(draining: Draining) -> None:
    draining.drain.excused = True
    assert draining.look(RUNNING, answered=BEAT - 1) is DrainState.ANNOUNCED
    assert draining.look(RUNNING) is DrainState.OVER


def test_a_lost_connection_excuses_nothing_and_has_it_announced_again(draining: Draining) -> None:
    assert draining.look(RUNNING) is DrainState.FINISHING
    draining.drain.excused = True
    draining.drain.lost()
    assert not draining.drain.excused
    assert draining.drain.state is DrainState.ANNOUNCED
    assert draining.look(RUNNING, live=False) is DrainState.ANNOUNCED
    draining.drain.announced(2)
    assert draining.look(RUNNING, answered=2) is DrainState.FINISHING


def test_without_a_broker_it_ends_after_the_liveness_span(draining: Draining) -> None:
    assert draining.look(AWAY, live=False, after_s=LIVENESS_S) is DrainState.ANNOUNCED
    assert draining.look(AWAY, live=False, after_s=LIVENESS_S + 0.1) is DrainState.OVER
    assert not draining.drain.in_order


def test_without_a_broker_what_is_in_doubt_is_waited_for_as_long_as_a_drain_may_take(
    draining: Draining,
) -> None:
    doubt = DOUBT._replace(reported=False)
    assert draining.look(doubt, live=False, after_s=DRAIN_S) is not DrainState.OVER
    assert draining.look(doubt, live=False, after_s=DRAIN_S + 0.1) is DrainState.OVER
