"""Attempts without an outcome: what becomes of requests whose lease came to nothing. No I/O, no clock.

Their worker reports that they failed, hands them back, falls silent, dies, or connects again without them.
They are leased again where that makes sense and is safe; otherwise they end.
"""

from __future__ import annotations

from collections.abc import Iterable

from reqpool_contract import wire
from reqpool_contract.errors import Code

from .broker_session_state import BrokerSessionState
from .fair_queue import QueuedGroup
from .grant_table import GrantTable
from .lease_record import Lease
from .lease_sender import LeaseSender
from .leasing import Leasing
from .origin import SUSPECT_SPAN_S, Origin
from .outcomes import Outcomes
from .pins import Pins
from .records import Records
from .session import Session
from .terms import Past
from .worker import Worker


class Retries:
    """Decides about leases that ended without an outcome.

    Args:
        records: where requests are.
        sender: has what has not left for a worker yet.
        outcomes: ends requests.
        pins: which connections are held for whom.
        leasing: leases requests again.
        grants: the workers' connection slots.
    """

    def __init__(
        self,
        records: Records,
        sender: LeaseSender,
        outcomes: Outcomes,
        pins: Pins,
        leasing: Leasing,
        grants: GrantTable,
    ) -> None:
        self._records = records
        self._sender = sender
        self._outcomes = outcomes
        self._pins = pins
        self._leasing = leasing
        self._grants = grants

    def retry(self, worker: Worker, session: Session, failed: wire.FailedAttempts, now_s: float) -> None:
        """An attempt failed: lease it again where that makes sense, else make the error final.

        The same for an answer that another origin may better: it is kept until one has.
        """
        answered = failed.code == Code.OK
        for lease, pairs in self._records.pull(worker, session, failed.seqs).items():
            self._records.release(lease, len(pairs), worker if answered else None)
            if lease.origin is None:
                self._disown(lease, pairs, sent=failed.sent)
                continue
            if not answered:
                lease.origin.failed += len(pairs)
            answer = failed.details if answered else lease.past.answer
            if self._may_rerun(lease, failed, now_s):
                past = lease.past
                past = Past(lease.attempt, past.tried + 1, past.first, past.sent or failed.sent, answer)
                self._requeue(lease, pairs, past, now_s)
                continue
            seqs = tuple(seq for seq, _ in pairs)
            self._records.close(session, seqs)
            if answer is not None:
                self._outcomes.conclude(session, seqs, Code.OK, answer)
            elif lease.past.sent and not failed.sent:  # a worker that could not read the lease, say
                self._outcomes.conclude(session, seqs, failed.code, wire.as_sent(failed.details))
            else:
                self._outcomes.conclude(session, seqs, failed.code, failed.details)
            self._pins.end_opening(lease.terms)

    def _may_rerun(self, lease: Lease, failed: wire.FailedAttempts, now_s: float) -> bool:
        terms = lease.terms
        if terms.deadline_s <= now_s or terms.goes_to_pin or (failed.sent and not terms.idempotent):
            return False
        if lease.past.tried + 1 < len(terms.origins):
            if lease.origin is not None and failed.code != Code.OK:
                lease.origin.suspect_until_s = now_s + SUSPECT_SPAN_S
            return True
        return failed.code == Code.CONNECTION_LOST and lease.attempt < _max_attempts(lease)

    def _requeue(self, lease: Lease, pairs: list[tuple[int, bytes]], past: Past, now_s: float) -> None:
        """Let requests of a lease that has ended wait for their next attempt."""
        seqs, payloads = zip(*pairs, strict=True)
        terms = lease.terms
        if terms.session.state is BrokerSessionState.ENDED:  # their outcome does not matter
            self._records.close(terms.session, seqs)
            self._pins.end_opening(terms)
            return
        self._records.requeued += len(seqs)
        if terms.pin is not None:
            pin = self._records.pins_of(terms.session).get(terms.pin)
            if pin is None or not terms.opens:
                self._outcomes.end_gone(terms, seqs)
                return
            self._records.leave_pin(pin)  # it is opened elsewhere, perhaps
        self._leasing.enqueue(QueuedGroup(terms, seqs, payloads, past), now_s, front=True)

    def hand_back(
        self, worker: Worker, session: Session, seqs: Iterable[int], now_s: float, *, sent: bool
    ) -> bool:
        """Requests that this attempt did not send upstream run elsewhere, whatever their kind.

        Args:
            worker: who has them.
            session: whose they are.
            seqs: their numbers.
            now_s: now.
            sent: whether the worker sent them in an earlier attempt (which only idempotent ones have).

        Returns:
            True if the worker has no room for them, as opposed to no connections: those were taken back.
        """
        full = False
        for lease, pairs in reversed(self._records.pull(worker, session, seqs).items()):  # as in abandon()
            self._records.release(lease, len(pairs))
            if lease.origin is None:
                self._disown(lease, pairs, sent=False)
                continue
            past = lease.past._replace(sent=True) if sent else lease.past
            self._requeue(lease, pairs, past, now_s)
            full = full or self._has_connections(worker, lease.origin)
        return full

    @staticmethod
    def _has_connections(worker: Worker, origin: Origin) -> bool:
        """Return whether a worker has connections that requests without a pin may use, or needs none."""
        kind = worker.kinds.get(origin.kind)
        grant = worker.grants.get(origin.name)
        slots = grant.slots if grant is not None else 0
        return kind is None or not kind.connections or slots > origin.pins.get(worker, 0)

    def abandon(self, worker: Worker, now_s: float, *, dead: bool, orderly: bool = False) -> None:
        """A worker fell silent or died: its idempotent requests run elsewhere.

        Args:
            worker: whose state has been changed already.
            now_s: now.
            dead: certain death: what must not be repeated ends with OUTCOME_UNKNOWN, slots are free.
            orderly: it ended having told everything: what must not be repeated and it still had was not sent
                upstream, and runs elsewhere, too.
        """
        unsent = self._sender.withdraw(worker, self._records.leases[worker], dead=dead)
        for lease in list(
            reversed(self._records.leases[worker])
        ):  # each comes before the one before it in the queue
            if lease.origin is None:
                if dead:
                    self._disown(lease, self._records.empty(lease), sent=not orderly)
            elif lease in unsent or (orderly and not lease.terms.idempotent):
                self._run_elsewhere(lease, now_s)
            elif lease.terms.idempotent:
                pairs = self._records.empty(lease)
                if lease.attempt < _max_attempts(lease):
                    past = lease.past._replace(attempts=lease.attempt, sent=True)
                    self._requeue(lease, pairs, past, now_s)
                else:
                    text = f"{lease.attempt} workers were lost while they held it"
                    self._end(lease, pairs, Code.WORKER_LOST, text)
            elif dead:
                pairs = self._records.empty(lease)
                text = "the worker that held it died; it may or may not have run"
                self._end(lease, pairs, Code.OUTCOME_UNKNOWN, text)
        if dead:
            self._grants.forget(worker)
            for pin in self._records.pins_at(worker):
                self._pins.unpin(pin.session, pin.number, tell=False)
            self._sender.forget(worker)
        self._records.origins.wake()

    def _end(self, lease: Lease, pairs: list[tuple[int, bytes]], code: Code, text: str) -> None:
        self._outcomes.end_leased(lease, pairs, code, text)
        self._pins.end_opening(lease.terms)

    def take_back(self, worker: Worker, now_s: float) -> None:
        """A worker takes nothing more: what has not left for it runs elsewhere."""
        unsent = self._sender.large[worker].unsent
        for lease in list(reversed(self._records.leases[worker])):  # as in abandon()
            if lease in unsent and not lease.terms.goes_to_pin:
                self._run_elsewhere(lease, now_s)

    def _run_elsewhere(self, lease: Lease, now_s: float) -> None:
        """A lease that no upstream has seen has ended, and does not count as an attempt."""
        self._requeue(lease, self._records.empty(lease), lease.past, now_s)

    def _disown(self, lease: Lease, pairs: list[tuple[int, bytes]], *, sent: bool) -> None:
        """Known only by a worker's report, and lost there: the client still has to say what it was, or has
        named an upstream that it cannot run at again."""
        session, idempotent = lease.terms.session, lease.terms.idempotent
        seqs = [seq for seq, _ in pairs]
        self._records.close(session, seqs)
        if sent and not lease.claimed:
            session.doubtful.update(seqs)
        if lease.claimed:
            code, text = Code.USAGE, "its upstream is not in the broker's configuration any more"
            if sent and not idempotent:
                code, text = Code.OUTCOME_UNKNOWN, "its worker lost it; it may or may not have run"
            self._outcomes.fail(session, seqs, code, text, sent=sent or idempotent)

    def reconcile(self, worker: Worker, held: dict[bytes, set[int]], now_s: float) -> None:
        """After a worker's HELLO: what it was leased and does not hold never arrived, and runs again."""
        self._sender.withdraw(worker, self._records.leases[worker], dead=False)
        absent: list[tuple[Lease, list[int]]] = []
        for lease in self._records.leases[worker]:
            there = held.get(lease.terms.session.id, set())
            if missing := [seq for seq in lease.requests if seq not in there]:
                absent.append((lease, missing))
        for lease, missing in absent:
            if lease.terms.goes_to_pin:
                pairs = [(seq, lease.requests.pop(seq)) for seq in missing]
                self._records.release(lease, len(pairs))
                seqs, payloads = zip(*pairs, strict=True)
                # If the worker has lost the connection as well, it reports that.
                self._leasing.lease_pinned(QueuedGroup(lease.terms, seqs, payloads, lease.past), now_s)
        for lease, missing in reversed(absent):  # as in abandon()
            if not lease.terms.goes_to_pin:
                # It never arrived; or it may run again, was sent, and the RETRY that reported it was lost.
                session, sent = lease.terms.session, lease.terms.idempotent
                self.hand_back(worker, session, missing, now_s, sent=sent)


def _max_attempts(lease: Lease) -> int:
    """Return after how many leases an idempotent request ends if its worker or connection is lost."""
    return 1 + (lease.origin.policy.retries if lease.origin is not None else 0)
