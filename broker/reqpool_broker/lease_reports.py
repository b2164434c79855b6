"""What workers report of leases: results, failed attempts, and what they hand back. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Sequence

from reqpool_contract import wire
from reqpool_contract.errors import Code
from reqpool_contract.wire import CONFIRM_BYTES, Reject

from . import retained_limits
from .broker_session_state import BrokerSessionState
from .client_heartbeats import ClientHeartbeats
from .epoch import Epoch
from .worker import Worker
from .worker_connections import WorkerConnections
from .worker_state import WorkerState

_DRAINING = WorkerState.DRAINING
_ENDED = BrokerSessionState.ENDED


class LeaseReports:
    """Takes RESULTS, RETURN and RETRY.

    Args:
        epoch: shared by both sides of the broker.
        connections: how workers are reached.
        heartbeats: asks clients to acknowledge.
    """

    def __init__(self, epoch: Epoch, connections: WorkerConnections, heartbeats: ClientHeartbeats) -> None:
        self._epoch = epoch
        self._records = epoch.records
        self._sessions = epoch.sessions
        self._outcomes = epoch.outcomes
        self._retries = epoch.retries
        self._connections = connections
        self._heartbeats = heartbeats

    def results(
        self,
        worker: Worker,
        blobs: list[bytes],
        now_s: float,
        number: int,
        groups: list[tuple[bytes, tuple[int, ...], int] | wire.BadGroup],
    ) -> None:
        """Take RESULTS; one that is repeated is ignored, and one after a gap is rejected."""
        if number != worker.received + 1:
            if number > worker.received and worker.route is not None:
                route = worker.route
                self._connections.disconnect(worker)
                self._connections.reject(route, Reject.GAP, f"RESULTS {number} came too early")
            return
        worker.received = number
        worker.unconfirmed_bytes += sum(map(len, blobs))
        for group, blob in zip(groups, blobs, strict=True):
            if isinstance(group, wire.BadGroup):
                self._give_up(worker, group, now_s)
                continue
            session_id, seqs, failed = group
            session = self._sessions.get(session_id)
            if session is None:
                continue
            if session.unacked_bytes > self._records.origins.config.clients.max_queued_bytes:
                silent = session.is_silent(now_s, self._epoch.liveness_s)
                blob = retained_limits.fit(blob, seqs, session, self._sessions.values(), silent=silent)
            fresh = self._outcomes.finish(worker, session, seqs, failed, blob)
            if fresh and worker.state is _DRAINING:  # it waits until they are acknowledged
                self._heartbeats.beat(session)
            if session.state is _ENDED and not session.open:
                self._sessions.pop(session_id, None)
        # Not before: what is received and is not with a client yet is undelivered only once it is published.
        if worker.unconfirmed_bytes > CONFIRM_BYTES:
            self._connections.beat(worker, now_s)

    def hand_back(
        self,
        worker: Worker,
        groups: Sequence[tuple[bytes, tuple[int, ...], bool] | wire.BadGroup],
        now_s: float,
    ) -> None:
        """Take RETURN: requests that the worker does not run."""
        full = False
        for group in reversed(groups):  # each is put before the previous one in the queue
            if isinstance(group, wire.BadGroup):
                self._give_up(worker, group, now_s)
                continue
            session_id, seqs, sent = group
            session = self._sessions.get(session_id)
            if session is not None:
                full |= self._retries.hand_back(worker, session, seqs, now_s, sent=sent)
        if full and worker.state is WorkerState.LIVE and not worker.full:
            # It has no room. Until a heartbeat says otherwise, or the two would play ping-pong.
            worker.full = True
            self._records.change_membership()

    def retry(
        self, worker: Worker, groups: Sequence[wire.FailedAttempts | wire.BadGroup], now_s: float
    ) -> None:
        """Take RETRY: attempts that failed."""
        for failed in reversed(groups):  # as in hand_back()
            if isinstance(failed, wire.BadGroup):
                self._give_up(worker, failed, now_s)
                continue
            session = self._sessions.get(failed.session)
            if session is not None:
                self._retries.retry(worker, session, failed, now_s)

    def _give_up(self, worker: Worker, group: wire.BadGroup, now_s: float) -> None:
        """End the requests of a group that cannot be read, whatever it says became of them."""
        self._epoch.malformed["workers"] += 1
        session = self._sessions.get(group.session)
        if session is not None:
            details = wire.encode_error(
                f"its worker sent a report that cannot be read: {group.text}", sent=True
            )
            failed = wire.FailedAttempts(group.session, group.seqs, Code.PROTOCOL, True, details)
            self._retries.retry(worker, session, failed, now_s)
