"""When requests end because their upstream is late, and which."""

from __future__ import annotations

from typing import Any, cast

import pytest

from reqpool_contract.errors import Code, RequestTimeout
from reqpool_contract.policy import Policy
from reqpool_workers.connection import Connection
from reqpool_workers.connection_pool import ConnectionPool
from reqpool_workers.event_loop import EventLoop
from reqpool_workers.lease_outcomes import LeaseOutcomes
from reqpool_workers.read_timeout import CHECKS_PER_SPAN, ReadTimeout

READ_S = 0.8


class Line:
    """Stands in for a connection."""

    def __init__(self, *, shared: bool, overdue: bool = False) -> None:
        self.shared = shared
        self.overdue = overdue
        self.closed: Any = None
        self.passed_over = 0

    def pass_over_oldest(self, reason: str) -> object:
        self.passed_over += 1
        return self

    def close(self, reason: str, error: Exception) -> None:
        self.closed = error


class Table:
    """A pool with these connections, all late; a loop that notes timers."""

    def __init__(self, *lines: Line, read_s: float | None = READ_S) -> None:
        self.policy = Policy(read_timeout_s=read_s)
        self.members = list(lines)
        self.now_s = 10.0
        self.timers: list[tuple[float, Any]] = []
        self.concluded: list[tuple[object, Code]] = []
        self.timeout = ReadTimeout(
            cast(EventLoop, self), cast("ConnectionPool[Connection]", self), cast(LeaseOutcomes, self)
        )

    def at(self, due_s: float, timer: Any) -> None:
        self.timers.append((due_s, timer))

    def late(self, now_s: float) -> list[Line]:
        return self.members

    def conclude(self, request: object, code: Code, text: str, *, phase: str, sent: bool) -> None:
        self.concluded.append((request, code))

    def check(self) -> float | None:
        due_s, timer = self.timers[-1]
        again_s: float | None = timer(due_s)
        return again_s


@pytest.mark.parametrize(
    "table", [Table(), Table(Line(shared=False), read_s=None)], ids=["no connection", "no timeout"]
)
def test_there_is_no_timer_without_need(table: Table) -> None:
    table.timeout.watch()
    assert table.timers == []


def test_one_timer_looks_several_times_in_a_span() -> None:
    table = Table(Line(shared=False))
    table.timeout.watch()
    table.timeout.watch()
    assert [due_s for due_s, _ in table.timers] == [pytest.approx(10.0 + READ_S / CHECKS_PER_SPAN)]
    assert table.check() == pytest.approx(10.0 + READ_S / CHECKS_PER_SPAN)


def test_the_timer_ends_with_the_last_connection_and_begins_again_with_another() -> None:
    table = Table(Line(shared=False))
    table.timeout.watch()
    table.members.clear()
    assert table.check() is None
    table.members.append(Line(shared=False))
    table.timeout.watch()
    assert len(table.timers) == 2


def test_a_connection_of_one_request_is_closed() -> None:
    line = Line(shared=False)
    table = Table(line)
    table.timeout.watch()
    table.check()
    assert isinstance(line.closed, RequestTimeout)
    assert table.concluded == []


def test_on_a_shared_one_only_the_oldest_request_ends_and_the_connection_with_the_next() -> None:
    line = Line(shared=True)
    table = Table(line)
    table.timeout.watch()
    table.check()
    assert table.concluded == [(line, Code.TIMEOUT)]
    assert line.closed is None
    line.overdue = True
    table.check()
    assert isinstance(line.closed, RequestTimeout)
    assert line.passed_over == 1
