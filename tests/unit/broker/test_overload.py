"""More is asked than an upstream serves: the broker between clients and an upstream in virtual time.

The upstream is the same nearly everywhere: 64 places at 0.3 s, so 213 requests a second.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from reqpool_broker.config import Config
from reqpool_contract.errors import Code
from reqpool_contract.policy import Policy
from reqpool_contract.wire import Flag, Verb
from support.served import Run

CAPACITY_PER_S = 64 / 0.3
SPAN_S = 6.0


def goodput(run: Run, capacity_per_s: float = CAPACITY_PER_S, since_s: float = 0.0) -> float:
    """What part of the capacity ended well."""
    return run.good(since_s) / ((run.now_s - since_s) * capacity_per_s)


@pytest.mark.parametrize(("factor", "least"), [(1, 0.95), (2, 0.9), (4, 0.9), (10, 0.85)])
def test_what_an_upstream_can_serve_ends_well_whatever_is_asked(factor: int, least: float) -> None:
    run = Run(0.3)
    asker = run.asker(factor * CAPACITY_PER_S, span_ms=2000)
    run.go(12.0)
    assert goodput(run) >= least
    assert asker.took_s(0.99) < 2.0
    if factor > 1:
        assert asker.took_s(0.5) < 1.3  # of what is accepted
        refused = [
            end.elapsed_s for end in asker.ended.values() if end.code == Code.OVERLOADED and end.at_s > 3
        ]
        assert sorted(refused)[len(refused) * 9 // 10] < 0.01  # at once
    run.desk.check_books()


def test_a_refusal_says_what_is_served_and_when_to_try_again() -> None:
    run = Run(0.3)
    asker = run.asker(4 * CAPACITY_PER_S, span_ms=2000)
    run.go(4.0)
    error = asker.errors(Code.OVERLOADED)[-1]
    assert re.match(
        r"the upstream serves \d+ requests/s and \d+ requests are ahead of it: "
        r"this one would take [\d.]+ s, but its timeout is 2 s;",
        error["text"],
    )
    assert (error["origin"], error["phase"], error["sent"]) == (run.origin, "queue", False)
    assert 500 < error["retry_after_ms"] < 2000
    figures = run.figures()
    assert figures["refused"] == len(asker.errors(Code.OVERLOADED))
    assert figures["served_per_s"] == pytest.approx(CAPACITY_PER_S, rel=0.1)
    assert figures["service_ms"] == pytest.approx(330, rel=0.1)


def test_nothing_is_sent_that_cannot_be_answered_in_time() -> None:
    run = Run(0.3)
    run.asker(10 * CAPACITY_PER_S, span_ms=2000)
    run.go(SPAN_S)
    in_work = 64
    assert run.sent - run.served - in_work < 0.02 * run.served


def test_a_burst_that_can_be_served_in_time_is_accepted_whole() -> None:
    run = Run(0.3)
    asker = run.asker(span_ms=5000)
    for _ in range(3):  # also when there was one before
        asker.ask(1000)
        run.go(6.0)
    assert asker.codes() == {Code.OK: 3000}


def test_a_trickle_beside_a_burst_is_accepted_too() -> None:
    run = Run(0.3)
    burst, trickle = run.asker(span_ms=5000), run.asker(10, span_ms=2000)
    burst.ask(900)
    run.go(5.0)
    assert burst.codes() == {Code.OK: 900}
    assert set(trickle.codes()) == {Code.OK}


def test_long_timeouts_are_believed() -> None:
    run = Run(0.3)
    asker = run.asker(span_ms=60_000)
    asker.ask(5000)
    run.go(25.0)
    assert asker.codes() == {Code.OK: 5000}


def test_one_clients_flood_refuses_nobody_else() -> None:
    run = Run(0.3)
    floods = [run.asker(400, span_ms=2000) for _ in range(5)]
    honest = run.asker(20, span_ms=2000)
    run.go(SPAN_S)
    assert set(honest.codes()) == {Code.OK}
    assert honest.took_s(0.99) < 1.0
    assert goodput(run) >= 0.9
    shares = [flood.good(since_s=3.0) for flood in floods]
    assert max(shares) < 1.3 * min(shares)


def test_a_client_whose_requests_have_no_time_to_wait_has_its_turns() -> None:
    run = Run(lambda _now_s: run.random.uniform(0.2, 0.3))
    patient, hasty = run.asker(400, span_ms=30_000), run.asker(400, span_ms=500)
    run.go(SPAN_S)
    assert hasty.good() > 0.25 * (hasty.good() + patient.good())
    assert patient.codes()[Code.TIMEOUT] == 0


def test_higher_priority_is_served_first_and_the_rest_of_the_capacity_is_used() -> None:
    run = Run(0.3)
    first, last = run.asker(100, span_ms=2000, priority=0), run.asker(400, span_ms=2000, priority=2)
    run.go(SPAN_S)
    assert set(first.codes()) == {Code.OK}
    assert goodput(run) >= 0.9
    assert last.good() > 0.8 * (CAPACITY_PER_S - 100) * SPAN_S


def test_what_higher_priorities_leave_no_room_for_is_refused_at_once() -> None:
    run = Run(0.3)
    first, last = run.asker(2 * CAPACITY_PER_S, span_ms=2000, priority=0), run.asker(span_ms=2000, priority=2)
    run.go(3.0)
    last.rate_per_s = 100
    run.go(SPAN_S)
    assert goodput(run) >= 0.9
    assert set(last.codes()) == {Code.OVERLOADED}
    assert max(end.elapsed_s for end in last.ended.values()) < 0.01
    assert first.good() > 0.9 * CAPACITY_PER_S * SPAN_S


@pytest.mark.parametrize(
    ("kind", "takes_s"),
    [
        (("dns", False, 64, 1), 0.3),
        (("http", True, 1, 1), 0.1),
        (("http", True, 4, 1), 1.5),
        (("redis", True, 2, 32), 0.3),
    ],
)
def test_every_kind_and_limit_bends(kind: tuple[str, bool, int, int], takes_s: float) -> None:
    capacity_per_s = kind[2] * kind[3] / takes_s
    run = Run(takes_s, kind=kind)
    run.asker(4 * capacity_per_s, span_ms=2000)
    run.go(15.0)
    assert goodput(run, capacity_per_s) >= 0.85
    run.desk.check_books()


def test_several_workers_bend_as_one_does() -> None:
    run = Run(0.3, workers=3)
    run.asker(4 * CAPACITY_PER_S, span_ms=2000)
    run.go(SPAN_S)
    assert goodput(run) >= 0.9


def test_origins_at_one_upstream_share_what_it_serves() -> None:
    run = Run(0.3)
    askers = [
        run.asker(2 * CAPACITY_PER_S, span_ms=2000, origins=(f"{run.origin}{path}",))
        for path in ("", "/a", "/b")
    ]
    run.go(SPAN_S)
    assert goodput(run) >= 0.9
    assert min(asker.good() for asker in askers) > 0.25 * run.good()


SERVICE_TIMES: dict[str, Callable[[Run], float]] = {
    "uniform": lambda run: run.random.uniform(0.1, 0.5),
    "exponential": lambda run: run.random.expovariate(1 / 0.3),
    "a few are slow": lambda run: 2.5 if run.random.random() < 0.04 else 0.2,
}


@pytest.mark.parametrize("name", SERVICE_TIMES)
def test_times_that_vary_do_no_harm(name: str) -> None:
    run = Run(lambda _now_s: SERVICE_TIMES[name](run))
    run.asker(10 * CAPACITY_PER_S, span_ms=2000)
    run.go(SPAN_S)
    busy_s = sum(min(2.0, SERVICE_TIMES[name](run)) for _ in range(4000)) / 4000
    assert goodput(run, 64 / busy_s) >= 0.85


def test_an_upstream_that_becomes_ten_times_faster_or_slower_is_used_fully() -> None:
    run = Run(lambda now_s: 0.03 if 5 < now_s <= 10 else 0.3)
    run.asker(4 * CAPACITY_PER_S, span_ms=2000)
    run.go(5.5)
    good = run.good()
    run.go(4.5)
    assert run.good() - good > 0.95 * 4 * CAPACITY_PER_S * 4.5  # all that is asked
    run.go(1.0)
    good = run.good()
    run.go(4.0)
    assert run.good() - good > 0.85 * CAPACITY_PER_S * 4


def test_an_upstream_that_hung_is_used_fully_once_it_answers_again() -> None:
    run = Run(lambda now_s: 1000.0 if 4 < now_s <= 8 else 0.3)
    run.asker(2 * CAPACITY_PER_S, span_ms=2000)
    run.go(8.0 + 2.3)  # until what hangs has timed out, and the first answer can be there
    good = run.good()
    run.go(3.0)
    assert run.good() - good > 0.85 * CAPACITY_PER_S * 3


def test_a_recovered_upstream_that_nobody_asked_meanwhile_accepts_a_burst() -> None:
    run = Run(lambda now_s: 1000.0 if 3 < now_s <= 8 else 0.3)
    asker = run.asker(2 * CAPACITY_PER_S, span_ms=2000)
    run.go(8.0)
    asker.rate_per_s = 0
    run.go(4.5)
    late = run.asker(span_ms=5000)
    late.ask(1000)
    run.go(6.0)
    assert late.codes() == {Code.OK: 1000}


def test_a_pause_of_a_second_refuses_nobody_who_has_five() -> None:
    run = Run(lambda now_s: max(0.3, 5.3 - now_s) if 4 < now_s <= 5 else 0.3)
    asker = run.asker(0.8 * CAPACITY_PER_S, span_ms=5000)
    run.go(10.0)
    assert set(asker.codes()) == {Code.OK}


def test_nobody_is_refused_for_an_upstream_that_has_never_answered() -> None:
    run = Run(1000.0)
    asker = run.asker(400, span_ms=2000)
    run.go(6.0)
    assert set(asker.codes()) == {Code.TIMEOUT}


def test_a_free_place_is_given_to_a_request_whatever_its_timeout() -> None:
    run = Run(0.3)
    run.asker(2 * CAPACITY_PER_S, span_ms=2000)
    run.go(4.0)
    run.askers[0].rate_per_s = 0
    run.go(1.5)
    hasty = run.asker(span_ms=200)
    sent = run.sent
    hasty.ask(10)
    run.go(1.0)
    assert run.sent - sent == 10  # they may be quicker than others were
    assert hasty.codes() == {Code.TIMEOUT: 10}


def test_a_request_with_less_time_than_one_takes_does_not_stand_in_a_queue() -> None:
    run = Run(0.3)
    run.asker(2 * CAPACITY_PER_S, span_ms=2000)
    run.go(3.0)
    hasty = run.asker(100, span_ms=250)
    run.go(3.0)
    assert set(hasty.codes()) == {Code.OVERLOADED}
    assert goodput(run) >= 0.9


def test_the_queue_timeout_bounds_the_queue() -> None:
    run = Run(0.3, config=Config((), Policy(queue_timeout_s=0.5)))
    asker = run.asker(4 * CAPACITY_PER_S, span_ms=10_000)
    run.go(SPAN_S)
    assert goodput(run) >= 0.9
    assert asker.codes(since_s=2.0).keys() <= {Code.OK, Code.OVERLOADED}
    assert "the queue timeout of this upstream is 0.5 s" in asker.errors(Code.OVERLOADED)[-1]["text"]
    assert asker.took_s(0.99) < 1.0


def test_a_worker_that_freezes_does_not_upset_what_is_believed() -> None:
    run = Run(0.3, workers=2)
    asker = run.asker(2 * CAPACITY_PER_S, span_ms=2000)
    run.go(4.0)
    frozen = next(worker for worker in run.workers if worker.leases)
    frozen.awake = False
    run.go(2.0)
    frozen.awake = True
    run.go(0.5)
    good = run.good()
    run.go(3.0)
    assert run.good() - good > 0.85 * CAPACITY_PER_S * 3
    assert asker.codes(since_s=7.0).keys() == {Code.OK, Code.OVERLOADED}


def test_connections_that_sessions_hold_are_no_evidence() -> None:
    run = Run(0.3, kind=("http", True, 4, 1))
    asker = run.asker(40, span_ms=2000)
    run.go(3.0)
    asker.rate_per_s = 0
    run.go(2.5)
    holder = run.asker(flags=Flag.OPENS, span_ms=60_000)
    for pin in range(1, 5):
        holder.ask(1, pin=pin)
    run.go(0.5)
    patient = run.asker(span_ms=60_000)
    patient.ask(200)
    run.go(8.0)
    assert not patient.ended  # they wait for a connection, as long as it takes
    for pin in range(1, 5):
        holder.client.send(Verb.UNPIN, pin)
    run.go(20.0)
    assert patient.codes() == {Code.OK: 200}


def test_where_one_upstream_is_overloaded_the_next_is_asked() -> None:
    run = Run(0.3)
    run.asker(4 * CAPACITY_PER_S, span_ms=2000)
    run.go(4.0)
    either = run.asker(100, span_ms=2000, origins=(run.origin, "http://127.0.0.2:80"))
    run.askers[0].rate_per_s *= 2
    run.go(3.0)
    assert set(either.codes()) == {Code.OK}


def test_retries_are_not_refused_for_those_that_came_after_them() -> None:
    run = Run(0.3)
    asker = run.asker(2 * CAPACITY_PER_S, span_ms=2000)
    run.go(4.0)
    held = run.workers[0].held()[:10]
    run.workers[0].fail(*held, code=Code.CONNECTION_LOST, sent=True)
    run.go(1.0)
    assert {asker.ended[seq].code for seq in held} == {Code.OK}
