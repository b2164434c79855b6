"""The broker without its sockets: messages and time in, messages to send out. No I/O, no clock.

:class:`~.clients.Clients` and :class:`~.workers.Workers` read messages (docs/protocol.md, verb x state),
each of its own peers, and share one :class:`~.epoch.Epoch`: its :class:`~.records.Records` know where
requests are, a :class:`~.session.Session` and a :class:`~.worker.Worker` are what is known of a peer.
"""

from __future__ import annotations

import random
from dataclasses import asdict
from typing import Any

from reqpool_contract import wire

from .clients import Clients
from .config import EMPTY, Config
from .deadlines import Deadlines
from .epoch import Epoch
from .recovery import Recovery
from .workers import Workers

MAX_REPORTED = 200
"""Sessions, and origins, in a status report at most: those with the most to do."""


class Broker:
    """The broker's state. One thread calls it.

    Args:
        results: what WELCOME says of the first results socket.
        now_s: monotonic seconds, as in all methods.
        epoch: number of this life; None: random, so that no two lives share one.
        predecessors, reign, deaths: see :class:`~.recovery.Recovery`.
        heartbeat_ms: span between two heartbeats.
        liveness_ms: silence after which a peer counts as lost.
        session_expiry_ms: silence after which a session is forgotten.
        config: names and policies of upstreams.

    Attributes:
        clients: the intake and results sockets' side.
        workers: the workers socket's side.
        outbox: what to send; the caller empties it after each :meth:`flush` or :meth:`tick`.
        next_beat_s: when :meth:`flush` is to be called even if nothing has come in: heartbeats are due.
        sample: the psutil figures of the broker's own process, set by its owner.
    """

    def __init__(
        self,
        results: str,
        now_s: float,
        *,
        epoch: int | None = None,
        predecessors: frozenset[bytes] | None = None,
        reign: bytes | None = None,
        deaths: int = 0,
        heartbeat_ms: int = wire.HEARTBEAT_MS,
        liveness_ms: int = wire.LIVENESS_MS,
        session_expiry_ms: int = wire.SESSION_EXPIRY_MS,
        config: Config = EMPTY,
    ) -> None:
        self.epoch = random.SystemRandom().getrandbits(48) | 1 if epoch is None else epoch
        succession = Recovery(predecessors, reign, deaths)
        self._life = Epoch(
            self.epoch, succession, heartbeat_ms, liveness_ms, session_expiry_ms, config, now_s
        )
        self.outbox = self._life.outbox
        self.records = self._life.records
        self.grants = self._life.grants
        self.leasing = self._life.leasing
        self.sender = self._life.sender
        self._deadlines = Deadlines(
            self.records, self.sender, self._life.outcomes, self._life.pins, self.leasing
        )
        self.sessions = self._life.sessions
        self.malformed = self._life.malformed
        self.liveness_s = self._life.liveness_s
        self.clients = Clients(self._life, results, self.report)
        self.workers = Workers(self._life, self.clients)
        self.sample: dict[str, Any] = {}
        self._started_s = now_s
        self._rates = {"submitted_per_s": 0.0, "done_per_s": 0.0}
        self._rated = (now_s, 0, 0)
        self.next_beat_s = now_s
        self._next_heartbeat_s = now_s
        self._next_second_s = now_s

    @property
    def config(self) -> Config:
        """Names and policies of upstreams."""
        return self.records.origins.config

    def may_end(self, now_s: float) -> bool:
        """Is a planned stop due, or is it still too early for one? See :meth:`~.epoch.Epoch.may_end`."""
        return self._life.may_end(now_s)

    def reconfigure(self, config: Config, now_s: float) -> None:
        """Take a new configuration. What it does not change goes on as it was; call :meth:`flush` after
        it."""
        self.grants.reconfigure(config)

    def flush(self, now_s: float) -> None:
        """Decide what the messages taken since the last flush ask for; once per turn of the loop."""
        if now_s >= self.next_beat_s:
            # Not all at once, nor to catch up: sending through a socket has it clear away what has ended.
            span_s = self._life.heartbeat_ms / 1000
            self.next_beat_s = max(self.next_beat_s, now_s - span_s) + span_s / len(self.clients.spread)
            self.clients.beat_due_sessions()
        if self.clients.awaiting_confirmation:
            self.clients.confirm()
        self.leasing.lease(now_s)

    def tick(self, now_s: float) -> None:
        """Do what time asks for; call it about every 50 ms."""
        self._deadlines.expire(now_s)
        self._life.settle(now_s)
        self.clients.submissions.release_deferred(now_s)
        if now_s >= self._next_heartbeat_s:
            self._next_heartbeat_s = now_s + self._life.heartbeat_ms / 1000
            self.workers.beat(now_s)
            self.workers.watch(now_s)
        else:
            self.workers.hasten_drains(now_s)
        if now_s >= self._next_second_s:
            self._next_second_s = now_s + 1.0
            self._rate(now_s)
            self.leasing.adapt(now_s)
            self.clients.watch(now_s)
        self.flush(now_s)

    def _rate(self, now_s: float) -> None:
        then_s, submitted, done = self._rated
        self._rated = (now_s, self.records.submitted, self.records.done)
        if now_s > then_s:
            self._rates = {
                "submitted_per_s": round((self.records.submitted - submitted) / (now_s - then_s), 1),
                "done_per_s": round((self.records.done - done) / (now_s - then_s), 1),
            }

    def check(self) -> None:
        """Count everything again and compare; for tests. See :meth:`~.records.Records.check`."""
        self.records.check(self.sender.unsent())

    def report(self, now_s: float) -> dict[str, Any]:
        """What ``reqpool status`` shows."""
        records = self.records
        heard_s = self.clients.awaited(now_s)
        busiest = sorted(self.sessions.values(), key=lambda session: session.pending, reverse=True)
        return {
            "epoch": self.epoch,
            "uptime_s": round(now_s - self._started_s, 3),
            "broker": self.sample,
            "liveness_ms": round(self.liveness_s * 1000),
            "sessions": [session.report(now_s, self.config.clients) for session in busiest[:MAX_REPORTED]],
            "sessions_total": len(self.sessions),
            "client_limits": asdict(self.config.clients),
            "workers": [
                worker.report(
                    now_s,
                    min(records.awaits_since_s(worker, now_s, self.liveness_s), heard_s.get(worker, now_s)),
                    blocking=self.grants.is_blocking(worker),
                )
                for worker in records.workers.values()
            ],
            "awaited": [
                {
                    "id": id_.hex(),
                    "since_heartbeat_s": round(now_s - self._started_s, 3),
                    "blocking": self.grants.is_held_up,
                }
                for id_ in self._life.succession.unheard
            ],
            "origins": records.origins.report(MAX_REPORTED),
            "origins_total": len(records.origins),
            "rates": self._rates,
            "counters": {
                "submitted": records.submitted,
                "done": records.done,
                "failed": dict(records.failed),
                "requeued": records.requeued,
                "malformed": dict(self.malformed),
            },
        }
