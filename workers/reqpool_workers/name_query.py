"""One step of a look-up: the questions for both address families to one name server."""

from __future__ import annotations

from reqpool_contract.payloads.dns_query import query
from reqpool_contract.wire import LeaseGroup

from .datagram_sender import DatagramSender
from .lease import Request, SessionResults, WorkerLease
from .look_up import RTYPES, Step
from .protocols.dns import WORKER_KIND


class NameQuery:
    """Questions that were sent together.

    Args:
        step: of the look-up.
        server: where they go.
        now_s: monotonic seconds.

    Attributes:
        lease: their deadline and schedule; its requests are the questions, ``seq`` their place in
            :data:`.look_up.RTYPES`.
        hurried: what is still unanswered has only a short time left.
    """

    __slots__ = ("_server", "hurried", "lease")

    def __init__(self, step: Step, server: DatagramSender, now_s: float) -> None:
        group = LeaseGroup(
            session=b"",
            kind=WORKER_KIND.name,
            origin=server.name,
            span_ms=round(step.span_s * 1000),
            flags=0,
            attempt=1,
            pin=None,
            trace=None,
            seqs=tuple(range(len(RTYPES))),
            payloads=tuple(query(step.name, rtype) for rtype in RTYPES),
        )
        session = SessionResults(group.session)
        lease = self.lease = WorkerLease(session, group, now_s)
        lease.requests = [Request(seq, payload, lease) for seq, payload in enumerate(group.payloads)]
        lease.live = len(lease.requests)
        session.running.update(enumerate(lease.requests))
        self.hurried = False
        self._server = server

    def send(self, now_s: float) -> float:
        """Send the questions; return when to call :meth:`resend`, or the deadline."""
        self._server.submit(self.lease, now_s)
        return min(self.lease.resend_s, self.lease.deadline_s)

    def resend(self, now_s: float) -> float:
        """Send again what is unanswered and due; return when to call this again, or the deadline."""
        again_s = self._server.resend(self.lease, now_s)
        return self.lease.deadline_s if again_s is None else min(again_s, self.lease.deadline_s)

    def drop(self) -> None:
        """Stop waiting for what has not been answered."""
        for request in list(self.lease.unended()):
            self._server.drop(request, "timeout")
            end(request)


def end(request: Request) -> None:
    """Note that a question has been answered, or is no longer waited for."""
    lease = request.lease
    del lease.session.running[request.seq]
    lease.live -= 1
    if not lease.live:
        lease.requests = []  # they point back at the lease: no cycle is left for the collector
