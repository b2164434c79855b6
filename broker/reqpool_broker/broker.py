"""The broker without its sockets: messages and time in, messages to send out. No I/O, no clock.

:class:`~.client_messages.ClientMessages` and :class:`~.worker_messages.WorkerMessages` read messages, each of
its own peers. They share one :class:`~.epoch.Epoch`: its :class:`~.records.Records` know where requests are.
A :class:`~.session.Session` and a :class:`~.worker.Worker` are what is known of a peer.
"""

from __future__ import annotations

from reqpool_contract import wire

from .cancellations import Cancellations
from .client_heartbeats import ClientHeartbeats
from .client_messages import ClientMessages
from .config import EMPTY, Config
from .deadlines import Deadlines
from .drains import Drains
from .epoch import Epoch
from .lease_reports import LeaseReports
from .recovery import Recovery
from .results_placement import ResultsPlacement
from .session_lifecycle import SessionLifecycle
from .settings_budget import SettingsBudget
from .status_report import StatusReport
from .submissions import Submissions
from .worker_connections import WorkerConnections
from .worker_departures import WorkerDepartures
from .worker_hello import WorkerHello
from .worker_messages import WorkerMessages


class Broker:
    """Decides everything that the broker does. One thread calls it.

    Args:
        results: what WELCOME says of the first results socket.
        now_s: monotonic seconds, as in all methods.
        epoch: number of this epoch, above 0, which no other broker has.
        reign, predecessors, deaths: see :class:`~.recovery.Recovery`.
        heartbeat_ms: span between two heartbeats.
        liveness_ms: silence after which a peer counts as lost.
        session_expiry_ms: silence after which a session is forgotten.
        config: names and policies of upstreams.

    Attributes:
        client_messages: takes the intake socket's messages.
        lifecycle: begins and ends sessions; takes subscriptions.
        placement: which session is published on which results socket.
        heartbeats: says goodbye to clients.
        worker_messages: takes the workers socket's messages.
        connections: how workers are reached.
        status: makes status reports.
        outbox: what to send; the caller empties it after each :meth:`flush` or :meth:`tick`.
        next_beat_s: when :meth:`flush` is to be called even if nothing has come in: heartbeats are due.
    """

    def __init__(
        self,
        results: str,
        now_s: float,
        *,
        epoch: int,
        reign: bytes,
        predecessors: frozenset[bytes] | None = None,
        deaths: int = 0,
        heartbeat_ms: int = wire.HEARTBEAT_MS,
        liveness_ms: int = wire.LIVENESS_MS,
        session_expiry_ms: int = wire.SESSION_EXPIRY_MS,
        config: Config = EMPTY,
    ) -> None:
        self.epoch = epoch
        recovery = Recovery(predecessors, reign, deaths)
        self._epoch = shared = Epoch(
            self.epoch, recovery, heartbeat_ms, liveness_ms, session_expiry_ms, config, now_s
        )
        self.outbox = shared.outbox
        self.records = shared.records
        self.grants = shared.grants
        self.leasing = shared.leasing
        self.sender = shared.sender
        self.sessions = shared.sessions
        self.malformed = shared.malformed
        self.liveness_s = shared.liveness_s
        self.placement = ResultsPlacement(results)
        self._submissions = Submissions(shared)
        self.heartbeats = ClientHeartbeats(shared, self.placement)
        self.status = StatusReport(shared, self.heartbeats, now_s)
        budget, cancellations = (
            SettingsBudget(shared),
            Cancellations(shared.records, shared.sender, shared.pins),
        )
        self.lifecycle = SessionLifecycle(shared, self.placement, self._submissions, budget, cancellations)
        self.client_messages = ClientMessages(
            shared, self.lifecycle, self._submissions, self.heartbeats, budget, cancellations, self.status
        )
        self.connections = connections = WorkerConnections(shared)
        self._departures = WorkerDepartures(shared, connections, self._submissions)
        self._deadlines = Deadlines(shared, self.lifecycle, self._departures)
        self._drains = Drains(shared, connections, self.heartbeats)
        self.worker_messages = WorkerMessages(
            shared,
            connections,
            WorkerHello(shared, connections, self._submissions),
            LeaseReports(shared, connections, self.heartbeats),
            self._departures,
            self._drains,
        )
        self.next_beat_s = now_s
        self._next_heartbeat_s = now_s
        self._next_second_s = now_s

    @property
    def config(self) -> Config:
        """Names and policies of upstreams, and the limits of clients."""
        return self.records.origins.config

    def may_end(self, now_s: float) -> bool:
        """Tell whether it is not too early for a planned stop: see :meth:`~.epoch.Epoch.may_end`."""
        return self._epoch.may_end(now_s)

    def reconfigure(self, config: Config) -> None:
        """Take a new configuration; what it does not change goes on as before. Call :meth:`flush` then."""
        self.grants.reconfigure(config)

    def flush(self, now_s: float) -> None:
        """Decide what the messages taken since the last flush ask for; once per turn of the loop."""
        if now_s >= self.next_beat_s:
            # Not all at once, nor to catch up: sending through a socket has it clear away what has ended.
            span_s = self._epoch.heartbeat_ms / 1000
            self.next_beat_s = max(self.next_beat_s, now_s - span_s) + span_s / len(self.placement)
            self.heartbeats.beat_next_socket()
        if self.heartbeats.awaiting_confirmation:
            self.heartbeats.confirm()
        self.leasing.lease(now_s)

    def tick(self, now_s: float) -> None:
        """Do what is due by time; call it about every 50 ms."""
        self._deadlines.expire_requests(now_s)
        self._epoch.settle(now_s)
        self._submissions.release_deferred(now_s)
        if now_s >= self._next_heartbeat_s:
            self._next_heartbeat_s = now_s + self._epoch.heartbeat_ms / 1000
            self.connections.beat_all(now_s)
            self._departures.warn_of_strangers(now_s)
            self._deadlines.give_up_on_workers(now_s)
        else:
            self._drains.hasten(now_s)
        if now_s >= self._next_second_s:
            self._next_second_s = now_s + 1.0
            self.status.measure_rates(now_s)
            self.leasing.adapt(now_s)
            self._deadlines.release_idle(now_s)
            self.client_messages.begin_second()
            self._deadlines.expire_sessions(now_s)
        self.flush(now_s)

    def check(self) -> None:
        """Count everything again and compare; for tests. See :meth:`~.records.Records.check`."""
        self.records.check(self.sender.unsent())
