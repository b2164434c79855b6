"""The states of a worker: what any of them leads to, and what the broker does about it."""

from __future__ import annotations

import pytest

from reqpool_broker.worker_state import TRANSITIONS, WorkerEvent, WorkerState
from reqpool_contract.wire import Verb
from support.fake_peers import Desk, FakeWorker

THERE = [state for state in WorkerState if state is not WorkerState.GONE]


@pytest.mark.parametrize("state", THERE)
def test_a_worker_may_come_again_and_may_end_at_any_time(state: WorkerState) -> None:
    assert TRANSITIONS[state, WorkerEvent.HELLO] is WorkerState.LIVE
    assert TRANSITIONS[state, WorkerEvent.STRANGE] is WorkerState.STRANGER
    assert TRANSITIONS[state, WorkerEvent.ENDED] is WorkerState.GONE


def test_nothing_happens_to_one_that_is_gone() -> None:
    assert not [event for state, event in TRANSITIONS if state is WorkerState.GONE]


def test_what_happens_to_a_worker_moves_its_state() -> None:
    desk = Desk(predecessors=frozenset())
    peer = FakeWorker(desk, b"w" * 16, (("dns", False, 8, 1),))
    peer.stranger = True
    peer.hello()
    worker = desk.broker.records.workers[peer.id]
    assert worker.state is WorkerState.STRANGER
    desk.say(Verb.STARTED, peer.id)
    assert worker.state is WorkerState.LIVE
    peer.send(Verb.DRAIN, peer.epoch, peer.seen)
    assert worker.state is WorkerState.DRAINING
    peer.awake = False
    desk.pass_time(desk.broker.liveness_s + 1.0)
    assert worker.state is WorkerState.SUSPECT
    peer.awake = True
    peer.hello()
    assert worker.state is WorkerState.LIVE
    desk.say(Verb.DEAD, peer.id, 1, False)
    assert worker.state is WorkerState.GONE
    assert desk.broker.records.workers == {}
