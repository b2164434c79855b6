"""What the broker believes of an upstream's rate and time, with a fake clock."""

from __future__ import annotations

import pytest

from reqpool_broker.lease_record import Lease
from reqpool_broker.service_rate import EVIDENCE_S, STALE_S, ServiceRate
from reqpool_broker.session import Session
from reqpool_broker.terms import NEW, Terms
from reqpool_broker.worker import Worker
from reqpool_broker.worker_state import WorkerEvent


class Bench:
    """A service of so many places that all end a request after the same time, and a queue that stands."""

    def __init__(self, places: int, takes_s: float) -> None:
        self.service = ServiceRate()
        self.places = places
        self.takes_s = takes_s
        self.now_s = 100.0
        self.done = 0
        self.session = Session(bytes(16), self.now_s)
        self.worker = Worker(bytes(16), "", 1, self.now_s)

    def lease(self, span_s: float = 60.0) -> Lease:
        """Hand out one request, which is watched if none is."""
        terms = Terms(self.session, "http", ("http://a",), 1, 1, None, self.now_s + span_s)
        lease = Lease(terms, None, self.worker, {1: b""}, NEW, self.now_s)
        if self.service.watched is None:
            self.service.watch(lease, 1, self.now_s)
        return lease

    def waves(self, count: int, *, answered: bool = True) -> None:
        """All places are filled at the same instant, and emptied at the same one, again and again."""
        for _ in range(count):
            lease = self.lease()
            self.service.stand(self.now_s, self.done)
            self.now_s += self.takes_s
            if answered:
                self.done += self.places
                lease.requests.clear()
            self.service.observe(self.now_s, self.done, self.places, self.places)


def test_rate_and_time_are_those_of_the_upstream_though_answers_come_in_waves() -> None:
    bench = Bench(64, 0.3)
    bench.waves(40)
    assert bench.service.served_per_s == pytest.approx(64 / 0.3, rel=0.01)
    assert bench.service.rate_per_s == pytest.approx(64 / 0.3, rel=0.05)
    assert bench.service.time_s == pytest.approx(0.3)
    bench.now_s += 0.25  # just before the next wave nothing else is believed
    bench.service.observe(bench.now_s, bench.done, 64, 1)
    assert bench.service.served_per_s == pytest.approx(64 / 0.3, rel=0.01)


def test_nothing_is_known_of_an_upstream_that_has_not_answered_yet() -> None:
    bench = Bench(64, 0.3)
    bench.waves(20, answered=False)
    assert not bench.service.known


def test_nothing_is_known_after_a_moment() -> None:
    bench = Bench(64, EVIDENCE_S / 10)
    bench.waves(5)
    assert not bench.service.known
    bench.waves(10)
    assert bench.service.known


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_a_change_of_speed_is_learnt_within_seconds(factor: float) -> None:
    bench = Bench(64, 0.3)
    bench.waves(20)
    bench.takes_s *= factor
    bench.waves(max(3, round(3 / bench.takes_s)))
    assert bench.service.served_per_s == pytest.approx(64 / bench.takes_s, rel=0.35)


def test_what_timed_out_does_not_count_as_the_time_that_requests_take() -> None:
    bench = Bench(64, 0.3)
    bench.waves(10)
    lease = bench.lease(span_s=2.0)
    bench.now_s += 2.0
    lease.requests.clear()
    bench.done += 1  # of another
    bench.service.observe(bench.now_s, bench.done, 64, 1)
    assert bench.service.time_s == pytest.approx(0.3)


def test_what_a_silent_worker_held_does_not_count_either() -> None:
    bench = Bench(64, 0.3)
    bench.waves(10)
    lease = bench.lease()
    bench.now_s += 2.5
    bench.worker.move(WorkerEvent.SILENT)
    lease.requests.clear()
    bench.done += 1
    bench.service.observe(bench.now_s, bench.done, 64, 1)
    assert bench.service.time_s == pytest.approx(0.3)


def test_one_request_that_hangs_does_not_hide_what_the_others_take() -> None:
    bench = Bench(64, 0.3)
    bench.waves(10)
    bench.lease()  # and is never answered
    bench.takes_s = 0.6
    bench.waves(20)
    assert bench.service.time_s == pytest.approx(0.6, rel=0.1)


def test_a_pause_does_not_count_much_for_those_that_have_minutes() -> None:
    bench = Bench(64, 0.3)
    bench.waves(10)
    for _ in range(40):
        bench.now_s += 0.5
        bench.service.observe(bench.now_s, bench.done, 64, 1)
    assert 0 < bench.service.served_per_s < 1
    assert bench.service.rate_per_s > 1  # in a minute it may well serve a hundred


def test_an_upstream_found_idle_is_as_good_as_new() -> None:
    bench = Bench(64, 0.3)
    bench.waves(10)
    bench.service.rest(bench.now_s)
    bench.service.age(bench.now_s + STALE_S / 2)
    assert bench.service.known
    bench.service.age(bench.now_s + STALE_S * 1.1)
    assert not bench.service.known
    assert bench.service.time_s == 0
    bench.waves(10)
    assert bench.service.known
    bench.service.rest(bench.now_s)
    bench.service.age(bench.now_s, idle=True)
    assert not bench.service.known


def test_a_lease_that_ended_while_nobody_looked_is_no_measure() -> None:
    bench = Bench(64, 0.3)
    bench.lease().requests.clear()
    bench.now_s += 50.0
    bench.waves(3)
    assert bench.service.time_s == pytest.approx(0.3)


def test_an_upstream_is_not_taken_for_slow_before_half_of_its_connections_have_answered() -> None:
    bench = Bench(64, 1.0)
    lease = bench.lease()
    bench.service.stand(bench.now_s, bench.done)
    bench.now_s += 1.0
    bench.done += 3
    lease.requests.clear()
    bench.service.observe(bench.now_s, bench.done, 64, 64)
    assert not bench.service.known
    bench.now_s += 0.1
    bench.done += 32
    bench.service.observe(bench.now_s, bench.done, 64, 64)
    assert bench.service.known
