"""Which messages of a peer are fresh; each side decides by the same code."""

from __future__ import annotations

import pytest

from reqpool_contract.freshness import HeartbeatLog

EPOCH, LIVENESS_S = 7, 2.5


@pytest.fixture
def log() -> HeartbeatLog:
    log = HeartbeatLog(LIVENESS_S, 0.0)
    log.begin(EPOCH, LIVENESS_S, 0.0)
    return log


def test_nothing_is_fresh_without_a_connection() -> None:
    log = HeartbeatLog(LIVENESS_S, 0.0)
    assert not log.fresh(EPOCH, 0, 0.0)
    log.begin(None, LIVENESS_S, 0.0)
    assert not log.fresh(EPOCH, 0, 0.0)


def test_a_message_of_another_epoch_is_stale(log: HeartbeatLog) -> None:
    assert not log.fresh(EPOCH - 1, 0, 0.0)
    assert log.fresh(EPOCH, 0, 0.0)


@pytest.mark.parametrize(("now_s", "fresh"), [(LIVENESS_S, True), (LIVENESS_S + 0.01, False)])
def test_who_has_seen_no_heartbeat_is_believed_for_a_liveness_span(
    log: HeartbeatLog, now_s: float, fresh: bool
) -> None:
    assert log.fresh(EPOCH, 0, now_s) is fresh


@pytest.mark.parametrize(("now_s", "fresh"), [(1.0 + LIVENESS_S, True), (1.01 + LIVENESS_S, False)])
def test_who_has_seen_a_heartbeat_is_believed_for_a_liveness_span_after_it(
    log: HeartbeatLog, now_s: float, fresh: bool
) -> None:
    seen = log.beat(1.0)
    log.beat(2.0)
    assert log.fresh(EPOCH, seen, now_s) is fresh


def test_a_heartbeat_that_was_not_sent_cannot_have_been_seen(log: HeartbeatLog) -> None:
    log.beat(0.0)
    assert not log.fresh(EPOCH, 2, 0.1)


def test_heartbeats_of_an_earlier_connection_prove_nothing(log: HeartbeatLog) -> None:
    for _ in range(3):
        log.beat(0.0)
    log.begin(EPOCH, LIVENESS_S, 0.5)
    assert not log.fresh(EPOCH, 3, 0.6)
    assert log.beat(0.6) == 1


def test_only_a_fresh_message_counts_as_heard_and_as_an_answer(log: HeartbeatLog) -> None:
    first, second = log.beat(1.0), log.beat(1.5)
    assert log.fresh(EPOCH, second, 2.0)
    assert log.fresh(EPOCH, first, 2.1)  # it was on its way for longer
    assert not log.fresh(EPOCH - 1, second, 3.0)
    assert (log.heard_s, log.answered) == (2.1, second)


def test_old_heartbeats_are_forgotten(log: HeartbeatLog) -> None:
    for at in range(1_000):
        log.beat(float(at))
    assert len(log.sent) <= 3
