"""What becomes of a LEASE, a CANCEL and an UNPIN. Sans-IO."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from reqpool_contract import wire
from reqpool_contract.cached_settings import SettingsReceiver
from reqpool_contract.counted_log import CountedLog
from reqpool_contract.errors import Code, ProtocolError, UsageError
from reqpool_contract.wire import BadGroup, LeaseGroup

from .kind_fault import fault
from .lease import Pin, Request, WorkerLease
from .lease_outcomes import LeaseOutcomes
from .lease_timers import LeaseTimers
from .worker_upstreams import Upstreams

if TYPE_CHECKING:
    from .event_loop import Timer

_log = logging.getLogger(__name__)


class Leases:
    """Runs what is leased.

    Args:
        outcomes: where they end.
        upstreams: where they go.
        at: has a timer called at an instant.

    Attributes:
        cached: the settings that leases refer to by number.
    """

    def __init__(
        self, outcomes: LeaseOutcomes, upstreams: Upstreams, at: Callable[[float, Timer], None]
    ) -> None:
        self.cached = SettingsReceiver(wire.WORKER_KEEPS)
        self._log = CountedLog(_log)
        self._outcomes = outcomes
        self._ledger = outcomes.ledger
        self._reports = outcomes.reports
        self._upstreams = upstreams
        self._timers = LeaseTimers(outcomes, at)

    def take(self, groups: Iterable[LeaseGroup | BadGroup], now_s: float, *, refuse: bool) -> None:
        """Take the groups of a LEASE; with ``refuse`` those for no pinned connection are handed back."""
        for group in groups:
            if isinstance(group, BadGroup):
                self._refuse(group)
                continue
            if group.kept is not None:
                try:
                    group = group._replace(settings=self.cached.find(group.kept))
                except ProtocolError as error:
                    self._refuse(BadGroup(group.session, group.seqs, True, error.text))
                    continue
            lease = self._ledger.admit(group, now_s)
            if not lease.requests:
                continue
            # What goes to a pinned connection cannot run elsewhere.
            if lease.pin is not None and not lease.opens:
                self._submit_pinned(lease, group)
            elif refuse:
                self._outcomes.give_back(lease.requests)
            else:
                try:
                    upstream = self._upstreams.reach(group.kind, group.origin, group.settings)
                except Exception as error:
                    self._end_unreachable(lease, error)
                else:
                    lease.upstream = upstream
                    upstream.submit(lease, now_s)
            if lease.live:
                self._timers.watch(lease, now_s)

    def _submit_pinned(self, lease: WorkerLease, group: LeaseGroup) -> None:
        # The connection is there or not: the settings it takes to make one no longer matter.
        pin = (lease.session.identity, lease.pin or 0)
        upstream = self._upstreams.find(group.kind, group.origin)
        if upstream is None:
            self._outcomes.no_such_pin(lease, pin)
        else:
            lease.upstream = upstream
            upstream.submit_pinned(lease, pin)

    def _end_unreachable(self, lease: WorkerLease, error: Exception) -> None:
        text = error.text if isinstance(error, UsageError) else fault(error)
        if lease.others:  # a zone that is not a network interface here, say
            self._outcomes.fail(list(lease.requests), Code.USAGE, text, phase="connect", sent=False)
            return
        for request in list(lease.requests):
            self._outcomes.conclude(request, Code.USAGE, text, sent=False)

    def _refuse(self, group: BadGroup) -> None:
        """End what a lease group that cannot be used asks for; the others of its message run."""
        self._reports.ignored += 1
        self._log.warning("cannot use a lease: %s", group.text)
        self._outcomes.refuse(group.session, group.seqs, f"its worker cannot use the lease: {group.text}")

    def cancel(self, groups: list[tuple[bytes, tuple[int, ...]] | BadGroup]) -> None:
        """Drop what its client no longer waits for."""
        for group in groups:
            if isinstance(group, BadGroup):
                self._reports.ignored += 1
                continue
            session, seqs = group
            for request in self._ledger.find(session, seqs):
                if request.live and request.lease.upstream is not None:
                    dropped = request.lease.upstream.drop(request, "cancelled")
                    self._outcomes.cancel(request, sent=dropped.sent)

    def unpin(self, pin: Pin) -> None:
        """Release a session's connection, or end the request for which it was to be pinned."""
        if self._upstreams.unpin(pin, "released in the middle of a request"):
            return
        # Its first request may still wait for a connection.
        for request in self._ledger.opening(*pin):
            if request.lease.upstream is not None:
                phase, sent, *_ = request.lease.upstream.drop(request, "released")
                text = "the session was closed before its first request had finished"
                self._outcomes.conclude(request, Code.CONNECTION_LOST, text, phase=phase, sent=sent)

    def give_back(self, requests: Iterable[Request]) -> None:
        """Hand back requests of which nothing was sent."""
        for request in requests:
            if request.live and request.lease.upstream is not None:
                request.lease.upstream.drop(request, "handed back")
                self._outcomes.give_back([request])
