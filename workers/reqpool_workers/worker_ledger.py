"""What the worker has been leased and still runs. Sans-IO.

Every request that runs is in exactly one session's ``running``; :mod:`.lease_outcomes` says how it leaves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from reqpool_contract.wire import LeaseGroup

from .lease import Pin, Request, SessionResults, WorkerLease
from .reports import WorkerReports


class WorkerLedger:
    """All sessions' requests.

    Attributes:
        sessions: by identity; :meth:`tidy` forgets those with nothing left.
        reports: what is to be reported of them.
    """

    def __init__(self) -> None:
        self.sessions: dict[bytes, SessionResults] = {}
        self.reports = WorkerReports()

    def admit(self, group: LeaseGroup, now_s: float) -> WorkerLease:
        """Take a lease group on. What runs already (the broker could not know) is left out."""
        session = self.sessions.get(group.session)
        if session is None:
            session = self.sessions[group.session] = SessionResults(group.session)
        lease = WorkerLease(session, group, now_s)
        running = session.running
        requests = lease.requests
        for seq, payload in zip(group.seqs, group.payloads, strict=True):
            if seq not in running:
                running[seq] = request = Request(seq, payload, lease)
                requests.append(request)
        lease.live = len(requests)
        return lease

    def find(self, session: bytes, seqs: Iterable[int]) -> list[Request]:
        """Return the requests among these that run."""
        running = self._running(session)
        return [running[seq] for seq in seqs if seq in running]

    def without(self, session: bytes, seqs: Iterable[int]) -> tuple[int, ...]:
        """Return those of these that do not run."""
        running = self._running(session)
        return tuple(seq for seq in seqs if seq not in running)

    def opening(self, session: bytes, pin: int) -> list[Request]:
        """Return the first request of a pin, if it runs."""
        running = self._running(session)
        return [request for request in running.values() if request.lease.opens and request.lease.pin == pin]

    def openings(self) -> Iterator[tuple[Pin, str, str]]:
        """Yield the pins whose first request runs: whose, to which kind and origin."""
        for session in self.sessions.values():
            for request in session.running.values():
                lease = request.lease
                if lease.opens and lease.pin is not None:
                    yield (session.identity, lease.pin), lease.kind, lease.origin

    def running(self) -> Iterator[tuple[bytes, tuple[int, ...]]]:
        """Yield what runs, by session, for HELLO."""
        for session in self.sessions.values():
            if session.running:
                yield session.identity, tuple(session.running)

    @property
    def empty(self) -> bool:
        """Whether nothing runs, and everything has been reported."""
        reports = self.reports
        return not (reports.dirty or reports.failures or reports.returns or any(self.running()))

    @property
    def in_doubt(self) -> int:
        """How many requests that must not be repeated run, or have an outcome that was not reported."""
        return sum(
            sum(not request.lease.idempotent for request in session.running.values())
            + len(session.ready_once) // 3
            for session in self.sessions.values()
        )

    def tidy(self) -> None:
        """Forget sessions of which nothing is left."""
        gone = [session for session in self.sessions.values() if not (session.running or session.dirty)]
        for session in gone:
            del self.sessions[session.identity]

    def _running(self, session: bytes) -> dict[int, Request]:
        return self.sessions[session].running if session in self.sessions else {}
