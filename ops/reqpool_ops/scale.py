"""``reqpool scale``: more or fewer workers for a running cluster on this machine."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from typing import Any

from reqpool_contract.masking import without_password

from . import runtime
from .report_values import counted
from .runtime import CannotStart

TAKEN_WITHIN_S = 10.0
"""How long a supervisor may take to act on a signal. One that is starting does so later: it gives the
children of a killed one 5 s to end."""


def scale(url: str, workers: int) -> None:
    """Have a cluster's supervisor run this many workers; return when it has agreed, not when all are there.

    Args:
        url: the intake.
        workers: how many.

    Raises:
        CannotStart: if no supervisor of this user runs there on this machine, or it does not obey.
    """
    about = supervisor(url)
    while about["workers"] != workers:
        before = about["workers"]
        # One at a time: a signal that is sent again before it was handled counts once (signal(7)).
        tell(about["pid"], signal.SIGUSR1 if before < workers else signal.SIGUSR2)
        deadline_s = time.monotonic() + TAKEN_WITHIN_S
        while about["workers"] == before:
            if time.monotonic() > deadline_s:
                raise CannotStart(
                    f"the supervisor (pid {about['pid']}) stays at {counted(before, 'worker')}; see its log"
                )
            time.sleep(0.02)
            about = supervisor(url)


def tell(pid: int, number: int) -> None:
    """Send a signal to a supervisor.

    Raises:
        CannotStart: if it has just ended.
    """
    try:
        os.kill(pid, number)
    except ProcessLookupError as error:
        raise CannotStart(f"the supervisor (pid {pid}) has just ended; see its log") from error


def supervisor(url: str) -> Mapping[str, Any]:
    """Return what the supervisor of a running cluster has noted in its lock.

    Args:
        url: the intake.

    Raises:
        CannotStart: if no supervisor of this user runs there on this machine.
    """
    for _ in range(10):
        about = runtime.read_lock(url)
        if about is not None and about.get("stopping"):
            raise CannotStart(f"the cluster at {without_password(url)} is stopping (pid {about['pid']})")
        if about is not None and {"pid", "workers"} <= about.keys():
            return about
        time.sleep(0.02)  # it is being written, or is starting
    raise CannotStart(f"no cluster of yours is running on this machine at {without_password(url)}")
