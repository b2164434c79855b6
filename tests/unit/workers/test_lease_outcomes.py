"""How a leased request leaves the worker: what is reported of it, and that nothing else is left of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from reqpool_contract import wire
from reqpool_contract.errors import Code
from reqpool_contract.wire import Flag, LeaseGroup
from reqpool_workers.lease import WorkerLease
from reqpool_workers.lease_outcomes import MOST_DECLINED_BYTES, LeaseOutcomes
from reqpool_workers.worker_ledger import WorkerLedger

SESSION, OTHER_SESSION = bytes(16), bytes(range(16))
NOW_S = 100.0
ONCE, AGAIN = 0, int(Flag.IDEMPOTENT)


class Desk:
    """A ledger, and what it has to report."""

    def __init__(self) -> None:
        self.ledger = WorkerLedger()
        self.outcomes = LeaseOutcomes(self.ledger)
        self.reports = self.ledger.reports

    def lease(
        self, *seqs: int, flags: int = AGAIN, pin: int | None = None, session: bytes = SESSION
    ) -> WorkerLease:
        group = LeaseGroup(
            session, "x", "x://y", 10_000, flags, 1, pin, None, tuple(seqs), (b"ask",) * len(seqs)
        )
        return self.ledger.admit(group, NOW_S)

    def runs(self) -> set[int]:
        return {seq for _, seqs in self.ledger.running() for seq in seqs}

    def results(self) -> dict[int, tuple[int, bytes]]:
        """Seq to code and data of what has ended in a result."""
        return {
            seq: (code, data)
            for _, flat, _ in self.reports.take_results()
            for seq, code, data in zip(flat[0::3], flat[1::3], flat[2::3], strict=True)
        }

    def failures(self) -> list[tuple[tuple[int, ...], int, bool]]:
        """Seqs, code and whether they may have been sent, of what RETRY reports."""
        return [(one.seqs, one.code, one.sent) for one in self.reports.take_failures()]

    def returns(self) -> list[tuple[tuple[int, ...], bool]]:
        return [(seqs, sent) for _, seqs, sent in self.reports.take_returns()]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def details(data: bytes) -> dict[str, object]:
    return wire.decode_error(data)


def test_a_finished_request_is_a_result_and_runs_no_more(desk: Desk) -> None:
    first, second = desk.lease(1, 2).requests
    desk.outcomes.finish(first, 0, b"yes")
    assert desk.runs() == {2}
    assert not first.live
    assert second.live
    assert desk.results() == {1: (0, b"yes")}
    assert desk.reports.done == 1


def test_a_lease_that_has_ended_is_forgotten_with_its_session(desk: Desk) -> None:
    lease = desk.lease(1, 2)
    for request in list(lease.requests):
        desk.outcomes.finish(request, 0, b"yes")
    assert lease.requests == []
    desk.ledger.tidy()
    assert not desk.ledger.empty  # not reported yet
    assert desk.ledger.sessions
    desk.results()
    desk.ledger.tidy()
    assert desk.ledger.empty
    assert not desk.ledger.sessions


def test_results_of_requests_that_must_not_be_repeated_are_apart_with_an_instant(desk: Desk) -> None:
    again, once = desk.lease(1), desk.lease(2, flags=ONCE)
    desk.outcomes.finish(again.requests[0], 0, b"a")
    desk.outcomes.finish(once.requests[0], 0, b"b")
    taken = desk.reports.take_results()
    assert taken == [(SESSION, [1, 0, b"a"], None), (SESSION, [2, 0, b"b"], once.until_s)]
    assert once.until_s > once.deadline_s
    assert desk.reports.take_results() == []


def test_what_runs_already_is_not_admitted_again(desk: Desk) -> None:
    desk.lease(1, 2)
    assert [request.seq for request in desk.lease(2, 3).requests] == [3]
    assert [request.seq for request in desk.lease(1, session=OTHER_SESSION).requests] == [1]


@pytest.mark.parametrize("sent", [False, True])
def test_a_failed_attempt_at_what_may_be_repeated_is_a_retry(desk: Desk, sent: bool) -> None:
    requests = desk.lease(1, 2).requests
    desk.outcomes.fail(list(requests), Code.CONNECTION_LOST, "cut", phase="read", sent=sent)
    assert desk.failures() == [((1, 2), Code.CONNECTION_LOST, sent)]
    assert desk.results() == {}
    assert not desk.runs()


def test_a_failed_attempt_that_was_sent_and_must_not_be_repeated_is_a_result(desk: Desk) -> None:
    desk.outcomes.fail(
        list(desk.lease(1, flags=ONCE).requests), Code.CONNECTION_LOST, "cut", phase="read", sent=True
    )
    assert desk.failures() == []
    ((code, data),) = desk.results().values()
    assert code == Code.CONNECTION_LOST
    assert details(data)["sent"] is True


def test_a_failed_attempt_that_was_not_sent_is_a_retry_even_if_it_must_not_be_repeated(desk: Desk) -> None:
    desk.outcomes.fail(
        list(desk.lease(1, flags=ONCE).requests), Code.CONNECT_FAILED, "no", phase="connect", sent=False
    )
    assert desk.failures() == [((1,), Code.CONNECT_FAILED, False)]


def test_no_requests_fail_without_a_report(desk: Desk) -> None:
    desk.outcomes.fail([], Code.TIMEOUT, "late", phase="read", sent=False)
    desk.outcomes.give_back([])
    assert desk.ledger.empty


EXITS: list[Callable[[Desk, WorkerLease], object]] = [
    lambda desk, lease: desk.outcomes.fail(
        list(lease.requests), Code.CONNECTION_LOST, "cut", phase="queue", sent=False
    ),
    lambda desk, lease: desk.outcomes.give_back(list(lease.requests)),
]


def sent_by_seq(desk: Desk) -> dict[int, bool]:
    reported: Iterable[tuple[tuple[int, ...], bool]] = [
        *desk.returns(),
        *((seqs, sent) for seqs, _, sent in desk.failures()),
    ]
    return {seq: sent for seqs, sent in reported for seq in seqs}


@pytest.mark.parametrize("leave", EXITS, ids=["fail", "give back"])
def test_what_an_earlier_attempt_here_has_sent_is_reported_as_sent_and_the_others_are_not(
    desk: Desk, leave: Callable[[Desk, WorkerLease], object]
) -> None:
    lease = desk.lease(1, 2, 3)
    lease.resent_seqs |= {2}
    leave(desk, lease)
    assert sent_by_seq(desk) == {1: False, 2: True, 3: False}
    assert desk.ledger.empty


@pytest.mark.parametrize("leave", EXITS, ids=["fail", "give back"])
def test_what_an_earlier_attempt_elsewhere_may_have_sent_stays_sent(
    desk: Desk, leave: Callable[[Desk, WorkerLease], object]
) -> None:
    leave(desk, desk.lease(1, 2, flags=AGAIN | Flag.SENT))
    assert sent_by_seq(desk) == {1: True, 2: True}


def test_a_concluded_request_that_an_earlier_attempt_sent_is_told_as_sent(desk: Desk) -> None:
    (request,) = desk.lease(1, flags=AGAIN | Flag.SENT).requests
    desk.outcomes.conclude(request, Code.USAGE, "no", sent=False)
    assert details(desk.results()[1][1])["sent"] is True


def test_the_end_of_the_request_that_opens_a_pin_unpins_it(desk: Desk) -> None:
    (request,) = desk.lease(1, pin=7, flags=AGAIN | Flag.OPENS).requests
    assert list(desk.ledger.openings()) == [((SESSION, 7), "x", "x://y")]
    assert desk.ledger.opening(SESSION, 7) == [request]
    desk.outcomes.conclude(request, Code.USAGE, "no")
    assert desk.reports.take_unpinned() == [(SESSION, 7)]
    assert list(desk.ledger.openings()) == []


def test_requests_for_a_pin_that_is_gone_end_and_unpin_it(desk: Desk) -> None:
    lease = desk.lease(1, 2, pin=7)
    desk.outcomes.no_such_pin(lease, (SESSION, 7))
    assert {code for code, _ in desk.results().values()} == {Code.CONNECTION_LOST}
    assert desk.reports.take_unpinned() == [(SESSION, 7)]
    assert desk.ledger.empty


@pytest.mark.parametrize(
    ("flags", "size", "retried"),
    [
        (AGAIN | Flag.OTHERS, MOST_DECLINED_BYTES, True),
        (AGAIN | Flag.OTHERS, MOST_DECLINED_BYTES + 1, False),
        (AGAIN, 1, False),
        (ONCE | Flag.OTHERS, 1, False),
    ],
)
def test_an_answer_is_declined_if_another_origin_may_be_asked(
    desk: Desk, flags: int, size: int, retried: bool
) -> None:
    (request,) = desk.lease(1, flags=flags).requests
    desk.outcomes.decline(request, bytes(size))
    assert desk.failures() == ([((1,), Code.OK, True)] if retried else [])
    assert desk.results() == ({} if retried else {1: (Code.OK, bytes(size))})
    assert not desk.runs()


@pytest.mark.parametrize(
    ("flags", "sent", "told"), [(AGAIN, True, False), (ONCE, False, False), (ONCE, True, True)]
)
def test_a_cancelled_request_is_told_if_it_ran_and_must_not_be_repeated(
    desk: Desk, flags: int, sent: bool, told: bool
) -> None:
    (request,) = desk.lease(1, flags=flags).requests
    desk.outcomes.cancel(request, sent=sent)
    assert [code for code, _ in desk.results().values()] == [Code.CANCELLED] * told
    assert desk.ledger.empty


def test_refused_seqs_fail_as_not_sent_and_those_that_run_go_on(desk: Desk) -> None:
    desk.lease(2)
    desk.outcomes.refuse(SESSION, (1, 2), "odd")
    assert desk.failures() == [((1,), Code.PROTOCOL, False)]
    assert desk.runs() == {2}
    desk.outcomes.refuse(SESSION, (2,), "odd")
    assert desk.failures() == []


def test_in_doubt_is_what_must_not_be_repeated_and_runs_or_was_not_reported(desk: Desk) -> None:
    desk.lease(1)
    first, second = desk.lease(2, 3, flags=ONCE).requests
    assert desk.ledger.in_doubt == 2
    desk.outcomes.finish(first, 0, b"")
    assert desk.ledger.in_doubt == 2
    desk.results()
    assert desk.ledger.in_doubt == 1
    desk.outcomes.forget(second)
    assert desk.ledger.in_doubt == 0
