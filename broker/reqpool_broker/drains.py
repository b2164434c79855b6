"""Workers that have been asked to stop, and how long they wait for what they have. No I/O, no clock."""

from __future__ import annotations

from .broker_spans import STOP_WAIT_S
from .client_heartbeats import ClientHeartbeats
from .epoch import Epoch
from .worker import Worker
from .worker_connections import WorkerConnections
from .worker_state import WorkerEvent, WorkerState


class Drains:
    """Lets draining workers end as early as they may.

    Args:
        epoch: shared by both sides of the broker.
        connections: how workers are reached.
        heartbeats: asks clients to acknowledge.

    Attributes:
        stopping: the whole cluster stops.
    """

    def __init__(self, epoch: Epoch, connections: WorkerConnections, heartbeats: ClientHeartbeats) -> None:
        self._epoch = epoch
        self._records = epoch.records
        self._connections = connections
        self._heartbeats = heartbeats
        self.stopping = False

    def begin(self, worker: Worker, now_s: float) -> None:
        """Take DRAIN: lease the worker nothing more."""
        worker.move(WorkerEvent.DRAIN)
        self._records.change_membership()
        self._epoch.retries.take_back(worker, now_s)
        self._heartbeats.ask_to_acknowledge(worker)

    def hasten(self, now_s: float) -> None:
        """Have workers that drain wait no longer than they must.

        They are informed at once of what has been acknowledged, or will not be because clients are silent.
        Connections pinned to such clients are released. If the whole cluster stops, connections that have
        been pinned for long are released as well, and no worker waits for what has long been running.
        """
        workers = self._records.workers.values()
        draining = [worker for worker in workers if worker.state is WorkerState.DRAINING]
        if not draining:
            return
        liveness_s = self._epoch.liveness_s
        awaited = self._heartbeats.awaited(now_s)
        for worker in draining:
            for pin in self._records.idle_pins(worker):
                is_old = self.stopping and now_s - pin.since_s > STOP_WAIT_S
                if is_old or pin.session.is_silent(now_s, liveness_s):
                    self._epoch.pins.unpin(pin.session, pin.number, tell=True)
            done = bool(worker.parts)
            if leases := self._records.leases[worker]:  # what it has besides, for others, ends with it
                pins = self._records.pins_at(worker)
                taken_s = [lease.since_s for lease in leases] + [pin.since_s for pin in pins]
                done = self.stopping and now_s - max(taken_s) > STOP_WAIT_S
            worker.excused = done and worker not in awaited
            if worker.waits_for_news:
                self._connections.beat(worker, now_s)
