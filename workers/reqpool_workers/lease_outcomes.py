"""How a leased request leaves the worker. Sans-IO.

Every request that runs leaves through exactly one of :meth:`LeaseOutcomes.finish`,
:meth:`~LeaseOutcomes.conclude`, :meth:`~LeaseOutcomes.fail`, :meth:`~LeaseOutcomes.decline`,
:meth:`~LeaseOutcomes.give_back`, :meth:`~LeaseOutcomes.cancel` and :meth:`~LeaseOutcomes.forget`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reqpool_contract import wire
from reqpool_contract.errors import PIN_GONE, Code
from reqpool_contract.wire import FailedAttempts

from .lease import OriginTransport, Pin, Request, WorkerLease
from .worker_ledger import WorkerLedger

MOST_DECLINED_BYTES = 4096
"""The longest answer that RETRY carries: it is one message for all, whose size is bounded."""


class LeaseOutcomes:
    """Ends requests, and says what is to be reported of it.

    Args:
        ledger: of what runs.

    Attributes:
        ledger: as given.
        reports: the ledger's.
    """

    def __init__(self, ledger: WorkerLedger) -> None:
        self.ledger = ledger
        self.reports = ledger.reports

    def finish(self, request: Request, code: int, data: bytes) -> None:
        """End a request with its outcome."""
        self.finish_many(((request, code, data),))

    def finish_many(
        self, finished: Sequence[tuple[Request, int, bytes]], origin: OriginTransport | None = None
    ) -> None:
        """:meth:`finish` for each: all answers that were read in one go.

        Args:
            finished: request, code and data of each.
            origin: where they come from, if it may have other requests to go on with.
        """
        reports = self.reports
        for request, code, data in finished:
            lease = request.lease
            session = lease.session
            del session.running[request.seq]
            lease.live -= 1
            if not lease.live:
                lease.requests = []  # they point back at the lease: no cycle is left for the collector
            if not session.dirty:
                session.dirty = True
                reports.dirty.append(session)
            lease.ready += (request.seq, code, data)
            if not lease.idempotent and lease.until_s > session.until_s:
                session.until_s = lease.until_s
        reports.done += len(finished)
        if origin is not None:
            reports.patient += len(finished)
            reports.answering.add(origin)

    def conclude(
        self, request: Request, code: Code, text: str, *, phase: str | None = None, sent: bool | None = None
    ) -> None:
        """End a request that has failed for good."""
        lease = request.lease
        if lease.was_sent(request):  # once possibly sent, always possibly sent
            sent = True
        data = wire.encode_error(text, origin=lease.origin, phase=phase, attempts=lease.attempt, sent=sent)
        self.finish(request, code, data)
        self.reports.failed += 1
        if lease.opens and lease.pin is not None:
            # Reported unless the connection is pinned all the same, see Reporting.
            self.reports.unpinned.append((lease.session.identity, lease.pin))

    def no_such_pin(self, lease: WorkerLease, pin: Pin) -> None:
        """End requests for a pinned connection that is not there."""
        self.lose_pin(lease, PIN_GONE)
        self.reports.unpinned.append(pin)

    def lose_pin(self, lease: WorkerLease, text: str) -> None:
        """End requests for a pinned connection that they cannot have."""
        for request in list(lease.requests):
            self.conclude(request, Code.CONNECTION_LOST, text, phase="queue", sent=False)

    def fail(self, requests: list[Request], code: Code, text: str, *, phase: str, sent: bool) -> None:
        """End this attempt at requests of one lease; the broker may have another.

        What must not be repeated and may have been acted on is reported as a result: a RETRY that got lost
        with its connection would make it run again.
        """
        if not requests:
            return
        lease = requests[0].lease
        if sent and not lease.idempotent:
            for request in requests:
                self.conclude(request, code, text, phase=phase, sent=sent)
            return
        for was_sent, some in _by_sent(requests, sent):
            details = wire.encode_error(
                text, origin=lease.origin, phase=phase, attempts=lease.attempt, sent=was_sent
            )
            seqs = self._remove(some)
            self.reports.failures.append(
                FailedAttempts(lease.session.identity, seqs, code, was_sent, details)
            )
            self.reports.failed += len(seqs)

    def refuse(self, session: bytes, seqs: Iterable[int], text: str) -> None:
        """End requests that were leased in a way that cannot be used; those that run already go on."""
        refused = self.ledger.without(session, seqs)
        if refused:
            details = wire.encode_error(text, sent=False)
            self.reports.failures.append(FailedAttempts(session, refused, Code.PROTOCOL, False, details))
            self.reports.failed += len(refused)

    def decline(self, request: Request, answer: bytes) -> None:
        """End a request with an answer that another origin may better: the broker asks that first.

        What must not be repeated is not asked again, as in :meth:`fail`.
        """
        lease = request.lease
        if lease.others and lease.idempotent and len(answer) <= MOST_DECLINED_BYTES:
            self.reports.failures.append(
                FailedAttempts(lease.session.identity, self._remove([request]), Code.OK, True, answer)
            )
        else:
            self.finish(request, Code.OK, answer)

    def give_back(self, requests: list[Request]) -> None:
        """Hand back requests of one lease that this attempt has not sent upstream."""
        for was_sent, some in _by_sent(requests, False):
            self.reports.returns.append((some[0].lease.session.identity, self._remove(some), was_sent))

    def cancel(self, request: Request, *, sent: bool) -> None:
        """End a request for which its client no longer waits.

        What must not be repeated and may have been acted on is reported all the same: it may still be asked
        for.
        """
        lease = request.lease
        if sent and not lease.idempotent:
            self.conclude(request, Code.CANCELLED, "cancelled", phase="read", sent=True)
        else:
            self.forget(request)

    def count_ignored(self) -> None:
        """Count a datagram that answers nothing."""
        self.reports.ignored += 1

    def count_resent(self) -> None:
        """Count a datagram that was sent again."""
        self.reports.resent += 1

    def forget(self, request: Request) -> None:
        """Drop a request of which nothing is reported."""
        self._remove([request])

    def _remove(self, requests: list[Request]) -> tuple[int, ...]:
        lease = requests[0].lease
        session = lease.session
        seqs = tuple(request.seq for request in requests)
        for seq in seqs:
            del session.running[seq]
        lease.live -= len(seqs)
        if not lease.live:
            lease.requests = []
        return seqs


def _by_sent(requests: list[Request], sent: bool) -> list[tuple[bool, list[Request]]]:
    """Split requests of one lease by whether the upstream could have acted on any attempt at them."""
    if sent or not requests or not requests[0].lease.resent_seqs:
        return [(sent or requests[0].lease.sent, requests)] if requests else []
    split: dict[bool, list[Request]] = {}
    for request in requests:
        split.setdefault(request.lease.was_sent(request), []).append(request)
    return list(split.items())
