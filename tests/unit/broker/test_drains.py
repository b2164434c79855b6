"""What a broker says to a worker that drains of what it need not wait for: fake clock, no sockets."""

from __future__ import annotations

from reqpool_broker.broker_spans import STOP_WAIT_S
from reqpool_contract.wire import Flag, Verb
from support.fake_peers import TICK_S, Desk, FakeClient, FakeWorker
from support.pinned import ask, opened

ONCE = Flag(0)


def answered(*, silent: bool) -> tuple[Desk, FakeWorker, FakeClient]:
    """A worker that keeps a result for a client that has not acknowledged it."""
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, flags=ONCE)
    worker.answer(1)
    client.awake = not silent
    desk.pass_time(3.0)
    return desk, worker, client


def drain(worker: FakeWorker) -> None:
    worker.send(Verb.DRAIN, worker.epoch, worker.seen)
    worker.desk.settle()
    worker.desk.pass_time(2 * TICK_S)


def test_a_draining_worker_is_told_at_once_that_a_client_is_silent() -> None:
    _, worker, _ = answered(silent=True)
    assert not worker.excused
    drain(worker)
    assert (worker.undelivered, worker.excused) == ([1], True)


def test_a_client_that_is_heard_is_waited_for_until_it_falls_silent() -> None:
    desk, worker, client = answered(silent=False)
    drain(worker)
    assert not worker.excused
    client.awake = False
    desk.pass_time(2.0)
    assert not worker.excused
    desk.pass_time(1.0)
    assert worker.excused
    client.heartbeat()
    desk.pass_time(2 * TICK_S)
    assert not worker.excused


def test_one_client_that_is_heard_is_enough_to_be_waited_for() -> None:
    desk, worker, _ = answered(silent=True)
    other = desk.client()
    other.submit(1, flags=ONCE)
    drain(worker)
    assert not worker.excused, "it runs something"
    worker.answer(1)
    worker.heartbeat()
    desk.settle()
    assert (worker.undelivered, worker.excused) == ([1, 2], False), "from the first word of its receipt"
    desk.pass_time(1.0)
    assert not worker.excused
    other.acknowledge()
    desk.pass_time(2 * TICK_S)
    assert (worker.undelivered, worker.excused) == ([1], True)


def test_what_has_run_for_long_keeps_no_worker_of_a_cluster_that_stops() -> None:
    desk = Desk()
    desk.stop()
    worker, client = desk.worker(), desk.client()
    client.submit(1, flags=ONCE, span_ms=60_000)
    desk.pass_time(STOP_WAIT_S - 1.0)
    client.submit(2, flags=ONCE, span_ms=60_000)
    drain(worker)
    desk.pass_time(1.5)
    assert not worker.excused, "one of them has just begun"
    worker.answer(2)
    client.acknowledge()
    desk.pass_time(1.0)
    assert worker.held() == [1]
    assert worker.excused


def test_what_has_run_for_long_keeps_even_the_only_worker_of_a_cluster_that_goes_on() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, flags=ONCE, span_ms=60_000)
    drain(worker)
    desk.pass_time(STOP_WAIT_S + 1.0)
    assert not worker.excused


def test_a_client_that_has_yet_to_acknowledge_keeps_a_worker_beside_what_has_run_for_long() -> None:
    desk = Desk()
    desk.stop()
    worker, client = desk.worker(), desk.client()
    client.submit(1, 2, flags=ONCE, span_ms=60_000)
    desk.pass_time(STOP_WAIT_S + 1.0)
    worker.answer(2)
    drain(worker)
    assert not worker.excused
    client.acknowledge()
    desk.pass_time(2 * TICK_S)
    assert worker.excused


def test_a_connection_that_was_held_lately_keeps_a_worker_beside_what_has_run_for_long() -> None:
    desk, worker, client = opened()
    desk.stop()
    ask(client, 2, pin=1)
    desk.pass_time(STOP_WAIT_S)
    other = desk.client()
    ask(other, 1, pin=1, opens=True)
    worker.answer(1, session=other.id)
    client.acknowledge()
    other.acknowledge()
    drain(worker)
    desk.pass_time(3.0)
    assert not worker.excused
    other.send(Verb.UNPIN, 1)
    desk.pass_time(2 * TICK_S)
    assert worker.excused


def test_a_request_that_has_just_been_leased_is_in_what_a_worker_is_told_next() -> None:
    desk, worker, client = opened()
    desk.stop()
    client.acknowledge()
    ask(client, 2, pin=1)
    drain(worker)
    desk.pass_time(STOP_WAIT_S + 1.0)
    assert worker.excused
    ask(client, 3, pin=1)
    worker.heartbeat()
    desk.settle()
    assert worker.held() == [2, 3]
    assert not worker.excused
