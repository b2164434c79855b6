"""What ends by time: the broker's one place for it. No I/O, no clock."""

from __future__ import annotations

from reqpool_contract.errors import Code
from reqpool_contract.grace import LEASE_GRACE_S

from .broker_session_state import BrokerSessionState
from .epoch import WORKER_FORGET_S, Epoch
from .origin import Origin
from .session import Session
from .session_lifecycle import SessionLifecycle
from .worker_departures import WorkerDepartures
from .worker_state import WorkerState


class Deadlines:
    """Ends requests whose time is up, silent peers, and what nobody has used for long.

    Args:
        epoch: shared by both sides of the broker.
        lifecycle: ends sessions.
        departures: gives up on workers.
    """

    def __init__(self, epoch: Epoch, lifecycle: SessionLifecycle, departures: WorkerDepartures) -> None:
        self._epoch = epoch
        self._records = epoch.records
        self._sender = epoch.sender
        self._outcomes = epoch.outcomes
        self._pins = epoch.pins
        self._leasing = epoch.leasing
        self._lifecycle = lifecycle
        self._departures = departures

    def expire_requests(self, now_s: float) -> None:
        """End requests that are past their deadline. Call it several times a second."""
        records = self._records
        for origin in records.origins.queued():
            if origin.queue.next_due_s <= now_s:
                self._expire_queue(origin, now_s)
            if origin.admission.overloaded:
                self._clear_queue(origin, now_s)
        if records.next_lease_due_s <= now_s:
            self._expire_leases(now_s)

    def _expire_queue(self, origin: Origin, now_s: float) -> None:
        records = self._records
        late: dict[tuple[Session, int, bool, bool, float], list[int]] = {}
        for group in origin.queue.expire(now_s):
            session = group.terms.session
            seqs = group.waiting()
            records.close(session, seqs)
            if group.past.answer is None:
                waited_s = round(now_s - group.since_s, 1)
                key = (
                    session,
                    group.past.attempts,
                    group.past.sent,
                    group.terms.deadline_s > now_s,
                    waited_s,
                )
                late.setdefault(key, []).extend(seqs)
            else:
                self._outcomes.conclude(session, seqs, Code.OK, group.past.answer)
            self._pins.end_opening(group.terms)
        span_s = origin.policy.queue_timeout_s
        # It may have been changed since, or be none any more.
        within = "in time" if span_s is None else f"within {span_s:g} s"
        for (session, attempts, sent, early, waited_s), seqs in late.items():
            self._outcomes.fail(
                session,
                seqs,
                Code.TIMEOUT,
                f"no connection {within} (queue timeout of this upstream)"
                if early
                else f"it timed out after {waited_s} s in the queue, before a worker could take it",
                origin=origin.name,
                phase="queue",
                attempts=attempts,
                sent=sent,
            )

    def _clear_queue(self, origin: Origin, now_s: float) -> None:
        """End what would only stand in the way of those that can be answered in time."""
        for late in origin.queue.take_late(now_s + origin.service.needed_s):
            self._leasing.refuse(origin, *late, origin.admission.too_late(late[0], now_s), now_s)

    def _expire_leases(self, now_s: float) -> None:
        records = self._records
        next_due_s = float("inf")
        for worker in records.workers.values():
            unsent = self._sender.large[worker].unsent
            for lease in list(records.leases[worker]):
                due_s = lease.terms.deadline_s + LEASE_GRACE_S
                if due_s > now_s:
                    next_due_s = min(next_due_s, due_s)
                    continue
                pairs = records.empty(lease)
                for seq, _ in pairs:
                    self._sender.cancel(worker, lease.terms.session.id, seq)
                if not lease.claimed:
                    records.close(lease.terms.session, [seq for seq, _ in pairs])
                elif lease in unsent:
                    text = "it timed out before all of it had been sent to its worker"
                    self._outcomes.end_leased(
                        lease, pairs, Code.TIMEOUT, text, phase="queue", sent=lease.past.sent
                    )
                elif worker.state is WorkerState.SUSPECT:
                    text = "the worker that holds it is silent; it may or may not have run"
                    self._outcomes.end_leased(lease, pairs, Code.OUTCOME_UNKNOWN, text)
                else:
                    text = "its worker did not answer in time"
                    self._outcomes.end_leased(lease, pairs, Code.TIMEOUT, text, phase="read")
                self._pins.end_opening(lease.terms)
        records.next_lease_due_s = next_due_s

    def give_up_on_workers(self, now_s: float) -> None:
        """Give up on workers that are silent. Call it with each heartbeat."""
        for worker in list(self._records.workers.values()):
            silent_s = now_s - worker.heartbeats.heard_s
            if silent_s > WORKER_FORGET_S:
                self._departures.forget(worker, now_s, orderly=False)
            elif silent_s > self._epoch.liveness_s and worker.state is not WorkerState.SUSPECT:
                self._departures.suspect(worker, now_s)

    def expire_sessions(self, now_s: float) -> None:
        """End sessions that were silent for too long, and forget those of which nothing runs any more. Call
        it every second."""
        sessions = self._records.sessions
        for session in list(sessions.values()):
            if session.state is BrokerSessionState.ENDED:
                if not session.open:
                    sessions.pop(session.id, None)
            elif now_s - session.last_heard_s > self._epoch.expiry_s:
                self._lifecycle.expire(session)

    def release_idle(self, now_s: float) -> None:
        """Ask for connections back that nobody uses, and forget origins that nobody uses. Call it every
        second."""
        self._epoch.grants.take_back(now_s)
        self._records.origins.forget_old(now_s)
