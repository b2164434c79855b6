"""What ``reqpool status`` shows of the broker. No I/O, no clock."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from .client_heartbeats import ClientHeartbeats
from .epoch import Epoch

MAX_REPORTED = 200
"""Sessions, and origins, in a status report at most: those with the most to do."""


class StatusReport:
    """Makes status reports.

    Args:
        epoch: what is reported on.
        heartbeats: knows which workers wait for clients.
        now_s: when the broker started; monotonic.

    Attributes:
        sample: the psutil figures of the broker's own process, set by its owner.
    """

    def __init__(self, epoch: Epoch, heartbeats: ClientHeartbeats, now_s: float) -> None:
        self.sample: dict[str, Any] = {}
        self._epoch = epoch
        self._heartbeats = heartbeats
        self._started_s = now_s
        self._rates = {"submitted_per_s": 0.0, "done_per_s": 0.0}
        self._rated = (now_s, 0, 0)

    def measure_rates(self, now_s: float) -> None:
        """Work out how many requests came and ended per second since the last call; once a second."""
        then_s, submitted, done = self._rated
        records = self._epoch.records
        self._rated = (now_s, records.submitted, records.done)
        if now_s > then_s:
            self._rates = {
                "submitted_per_s": round((records.submitted - submitted) / (now_s - then_s), 1),
                "done_per_s": round((records.done - done) / (now_s - then_s), 1),
            }

    def make(self, now_s: float) -> dict[str, Any]:
        """Return the report, ready to be encoded."""
        epoch, records = self._epoch, self._epoch.records
        limits = records.origins.config.clients
        heard_s = self._heartbeats.awaited(now_s)
        busiest = sorted(records.sessions.values(), key=lambda session: session.pending, reverse=True)
        return {
            "epoch": epoch.number,
            "uptime_s": round(now_s - self._started_s, 3),
            "broker": self.sample,
            "liveness_ms": round(epoch.liveness_s * 1000),
            "sessions": [session.report(now_s, limits) for session in busiest[:MAX_REPORTED]],
            "sessions_total": len(records.sessions),
            "client_limits": asdict(limits),
            "workers": [
                worker.report(
                    now_s,
                    min(records.awaits_since_s(worker, now_s, epoch.liveness_s), heard_s.get(worker, now_s)),
                    blocking=epoch.grants.is_blocking(worker),
                )
                for worker in records.workers.values()
            ],
            "awaited": [
                {
                    "id": id_.hex(),
                    "since_heartbeat_s": round(now_s - self._started_s, 3),
                    "blocking": epoch.grants.is_held_up,
                }
                for id_ in epoch.recovery.unheard
            ],
            "origins": records.origins.report(MAX_REPORTED),
            "origins_total": len(records.origins),
            "rates": self._rates,
            "counters": {
                "submitted": records.submitted,
                "done": records.done,
                "failed": dict(records.failed),
                "requeued": records.requeued,
                "malformed": dict(epoch.malformed),
            },
        }
