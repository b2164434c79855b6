"""Heartbeats to clients, and goodbye; what clients are asked to acknowledge, and when. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable

from reqpool_contract import wire
from reqpool_contract.wire import Verb

from .broker_session_state import BrokerSessionState
from .epoch import Epoch
from .results_placement import ResultsPlacement
from .session import Session
from .worker import Worker

MAX_RANGES = 1_000
"""Ranges of seqs that a client is told in one message; with more it is told of none."""


class ClientHeartbeats:
    """Sends clients what they need to know of the broker, besides results.

    Args:
        epoch: shared by both sides of the broker.
        placement: which session is published on which results socket.

    Attributes:
        awaiting_confirmation: sessions whose large payloads have arrived, and who send no more before they
            are told (a dict used as an ordered set).
    """

    def __init__(self, epoch: Epoch, placement: ResultsPlacement) -> None:
        self._epoch = epoch
        self._outbox = epoch.outbox
        self._sessions = epoch.sessions
        self._placement = placement
        self.awaiting_confirmation: dict[Session, None] = {}

    def beat(self, session: Session) -> None:
        """Send a session a heartbeat; it acknowledges what it has not acknowledged yet at once."""
        if session.state is BrokerSessionState.OPEN:
            session.heartbeats_sent += 1
            head = wire.encode(
                Verb.HEARTBEAT,
                self._epoch.number,
                session.heartbeats_sent,
                session.heartbeat_seen,
                session.submitted,
                session.published,
                b"" if session.deferred.groups else self._epoch.recovery.watermark,
            )
            self._outbox.results.append([session.id, head])

    def beat_next_socket(self) -> None:
        """Send the sessions of one results socket their heartbeats; of all sockets, in turn."""
        for session in self._placement.turn():
            self.beat(session)

    def confirm(self) -> None:
        """Send heartbeats to those whose large payloads have arrived."""
        for session in self.awaiting_confirmation:
            self.beat(session)
        self.awaiting_confirmation.clear()

    def ask_to_acknowledge(self, worker: Worker) -> None:
        """Have clients say at once what they have received of the results that a worker retains."""
        for session in self._sessions.values():
            if any(keeper is worker for batch in session.unacked for keeper, _ in batch.keepers):
                self.beat(session)

    def awaited(self, now_s: float) -> dict[Worker, float]:
        """Return the workers that retain results until clients acknowledge them, silent clients aside.

        Returns:
            With each, when the one of these clients was heard that has not been heard for longest.
        """
        heard_s: dict[Worker, float] = {}
        for session in self._sessions.values():
            if not session.is_silent(now_s, self._epoch.liveness_s):
                for worker in {keeper for batch in session.unacked for keeper, _ in batch.keepers}:
                    heard_s[worker] = min(heard_s.get(worker, now_s), session.last_heard_s)
        return heard_s

    def goodbye(self, text: str) -> None:
        """Tell every client that the broker ends, why, and which of its requests may have run."""
        for session in self._sessions.values():
            if session.state is BrokerSessionState.OPEN:
                doubtful = seq_ranges(session.may_have_run())
                values = [self._epoch.number, text, session.submitted, session.published, not doubtful]
                if 0 < len(doubtful) <= MAX_RANGES:
                    values.append(doubtful)
                self._outbox.results.append([session.id, wire.encode(Verb.GOODBYE, *values)])


def seq_ranges(seqs: Iterable[int]) -> list[tuple[int, int]]:
    """Return sorted ``(first, last)`` runs of sequence numbers."""
    runs: list[tuple[int, int]] = []
    for seq in sorted(seqs):
        if runs and runs[-1][1] == seq - 1:
            runs[-1] = (runs[-1][0], seq)
        else:
            runs.append((seq, seq))
    return runs
