"""HELLO of workers: WELCOME, and what they have from before, brought in line with the records.

No I/O, no clock.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from reqpool_contract import checks, wire
from reqpool_contract.wire import KindInfo, Reject, Verb

from .broker_session_state import BrokerSessionState
from .epoch import Epoch
from .submissions import Submissions
from .terms import Terms
from .worker import Worker
from .worker_connections import WorkerConnections

MAX_WORKERS = 1_000


class WorkerHelloFields(NamedTuple):
    """What a worker's HELLO says.

    Attributes:
        id: the worker's.
        name, pid: of its process, for people.
        epoch: of the broker that welcomed it last.
        kinds: what it serves.
        running: session id to seqs that it runs, or whose results it retains.
        slots: origin to open connections.
        pins: session id, number, kind and origin of each pinned connection.
        keeps: how many settings it caches; None: it does not say.
        apart: it takes large payloads in frames of their own.
    """

    id: bytes
    name: str
    pid: int
    epoch: Any
    kinds: dict[str, KindInfo]
    running: dict[bytes, set[int]]
    slots: dict[str, int]
    pins: list[tuple[bytes, int, str, str]]
    keeps: int | None
    apart: bool

    @classmethod
    def read(cls, about: dict[str, Any]) -> WorkerHelloFields:
        """Check what a worker sent.

        Raises:
            ProtocolError: if it is malformed.
        """
        return cls(
            checks.identity(about.get("worker")),
            checks.text(about.get("name", ""))[: wire.MAX_NAME_CHARS],
            checks.uint(about.get("pid", 0)),
            about.get("epoch"),
            wire.kinds(about.get("kinds", ())),
            wire.held(about.get("held", ())),
            wire.slots(about.get("slots", ())),
            wire.pins(about.get("pins", ())),
            checks.optional_uint(about.get("keeps")),
            checks.boolean(about.get("apart", False)),
        )


class WorkerHello:
    """Welcomes workers.

    Args:
        epoch: shared by both sides of the broker.
        connections: how workers are reached.
        submissions: what is deferred until workers have reported.
    """

    def __init__(self, epoch: Epoch, connections: WorkerConnections, submissions: Submissions) -> None:
        self._epoch = epoch
        self._outbox = epoch.outbox
        self._records = epoch.records
        self._sessions = epoch.sessions
        self._connections = connections
        self._submissions = submissions

    def hello(self, route: bytes, now_s: float, lowest: int, highest: int, about: dict[str, Any]) -> None:
        """Take a HELLO: WELCOME, or REJECT.

        Raises:
            ProtocolError: if it is malformed.
        """
        epoch, workers = self._epoch, self._records.workers
        version = epoch.common_version(self._outbox.workers, route, lowest, highest)
        if version is None:
            return
        hello = WorkerHelloFields.read(about)
        worker = workers.get(hello.id)
        if worker is None and len(workers) >= MAX_WORKERS:
            self._connections.reject(route, Reject.OVERLOADED, "too many workers")
            return
        if worker is None:
            worker = Worker(hello.id, hello.name, hello.pid, now_s)
            self._records.add_worker(worker)
        self._connections.take_over(route, worker)
        worker.connect(
            route,
            hello.name,
            hello.pid,
            hello.kinds,
            hello.keeps,
            now_s,
            strange=epoch.recovery.is_stranger(hello.id),
            epoch=epoch.number,
            liveness_s=epoch.liveness_s,
        )
        epoch.sender.begin(worker, apart=hello.apart)
        self._records.change_membership()
        welcome = {
            "epoch": epoch.number,
            "heartbeat_ms": epoch.heartbeat_ms,
            "liveness_ms": round(epoch.liveness_s * 1000),
        }
        self._outbox.workers.append([route, wire.encode(Verb.WELCOME, version, welcome)])
        foreign = hello.epoch != epoch.number
        first = epoch.recovery.report(hello.id)
        if foreign and hello.epoch is not None:
            epoch.follow(now_s)
        epoch.grants.hold_slots(worker, hello.slots, inherited=foreign and first)
        self._reconcile_leases(worker, hello.running, now_s, foreign=foreign)
        self._reconcile_pins(worker, hello.pins, now_s, foreign=foreign)
        epoch.settle(now_s)
        self._submissions.release_deferred(now_s)

    def _reconcile_leases(
        self, worker: Worker, running: dict[bytes, set[int]], now_s: float, *, foreign: bool
    ) -> None:
        """Adopt what it runs and is not known, cancel what has ended, lease again what did not arrive."""
        epoch = self._epoch
        epoch.retries.reconcile(worker, running, now_s)
        unwanted: list[tuple[bytes, tuple[int, ...]]] = []
        for session_id, seqs in running.items():
            session = self._sessions.get(session_id)
            if session is None and foreign:  # whatever the bound for clients: what is forgotten may run twice
                session = epoch.new_session(session_id, now_s)
            if session is None:
                gone = seqs
            else:
                gone = session.superseded(seqs, worker)
                unknown = session.unknown(seqs)
                if foreign and unknown:
                    # A client of the earlier epoch may still submit them again.
                    terms = Terms(session, "", (), 0, 0, None, now_s + epoch.expiry_s)
                    epoch.leasing.adopt(worker, terms, dict.fromkeys(unknown, b""))
                else:
                    gone |= unknown
            if gone:
                unwanted.append((session_id, tuple(sorted(gone))))
        if unwanted and worker.route is not None:
            # At once: after a LEASE of the same turn it would take back what that has just given.
            head = wire.encode(Verb.CANCEL, epoch.number, worker.heartbeat_seen, unwanted)
            self._outbox.workers.append([worker.route, head])

    def _reconcile_pins(
        self, worker: Worker, pins: list[tuple[bytes, int, str, str]], now_s: float, *, foreign: bool
    ) -> None:
        """Adopt pinned connections that are not known, and release those that nobody wants."""
        epoch = self._epoch
        reported = {(session_id, number) for session_id, number, _, _ in pins}
        # The first request of these has come, and may have no connection yet.
        reported.update(
            (lease.terms.session.id, lease.terms.pin)
            for lease in self._records.leases[worker]
            if lease.terms.opens and lease.terms.pin is not None
        )
        for pin in self._records.pins_at(worker):
            if (pin.session.id, pin.number) not in reported:
                epoch.pins.unpin(pin.session, pin.number, tell=False)
        for session_id, number, kind, name in pins:
            session = self._sessions.get(session_id)
            if session is None and foreign:
                session = epoch.new_session(session_id, now_s)
            pin_known = self._records.pins_of(session).get(number) if session is not None else None
            if pin_known is not None and pin_known.worker is worker:
                continue
            wanted = (
                session is not None
                and session.state is not BrokerSessionState.ENDED
                and number not in session.let_go
            )
            if session is not None and wanted and foreign and pin_known is None:
                epoch.pins.adopt(worker, session, number, kind, name)
            elif worker.route is not None:
                head = wire.encode(Verb.UNPIN, epoch.number, worker.heartbeat_seen, session_id, number)
                self._outbox.workers.append([worker.route, head])
