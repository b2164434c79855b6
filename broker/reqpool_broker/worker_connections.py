"""The connections of workers: which worker is at which route, and heartbeats to it. No I/O, no clock."""

from __future__ import annotations

from reqpool_contract.wire import Reject

from .epoch import Epoch
from .worker import Worker
from .worker_state import WorkerState


class WorkerConnections:
    """Knows how workers are reached.

    Args:
        epoch: shared by both sides of the broker.

    Attributes:
        by_route: workers by the routing id of their connection.
    """

    def __init__(self, epoch: Epoch) -> None:
        self._epoch = epoch
        self._outbox = epoch.outbox
        self._records = epoch.records
        self.by_route: dict[bytes, Worker] = {}

    @property
    def any_serves(self) -> bool:
        """Whether a worker is connected that has not said that it ends."""
        workers = self._records.workers.values()
        return any(one.state is WorkerState.LIVE and one.route is not None for one in workers)

    def take_over(self, route: bytes, worker: Worker) -> None:
        """Note that a route is this worker's; another that had it has no connection any more."""
        previous = self.by_route.pop(route, None)
        if previous is not None and previous is not worker:
            previous.route = None
        if worker.route is not None:
            self.by_route.pop(worker.route, None)
        self.by_route[route] = worker

    def disconnect(self, worker: Worker) -> None:
        """Forget a worker's connection, if it has one."""
        if worker.route is not None:
            self.by_route.pop(worker.route, None)
            worker.route = None
            self._records.change_membership()

    def beat(self, worker: Worker, now_s: float) -> None:
        """Send a worker a heartbeat."""
        if worker.route is not None:
            head = worker.heartbeat(now_s)
            self._outbox.workers.append([worker.route, head])

    def beat_all(self, now_s: float) -> None:
        """Send every worker its heartbeat."""
        for worker in self._records.workers.values():
            self.beat(worker, now_s)

    def reject(self, route: bytes, code: Reject, text: str) -> None:
        """Send REJECT."""
        self._epoch.reject(self._outbox.workers, route, code, text)
