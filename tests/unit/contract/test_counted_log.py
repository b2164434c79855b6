"""Lines that repeat, by a fake clock."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from reqpool_contract.counted_log import FEW_LINES, SPAN_S, CountedLog

LOGGER = logging.getLogger("reqpool.test_counted_log")


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock, caplog: pytest.LogCaptureFixture) -> CountedLog:
    caplog.set_level(logging.INFO, LOGGER.name)
    return CountedLog(LOGGER, clock)


def test_the_first_few_lines_are_written_and_the_last_of_them_says_what_follows(
    log: CountedLog, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(FEW_LINES + 1_000):
        log.warning("message %d", number)
    assert caplog.messages[:-1] == [f"message {number}" for number in range(FEW_LINES - 1)]
    assert caplog.messages[-1] == (
        f"message {FEW_LINES - 1} (similar messages are counted, and one is written every 10 s)"
    )


def test_a_flood_that_goes_on_is_one_line_in_a_span_with_the_count_of_the_others(
    log: CountedLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(FEW_LINES + 70):
        log.warning("100 % flood")
    for expected in (70, 9, 9):
        clock.now_s += SPAN_S
        caplog.clear()
        for _ in range(10):
            log.warning("100 % flood")
        assert caplog.messages == [f"100 % flood ({expected} similar messages were not written)"]


def test_after_a_quiet_span_the_few_are_written_again(
    log: CountedLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(FEW_LINES + 1):
        log.warning("flood")
    clock.now_s += SPAN_S
    log.warning("flood")
    clock.now_s += SPAN_S
    caplog.clear()
    for _ in range(FEW_LINES):
        log.warning("flood")
    assert len(caplog.messages) == FEW_LINES


def test_one_kind_of_line_does_not_hide_another(log: CountedLog, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(FEW_LINES + 1):
        log.warning("flood of %s", "one kind")
    caplog.clear()
    log.warning("a line of another kind")
    assert caplog.messages == ["a line of another kind"]


def test_what_the_logger_would_not_write_is_not_counted(
    log: CountedLog, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(FEW_LINES + 1):
        log.debug("detail")
    caplog.set_level(logging.DEBUG, LOGGER.name)
    log.debug("detail")
    assert caplog.messages == ["detail"]


def test_a_line_names_its_callers_file_and_keeps_the_exception(
    log: CountedLog, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("it failed")
    [record] = caplog.records
    assert Path(record.pathname) == Path(__file__)
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)
