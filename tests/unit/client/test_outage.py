"""Why a session is not open, and whether waiting has any point."""

from __future__ import annotations

import errno
import logging
import math

import pytest

from reqpool.outage import WARN_AFTER_S, Outage
from reqpool.session_protocol import SessionProtocol
from reqpool_contract.counted_log import CountedLog

URL = "tcp://cluster:5570"


def make(exit_text: str | None = None, *, embedded: bool = False) -> tuple[SessionProtocol, Outage]:
    session = SessionProtocol(b"s" * 16, "test", 1, random_unit=lambda: 1.0)
    log = CountedLog(logging.getLogger("reqpool"))
    return session, Outage(session, URL, log, (lambda: exit_text) if embedded else None)


def test_a_broker_that_is_missed_for_long_is_warned_of_once_and_welcomed_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "reqpool")
    _, outage = make()
    outage.missed(1.0)
    outage.missed(2.0)
    assert outage.due_s(2.0, are_pending=True) == 1.0 + WARN_AFTER_S
    assert outage.due_s(2.0, are_pending=False) == math.inf
    for now_s in (1.0 + WARN_AFTER_S, 100.0):
        outage.warn(now_s, 3)
    outage.answered()
    outage.answered()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "(3): no broker answers at tcp://cluster:5570" in caplog.text


@pytest.mark.parametrize(("number", "final"), [(errno.EMFILE, False), (errno.ENOENT, True)])
def test_a_shortage_passes_and_another_fault_does_not(number: int, final: bool) -> None:
    session, outage = make()
    session.tick(0.0)
    outage.cannot_dial(OSError(number, "no such luck"), "cannot connect: no such luck", 0.0)
    assert outage.refusal() == (f"the broker at {URL}: cannot connect: no such luck" if final else None)
    assert ("cannot connect to the broker at" in outage.trouble()) is not final


def test_an_embedded_cluster_that_has_ended_is_not_waited_for() -> None:
    assert make(embedded=True)[1].refusal() is None
    assert make("it ended", embedded=True)[1].refusal() == "it ended; its messages are on stderr"
