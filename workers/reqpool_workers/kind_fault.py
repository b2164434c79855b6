"""What to make of an exception that no kind's worker half should raise."""

from __future__ import annotations

import logging

from reqpool_contract.counted_log import CountedLog

_log = CountedLog(logging.getLogger(__name__))


def fault(error: Exception) -> str:
    """Log the error, from its handler, and return what is reported of it."""
    _log.exception(f"a kind's worker half failed: {type(error).__name__}")
    return f"the kind's worker half failed: {error!r}"
