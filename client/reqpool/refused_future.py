"""Futures of requests that were refused when they were submitted."""

from __future__ import annotations

import logging
from concurrent.futures._base import FINISHED
from typing import Any

from reqpool_contract.counted_log import CountedLog
from reqpool_contract.errors import UsageError

from .entry import RequestEntry
from .future import Future


class Nobody:
    """The owner of futures that have ended from the start, or are never waited for."""

    session_label = ""

    def __init__(self) -> None:
        self.pending: dict[int, RequestEntry] = {}
        self._log = CountedLog(logging.getLogger("reqpool"))

    def cancel(self, future: Future[Any]) -> bool:
        return False

    def wait(self, future: Future[Any], until_s: float) -> None:
        pass

    def watch(self) -> None:
        pass

    def end_if_abandoned(self, future: Future[Any]) -> None:
        pass

    def report_callback_error(self, entry: RequestEntry) -> None:
        self._log.exception("callback of a refused request raised")


NOBODY = Nobody()


def refused(error: UsageError) -> Future[Any]:
    """Return an ended future that raises ``error``."""
    nothing: Any = None
    future: Future[Any] = Future(NOBODY, 0, nothing, b"", 0.0, 0.0, 1, None)
    future._value = error
    future.end(FINISHED, error.code, None, 0.0)
    return future
