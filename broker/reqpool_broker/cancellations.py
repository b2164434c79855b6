"""Requests whose outcome does not matter any more. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable

from .lease_record import Lease
from .lease_sender import LeaseSender
from .pins import Pins
from .records import Records
from .session import Session


class Cancellations:
    """Drops requests.

    Args:
        records: where they are.
        sender: notifies workers.
        pins: releases connections whose first request is dropped.
    """

    def __init__(self, records: Records, sender: LeaseSender, pins: Pins) -> None:
        self._records = records
        self._sender = sender
        self._pins = pins

    def drop(self, session: Session, seqs: Iterable[int]) -> None:
        """Forget requests, wherever they are."""
        for seq in seqs:
            place = self._records.drop(session, seq)
            if place is None:
                continue
            if isinstance(place, Lease):
                self._sender.cancel(place.worker, session.id, seq)
            self._pins.end_opening(place.terms)

    def forget(self, session: Session) -> list[int]:
        """Drop what a session has waiting, in queues or to be sent; returns what never ran."""
        dropped: list[int] = []
        for origin in self._records.origins.queued():
            for group in origin.queue.forget(session):
                for seq in group.waiting():
                    del session.open[seq]
                    if not group.past.sent:
                        dropped.append(seq)
        for worker in self._records.workers.values():
            if self._sender.large[worker]:
                unsent = self._sender.large[worker].unsent
                leases = self._records.leases[worker]
                for lease in [one for one in leases if one in unsent and one.terms.session is session]:
                    if not lease.past.sent:
                        dropped += lease.requests
                    self.drop(session, list(lease.requests))
        return dropped
