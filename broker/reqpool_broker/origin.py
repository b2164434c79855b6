"""An origin as the broker knows it: its queue, what is in flight, who owns it. No I/O, no clock."""

from __future__ import annotations

from . import scheduler
from .queue import FairQueue
from .worker import Worker

SUSPECT_SPAN_S = 10.0
"""How long an origin that failed is tried last, where a request names others."""


class Origin:
    """One upstream.

    Attributes:
        name: e.g. ``dns://127.0.0.1:53``.
        kind: name of the kind.
        queue: what waits.
        in_flight: requests leased.
        by_worker: the same for each worker that has any.
        owner_count: how many workers share it.
        suspect_until_s: until when it is tried last.
        granted: some worker has connection slots for it.
    """

    def __init__(self, name: str, kind: str, now_s: float) -> None:
        self.name = name
        self.kind = kind
        self.queue = FairQueue()
        self.in_flight = 0
        self.by_worker: dict[Worker, int] = {}
        self.owner_count = 1
        self.suspect_until_s = 0.0
        self.granted = False
        self.last_used_s = now_s
        self.done = 0
        self.failed = 0
        self.limit = 0
        self._ranking: list[Worker] = []
        self._ranked_at = -1

    def owners(self, workers: dict[bytes, Worker], membership: int) -> list[Worker]:
        """The workers that own it now, best first; empty if none serves its kind.

        Args:
            workers: all workers.
            membership: changes whenever a worker comes, goes or changes its state.
        """
        if self._ranked_at != membership:
            able = [worker for worker in workers.values() if worker.able and self.kind in worker.kinds]
            self._ranking = scheduler.ranking(self.name, able)
            self._ranked_at = membership
        return self._ranking[: self.owner_count]

    def adapt(self, available: int, owners: list[Worker]) -> None:
        """Add or remove an owner, as their CPU asks for it."""
        shares = [worker.cpu_share() for worker in owners]
        self.owner_count = scheduler.owner_count(self.owner_count, shares, max(1, available))

    def leased(self, worker: Worker, count: int) -> None:
        self.in_flight += count
        self.by_worker[worker] = self.by_worker.get(worker, 0) + count
        worker.in_flight += count

    def ended(self, worker: Worker, count: int) -> None:
        self.in_flight -= count
        worker.in_flight -= count
        left = self.by_worker[worker] - count
        if left:
            self.by_worker[worker] = left
        else:
            del self.by_worker[worker]

    @property
    def idle(self) -> bool:
        return not (self.queue.waiting or self.in_flight)
