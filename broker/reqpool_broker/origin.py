"""An origin as the broker knows it: its queue, what is in flight, who owns it. No I/O, no clock."""

from __future__ import annotations

from . import slot_allocation
from .fair_queue import QUANTUM, FairQueue, QueuedGroup
from .overload_control import OverloadControl, Refusal
from .service_rate import ServiceRate
from .upstream import Upstream
from .worker import Worker

PREFETCH_S = 0.005
"""For about so long a worker has work when results and new leases are on their way."""
SUSPECT_SPAN_S = 10.0
"""How long an origin that failed is tried last, where a request names others."""


class Origin:
    """One way to an upstream.

    Attributes:
        name: e.g. ``dns://127.0.0.1:53``.
        kind: name of the kind.
        upstream: the server, with which others may lead.
        queue: what waits.
        in_flight: requests leased.
        by_worker: the same for each worker that has any, without those on pinned connections.
        pins: connections pinned to sessions, for each worker that has any.
        owner_count: how many workers share it.
        suspect_until_s: until when it is tried last.
        is_forgotten: it has been unused for long, and the table knows it no longer.
        granted: some worker has connection slots for it.
        policy: how requests to it and connections there are treated.
        limit: what the upstream may have at a time, as last worked out.
        refused: requests that it would not have served in time.
        places: requests that may be in work there at a time, including those queued on a connection.
        service: what the upstream serves.
        admission: who may wait for it.
    """

    def __init__(self, name: str, kind: str, upstream: Upstream, now_s: float) -> None:
        self.name = name
        self.kind = kind
        self.upstream = upstream
        self.policy = upstream.policy
        self.queue = FairQueue()
        self.in_flight = 0
        self.by_worker: dict[Worker, int] = {}
        self.pins: dict[Worker, int] = {}
        self.owner_count = 1
        self.suspect_until_s = 0.0
        self.granted = False
        self.is_forgotten = False
        self.last_used_s = now_s
        self.done = 0
        self.failed = 0
        self.limit = 0
        self.places = 0
        self.refused = 0
        self.service = ServiceRate()
        self.admission = OverloadControl(self.queue, self.service)
        self._prefetch = 0
        self._measured_s = now_s
        self._measured_done = 0
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
            self._ranking = slot_allocation.ranking(self.name, able)
            self._ranked_at = membership
        return self._ranking[: self.owner_count]

    def adapt(self, available: int, owners: list[Worker]) -> bool:
        """Add or remove an owner, as their CPU asks for it; returns whether there are more or fewer now."""
        shares = [worker.cpu_share() for worker in owners]
        before = self.owner_count
        self.owner_count = slot_allocation.owner_count(self.owner_count, shares, max(1, available))
        return self.owner_count != before

    @property
    def idle(self) -> bool:
        return not (self.queue.waiting or self.in_flight or self.pins)

    def wanted(self, depth: int) -> int:
        """Return how many connections the load could use now, ``depth`` requests on each, and pinned ones."""
        shared = self.queue.waiting + sum(self.by_worker.values())
        # Where many share a connection, one that has to be given up (a request on it timed out) takes a
        # while to answer the others: there is a place for the one that takes over.
        spare = 1 if shared and depth > 1 else 0
        return -(-shared // depth) + spare + sum(self.pins.values())

    def room(self, worker: Worker, depth: int) -> int:
        """Return how many more requests a worker may be leased.

        Twice what its connections take, or as much as is answered within :data:`PREFETCH_S`: without a
        prefetch each would idle for the broker's round trip between two requests. Where requests are known to
        take long, fewer: what waits at the worker is first come, first served, whatever its session.
        """
        grant = worker.grants.get(self.name)
        slots = (grant.slots if grant else 0) - self.pins.get(worker, 0)
        if slots <= 0:
            return 0
        places = slots * depth
        spare = min(places, self.service.spare) if self.service.known else places
        return places + max(spare, self._prefetch) - self.by_worker.get(worker, 0)

    def needed_s(self, now_s: float) -> float:
        """Learn from what has been answered; returns what time a request must have left to be leased now.

        Call it while the service is busy. It is 0 as long as no request has been refused for lack of time.
        """
        service = self.service
        service.observe(now_s, self.done, self.in_flight, self.limit)
        if service.known:
            self.queue.turn = min(QUANTUM, service.turn)
        return service.needed_s if self.admission.overloaded else 0.0

    def stand(self, now_s: float) -> None:
        """Note that more waits than may be in work now."""
        # Connections that are held come back when their sessions like, whatever the upstream serves.
        if self.upstream.pins:
            self.service.rest(now_s)
        else:
            self.service.stand(now_s, self.done)

    def rest(self, now_s: float) -> None:
        """Note that nothing waits any more, or not for the upstream."""
        if self.service.busy:
            self.service.rest(now_s)
            self.admission.rest()
            self.queue.turn = QUANTUM

    def judge(self, group: QueuedGroup, now_s: float) -> Refusal | None:
        """Decide about requests that are to wait, see :meth:`.overload_control.OverloadControl.judge`."""
        self._look(now_s)
        if self.upstream.pins or not self.service.known:
            return None
        return self.admission.judge(group, now_s, max(0, self.places - self.upstream.in_flight), self.limit)

    def _look(self, now_s: float) -> None:
        """Forget what was believed of a queue that is gone: it may have expired, or been cancelled."""
        if not self.queue.waiting:
            self.rest(now_s)
        self.service.age(now_s, idle=not self.in_flight)

    def measure(self, now_s: float) -> None:
        """Note how fast it answers; once a second or so."""
        self._look(now_s)
        span_s = now_s - self._measured_s
        if span_s > 0:
            self._prefetch = int((self.done - self._measured_done) / span_s * PREFETCH_S)
            self._measured_s, self._measured_done = now_s, self.done
