"""A lease: requests handed to one worker. No I/O, no clock."""

from __future__ import annotations

from .origin import Origin
from .terms import Past, Terms
from .worker import Worker
from .worker_state import WorkerState

_SUSPECT, _GONE = WorkerState.SUSPECT, WorkerState.GONE


class Lease:
    """Requests handed to one worker in one go.

    Attributes:
        terms: what they share.
        origin: where this attempt goes; None for what a worker reported after a broker's restart and no
            client has claimed yet, or only for an upstream that is not in the configuration any more.
        worker: which runs them.
        requests: seq to payload, of those that have not ended.
        past: what was tried before this attempt.
        since_s: when that was, or at least since when it is known; monotonic.
        attempt: 1 for the first.
    """

    __slots__ = ("attempt", "origin", "past", "requests", "since_s", "terms", "worker")

    def __init__(
        self,
        terms: Terms,
        origin: Origin | None,
        worker: Worker,
        requests: dict[int, bytes],
        past: Past,
        since_s: float,
    ) -> None:
        self.terms = terms
        self.origin = origin
        self.worker = worker
        self.requests = requests
        self.past = past
        self.since_s = since_s
        self.attempt = past.attempts + 1

    @property
    def claimed(self) -> bool:
        """Whether a client has said what it is."""
        return bool(self.terms.kind)

    @property
    def deadline_s(self) -> float:
        return self.terms.deadline_s

    @property
    def is_lost(self) -> bool:
        """Whether its worker is silent, or gone."""
        return self.worker.state is _SUSPECT or self.worker.state is _GONE

    @property
    def idempotent(self) -> bool:
        return self.terms.idempotent
