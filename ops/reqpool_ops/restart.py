"""``reqpool restart``: have a running cluster on this machine replace its processes while it serves."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from typing import Any

from .runtime import CannotStart
from .scale import TAKEN_WITHIN_S, supervisor, tell

RESTART_SIGNAL = signal.SIGRTMIN
"""No other program sends it. It would end a supervisor that does not know it, so that is checked first."""


def restart(url: str) -> str:
    """Have a cluster's supervisor replace all workers and the broker; return when it has.

    A restart in progress is finished first: it may have begun before the change that this one is for.

    Args:
        url: the intake.

    Returns:
        What the supervisor reports to have done.

    Raises:
        CannotStart: if no supervisor of this user runs there on this machine, or it cannot replace them.
    """
    about = supervisor(url)
    if "restarts_asked" not in about:
        raise CannotStart(f"the supervisor (pid {about['pid']}) is too old to do that: stop and start it")
    pid, number = about["pid"], about["restarts_asked"] + 1
    tell(pid, RESTART_SIGNAL)
    deadline_s = time.monotonic() + TAKEN_WITHIN_S
    while about["restarts_asked"] < number:
        if time.monotonic() > deadline_s:
            raise CannotStart(f"the supervisor (pid {pid}) has not begun the restart; see its log")
        about = _again(url, pid)
    while about["restarts_done"] < number:
        about = _again(url, pid)
    if not about["restart_well"]:
        raise CannotStart(f"the restart failed: {about['restart_said']}")
    return str(about["restart_said"])


def _again(url: str, pid: int) -> Mapping[str, Any]:
    time.sleep(0.02)
    about = supervisor(url)
    if about["pid"] != pid:
        raise CannotStart(f"the supervisor (pid {pid}) has ended in the meantime; see its log")
    return about
