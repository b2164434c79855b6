"""What ends by time: silent peers, and what nobody uses. Requests: see the tests of what they wait for."""

from __future__ import annotations

from reqpool_broker.epoch import WORKER_FORGET_S
from reqpool_broker.grant_table import GRANT_IDLE_S
from reqpool_broker.origin_table import IDLE_SPAN_S
from reqpool_broker.worker_state import WorkerState
from reqpool_contract import wire
from reqpool_contract.wire import Flag
from support.fake_peers import Desk

EXPIRY_S = wire.SESSION_EXPIRY_MS / 1000
TCP = ("tcp", True, 8, 1)


def test_a_silent_worker_is_suspect_after_the_liveness_span_and_forgotten_much_later() -> None:
    desk = Desk()
    peer = desk.worker()
    worker = desk.broker.records.workers[peer.id]
    peer.awake = False
    desk.pass_time(desk.broker.liveness_s - 0.5)
    assert worker.state is WorkerState.LIVE
    desk.pass_time(1.5)
    assert worker.state is WorkerState.SUSPECT
    desk.now_s += WORKER_FORGET_S - desk.broker.liveness_s - 2.0
    desk.pass_time(0.6)
    assert worker.state is WorkerState.SUSPECT
    desk.pass_time(1.5)
    assert worker.state is WorkerState.GONE
    assert desk.broker.records.workers == {}


def test_a_silent_session_expires_and_is_forgotten_once_nothing_of_it_runs() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, span_ms=200_000, flags=Flag(0))
    client.awake = False
    desk.pass_time(EXPIRY_S - 1.0)
    assert desk.broker.sessions[client.id].route is not None
    desk.pass_time(2.5)
    assert desk.broker.sessions[client.id].route is None
    worker.answer(1)
    assert client.id not in desk.broker.sessions


def test_connections_and_origins_that_nobody_uses_are_given_up() -> None:
    desk = Desk()
    worker, client = desk.worker(TCP), desk.client()
    client.submit(1, kind="tcp", flags=Flag(0))
    worker.answer(1)
    (slots,) = [slots for _, slots in worker.grants.values()]
    assert slots == 1
    desk.pass_time(GRANT_IDLE_S + 2.0)
    (slots,) = [slots for _, slots in worker.grants.values()]
    assert slots == 0
    worker.confirm(next(iter(worker.grants)), 0)
    desk.pass_time(1.0)
    assert len(desk.broker.records.origins) == 1
    desk.pass_time(IDLE_SPAN_S)
    assert len(desk.broker.records.origins) == 0
