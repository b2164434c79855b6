"""The broker without its sockets: messages and time in, messages to send out. No I/O, no clock.

A :class:`~.session.Session` and a :class:`~.worker.Worker` are what is known of a peer, the
:class:`~.ledger.Ledger` moves requests, and :class:`Broker` here reads messages (docs/protocol.md, verb x
state) and turns them into calls on those.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from reqpool import wire
from reqpool.errors import Code, ProtocolError
from reqpool.wire import Flag, Reject, Verb

from .ledger import Ledger
from .outbox import Outbox
from .requests import Group, Lease, Terms
from .session import MAX_PENDING, MAX_QUEUED_BYTES, MAX_UNACKED_BATCHES, Session
from .succession import Succession
from .worker import Worker

MAX_SESSIONS = 10_000
MAX_WORKERS = 1_000
MAX_ALL_PENDING = 10 * MAX_PENDING
"""Requests held for all sessions together, before those that hold many are refused more."""
MAX_ALL_QUEUED_BYTES = 4 * MAX_QUEUED_BYTES
"""The same in bytes of payloads."""
MAX_REPORTED = 200
"""Sessions, and origins, in a status report at most: those with the most to do."""
MAX_RANGES = 1_000
"""Ranges of dropped seqs remembered of one expired session; with more it is told of none."""
MAX_TOMBSTONES = 1_000
"""Expired sessions of which the broker still knows what it dropped."""
WORKER_FORGET_S = 600.0
"""How long a silent worker's connection slots stay reserved when nobody reports its death."""
OVERLOAD_RETRY_MS = 250
CONFIRM_BYTES = 4 << 20
"""Results of a worker after which it is told at once that they have arrived, and may let go of them."""
_RESUBMITTED = int(Flag.RESUBMITTED)


class Broker:
    """The broker's state. One thread calls it.

    Args:
        epoch: number of this life; random, so that no two lives share one.
        results: what WELCOME says of the results socket.
        now_s: monotonic seconds, as in all methods.
        predecessors: ids of the workers of the life before this one, as whoever started both knows them; None
            if nobody knows: then a session's own list counts, which lacks those that came after its WELCOME.

    Attributes:
        outbox: what to send; the caller empties it after each :meth:`flush` or :meth:`tick`.
        malformed: illegal messages counted per socket.
        sample: the psutil figures of the broker's own process, set by its owner.
    """

    def __init__(
        self,
        results: str,
        now_s: float,
        *,
        epoch: int | None = None,
        predecessors: frozenset[bytes] | None = None,
        heartbeat_ms: int = wire.HEARTBEAT_MS,
        liveness_ms: int = wire.LIVENESS_MS,
        session_expiry_ms: int = wire.SESSION_EXPIRY_MS,
    ) -> None:
        self.epoch = random.SystemRandom().getrandbits(48) | 1 if epoch is None else epoch
        self.outbox = Outbox()
        self.ledger = Ledger(self.epoch, self.outbox)
        self.sessions: dict[bytes, Session] = {}
        self.malformed = {"intake": 0, "results": 0, "workers": 0}
        self.sample: dict[str, Any] = {}
        self.started_s = now_s
        self.heartbeat_ms = heartbeat_ms
        self.liveness_s = liveness_ms / 1000
        self._expiry_s = session_expiry_ms / 1000
        self._results = results
        self._session_at: dict[bytes, Session] = {}
        self._worker_at: dict[bytes, Worker] = {}
        self._succession = Succession(predecessors)
        self._tombstones: OrderedDict[bytes, list[tuple[int, int]]] = OrderedDict()
        self._rates = {"submitted_per_s": 0.0, "done_per_s": 0.0}
        self._rated = (now_s, 0, 0)
        self._next_heartbeat_s = now_s
        self._next_second_s = now_s
        self._on_client: dict[Verb, Callable[..., None]] = {
            Verb.SUBMIT: self._submit,
            Verb.HEARTBEAT: self._client_heartbeat,
            Verb.CANCEL: self._cancel,
            Verb.RESEND: self._resend,
            Verb.UNPIN: self._unpin,
        }
        self._on_worker: dict[Verb, Callable[..., None]] = {
            Verb.HEARTBEAT: self._worker_heartbeat,
            Verb.RETURN: self._return,
            Verb.RETRY: self._retry,
            Verb.GRANTED: self._granted,
            Verb.UNPIN: self._worker_unpin,
            Verb.DRAIN: self._drain,
        }

    # --- intake socket ----------------------------------------------------------------------------

    def client_message(self, route: bytes, frames: list[bytes], now_s: float) -> None:
        """Take one message of the intake socket, its routing id split off."""
        try:
            verb, values = wire.decode(_only(frames), wire.CLIENT_TO_BROKER)
            if verb is Verb.HELLO:
                self._client_hello(route, now_s, *values)
                return
        except ProtocolError as error:
            self.malformed["intake"] += 1
            self._reject(self.outbox.intake, route, Reject.MALFORMED, error.text)
            return
        if verb is Verb.STATUS:
            self.outbox.intake.append([route, wire.encode(Verb.STATUS, self.report(now_s))])
            return
        session = self._session_at.get(route)
        if session is None:
            if verb is not Verb.GOODBYE:
                self._reject(self.outbox.intake, route, Reject.UNKNOWN, "no session here: say HELLO")
            return
        session.last_heard_s = now_s
        if verb is Verb.GOODBYE:
            self._end_session(session)
        else:
            self._on_client[verb](session, *values, now_s)

    def _client_hello(
        self, route: bytes, now_s: float, lowest: int, highest: int, about: dict[str, Any]
    ) -> None:
        version = self._common_version(self.outbox.intake, route, lowest, highest)
        if version is None:
            return
        id_ = wire.identity(about.get("session"))
        epoch = wire.optional_uint(about.get("epoch"))
        received = wire.uint(about.get("received", 0))
        named = set(wire.array(wire.identity)(about.get("workers", ())))
        name = wire.text(about.get("name", ""))[:200]
        pid = wire.uint(about.get("pid", 0))
        session = self.sessions.get(id_)
        if session is None and len(self.sessions) >= MAX_SESSIONS:
            self._reject(self.outbox.intake, route, Reject.OVERLOADED, "too many sessions")
            return
        previous = self._session_at.pop(route, None)
        if previous is not None and previous is not session:
            previous.route = None
            self._end_session(previous)
        if session is None:
            session = self.sessions[id_] = Session(id_, now_s)
            resumed = False
        else:
            resumed = epoch == self.epoch and not session.ended
        if session.route is not None:
            self._session_at.pop(session.route, None)
        self._session_at[route] = session
        epoch_changed = epoch is not None and epoch != self.epoch
        session.begin(route, resumed=resumed, epoch_changed=epoch_changed, now_s=now_s)
        session.name, session.pid = name, pid
        if resumed:
            self._acknowledge(session, received)
        elif epoch_changed:
            heirs = self._succession.heirs(named)
            session.awaited = heirs.awaited
            session.nameless = not heirs.known
            session.unaccounted = not heirs.accounted
            session.hold_until_s = now_s + self.liveness_s
        session.never_ran = self._tombstones.pop(id_, [])
        welcome = {
            "epoch": self.epoch,
            "results": self._results,
            "heartbeat_ms": self.heartbeat_ms,
            "liveness_ms": round(self.liveness_s * 1000),
            "resumed": resumed,
            "workers": self._worker_ids(),
            "max_pending": MAX_PENDING,
            "never_ran": session.never_ran,
        }
        self.outbox.intake.append([route, wire.encode(Verb.WELCOME, version, welcome)])

    def subscription(self, topic: bytes) -> bool:
        """May somebody subscribe to ``topic``? Only to a session that said HELLO, and only exactly."""
        session = self.sessions.get(topic)
        if session is None or session.route is None:
            self.malformed["results"] += 1
            return False
        return True

    def subscribed(self, topic: bytes) -> None:
        """The subscription stands: say OPEN, and publish what has not been acknowledged."""
        session = self.sessions[topic]
        session.subscribed = True
        self.outbox.results.append([topic, wire.encode(Verb.OPEN, self.epoch)])
        self._resend(session, 0, 0.0)

    def _submit(
        self, session: Session, number: int, acked: int, groups: list[wire.Group], now_s: float
    ) -> None:
        if number != session.submitted + 1:
            if number > session.submitted and session.route is not None:
                text = f"SUBMIT {number} came after {session.submitted}"
                self._reject(self.outbox.intake, session.route, Reject.GAP, text)
            return
        self._acknowledge(session, acked)
        if len(session.unacked) > MAX_UNACKED_BATCHES and session.route is not None:
            text = f"{len(session.unacked)} batches of results are not acknowledged"
            self._reject(self.outbox.intake, session.route, Reject.OVERLOADED, text)
            return
        session.submitted = number
        for group in groups:
            self.ledger.submitted += len(group.seqs)
            deadline_s = now_s + group.span_ms / 1000
            if group.flags & _RESUBMITTED and session.must_hold(now_s) and session.pending < MAX_PENDING:
                session.held.append((group, deadline_s))
            else:
                self._admit(session, group, deadline_s, now_s)

    def _admit(self, session: Session, group: wire.Group, deadline_s: float, now_s: float) -> None:
        seqs, payloads = group.seqs, group.payloads
        fresh = len(set(seqs)) == len(seqs) and session.open.keys().isdisjoint(seqs)
        terms = Terms(
            session, group.kind, group.origins, group.flags, group.priority, group.trace, deadline_s
        )
        if group.flags & _RESUBMITTED or not fresh:
            self._claim(session, terms, group)
            unknown = session.unknown(seqs)
            pairs = dict(zip(seqs, payloads, strict=True))
            seqs = tuple(seq for seq in pairs if seq in unknown)
            payloads = tuple(pairs[seq] for seq in seqs)
            if group.flags & _RESUBMITTED and not terms.idempotent:
                lost = tuple(seq for seq in seqs if session.may_have_run(seq))
                text = "the pool lost track of it; it may or may not have run"
                self.ledger.fail(session, lost, Code.OUTCOME_UNKNOWN, text, origin=group.origins[0])
                pairs = {seq: pairs[seq] for seq in seqs if seq not in set(lost)}
                seqs, payloads = tuple(pairs), tuple(pairs.values())
            if not seqs:
                return
        if group.pin is not None:
            text = "this broker holds no connections for a session yet: submit without a pin"
            self.ledger.fail(session, seqs, Code.USAGE, text, origin=group.origins[0], sent=False)
        elif not self._has_room(session, len(seqs), sum(map(len, payloads))):
            text = f"the broker holds {session.pending} requests of this session, or too much in all"
            self.ledger.fail(
                session, seqs, Code.OVERLOADED, text, sent=False, retry_after_ms=OVERLOAD_RETRY_MS
            )
        else:
            self.ledger.enqueue(Group(terms, seqs, payloads), now_s)

    def _has_room(self, session: Session, count: int, size_bytes: int) -> bool:
        """May the session queue so much more? The sums over all are only made for those that hold much."""
        pending, queued_bytes = len(session.open) + count, session.queued_bytes + size_bytes
        if pending > MAX_PENDING or queued_bytes > MAX_QUEUED_BYTES:
            return False
        if pending > MAX_PENDING // 10 and sum(len(s.open) for s in self.sessions.values()) > MAX_ALL_PENDING:
            return False
        return (
            queued_bytes <= MAX_QUEUED_BYTES // 10
            or sum(s.queued_bytes for s in self.sessions.values()) <= MAX_ALL_QUEUED_BYTES
        )

    def _claim(self, session: Session, terms: Terms, group: wire.Group) -> None:
        """Learn from its client what a request is that so far only a worker's report had named."""
        claimed: dict[Worker, dict[int, bytes]] = {}
        for seq, payload in zip(group.seqs, group.payloads, strict=True):
            lease = session.open.get(seq)
            if isinstance(lease, Lease) and lease.origin is None:
                del lease.requests[seq]
                if not lease.requests:
                    del lease.worker.leases[lease]
                claimed.setdefault(lease.worker, {})[seq] = payload
        for worker, requests in claimed.items():
            self.ledger.adopt(worker, terms, requests)

    def _release_held(self, session: Session, now_s: float) -> None:
        held, session.held = session.held, []
        for group, deadline_s in held:
            self._admit(session, group, deadline_s, now_s)

    def _client_heartbeat(self, session: Session, number: int, seen: int, acked: int, now_s: float) -> None:
        session.heartbeat_seen = number
        self._acknowledge(session, acked)

    def _cancel(self, session: Session, seqs: tuple[int, ...], now_s: float) -> None:
        self.ledger.drop(session, seqs)
        session.drop_held(seqs)

    def _resend(self, session: Session, after: int, now_s: float) -> None:
        if session.subscribed:
            for batch in session.unacked:
                if batch.number > after:
                    self.outbox.results.append(session.frames(batch, self.epoch))

    def _unpin(self, session: Session, pin: int, now_s: float) -> None:
        """Nothing is held in this version, so there is nothing to let go of."""

    def _acknowledge(self, session: Session, number: int) -> None:
        throttled = not session.has_room
        for batch in session.acknowledge(number):
            if batch.worker is not None:
                batch.worker.part_delivered(batch.worker_number)
        if throttled and session.has_room:
            self.ledger.wake()

    def _end_session(self, session: Session) -> None:
        """The client is gone for good: what waits is dropped, what runs finishes unheard."""
        if session.route is not None:
            self._session_at.pop(session.route, None)
        self._acknowledge(session, session.published)
        session.end()
        self.ledger.forget(session)
        if not session.open:
            self.sessions.pop(session.id, None)

    # --- workers socket ---------------------------------------------------------------------------

    def worker_message(self, route: bytes, frames: list[bytes], now_s: float) -> None:
        """Take one message of the workers socket, its routing id split off."""
        try:
            verb, values = wire.decode(frames[0] if frames else b"", wire.WORKER_TO_BROKER)
            blobs = frames[1:]
            if len(blobs) != (len(values[3]) if verb is Verb.RESULTS else 0):
                raise ProtocolError(f"{verb.name} came with {len(blobs)} blobs")
            if verb is Verb.HELLO:
                self._worker_hello(route, now_s, *values)
                return
        except ProtocolError as error:
            self.malformed["workers"] += 1
            self._reject(self.outbox.workers, route, Reject.MALFORMED, error.text)
            return
        if verb is Verb.DEAD:
            self._dead(now_s, *values)
            return
        worker = self._worker_at.get(route)
        if worker is None or worker.route != route:
            if verb is not Verb.GOODBYE:
                self._reject(self.outbox.workers, route, Reject.UNKNOWN, "no such worker here: say HELLO")
            return
        epoch, seen, *rest = values
        if epoch != self.epoch or worker.is_stale(seen, now_s, self.liveness_s):
            self._disconnect(worker)
            self._reject(self.outbox.workers, route, Reject.UNKNOWN, "a stale message: say HELLO")
            return
        worker.last_heard_s = now_s
        if verb is Verb.GOODBYE:
            self._forget_worker(worker, now_s)
        elif verb is Verb.RESULTS:
            self._worker_results(worker, blobs, now_s, *rest)
        else:
            self._on_worker[verb](worker, *rest, now_s)

    def _worker_hello(
        self, route: bytes, now_s: float, lowest: int, highest: int, about: dict[str, Any]
    ) -> None:
        version = self._common_version(self.outbox.workers, route, lowest, highest)
        if version is None:
            return
        id_ = wire.identity(about.get("worker"))
        name = wire.text(about.get("name", ""))[:200]
        pid = wire.uint(about.get("pid", 0))
        kinds = wire.kinds(about.get("kinds", ()))
        held = wire.held(about.get("held", ()))
        slots = wire.slots(about.get("slots", ()))
        worker = self.ledger.workers.get(id_)
        if worker is None and len(self.ledger.workers) >= MAX_WORKERS:
            self._reject(self.outbox.workers, route, Reject.OVERLOADED, "too many workers")
            return
        previous = self._worker_at.pop(route, None)
        if previous is not None and previous is not worker:
            previous.route = None
        if worker is None:
            worker = self.ledger.workers[id_] = Worker(id_, name, pid, now_s)
        if worker.route is not None:
            self._worker_at.pop(worker.route, None)
        self._worker_at[route] = worker
        worker.connect(route, name, pid, kinds, now_s)
        self._change_membership()
        welcome = {
            "epoch": self.epoch,
            "heartbeat_ms": self.heartbeat_ms,
            "liveness_ms": round(self.liveness_s * 1000),
        }
        self.outbox.workers.append([route, wire.encode(Verb.WELCOME, version, welcome)])
        self.ledger.hold_slots(worker, slots)
        self._take_held(worker, held, now_s, foreign=about.get("epoch") != self.epoch)
        self._succession.report(id_)
        self._settle_awaited(id_, now_s, accounted=True)

    def _worker_ids(self) -> list[bytes]:
        return [worker.id for worker in self.ledger.workers.values() if worker.state != "suspect"]

    def _change_membership(self) -> None:
        """A worker came, went or changed its state: owners are worked out anew, and clients told."""
        self.ledger.change_membership()
        head = wire.encode(Verb.WORKERS, self.epoch, self._worker_ids())
        self.outbox.results += [[s.id, head] for s in self.sessions.values() if s.subscribed]

    def _take_held(self, worker: Worker, held: dict[bytes, set[int]], now_s: float, *, foreign: bool) -> None:
        self.ledger.reconcile(worker, held, now_s)
        for session_id, seqs in held.items():
            session = self.sessions.get(session_id)
            if session is None and foreign and len(self.sessions) < MAX_SESSIONS:
                session = self.sessions[session_id] = Session(session_id, now_s)
            unknown = seqs if session is None else session.unknown(seqs)
            if session is not None and foreign and unknown:
                terms = Terms(session, "", (), 0, 0, None, now_s + self._expiry_s)
                self.ledger.adopt(worker, terms, dict.fromkeys(unknown, b""))
            else:
                for seq in unknown:
                    self.ledger.cancel_at(worker, session_id, seq)

    def _settle_awaited(self, worker_id: bytes, now_s: float, *, accounted: bool) -> None:
        for session in self.sessions.values():
            if worker_id in session.awaited:
                session.awaited.discard(worker_id)
                session.unaccounted |= not accounted
                if not session.must_hold(now_s):
                    self._release_held(session, now_s)

    def _worker_results(
        self,
        worker: Worker,
        blobs: list[bytes],
        now_s: float,
        number: int,
        groups: list[tuple[bytes, tuple[int, ...], int]],
    ) -> None:
        if number != worker.received + 1:
            if number > worker.received and worker.route is not None:
                route = worker.route
                self._disconnect(worker)
                self._reject(self.outbox.workers, route, Reject.GAP, f"RESULTS {number} came too early")
            return
        worker.received = number
        worker.unconfirmed_bytes += sum(map(len, blobs))
        if worker.unconfirmed_bytes > CONFIRM_BYTES:
            self._beat(worker, now_s)
        for (session_id, seqs, failed), blob in zip(groups, blobs, strict=True):
            session = self.sessions.get(session_id)
            if session is None:
                continue
            if self.ledger.finish(worker, session, seqs, failed):
                self.ledger.publish(session, blob, seqs, worker)
                # Once the client has acknowledged them, nothing here would know any more that they have run.
                session.drop_held(seqs)
            if session.ended and not session.open:
                self.sessions.pop(session_id, None)

    def _worker_heartbeat(self, worker: Worker, number: int, sample: dict[str, Any], now_s: float) -> None:
        worker.heartbeat_seen = number
        worker.sample = sample
        full = sample.get("full") is True
        if full != worker.full:
            worker.full = full
            self._change_membership()

    def _return(self, worker: Worker, groups: Iterable[tuple[bytes, tuple[int, ...]]], now_s: float) -> None:
        if worker.state == "live" and not worker.full:
            # It has no room. Until a heartbeat says otherwise, or the two would play ping-pong.
            worker.full = True
            self._change_membership()
        for session_id, seqs in groups:
            session = self.sessions.get(session_id)
            if session is not None:
                self.ledger.hand_back(worker, session, seqs, now_s)

    def _retry(self, worker: Worker, groups: Iterable[wire.Failed], now_s: float) -> None:
        for failed in groups:
            session = self.sessions.get(failed.session)
            if session is not None:
                self.ledger.retry(worker, session, failed, now_s)

    def _granted(self, worker: Worker, origin: str, grant: int, held: int, now_s: float) -> None:
        self.ledger.granted(worker, origin, grant, held)

    def _worker_unpin(self, worker: Worker, session: bytes, pin: int, now_s: float) -> None:
        """Nothing is held in this version, so there is nothing to note."""

    def _drain(self, worker: Worker, now_s: float) -> None:
        worker.state = "draining"
        self._change_membership()

    def _forget_worker(self, worker: Worker, now_s: float) -> None:
        """It said GOODBYE, or is dead: it holds nothing any more."""
        self._disconnect(worker)
        worker.state = "suspect"
        self.ledger.workers.pop(worker.id, None)
        self._change_membership()
        self.ledger.abandon(worker, now_s, dead=True)

    def _dead(self, now_s: float, worker_id: bytes) -> None:
        worker = self.ledger.workers.get(worker_id)
        if worker is not None:
            self._forget_worker(worker, now_s)
        if self._succession.die(worker_id):
            self._settle_awaited(worker_id, now_s, accounted=False)

    def _disconnect(self, worker: Worker) -> None:
        if worker.route is not None:
            self._worker_at.pop(worker.route, None)
            worker.route = None
            self.ledger.change_membership()

    # --- both -------------------------------------------------------------------------------------

    def _common_version(self, out: list[list[bytes]], route: bytes, lowest: int, highest: int) -> int | None:
        if lowest <= wire.VERSION and highest >= wire.LOWEST_VERSION:
            return min(highest, wire.VERSION)
        ours = f"{wire.LOWEST_VERSION} to {wire.VERSION}"
        text = f"this broker speaks protocol versions {ours}, the peer {lowest} to {highest}"
        about = {"lowest": wire.LOWEST_VERSION, "highest": wire.VERSION}
        self._reject(out, route, Reject.VERSION, text, about)
        return None

    @staticmethod
    def _reject(
        out: list[list[bytes]],
        route: bytes,
        code: Reject,
        text: str,
        about: dict[str, Any] | None = None,
    ) -> None:
        out.append([route, wire.encode(Verb.REJECT, int(code), text, about or {})])

    # --- time -------------------------------------------------------------------------------------

    def flush(self, now_s: float) -> None:
        """Decide what the messages taken since the last flush ask for; once per turn of the loop."""
        self.ledger.lease(now_s)

    def tick(self, now_s: float) -> None:
        """Do what time asks for; call it about every 50 ms."""
        self.ledger.expire(now_s)
        if now_s >= self._next_heartbeat_s:
            self._next_heartbeat_s = now_s + self.heartbeat_ms / 1000
            self._heartbeat(now_s)
            self._watch_workers(now_s)
        if now_s >= self._next_second_s:
            self._next_second_s = now_s + 1.0
            self._rate(now_s)
            self.ledger.adapt(now_s)
            self._watch_sessions(now_s)
        self.flush(now_s)

    def _rate(self, now_s: float) -> None:
        then_s, submitted, done = self._rated
        self._rated = (now_s, self.ledger.submitted, self.ledger.done)
        if now_s > then_s:
            self._rates = {
                "submitted_per_s": round((self.ledger.submitted - submitted) / (now_s - then_s), 1),
                "done_per_s": round((self.ledger.done - done) / (now_s - then_s), 1),
            }

    def _heartbeat(self, now_s: float) -> None:
        for session in self.sessions.values():
            if session.subscribed:
                session.heartbeats_sent += 1
                head = wire.encode(
                    Verb.HEARTBEAT,
                    self.epoch,
                    session.heartbeats_sent,
                    session.heartbeat_seen,
                    session.submitted,
                    session.published,
                )
                self.outbox.results.append([session.id, head])
        for worker in self.ledger.workers.values():
            self._beat(worker, now_s)

    def _beat(self, worker: Worker, now_s: float) -> None:
        if worker.route is None:
            return
        worker.unconfirmed_bytes = 0
        worker.heartbeats_sent += 1
        worker.heartbeat_times.append((worker.heartbeats_sent, now_s))
        head = wire.encode(
            Verb.HEARTBEAT,
            self.epoch,
            worker.heartbeat_seen,
            worker.heartbeats_sent,
            worker.received,
            worker.undelivered,
        )
        self.outbox.workers.append([worker.route, head])

    def _watch_workers(self, now_s: float) -> None:
        for worker in list(self.ledger.workers.values()):
            silent_s = now_s - worker.last_heard_s
            if silent_s > WORKER_FORGET_S:
                self._forget_worker(worker, now_s)
            elif silent_s > self.liveness_s and worker.state != "suspect":
                self._disconnect(worker)
                worker.state = "suspect"
                self._change_membership()
                self.ledger.abandon(worker, now_s, dead=False)

    def _watch_sessions(self, now_s: float) -> None:
        for session in list(self.sessions.values()):
            if session.held and now_s >= session.hold_until_s:
                self._release_held(session, now_s)
            if session.ended:
                if not session.open:
                    self.sessions.pop(session.id, None)
            elif now_s - session.last_heard_s > self._expiry_s:
                self._expire_session(session)

    def _expire_session(self, session: Session) -> None:
        waiting = self.ledger.forget(session)
        ranges = _ranges(waiting)
        self._tombstones[session.id] = ranges if len(ranges) <= MAX_RANGES else []
        while len(self._tombstones) > MAX_TOMBSTONES:
            self._tombstones.popitem(last=False)
        self._end_session(session)

    def goodbye(self, text: str) -> None:
        """A planned stop: tell every client."""
        for session in self.sessions.values():
            if session.subscribed:
                self.outbox.results.append([session.id, wire.encode(Verb.GOODBYE, self.epoch, text)])

    def report(self, now_s: float) -> dict[str, Any]:
        """What ``reqpool status`` shows."""
        ledger = self.ledger
        busiest = sorted(self.sessions.values(), key=lambda session: session.pending, reverse=True)
        return {
            "epoch": self.epoch,
            "uptime_s": round(now_s - self.started_s, 3),
            "broker": self.sample,
            "liveness_ms": round(self.liveness_s * 1000),
            "sessions": [session.report(now_s) for session in busiest[:MAX_REPORTED]],
            "sessions_total": len(self.sessions),
            "workers": [worker.report(now_s) for worker in ledger.workers.values()],
            "origins": ledger.report_origins(MAX_REPORTED),
            "origins_total": len(ledger.origins),
            "rates": self._rates,
            "counters": {
                "submitted": ledger.submitted,
                "done": ledger.done,
                "failed": dict(ledger.failed),
                "requeued": ledger.requeued,
                "malformed": dict(self.malformed),
            },
        }


def _only(frames: list[bytes]) -> bytes:
    if len(frames) != 1:
        raise ProtocolError(f"expected one frame, got {len(frames)}")
    return frames[0]


def _ranges(seqs: Iterable[int]) -> list[tuple[int, int]]:
    """Sorted ``(first, last)`` runs of sequence numbers."""
    runs: list[tuple[int, int]] = []
    for seq in sorted(seqs):
        if runs and runs[-1][1] == seq - 1:
            runs[-1] = (runs[-1][0], seq)
        else:
            runs.append((seq, seq))
    return runs
