"""The short way: what nearly every message is, taken by one function from its frame to its end.

No I/O, no clock. Each of them looks at everything before it changes anything, and touches only the groups,
origins, sessions and workers of its message. It returns False, and nothing has changed, for whatever it does
not know: then the message goes the long way, through the tables of the wire and everything after them. Both
ways come to the same.
"""

from __future__ import annotations

from reqpool_contract import wire
from reqpool_contract.plain_messages import plain_results, plain_submit
from reqpool_contract.wire import CONFIRM_BYTES, LeaseGroup, Verb

from .admission import Admission
from .broker_session_state import BrokerSessionState
from .epoch import Epoch
from .lease_record import Lease
from .session import ROOM_BATCHES, ROOM_BYTES, ResultBatch, Session
from .terms import NEW, Terms
from .worker import Worker
from .worker_state import WorkerState

LIMIT_SHARE = 10
"""Up to one part in this many of a client's limits, what all clients use is not added up."""
_LIVE = WorkerState.LIVE
_ENDED, _OPEN = BrokerSessionState.ENDED, BrokerSessionState.OPEN
_make = tuple.__new__
"""Makes a NamedTuple without its ``__new__``, which is written in Python."""


class ShortSubmit:
    """Leases requests without letting them queue.

    A group is leased at once where nothing waits for its origin nor at its upstream, and the connections that
    there are suffice, or half of the places if there are no connections. As twice as much may be leased, what
    is left is for the queue, where sessions take turns.

    Args:
        epoch: shared by both sides of the broker.
        admission: for groups that have to queue.
    """

    def __init__(self, epoch: Epoch, admission: Admission) -> None:
        self._records = epoch.records
        self._sender = epoch.sender
        self._admission = admission

    def take(self, session: Session, frame: bytes, now_s: float) -> bool:
        """Take a SUBMIT; False if it has to take the long way."""
        records = self._records
        origins = records.origins
        read = plain_submit(frame, origins.ways)
        if read is None:
            return False
        number, acked, groups = read
        limits, open_, unacked = origins.config.clients, session.open, session.unacked
        if (
            number != session.submitted + 1
            or session.deferred.groups
            or session.messages >= limits.max_messages_per_s
            or LIMIT_SHARE * (len(open_) + wire.MAX_BATCH_REQUESTS) > limits.max_pending
            or LIMIT_SHARE * (session.queued_bytes + len(frame)) > limits.max_queued_bytes
            or len(unacked) >= ROOM_BATCHES
            or session.unacked_bytes >= ROOM_BYTES
        ):
            return False
        for _, group in groups:
            if not open_.keys().isdisjoint(group[7]):
                return False
        session.last_heard_s = now_s
        session.messages += 1
        session.submitted = number
        while unacked and unacked[0].number <= acked:
            batch = unacked.popleft()
            session.unacked_bytes -= len(batch.blob)
            for keeper, part in batch.keepers:
                left = keeper.parts.get(part)
                if left == 1:
                    del keeper.parts[part]
                elif left is not None:
                    keeper.parts[part] = left - 1
        for way, group in groups:
            _, _, span_ms, flags, priority, _, trace, seqs, payloads, *_ = group
            count = len(seqs)
            records.submitted += count
            deadline_s = now_s + span_ms / 1000
            origin, worker = way.origin, way.worker
            upstream, service = origin.upstream, origin.service
            if way.grant is not None:
                # What the queue would not ask for more connections for, or half of what there are take.
                load, slots = origin.by_worker.get(worker, 0) + count, way.grant.slots
                fits = -(-load // way.depth) + (way.depth > 1) <= slots or 2 * load <= slots * way.depth
            else:
                fits = 2 * (upstream.in_flight + count) <= origin.limit
            if (
                not fits
                or origin.is_forgotten
                or origins.queued_at[upstream]
                or upstream.pins
                or service.known
                or service.busy
            ):
                self._admission.admit(session, wire.SubmitGroup(*group), deadline_s, now_s)
                continue
            terms = Terms(
                session, origin.kind, way.names, flags, priority, trace, deadline_s, way.settings, None,
                way.own_bytes,
            )  # fmt: skip
            requests = dict(zip(seqs, payloads, strict=True))
            lease = records.lease(terms, origin, worker, requests, NEW, now_s)
            origin.last_used_s = now_s
            if service.watched is None:
                service.watch(lease, count, now_s)
            wait_s = origin.policy.queue_timeout_s
            wait_ms = None if wait_s is None or wait_s * 1000 >= span_ms else round(wait_s * 1000)
            self._sender.add(
                worker,
                _make(
                    LeaseGroup,
                    (
                        session.id, origin.kind, origin.name, span_ms, flags, 1, None, trace, seqs, payloads,
                        way.settings, wait_ms, None, 0,
                    ),
                ),
            )  # fmt: skip
        return True


class ShortResults:
    """Ends requests whose first attempt has succeeded, and publishes their results.

    Args:
        epoch: shared by both sides of the broker.
    """

    def __init__(self, epoch: Epoch) -> None:
        self._records = epoch.records
        self._sender = epoch.sender
        self._outbox = epoch.outbox.results
        self._workers_outbox = epoch.outbox.workers

    def take(self, worker: Worker, frames: list[bytes], now_s: float) -> bool:
        """Take a RESULTS; False if it has to take the long way."""
        read = plain_results(frames[0])
        if read is None:
            return False
        epoch, seen, number, groups = read
        records = self._records
        if (
            number != worker.received + 1
            or worker.state is not _LIVE
            or worker.route is None
            or self._sender.large[worker].under_way
            or len(groups) != len(frames) - 1
        ):
            return False
        sessions, most_bytes = records.sessions, records.origins.config.clients.max_queued_bytes
        for session_id, seqs, _ in groups:
            session = sessions.get(session_id)
            if session is None or session.state is _ENDED or session.unacked_bytes > most_bytes:
                return False
            for seq in seqs:
                lease = session.open.get(seq)
                if (
                    type(lease) is not Lease
                    or lease.worker is not worker
                    or lease.attempt > 1
                    or lease.origin is None
                    or lease.terms.pin is not None
                ):
                    return False
        if not worker.heartbeats.fresh(epoch, seen, now_s):
            return False
        worker.received = number
        worker.excused = False
        part = worker.base + number
        worker.parts[part] = len(groups)
        for (session_id, seqs, failed), blob in zip(groups, frames[1:], strict=True):
            session = sessions[session_id]
            records.finish_plain(worker, session, seqs, failed)
            session.published += 1
            batch = _make(ResultBatch, (session.published, blob, seqs, ((worker, part),), ()))
            session.unacked.append(batch)
            size_bytes = len(blob)
            session.unacked_bytes += size_bytes
            worker.unconfirmed_bytes += size_bytes
            if session.state is _OPEN:
                head = wire.encode(Verb.RESULTS, epoch, session.published, session.submitted)
                self._outbox.append([session_id, head, blob])
        if worker.unconfirmed_bytes > CONFIRM_BYTES:
            self._workers_outbox.append([worker.route, worker.heartbeat(now_s)])
        return True
