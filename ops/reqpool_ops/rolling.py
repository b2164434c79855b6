"""Replacing all processes of a running cluster, one after the other, while it serves. Uses no clock.

    for each worker:  start another --live--> tell the old one to go --gone--> next
    the broker:       start another --waits for its line--> tell the old one to go --gone--> give it the line
                      --bound, all workers live--> done

It ends early if a process does not come up in time: what has not been replaced by then goes on as before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from functools import partial
from typing import Protocol

from .broker_process import BrokerProcess
from .fleet import Fleet
from .report_values import counted
from .restart import RESTART_SIGNAL

COME_UP_S = 20.0
"""How long a new process may take until it is live."""

Steps = Generator[None, float, str]
"""Receives monotonic seconds whenever something may have changed; returns what was done."""

log = logging.getLogger("reqpool")


class RestartFailed(Exception):
    """A new process did not come up; the text names it."""


class LockNote(Protocol):
    """Notes figures in the cluster's lock, where ``reqpool restart`` reads them."""

    def __call__(self, **figures: int | str) -> None: ...


class Restarts:
    """The restarts that have been asked for: one runs at a time, for all that were asked for before it.

    Args:
        fleet: the workers to replace.
        broker: the broker to replace.
        note: notes how far they are.
    """

    def __init__(self, fleet: Fleet, broker: BrokerProcess, note: LockNote) -> None:
        self._fleet = fleet
        self._broker = broker
        self._note = note
        self._asked = self._begun = 0
        self._steps: Steps | None = None

    @property
    def is_running(self) -> bool:
        """Whether processes are being replaced."""
        return self._steps is not None

    def ask(self) -> None:
        """Ask for a restart; one that is running may have begun too early for it, and another follows."""
        self._asked += 1
        self._note(restarts_asked=self._asked)

    def further(self, now_s: float) -> None:
        """Begin or continue what has been asked for.

        Args:
            now_s: monotonic seconds.
        """
        if self._steps is None:
            if self._begun == self._asked:
                return
            self._begun = self._asked
            log.info("%s: replacing all processes, one after the other", RESTART_SIGNAL.name)
            self._steps = replace_all(self._fleet, self._broker)
            next(self._steps)
        try:
            self._steps.send(now_s)
        except StopIteration as end:
            log.info("%s", end.value)
            self._end(end.value, well=True)
        except RestartFailed as error:
            log.error("the restart failed: %s", error)
            self._end(str(error), well=False)

    def give_up(self, reason: str) -> None:
        """End a restart that is running; do nothing if there is none."""
        if self._steps is not None:
            self._end(reason, well=False)

    def _end(self, said: str, *, well: bool) -> None:
        self._steps = None
        self.note(said, well=well)

    def note(self, said: str = "", *, well: bool = True) -> None:
        """Note how many restarts have been asked for and done, and how the last one went."""
        self._note(
            restarts_asked=self._asked, restarts_done=self._begun, restart_well=well, restart_said=said
        )


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
            raise RestartFailed(f"the new {name} did not come up; see its output above")
        now_s = yield
    return now_s
