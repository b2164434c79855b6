"""Pins: when connections are released, and which are found pinned. No I/O, no clock."""

from __future__ import annotations

from reqpool_contract import wire
from reqpool_contract.wire import Verb

from .lease_sender import LeaseSender
from .outcomes import Outcomes
from .outgoing import Outgoing
from .records import Records
from .session import Session
from .terms import Terms
from .worker import Worker


class Pins:
    """Decides about pinned connections.

    Args:
        epoch: this broker's.
        outbox: where messages go.
        records: where pins are.
        sender: has requests that have not left for a worker yet.
        outcomes: ends the requests of pins that are lost.
    """

    def __init__(
        self, epoch: int, outbox: Outgoing, records: Records, sender: LeaseSender, outcomes: Outcomes
    ) -> None:
        self._epoch = epoch
        self._outbox = outbox.workers
        self._records = records
        self._sender = sender
        self._outcomes = outcomes

    def unpin(self, session: Session, number: int, *, tell: bool) -> bool:
        """Release a pinned connection.

        Args:
            session: whose it is.
            number: the pin's.
            tell: whether its worker has to be told; not if it was the worker that released it.

        Returns:
            False if it is not known.
        """
        pin = self._records.close_pin(session, number)
        if pin is None:
            return False
        worker = self._records.leave_pin(pin)
        if worker is None:
            return True
        if tell:
            if worker.route is not None:
                head = wire.encode(Verb.UNPIN, self._epoch, worker.heartbeat_seen, session.id, number)
                self._outbox.append([worker.route, head])
            # UNPIN overtakes these: a pin's first request would take a connection that is never released.
            waiting = [lease for lease, _ in self._sender.large[worker] if lease.terms.session is session]
            for lease in waiting:
                if lease.terms.pin == number and lease.requests:
                    pairs = self._records.empty(lease)
                    self._outcomes.end_gone(lease.terms, [seq for seq, _ in pairs])
        self._records.origins.wake_at(pin.origin.upstream)
        self._records.origins.settle(pin.origin)
        return True

    def adopt(self, worker: Worker, session: Session, number: int, kind: str, name: str) -> None:
        """Book a pinned connection that a worker reports."""
        now_s = session.last_heard_s
        origin = self._records.origins.get(kind, name, now_s)
        self._records.take_pin(self._records.open_pin(session, number, origin), worker, now_s)
        self._records.origins.use(origin)

    def end_opening(self, terms: Terms) -> None:
        """If these are the first request of a pin, which has ended: no connection is pinned."""
        if terms.opens and terms.pin is not None:
            self.unpin(terms.session, terms.pin, tell=True)
