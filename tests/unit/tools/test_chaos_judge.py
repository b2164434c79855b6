"""The judge of the fault run: each verdict can fail, shown with made-up journals."""

from __future__ import annotations

from collections import Counter

import pytest

from chaos.journal import GOOD, WRONG, End, Request, read
from chaos.judge import (
    AFTERMATH_S,
    CAUSELESS,
    ENDED_TWICE,
    ERRORS_CALM,
    ERRORS_PLANNED,
    EXECUTED_TWICE,
    LIES,
    LOST,
    NOT_ONCE,
    NOTICED_S,
    PARTLY,
    WRONG_ANSWERS,
    ZEROS,
    Happened,
    Producer,
    Verdict,
    Windows,
    judge,
)
from chaos.upstreams import Executions
from chaos.work import STATEMENT, TRANSACTION

KILL = Happened("broker-kill", False, 10.0, 10.0, 10.0)
RESTART = Happened("restart", True, 10.0, 12.0, 12.0)


def asked(stream: str, *ends: End, at_s: float = 9.0, timeout_s: float = 8.0) -> Request:
    return Request("p1-1", 0, stream, timeout_s, at_s, list(ends))


def verdict(
    request: Request, count: int = 1, *faults: Happened, killed: bool = False, partial: bool = False
) -> Verdict:
    executions = Executions(Counter({"p1-1": count}), {"p1-1"} if partial else set())
    return judge([Producer("p1", [request], killed)], executions, faults)


def found(judged: Verdict) -> list[str]:
    return [what for what in ZEROS if judged.found[what]]


@pytest.mark.parametrize("stream", ["dns", "http-post", STATEMENT, TRANSACTION])
def test_a_good_answer_and_one_execution_are_as_it_should_be(stream: str) -> None:
    judged = verdict(asked(stream, End(9.1, GOOD)))
    assert judged.holds
    assert judged.requests == (stream != TRANSACTION)


def test_what_never_ended_is_lost_unless_its_producer_was_killed() -> None:
    assert found(verdict(asked("dns"))) == [LOST]
    assert found(verdict(asked("dns"), killed=True)) == []


def test_a_second_end_is_seen() -> None:
    assert found(verdict(asked("dns", End(9.1, GOOD), End(9.2, GOOD)))) == [ENDED_TWICE]


def test_a_second_execution_is_seen_whatever_the_client_was_told() -> None:
    assert found(verdict(asked("tcp", End(9.1, GOOD)), 2)) == [EXECUTED_TWICE, NOT_ONCE]
    assert found(verdict(asked("tcp", End(11, "OutcomeUnknown", True)), 2, KILL)) == [EXECUTED_TWICE]
    assert found(verdict(asked("tcp"), 2, killed=True)) == [EXECUTED_TWICE]


def test_what_may_be_repeated_may_run_twice() -> None:
    assert verdict(asked("tcp-idempotent", End(9.1, GOOD)), 2).holds


@pytest.mark.parametrize(
    ("count", "sent", "lie"), [(1, False, True), (0, False, False), (1, True, False), (1, None, False)]
)
def test_sent_false_is_a_lie_if_it_was_executed(count: int, sent: bool | None, lie: bool) -> None:
    judged = verdict(asked("redis-push", End(11, "RequestTimeout", sent, "read")), count, KILL)
    assert found(judged) == ([LIES] if lie else [])


def test_a_transaction_is_not_applied_if_its_commit_was_never_sent() -> None:
    assert found(verdict(asked(TRANSACTION, End(11, "ConnectionLost", False)), 1, KILL)) == [LIES]
    assert found(verdict(asked(TRANSACTION, End(11, "ConnectionLost", False)), 0, KILL)) == []


def test_unknown_needs_a_fault_during_its_life() -> None:
    unknown = End(9.5, "OutcomeUnknown", True)
    assert found(verdict(asked("udp", unknown), 1, KILL)) == [CAUSELESS, ERRORS_CALM]
    assert found(verdict(asked("udp", End(11, "OutcomeUnknown", True)), 1, KILL)) == []
    after = asked("udp", End(12, "OutcomeUnknown", True), at_s=10.1 + NOTICED_S)
    assert found(verdict(after, 1, KILL)) == [CAUSELESS]


def test_a_planned_fault_and_one_of_another_producer_are_no_cause() -> None:
    request = asked("udp", End(11, "OutcomeUnknown", True))
    assert found(verdict(request, 1, RESTART)) == [CAUSELESS, ERRORS_PLANNED]
    frozen = Happened("producer-freeze", False, 9.5, 12.5, 12.5, "p2")
    assert found(verdict(request, 1, frozen)) == [CAUSELESS, ERRORS_CALM]


def test_a_freeze_lasts_until_it_is_over() -> None:
    frozen = Happened("worker-freeze", False, 5.0, 8.8, 8.8)
    assert found(verdict(asked("udp", End(11, "OutcomeUnknown", True)), 1, frozen)) == []


def test_an_answer_to_another_question_is_seen() -> None:
    assert found(verdict(asked("dns", End(9.1, WRONG)))) == [WRONG_ANSWERS]


WORKER_KILL = Happened("worker-kill", False, 10.0, 10.0, 10.0)
LATE = End(11.0, WRONG, text="b'p2-7'")
"""The answer to p2-7."""


@pytest.mark.parametrize(
    ("stream", "owner", "fault", "counted"),
    [
        ("udp", Request("p2-7", 0, "udp", 1.0, 9.5, [End(10.5, "RequestTimeout", True)]), WORKER_KILL, False),
        ("udp-idempotent", Request("p2-7", 0, "udp", 1.0, 9.5), WORKER_KILL, False),
        ("udp", Request("p2-7", 0, "udp", 1.0, 10.5), WORKER_KILL, True),
        ("udp", Request("p2-7", 0, "udp", 1.0, 9.5), KILL, True),
        ("udp", Request("p2-7", 0, "udp", 1.0, 9.5, [End(9.6, GOOD)]), WORKER_KILL, True),
        ("udp", Request("p2-8", 0, "udp", 1.0, 9.5), WORKER_KILL, True),
        ("tcp", Request("p2-7", 0, "tcp", 1.0, 9.5), WORKER_KILL, True),
    ],
    ids=["owed", "owed to a killed producer", "asked later", "no worker ended", "answered", "another", "tcp"],
)
def test_a_datagram_owed_to_a_worker_that_ended_is_in_the_nature_of_udp(
    stream: str, owner: Request, fault: Happened, counted: bool
) -> None:
    producers = [Producer("p1", [asked(stream, LATE)]), Producer("p2", [owner], killed=True)]
    judged = judge(producers, Executions(Counter({"p1-1": 1, "p2-7": 1, "p2-8": 1})), [fault])
    assert judged.found[WRONG_ANSWERS] == counted
    assert judged.outcomes[WRONG] == 1


@pytest.mark.parametrize("count", [0, 2])
def test_a_good_answer_means_exactly_one_execution(count: int) -> None:
    assert NOT_ONCE in found(verdict(asked("mysql-insert", End(9.1, GOOD)), count))


def test_half_a_transaction_is_seen() -> None:
    judged = verdict(asked(TRANSACTION, End(11, "OutcomeUnknown", True)), 1, KILL, partial=True)
    assert found(judged) == [PARTLY]


def test_parts_of_a_transaction_are_counted_together() -> None:
    executions = Executions()
    executions.add_parts("whole", [1, 1])
    executions.add_parts("half", [1, 0])
    assert executions.counts == {"whole": 1, "half": 1}
    assert executions.partial == {"half"}


def test_an_error_beside_a_planned_fault_or_in_calm_is_seen() -> None:
    lost = asked("dns", End(11, "ConnectionLost", True))
    assert found(verdict(lost, 1, RESTART)) == [ERRORS_PLANNED]
    assert found(verdict(lost)) == [ERRORS_CALM]


def test_an_error_soon_after_a_fault_that_was_not_planned_has_its_reason() -> None:
    early = asked("dns", End(10.5 + AFTERMATH_S, "ConnectFailed"), at_s=9.5 + AFTERMATH_S)
    late = asked("dns", End(11.5 + AFTERMATH_S, "ConnectFailed"), at_s=10.5 + AFTERMATH_S)
    assert found(verdict(early, 1, KILL)) == []
    assert found(verdict(late, 1, KILL)) == [ERRORS_CALM]


def test_an_error_before_the_cluster_is_whole_again_has_its_reason() -> None:
    slow = Happened("broker-loop", False, 10.0, 16.0, 30.0)
    assert found(verdict(asked("dns", End(29, "RequestTimeout"), at_s=24.0), 1, slow)) == []
    assert found(verdict(asked("udp", End(29, "OutcomeUnknown"), at_s=24.0), 1, slow)) == [CAUSELESS]


@pytest.mark.parametrize("error", ["RequestTimeout", "Overloaded"])
def test_a_short_timeout_need_not_survive_a_planned_fault(error: str) -> None:
    assert found(verdict(asked("dns", End(11, error), timeout_s=1.0), 1, RESTART)) == []
    assert found(verdict(asked("dns", End(11, error), timeout_s=5.0), 1, RESTART)) == [ERRORS_PLANNED]


def test_evidence_tells_the_request_and_the_faults_near_it() -> None:
    judged = verdict(asked("tcp", End(11, "OutcomeUnknown", True, None, "gone")), 2, KILL)
    (text,) = judged.evidence[EXECUTED_TWICE]
    for part in ("p1-1 (tcp", "OutcomeUnknown at 11.00 s", "2 executions", "broker-kill@10.0", "gone"):
        assert part in text


def test_windows_overlap_where_they_have_an_instant_in_common() -> None:
    windows = Windows([(5, 6), (1, 2), (2, 3), (5.5, 5.7)])
    spans = [(0, 0.9), (0, 1), (2.5, 2.6), (3.1, 4.9), (3.1, 5), (5.8, 9), (6.1, 9)]
    assert [windows.overlap(*span) for span in spans] == [False, True, True, False, True, True, False]
    assert not Windows([]).overlap(0, 9)


def test_a_journal_is_read_back_and_a_line_cut_short_is_left_out() -> None:
    lines = [
        '["s", "p1-1", 0, "dns", 3.0, 1.5]\n',
        '["s", "p1-2", 1, "tcp", 3.0, 1.6]\n',
        '["e", "p1-1", 1.7, "ConnectFailed", false, "connect", "refused"]\n',
        '["e", "p1-1", 1.8, "good", null, null, ""]\n',
        '["e", "p1-2", 1.',
    ]
    first, second = read(lines)
    assert (first.number, first.pool, first.stream, first.timeout_s, first.at_s) == (
        "p1-1",
        0,
        "dns",
        3.0,
        1.5,
    )
    assert first.ends == [End(1.7, "ConnectFailed", False, "connect", "refused"), End(1.8, GOOD)]
    assert second.ends == []
