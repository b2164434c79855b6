"""What a worker reports at the end of a turn, in which order, and which results wait for others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from reqpool_contract.wire import Flag, LeaseGroup, Verb
from reqpool_workers.draining import Drain
from reqpool_workers.granted_slots import GrantedSlots
from reqpool_workers.lease import Request
from reqpool_workers.lease_outcomes import LeaseOutcomes
from reqpool_workers.reporting import HOLD_BACK_S, MOST_HELD_BACK, Reporting
from reqpool_workers.retained_results import SMALL_ANSWER_BYTES, RetainedResults
from reqpool_workers.worker_ledger import WorkerLedger
from support.worker_conversation import Upstreams

SESSION = bytes(16)
ORIGIN = "x://y"
NOW_S = 100.0


class Desk:
    """Reporting, with what it reads and where it sends.

    Attributes:
        said: verb and values of each message since the last look.
        timers: instants at which a turn was asked for.
    """

    def __init__(self) -> None:
        self.ledger = WorkerLedger()
        self.reports = self.ledger.reports
        self.outcomes = LeaseOutcomes(self.ledger)
        self.upstreams = Upstreams(self.outcomes)
        self.outbox = RetainedResults(1 << 20)
        self.grants = GrantedSlots(self.upstreams)
        self.drain = Drain()
        self.said: list[tuple[Verb, tuple[Any, ...]]] = []
        self.timers: list[float] = []
        self.reporting = Reporting(
            self, self.reports, self.outbox, self.grants, self.drain, self.upstreams, self.at
        )
        self._seq = 0

    def say(self, now_s: float, verb: Verb, *values: Any, blobs: list[bytes] | None = None) -> None:
        self.said.append((verb, values))

    def beat(self, now_s: float) -> int:
        self.said.append((Verb.HEARTBEAT, ()))
        return 9

    def at(self, due_s: float, timer: Callable[[float], float | None]) -> None:
        self.timers.append(due_s)

    def lease(self, count: int) -> list[Request]:
        seqs = tuple(range(self._seq, self._seq + count))
        self._seq += count
        flags = int(Flag.IDEMPOTENT)
        group = LeaseGroup(SESSION, "x", ORIGIN, 10_000, flags, 1, None, None, seqs, (b"",) * count)
        return list(self.ledger.admit(group, NOW_S).requests)

    def finish(self, count: int, data: bytes = b"yes") -> None:
        """Requests end that came from an origin which may have others to go on with."""
        answers = [(request, 0, data) for request in self.lease(count)]
        self.outcomes.finish_many(answers, self.upstreams)

    def report(self, after_s: float = 0.0) -> list[Verb]:
        self.said.clear()
        self.reporting.report(NOW_S + after_s)
        return [verb for verb, _ in self.said]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_nothing_is_reported_of_nothing(desk: Desk) -> None:
    assert desk.report() == []


def test_results_come_before_all_else(desk: Desk) -> None:
    desk.reports.unpinned.append((SESSION, 7))
    desk.grants.take(ORIGIN, 1, 2, {})
    desk.outcomes.give_back(desk.lease(1))
    desk.outcomes.fail(desk.lease(1), 20, "late", phase="read", sent=False)  # type: ignore[arg-type]
    desk.finish(1)
    assert desk.report() == [Verb.RESULTS, Verb.RETURN, Verb.RETRY, Verb.UNPIN, Verb.GRANTED]
    assert desk.report() == []


@pytest.mark.parametrize("size", [SMALL_ANSWER_BYTES, SMALL_ANSWER_BYTES + 1])
def test_results_are_numbered_and_retained_whatever_their_size(desk: Desk, size: int) -> None:
    for number in (1, 2):
        desk.finish(2, bytes(size))
        assert desk.report() == [Verb.RESULTS]
        seqs = (2 * number - 2, 2 * number - 1)
        assert desk.said[0][1] == (number, [(SESSION, seqs, 0)])
    assert list(desk.outbox.retained()) == [(SESSION, (0, 1)), (SESSION, (2, 3))]


def test_a_heartbeat_follows_what_is_handed_back_in_a_drain(desk: Desk) -> None:
    desk.drain.begin(NOW_S)
    desk.outcomes.give_back(desk.lease(1))
    assert desk.report() == [Verb.RETURN, Verb.HEARTBEAT]


def test_results_gather_while_as_many_requests_wait_as_there_are(desk: Desk) -> None:
    desk.upstreams.backlog = 2
    desk.finish(2)
    assert desk.report() == []
    assert desk.timers == [NOW_S + HOLD_BACK_S]
    assert desk.report(HOLD_BACK_S / 2) == []
    assert len(desk.timers) == 1
    assert desk.report(HOLD_BACK_S) == [Verb.RESULTS]
    desk.finish(1)
    assert desk.report(HOLD_BACK_S) == []  # the span begins again


def test_they_do_not_gather_with_fewer_waiting(desk: Desk) -> None:
    desk.upstreams.backlog = 1
    desk.finish(2)
    assert desk.report() == [Verb.RESULTS]


def test_they_do_not_gather_without_bound(desk: Desk) -> None:
    desk.upstreams.backlog = 2 * MOST_HELD_BACK
    desk.finish(MOST_HELD_BACK - 1)
    assert desk.report() == []
    desk.finish(1)
    assert desk.report() == [Verb.RESULTS]


def test_they_do_not_gather_with_one_that_came_from_elsewhere(desk: Desk) -> None:
    desk.upstreams.backlog = 5
    desk.finish(1)
    (other,) = desk.lease(1)
    desk.outcomes.finish(other, 0, b"of an origin without connections")
    assert desk.report() == [Verb.RESULTS]


@pytest.mark.parametrize("reason", ["a drain", "a grant"])
def test_they_do_not_gather_before_what_has_to_follow_them(desk: Desk, reason: str) -> None:
    desk.upstreams.backlog = 5
    desk.finish(1)
    if reason == "a drain":
        desk.drain.begin(NOW_S)
    else:
        desk.grants.take(ORIGIN, 1, 2, {})
    assert desk.report()[0] is Verb.RESULTS
