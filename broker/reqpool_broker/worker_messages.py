"""The workers socket's messages: who takes each of them. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reqpool_contract import wire
from reqpool_contract.errors import ProtocolError
from reqpool_contract.wire import Reject, Verb

from .drains import Drains
from .epoch import Epoch
from .lease_reports import LeaseReports
from .short_way import ShortResults
from .worker import Worker
from .worker_connections import WorkerConnections
from .worker_departures import WorkerDepartures
from .worker_hello import WorkerHello
from .worker_state import WorkerState

_DRAINING = WorkerState.DRAINING


class WorkerMessages:
    """Reads what workers and the supervisor send (docs/protocol.md, verb x state).

    Args:
        epoch: shared by both sides of the broker.
        connections: how workers are reached.
        hello: takes HELLO.
        reports: takes what became of leases.
        departures: takes GOODBYE, and what the supervisor reports.
        drains: takes DRAIN, and STOPPING.
    """

    def __init__(
        self,
        epoch: Epoch,
        connections: WorkerConnections,
        hello: WorkerHello,
        reports: LeaseReports,
        departures: WorkerDepartures,
        drains: Drains,
    ) -> None:
        self._epoch = epoch
        self._records = epoch.records
        self._connections = connections
        self._hello = hello
        self._reports = reports
        self._departures = departures
        self._drains = drains
        self._by_route = connections.by_route
        self._large = epoch.sender.large
        self._take_short = ShortResults(epoch).take
        self._on: dict[Verb, Callable[..., None]] = {
            Verb.HEARTBEAT: self._heartbeat,
            Verb.RETURN: reports.hand_back,
            Verb.RETRY: reports.retry,
            Verb.GRANTED: self._granted,
            Verb.UNPIN: self._unpin,
            Verb.DRAIN: drains.begin,
        }

    def message(self, route: bytes, frames: list[bytes], now_s: float) -> None:
        """Take one message of the workers socket, its routing id split off."""
        worker = self._by_route.get(route)
        if worker is not None and len(frames) > 1 and self._take_short(worker, frames, now_s):
            return
        try:
            verb, values = wire.decode(frames[0] if frames else b"", wire.WORKER_TO_BROKER)
            blobs = frames[1:]
            if len(blobs) != (len(values[3]) if verb is Verb.RESULTS else 0):
                raise ProtocolError(f"{verb.name} came with {len(blobs)} blobs")
            if verb is Verb.HELLO:
                self._hello.hello(route, now_s, *values)
                return
        except ProtocolError as error:
            self._epoch.malformed["workers"] += 1
            self._connections.reject(route, Reject.MALFORMED, error.text)
            return
        if verb is Verb.DEAD:
            self._departures.die(now_s, *values)
            return
        if verb is Verb.STARTED:
            self._departures.announce(*values)
            return
        if verb is Verb.STOPPING:
            self._drains.stopping = True
            return
        if worker is None or worker.route != route:
            if verb is not Verb.GOODBYE:
                self._connections.reject(route, Reject.UNKNOWN, "unknown worker: send HELLO")
            return
        epoch, seen, *rest = values
        if not worker.heartbeats.fresh(epoch, seen, now_s):
            self._connections.disconnect(worker)
            self._connections.reject(route, Reject.UNKNOWN, "a stale message: send HELLO")
            return
        large = self._large[worker]
        if large.under_way and large.arrived(seen):
            self._epoch.leasing.wake_large()
        if verb is Verb.GOODBYE:
            self._departures.forget(worker, now_s, orderly=True)
        elif verb is Verb.RESULTS:
            self._reports.results(worker, blobs, now_s, *rest)
        else:
            self._on[verb](worker, *rest, now_s)

    def _heartbeat(self, worker: Worker, number: int, sample: dict[str, Any], now_s: float) -> None:
        worker.heartbeat_seen = number
        worker.sample = sample
        full = sample.get("full") is True
        if full != worker.full:
            worker.full = full
            self._records.change_membership()
        if worker.state is _DRAINING:  # it ends no sooner than it knows that this one was seen
            self._connections.beat(worker, now_s)

    def _granted(self, worker: Worker, origin: str, grant: int, held: int, now_s: float) -> None:
        self._epoch.grants.granted(worker, origin, grant, held)

    def _unpin(self, worker: Worker, session: bytes, pin: int, now_s: float) -> None:
        known = self._epoch.sessions.get(session)
        found = None if known is None else self._records.pins_of(known).get(pin)
        if known is not None and found is not None and found.worker is worker:
            self._epoch.pins.unpin(known, pin, tell=False)
