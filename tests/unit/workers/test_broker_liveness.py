"""Freshness and liveness of the worker's conversation, with a fake clock."""

from __future__ import annotations

import pytest

from reqpool_contract.errors import ProtocolError
from reqpool_workers.broker_liveness import LONGEST_PAUSE_S, BrokerLiveness, LivenessState


def live(now_s: float = 0.0) -> BrokerLiveness:
    link = BrokerLiveness(now_s)
    link.greeted(now_s)
    link.welcomed(7, 500, 2_500, now_s)
    return link


def test_nothing_is_fresh_before_the_welcome_or_of_another_epoch() -> None:
    link = BrokerLiveness(0.0)
    link.greeted(0.0)
    assert not link.fresh(7, 0, 0.1)
    link.welcomed(7, 500, 2_500, 0.1)
    assert link.fresh(7, 0, 0.2)
    assert not link.fresh(6, 0, 0.2)


def test_before_the_first_heartbeat_a_message_is_believed_for_one_liveness_span() -> None:
    link = live()
    assert link.fresh(7, 0, 2.5)
    assert not link.fresh(7, 0, 2.51)


def test_a_message_that_saw_only_an_old_heartbeat_is_stale() -> None:
    link = live()
    first = link.beat(0.0)
    second = link.beat(1.0)
    assert link.fresh(7, first, 2.4)
    assert link.fresh(7, second, 2.6)
    assert not link.fresh(7, first, 2.6)


def test_a_heartbeat_that_was_never_sent_cannot_have_been_seen() -> None:
    link = live()
    link.beat(0.0)
    assert not link.fresh(7, 2, 0.1)


def test_silence_is_the_lack_of_fresh_messages() -> None:
    link = live()
    link.beat(1.0)
    assert link.fresh(7, 1, 2.0)
    assert not link.silent(4.5)
    assert link.silent(4.51)
    link.lost(4.51)
    assert not link.silent(100.0)


def test_the_first_new_dial_is_at_once_the_next_ones_wait_longer_until_a_heartbeat_came() -> None:
    link = live()
    pauses = []
    for _ in range(8):
        link.lost(10.0)
        pauses.append(link.dial_s - 10.0)
    assert pauses[0] == 0
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(LONGEST_PAUSE_S)
    link.greeted(20.0)
    link.welcomed(8, 500, 2_500, 20.0)
    link.heartbeat(1)
    link.lost(21.0)
    assert link.state is LivenessState.DOWN
    assert link.dial_s == 21.0


def test_a_welcome_that_nobody_could_keep_is_illegal() -> None:
    link = BrokerLiveness(0.0)
    link.greeted(0.0)
    with pytest.raises(ProtocolError):
        link.welcomed(7, 0, 2_500, 0.0)
    assert link.state is LivenessState.GREETING
