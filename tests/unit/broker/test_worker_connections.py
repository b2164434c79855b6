"""Which worker is reached at which route."""

from __future__ import annotations

from reqpool_contract.wire import Reject, Verb
from support.fake_peers import Desk


def test_a_route_that_another_worker_takes_over_reaches_the_first_no_more() -> None:
    desk = Desk()
    first, second = desk.worker(), desk.worker()
    second.route, route = first.route, second.route
    second.send(Verb.HELLO, 1, 1, {"worker": second.id, "kinds": second.kinds})
    records = desk.broker.records
    assert records.workers[first.id].route is None
    assert records.workers[second.id].route == first.route
    assert set(desk.broker.connections.by_route) == {first.route}
    assert route not in desk.broker.connections.by_route


def test_a_worker_that_left_its_route_is_unknown_there() -> None:
    desk = Desk()
    worker = desk.worker()
    old = worker.route
    worker.hello()
    worker.route, desk.workers[old] = old, worker
    worker.heartbeat()
    desk.settle()
    assert worker.rejects == [Reject.UNKNOWN]


def test_a_worker_serves_until_it_drains_or_is_gone() -> None:
    desk = Desk()
    assert not desk.broker.connections.any_serves
    worker = desk.worker()
    assert desk.broker.connections.any_serves
    worker.send(Verb.DRAIN, worker.epoch, worker.seen)
    assert not desk.broker.connections.any_serves
