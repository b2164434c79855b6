"""Workers that the supervisor starts, that fall silent, and that are gone. No I/O, no clock."""

from __future__ import annotations

import logging

from .epoch import Epoch
from .submissions import Submissions
from .worker import Worker
from .worker_connections import WorkerConnections
from .worker_state import WorkerEvent, WorkerState

log = logging.getLogger("reqpool")

STRANGER_SPAN_S = 1.0
"""How long STARTED may take to arrive after the worker itself has come."""


class WorkerDepartures:
    """Decides which workers are there.

    Args:
        epoch: shared by both sides of the broker.
        connections: how workers are reached.
        submissions: what is deferred until workers have reported or died.
    """

    def __init__(self, epoch: Epoch, connections: WorkerConnections, submissions: Submissions) -> None:
        self._epoch = epoch
        self._records = epoch.records
        self._connections = connections
        self._submissions = submissions

    def announce(self, worker_id: bytes) -> None:
        """Take STARTED: the supervisor is about to start a worker."""
        self._epoch.recovery.start(worker_id)
        worker = self._records.workers.get(worker_id)
        if worker is not None and worker.state is WorkerState.STRANGER:  # it was quicker
            worker.move(WorkerEvent.STARTED)
            self._records.change_membership()

    def die(self, now_s: float, worker_id: bytes, deaths: int, orderly: bool) -> None:
        """Take DEAD: a worker's process has ended."""
        worker = self._records.workers.get(worker_id)
        if worker is not None:
            self.forget(worker, now_s, orderly=orderly)
        self._epoch.recovery.die(worker_id, deaths, orderly=orderly)
        self._submissions.release_deferred(now_s)
        self._epoch.settle(now_s)

    def forget(self, worker: Worker, now_s: float, *, orderly: bool) -> None:
        """Note that a worker has nothing any more: it said GOODBYE, or is dead.

        Args:
            worker: the worker.
            now_s: now; monotonic.
            orderly: it left nothing in doubt.
        """
        self._connections.disconnect(worker)
        worker.move(WorkerEvent.ENDED)
        self._records.workers.pop(worker.id, None)
        self._epoch.recovery.forget(worker.id)
        self._records.change_membership()
        self._epoch.retries.abandon(worker, now_s, dead=True, orderly=orderly)
        self._records.remove_worker(worker)

    def suspect(self, worker: Worker, now_s: float) -> None:
        """Note that a worker is silent: it is leased nothing, and keeps what it has until it is gone."""
        self._connections.disconnect(worker)
        worker.move(WorkerEvent.SILENT)
        self._records.change_membership()
        self._epoch.retries.abandon(worker, now_s, dead=False)

    def warn_of_strangers(self, now_s: float) -> None:
        """Log which workers the supervisor has not announced, each once."""
        for worker in self._records.workers.values():
            connected_s = now_s - worker.heartbeats.since_s
            if worker.state is WorkerState.STRANGER and not worker.warned and connected_s > STRANGER_SPAN_S:
                worker.warned = True
                log.warning(
                    "worker %r (pid %d) was not started by this cluster's supervisor: it gets no requests",
                    worker.name,
                    worker.pid,
                )
