"""The supervisor's workers: their places, and the processes in them."""

from __future__ import annotations

import itertools
import logging
import math
import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

from . import health
from .children import BOOT_FAILURE, NEVER_BEGAN, ORDERLY, Child
from .reign import Reign
from .report_values import maps

LEAVE_NO_DOUBT = frozenset((ORDERLY, BOOT_FAILURE, NEVER_BEGAN))
"""Exit statuses of workers that leave no request in doubt: ended in order, or before they had begun."""

log = logging.getLogger("reqpool")


class Fleet:
    """All workers of one cluster.

    Args:
        program: the workers' module; arguments are added.
        count: how many.
        drain_s: how long a worker that is told to leave may take to finish what it is running.
        reign: the record from which brokers are told of the workers.
        tell: sends the news of the reign to the present broker; called before a process is started, and
            after one has ended.

    Attributes:
        workers: all places, including those that go with their process.
    """

    def __init__(
        self, program: list[str], count: int, drain_s: float, reign: Reign, tell: Callable[[], None]
    ) -> None:
        self.workers = [Child(f"worker-{number}") for number in range(1, count + 1)]
        self._program = program
        self._drain_s = drain_s
        self._reign = reign
        self._tell = tell
        self._watch = health.Watch()
        self._live: set[str] = set()

    @property
    def staying(self) -> list[Child]:
        """The places that stay when their process ends."""
        return [worker for worker in self.workers if not worker.leaving]

    @property
    def is_uneasy(self) -> bool:
        """Whether a worker has been silent for longer than the interval of its heartbeats."""
        return self._watch.is_uneasy

    # --- start ---

    def start_all(self, now_s: float) -> None:
        """Have a process started for every place."""
        for worker in self.workers:
            worker.due_s = now_s

    def start_due(self, broker_url: str, now_s: float) -> None:
        """Start the processes that are due.

        Args:
            broker_url: the broker's workers socket.
            now_s: monotonic seconds.
        """
        for worker in self.workers:
            if worker.due_s <= now_s:
                self._start(worker, broker_url, now_s)

    def _start(self, worker: Child, broker_url: str, now_s: float) -> None:
        identity = worker.renew_id()
        self._reign.worker_starts(identity)
        self._tell()
        arguments = [
            *self._program, "--broker", broker_url, "--name", worker.name,
            "--id", identity.hex(), "--parent-pid", str(os.getpid()),
        ]  # fmt: skip
        try:
            worker.start(arguments, now_s)
        except OSError as error:
            self._reign.worker_ended(identity, orderly=True)
            self._tell()
            worker.put_off(error, now_s)
        else:
            self._watch.started(identity, now_s)

    def add(self, now_s: float) -> None:
        """Add a worker."""
        taken = {worker.name for worker in self.workers}
        worker = Child(next(name for n in itertools.count(1) if (name := f"worker-{n}") not in taken))
        worker.due_s = now_s
        self.workers.append(worker)

    def add_beside(self, worker: Child, now_s: float) -> Child:
        """Add a worker that will follow `worker`; return its place."""
        successor = Child(worker.name)
        successor.due_s = now_s
        self.workers.insert(self.workers.index(worker) + 1, successor)
        return successor

    # --- end ---

    def dismiss(self, worker: Child, now_s: float) -> None:
        """Have a worker finish what it is running, hand back the rest, and leave with its place."""
        worker.leaving, worker.due_s = True, math.inf
        if worker.process is None:
            self.workers.remove(worker)
            return
        worker.kill_s = now_s + self._drain_s
        worker.signal(signal.SIGTERM)

    def dismiss_all(self, now_s: float) -> None:
        """Have all workers leave, and start no others."""
        self._reign.stops()
        self._tell()
        for worker in self.staying:  # the others have been told; a second order would end them at once
            self.dismiss(worker, now_s)

    def kill_late(self, now_s: float, level: int) -> None:
        """Kill workers that were told to leave and have not in time; log it at `level`."""
        for worker in self.workers:
            if worker.kill_late(now_s):
                log.log(level, "%s did not finish within %g s; killed", worker.name, self._drain_s)

    def reap(self) -> list[tuple[Child, int, int]]:
        """Note which processes have ended; return the place, pid and exit status of each."""
        found = []
        for worker in list(self.workers):
            pid, status = worker.pid, worker.reap()
            if status is None:
                continue
            self._watch.ended(worker.id)
            self._live.discard(worker.id.hex())
            self._reign.worker_ended(worker.id, orderly=status in LEAVE_NO_DOUBT)
            if worker.leaving:
                self.workers.remove(worker)
            found.append((worker, pid, status))
        if found:
            self._tell()
        return found

    # --- what the broker reports ---

    def is_live(self, worker: Child) -> bool:
        """Return whether the broker's last report has this process as live."""
        return worker.process is not None and worker.id.hex() in self._live

    def lose_broker(self) -> None:
        """Forget the last report, as its broker is gone."""
        self._live.clear()

    def judge(self, report: Mapping[str, Any], now_s: float) -> None:
        """Read a broker's report, and kill workers that hang."""
        reported = maps(report.get("workers"))
        self._live = {str(worker.get("id")) for worker in reported if worker.get("state") == "live"}
        reasons = self._watch.hung(report, now_s)
        for worker in self.workers:
            reason = reasons.get(worker.id)
            if worker.process is not None and reason is not None and signal.SIGKILL not in worker.signals:
                log.error("%s (pid %d) is alive but %s; killed", worker.name, worker.pid, reason)
                worker.signal(signal.SIGKILL)
