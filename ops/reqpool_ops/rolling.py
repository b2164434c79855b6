"""Replacing all processes of a running cluster, one after the other, while it serves. Uses no clock.

    for each worker:  start another --live--> tell the old one to go --gone--> next
    the broker:       start another --waits for its line--> tell the old one to go --gone--> give it the line
                      --bound, all workers live--> done

It ends early if a process does not come up in time: what has not been replaced by then goes on as before.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial

from .broker_process import BrokerProcess
from .fleet import Fleet
from .report_values import counted

COME_UP_S = 20.0
"""How long a new process may take until it is live."""

Steps = Generator[None, float, str]
"""Is sent monotonic seconds whenever something may have changed; returns what was done."""


class RestartFailed(Exception):
    """A new process did not come up; the text names it."""


def replace_all(fleet: Fleet, broker: BrokerProcess) -> Steps:
    """Replace each worker and then the broker.

    Raises:
        RestartFailed: if a new process does not come up; no further one is replaced.
    """
    started_s = now_s = yield
    replaced = 0
    for worker, process in [(worker, worker.id) for worker in fleet.staying]:
        if worker.leaving or worker.id != process:
            continue  # it has ended meanwhile, and its replacement is new
        successor = fleet.add_beside(worker, now_s)
        try:
            now_s = yield from _until(partial(fleet.is_live, successor), now_s, successor.name)
        except RestartFailed:
            fleet.dismiss(successor, now_s)
            raise
        fleet.dismiss(worker, now_s)
        while worker in fleet.workers:  # it is killed if it does not leave
            now_s = yield
        replaced += 1
    try:
        standby = broker.stand_by(now_s)
    except OSError as error:
        raise RestartFailed(f"the new broker cannot be started: {error.strerror}") from error
    try:
        now_s = yield from _until(
            lambda: broker.is_standby_warm or broker.child is standby,
            now_s,
            "broker",
            lambda: standby.process is None,
        )
    except RestartFailed:
        broker.drop_standby()
        raise
    if broker.standby is standby:  # otherwise the old one has died meanwhile, and it has taken over
        broker.dismiss(now_s)
    now_s = yield from _until(
        lambda: broker.ready and broker.standby is None and all(map(fleet.is_live, fleet.staying)),
        now_s,
        "broker",
    )
    return f"{counted(replaced, 'worker')} and the broker replaced in {now_s - started_s:.1f} s"


def _until(
    is_up: Callable[[], bool], now_s: float, name: str, is_lost: Callable[[], bool] = lambda: False
) -> Generator[None, float, float]:
    deadline_s = now_s + COME_UP_S
    while not is_up():
        if is_lost() or now_s > deadline_s:
            raise RestartFailed(f"the new {name} does not come up; see its output above")
        now_s = yield
    return now_s
