"""What a worker has to report to the broker: results, failures, what it hands back, pins. Sans-IO.

It gathers here until the end of a turn of the loop.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from reqpool_contract.wire import FailedAttempts

from .lease import OriginTransport, Pin, SessionResults

_BACKLOG = attrgetter("backlog")


class WorkerReports:
    """What has not been reported yet, and counts for heartbeats.

    Attributes:
        dirty: sessions with results.
        failures: for RETRY.
        returns: for RETURN.
        unpinned: for UNPIN: pinned connections that are gone.
        patient: how many of the results may wait, since their origins had other requests to go on with.
        answering: these origins.
        done: requests that have ended in a result, ever.
        failed: requests and attempts that have failed, ever.
        ignored: messages, groups and datagrams that could not be used.
        resent: datagrams that were sent once more.
    """

    def __init__(self) -> None:
        self.dirty: list[SessionResults] = []
        self.failures: list[FailedAttempts] = []
        self.returns: list[tuple[bytes, tuple[int, ...], bool]] = []
        self.unpinned: list[Pin] = []
        self.patient = 0
        self.answering: set[OriginTransport] = set()
        self.done = 0
        self.failed = 0
        self.ignored = 0
        self.resent = 0
        self._taken = 0

    def answered(self, origin: OriginTransport, count: int) -> None:
        """Note that ``count`` results came from an origin that may have others to go on with."""
        self.patient += count
        self.answering.add(origin)

    def can_wait(self, most: int) -> bool:
        """Return whether all results, if there are fewer than ``most``, could wait a little.

        They can if each origin has as many requests to go on with as there are results.
        """
        unreported = self.done - self._taken
        if self.patient != unreported or unreported >= most:
            return False
        return all(map(unreported.__le__, map(_BACKLOG, self.answering)))  # up to the first with fewer

    def clear_results(self) -> None:
        """Forget the results: they have been packed."""
        self._taken = self.done
        self.patient = 0
        self.answering.clear()
        for session in self.dirty:
            session.dirty = False
            session.ready.clear()  # leases have these lists, too
            session.ready_once.clear()
            session.until_s = 0.0
        self.dirty.clear()

    def take_results(self) -> list[tuple[bytes, list[Any], float | None]]:
        """Take the results: (session, flat results, until when they are retained, as in
        :class:`~.retained_results.Part`)."""
        taken: list[tuple[bytes, list[Any], float | None]] = []
        for session in self.dirty:
            if session.ready:
                taken.append((session.identity, session.ready.copy(), None))
            if session.ready_once:
                taken.append((session.identity, session.ready_once.copy(), session.until_s))
        self.clear_results()
        return taken

    def take_returns(self) -> list[tuple[bytes, tuple[int, ...], bool]]:
        """Take what is to be handed back."""
        taken, self.returns = self.returns, []
        return taken

    def take_failures(self) -> list[FailedAttempts]:
        """Take the attempts that failed."""
        taken, self.failures = self.failures, []
        return taken

    def take_unpinned(self) -> list[Pin]:
        """Take the pinned connections that are gone."""
        taken, self.unpinned = self.unpinned, []
        return taken
