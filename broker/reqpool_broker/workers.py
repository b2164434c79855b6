"""The broker's workers: from HELLO to GOODBYE or death, and what they report. No I/O, no clock."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from reqpool_contract import checks, wire
from reqpool_contract.errors import Code, ProtocolError
from reqpool_contract.wire import CONFIRM_BYTES, Reject, Verb

from . import retained_limits
from .broker_spans import HELD_S
from .clients import Clients
from .epoch import WORKER_FORGET_S, Epoch
from .retries import Retries
from .terms import Terms
from .worker import Worker

log = logging.getLogger("reqpool")

MAX_WORKERS = 1_000
STRANGER_SPAN_S = 1.0
"""How long the supervisor's word of a worker may be on its way, while the worker is here already."""


class Workers:
    """The workers socket's side of the broker.

    Args:
        life: shared with the clients' side.
        clients: who hear of reports that they wait for.
    """

    def __init__(self, life: Epoch, clients: Clients) -> None:
        self._life = life
        self._clients = clients
        self._outbox = life.outbox
        self._records = life.records
        self._outcomes = life.outcomes
        self._pins = life.pins
        self._leasing = life.leasing
        self._sender = life.sender
        self._attempts = Retries(
            life.records, life.sender, life.outcomes, life.pins, life.leasing, life.grants
        )
        self.sessions = life.sessions
        self._worker_at: dict[bytes, Worker] = {}
        self._stopping = False
        self._on: dict[Verb, Callable[..., None]] = {
            Verb.HEARTBEAT: self._heartbeat,
            Verb.RETURN: self._return,
            Verb.RETRY: self._retry,
            Verb.GRANTED: self._granted,
            Verb.UNPIN: self._unpin,
            Verb.DRAIN: self._drain,
        }

    @property
    def any_serves(self) -> bool:
        """Is one connected that has not said that it ends?"""
        return any(one.state == "live" and one.route is not None for one in self._records.workers.values())

    def message(self, route: bytes, frames: list[bytes], now_s: float) -> None:
        """Take one message of the workers socket, its routing id split off."""
        try:
            verb, values = wire.decode(frames[0] if frames else b"", wire.WORKER_TO_BROKER)
            blobs = frames[1:]
            if len(blobs) != (len(values[3]) if verb is Verb.RESULTS else 0):
                raise ProtocolError(f"{verb.name} came with {len(blobs)} blobs")
            if verb is Verb.HELLO:
                self._hello(route, now_s, *values)
                return
        except ProtocolError as error:
            self._life.malformed["workers"] += 1
            self._life.reject(self._outbox.workers, route, Reject.MALFORMED, error.text)
            return
        if verb is Verb.DEAD:
            self._dead(now_s, *values)
            return
        if verb is Verb.STARTED:
            self._started(*values)
            return
        if verb is Verb.STOPPING:
            self._stopping = True
            return
        worker = self._worker_at.get(route)
        if worker is None or worker.route != route:
            if verb is not Verb.GOODBYE:
                self._life.reject(self._outbox.workers, route, Reject.UNKNOWN, "unknown worker: send HELLO")
            return
        epoch, seen, *rest = values
        if not worker.heartbeats.fresh(epoch, seen, now_s):
            self._disconnect(worker)
            self._life.reject(self._outbox.workers, route, Reject.UNKNOWN, "a stale message: send HELLO")
            return
        large = self._sender.large[worker]
        if large.under_way and large.arrived(seen):
            self._leasing.wake_large()
        if verb is Verb.GOODBYE:
            self._forget_worker(worker, now_s, orderly=True)
        elif verb is Verb.RESULTS:
            self._results(worker, blobs, now_s, *rest)
        else:
            self._on[verb](worker, *rest, now_s)

    def _hello(self, route: bytes, now_s: float, lowest: int, highest: int, about: dict[str, Any]) -> None:
        version = self._life.common_version(self._outbox.workers, route, lowest, highest)
        if version is None:
            return
        id_ = checks.identity(about.get("worker"))
        name = checks.text(about.get("name", ""))[: wire.MAX_NAME_CHARS]
        pid = checks.uint(about.get("pid", 0))
        kinds = wire.kinds(about.get("kinds", ()))
        held = wire.held(about.get("held", ()))
        slots = wire.slots(about.get("slots", ()))
        pins = wire.pins(about.get("pins", ()))
        keeps = checks.optional_uint(about.get("keeps"))
        takes_apart = checks.boolean(about.get("apart", False))
        worker = self._records.workers.get(id_)
        if worker is None and len(self._records.workers) >= MAX_WORKERS:
            self._life.reject(self._outbox.workers, route, Reject.OVERLOADED, "too many workers")
            return
        previous = self._worker_at.pop(route, None)
        if previous is not None and previous is not worker:
            previous.route = None
        if worker is None:
            worker = Worker(id_, name, pid, now_s)
            self._records.add_worker(worker)
        if worker.route is not None:
            self._worker_at.pop(worker.route, None)
        self._worker_at[route] = worker
        worker.connect(
            route, name, pid, kinds, keeps, now_s, epoch=self._life.epoch, liveness_s=self._life.liveness_s
        )
        self._sender.begin(worker, apart=takes_apart)
        if self._life.succession.is_stranger(id_):
            worker.state = "stranger"
        self._records.change_membership()
        welcome = {
            "epoch": self._life.epoch,
            "heartbeat_ms": self._life.heartbeat_ms,
            "liveness_ms": round(self._life.liveness_s * 1000),
        }
        self._outbox.workers.append([route, wire.encode(Verb.WELCOME, version, welcome)])
        foreign = about.get("epoch") != self._life.epoch
        first = self._life.succession.report(id_)
        if foreign and about.get("epoch") is not None:
            self._life.follow(now_s)
        self._life.grants.hold_slots(worker, slots, inherited=foreign and first)
        self._take_held(worker, held, now_s, foreign=foreign)
        self._take_pins(worker, pins, now_s, foreign=foreign)
        self._life.settle(now_s)
        self._clients.submissions.release_deferred(now_s)

    def _take_held(self, worker: Worker, held: dict[bytes, set[int]], now_s: float, *, foreign: bool) -> None:
        self._attempts.reconcile(worker, held, now_s)
        unwanted: list[tuple[bytes, tuple[int, ...]]] = []
        for session_id, seqs in held.items():
            session = self.sessions.get(session_id)
            if session is None and foreign:  # whatever the bound for clients: what is forgotten may run twice
                session = self._life.new_session(session_id, now_s)
            if session is None:
                gone = seqs
            else:
                gone = session.superseded(seqs, worker)
                unknown = session.unknown(seqs)
                if foreign and unknown:
                    # A client of the earlier life may still submit them again.
                    terms = Terms(session, "", (), 0, 0, None, now_s + self._life.expiry_s)
                    self._leasing.adopt(worker, terms, dict.fromkeys(unknown, b""))
                else:
                    gone |= unknown
            if gone:
                unwanted.append((session_id, tuple(sorted(gone))))
        if unwanted and worker.route is not None:
            # At once: after a LEASE of the same turn it would take back what that has just given.
            head = wire.encode(Verb.CANCEL, self._life.epoch, worker.heartbeat_seen, unwanted)
            self._outbox.workers.append([worker.route, head])

    def _take_pins(
        self, worker: Worker, pins: list[tuple[bytes, int, str, str]], now_s: float, *, foreign: bool
    ) -> None:
        """Bring what is known of held connections in line with what the worker holds."""
        reported = {(session_id, number) for session_id, number, _, _ in pins}
        # The first request of these has come, and may have no connection yet.
        reported.update(
            (lease.terms.session.id, lease.terms.pin)
            for lease in self._records.leases[worker]
            if lease.terms.opens and lease.terms.pin is not None
        )
        for pin in self._records.pins_at(worker):
            if (pin.session.id, pin.number) not in reported:
                self._pins.unpin(pin.session, pin.number, tell=False)
        for session_id, number, kind, name in pins:
            session = self.sessions.get(session_id)
            if session is None and foreign:
                session = self._life.new_session(session_id, now_s)
            pin_known = self._records.pins_of(session).get(number) if session is not None else None
            if pin_known is not None and pin_known.worker is worker:
                continue
            wanted = session is not None and not session.ended and number not in session.let_go
            if session is not None and wanted and foreign and pin_known is None:
                self._pins.adopt(worker, session, number, kind, name)
            elif worker.route is not None:
                head = wire.encode(Verb.UNPIN, self._life.epoch, worker.heartbeat_seen, session_id, number)
                self._outbox.workers.append([worker.route, head])

    def _results(
        self,
        worker: Worker,
        blobs: list[bytes],
        now_s: float,
        number: int,
        groups: list[tuple[bytes, tuple[int, ...], int] | wire.BadGroup],
    ) -> None:
        if number != worker.received + 1:
            if number > worker.received and worker.route is not None:
                route = worker.route
                self._disconnect(worker)
                self._life.reject(self._outbox.workers, route, Reject.GAP, f"RESULTS {number} came too early")
            return
        worker.received = number
        worker.unconfirmed_bytes += sum(map(len, blobs))
        for group, blob in zip(groups, blobs, strict=True):
            if isinstance(group, wire.BadGroup):
                self._give_up(worker, group, now_s)
                continue
            session_id, seqs, failed = group
            session = self.sessions.get(session_id)
            if session is None:
                continue
            if session.unacked_bytes > self._records.origins.config.clients.max_queued_bytes:
                silent = session.is_silent(now_s, self._life.liveness_s)
                blob = retained_limits.fit(blob, seqs, session, self.sessions.values(), silent=silent)
            fresh = self._outcomes.finish(worker, session, seqs, failed, blob)
            if fresh and worker.state == "draining":  # it waits until they are acknowledged
                self._clients.beat(session)
            if session.ended and not session.open:
                self.sessions.pop(session_id, None)
        # Not before: what is received and is not with a client yet is undelivered only once it is published.
        if worker.unconfirmed_bytes > CONFIRM_BYTES:
            self._beat(worker, now_s)

    def _heartbeat(self, worker: Worker, number: int, sample: dict[str, Any], now_s: float) -> None:
        worker.heartbeat_seen = number
        worker.sample = sample
        full = sample.get("full") is True
        if full != worker.full:
            worker.full = full
            self._records.change_membership()
        if worker.state == "draining":  # it ends no sooner than it knows that this one was seen
            self._beat(worker, now_s)

    def _give_up(self, worker: Worker, group: wire.BadGroup, now_s: float) -> None:
        """End what a group of a worker's speaks of, as far as can be read, but not what it says of it."""
        self._life.malformed["workers"] += 1
        session = self.sessions.get(group.session)
        if session is not None:
            details = wire.encode_error(
                f"its worker sent a report that cannot be read: {group.text}", sent=True
            )
            failed = wire.FailedAttempts(group.session, group.seqs, Code.PROTOCOL, True, details)
            self._attempts.retry(worker, session, failed, now_s)

    def _return(
        self,
        worker: Worker,
        groups: Sequence[tuple[bytes, tuple[int, ...], bool] | wire.BadGroup],
        now_s: float,
    ) -> None:
        full = False
        for group in reversed(groups):  # each comes before the one before it in the queue
            if isinstance(group, wire.BadGroup):
                self._give_up(worker, group, now_s)
                continue
            session_id, seqs, sent = group
            session = self.sessions.get(session_id)
            if session is not None:
                full |= self._attempts.hand_back(worker, session, seqs, now_s, sent=sent)
        if full and worker.state == "live" and not worker.full:
            # It has no room. Until a heartbeat says otherwise, or the two would play ping-pong.
            worker.full = True
            self._records.change_membership()

    def _retry(
        self, worker: Worker, groups: Sequence[wire.FailedAttempts | wire.BadGroup], now_s: float
    ) -> None:
        for failed in reversed(groups):  # as in _return()
            if isinstance(failed, wire.BadGroup):
                self._give_up(worker, failed, now_s)
                continue
            session = self.sessions.get(failed.session)
            if session is not None:
                self._attempts.retry(worker, session, failed, now_s)

    def _granted(self, worker: Worker, origin: str, grant: int, held: int, now_s: float) -> None:
        self._life.grants.granted(worker, origin, grant, held)

    def _unpin(self, worker: Worker, session: bytes, pin: int, now_s: float) -> None:
        known = self.sessions.get(session)
        held = None if known is None else self._records.pins_of(known).get(pin)
        if known is not None and held is not None and held.worker is worker:
            self._pins.unpin(known, pin, tell=False)

    def _drain(self, worker: Worker, now_s: float) -> None:
        worker.state = "draining"
        self._records.change_membership()
        self._attempts.take_back(worker, now_s)
        self._clients.ask_to_acknowledge(worker)

    def _forget_worker(self, worker: Worker, now_s: float, *, orderly: bool) -> None:
        """It said GOODBYE, or is dead: it holds nothing any more."""
        self._disconnect(worker)
        worker.state = "suspect"
        self._records.workers.pop(worker.id, None)
        self._life.succession.forget(worker.id)
        self._records.change_membership()
        self._attempts.abandon(worker, now_s, dead=True, orderly=orderly)
        self._records.remove_worker(worker)

    def _started(self, worker_id: bytes) -> None:
        self._life.succession.start(worker_id)
        worker = self._records.workers.get(worker_id)
        if worker is not None and worker.state == "stranger":  # it was quicker
            worker.state = "live"
            self._records.change_membership()

    def _dead(self, now_s: float, worker_id: bytes, deaths: int, orderly: bool) -> None:
        worker = self._records.workers.get(worker_id)
        if worker is not None:
            self._forget_worker(worker, now_s, orderly=orderly)
        self._life.succession.die(worker_id, deaths, orderly=orderly)
        self._clients.submissions.release_deferred(now_s)
        self._life.settle(now_s)

    def _disconnect(self, worker: Worker) -> None:
        if worker.route is not None:
            self._worker_at.pop(worker.route, None)
            worker.route = None
            self._records.change_membership()

    def _beat(self, worker: Worker, now_s: float) -> None:
        if worker.route is not None:
            head = worker.heartbeat(now_s)
            self._outbox.workers.append([worker.route, head])

    def watch(self, now_s: float) -> None:
        """Give up on who is silent."""
        for worker in list(self._records.workers.values()):
            connected_s = now_s - worker.heartbeats.since_s
            if worker.state == "stranger" and not worker.told and connected_s > STRANGER_SPAN_S:
                worker.told = True
                log.warning(
                    "worker %r (pid %d) was not started by this cluster's supervisor: it gets no requests",
                    worker.name,
                    worker.pid,
                )
            silent_s = now_s - worker.heartbeats.heard_s
            if silent_s > WORKER_FORGET_S:
                self._forget_worker(worker, now_s, orderly=False)
            elif silent_s > self._life.liveness_s and worker.state != "suspect":
                self._disconnect(worker)
                worker.state = "suspect"
                self._records.change_membership()
                self._attempts.abandon(worker, now_s, dead=False)

    def beat(self, now_s: float) -> None:
        """Send every worker its heartbeat."""
        for worker in self._records.workers.values():
            self._beat(worker, now_s)

    def hasten_drains(self, now_s: float) -> None:
        """Have workers that drain wait no longer than they must.

        They are told at once what has been acknowledged, or will not be because clients are silent. What they
        hold for such clients is let go of. If the cluster stops, and everybody waits, so is what has long
        been held, and none waits for what has long been running.
        """
        draining = [worker for worker in self._records.workers.values() if worker.state == "draining"]
        if not draining:
            return
        liveness_s = self._life.liveness_s
        awaited = self._clients.awaited(now_s)
        for worker in draining:
            for pin in self._records.idle_pins(worker):
                is_old = self._stopping and now_s - pin.since_s > HELD_S
                if is_old or pin.session.is_silent(now_s, liveness_s):
                    self._pins.unpin(pin.session, pin.number, tell=True)
            done = bool(worker.parts)
            if leases := self._records.leases[worker]:  # what it holds besides, for others, ends with it
                pins = self._records.pins_at(worker)
                taken_s = [lease.since_s for lease in leases] + [pin.since_s for pin in pins]
                done = self._stopping and now_s - max(taken_s) > HELD_S
            worker.excused = done and worker not in awaited
            if worker.waits_for_news:
                self._beat(worker, now_s)
