"""A session: what the broker knows of one client stub. No I/O, no clock."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

from reqpool_contract import wire
from reqpool_contract.cached_settings import SettingsReceiver
from reqpool_contract.wire import Verb

from .broker_session_state import TRANSITIONS, BrokerSessionEvent, BrokerSessionState, KnownSince
from .client_limits import ClientLimits
from .deferred import DeferredGroups
from .place import Place
from .worker import Worker

ROOM_BATCHES = 256
"""Unacknowledged result batches after which nothing more is leased for the session."""
ROOM_BYTES = 16 << 20
"""The same in bytes of results."""
MAX_UNACKED_BATCHES = 4 * ROOM_BATCHES
"""Unacknowledged result batches, the broker's own errors included, above which it cannot submit more."""
MAX_SEQ = wire.MAX_NUMBER


class ResultBatch(NamedTuple):
    """A published result batch that its client has not acknowledged.

    Attributes:
        number: its place in the session, from 1.
        blob: the results, encoded.
        seqs: whose they are.
        keepers: workers that retain an outcome of them until it is acknowledged, each with the number of the
            RESULTS that it came in. Not always the one that is published: see :meth:`Session.attach`.
        attempts: (seq, attempts) of those that took more than one.
    """

    number: int
    blob: bytes
    seqs: tuple[int, ...]
    keepers: tuple[tuple[Worker, int], ...]
    attempts: tuple[tuple[int, int], ...] = ()


class Session:
    """What the broker knows of one client.

    Attributes:
        id: 16 bytes, the topic.
        open: every request that has not ended: seq to where it waits or runs.
        route: routing id of the client's connection, None while it has none.
        place: number of the results socket it is published on; None before its first HELLO and after its end.
        state: changed by :meth:`move` alone.
        submitted: number of the last SUBMIT processed.
        unacked: result batches that are retained until acknowledged.
        queued_bytes: payload bytes waiting in queues, or for room on the way to a worker.
        generation: which numbering of result batches this is: a client that has not heard that another began
            acknowledges what it never got.
        deferred: submissions that wait for reports of earlier workers.
        doubtful: seqs that a worker of an earlier epoch reported as running and then lost, perhaps
            after it had sent them upstream.
        known_since: whether what it submits again, and is not known, may have been leased.
        never_ran: ranges of seqs that were dropped from the queue when the session expired.
        let_go: numbers of pins that its client released when they were not known here: perhaps of an earlier
            epoch, and a worker is still to report them (a dict used as an ordered set).
        cached: settings that came with KEEP, for its groups to name.
        messages: those that came in this second.
        refused: requests refused because it was at a limit.
        debt_bytes: by how much its last turn in a queue exceeded its share, less what it has let pass since.
    """

    def __init__(self, id_: bytes, now_s: float) -> None:
        self.id = id_
        self.generation = 0
        self.name = ""
        self.pid = 0
        self.created_s = now_s
        self.last_heard_s = now_s
        self.open: dict[int, Place] = {}
        self.route: bytes | None = None
        self.place: int | None = None
        self.state = BrokerSessionState.UNCONNECTED
        self.known_since = KnownSince.LATER
        self.submitted = 0
        self.heartbeat_seen = 0
        self.heartbeats_sent = 0
        self.published = 0
        self.unacked: deque[ResultBatch] = deque()
        self.unacked_bytes = 0
        self.queued_bytes = 0
        self.deferred = DeferredGroups()
        self.doubtful: set[int] = set()
        self.never_ran: list[tuple[int, int]] = []
        self.let_go: dict[int, None] = {}
        self.cached = SettingsReceiver(wire.SESSION_KEEPS)
        self.messages = 0
        self.refused = 0
        self.debt_bytes = 0
        self.done = 0

    def move(self, event: BrokerSessionEvent) -> None:
        """Change the state; a KeyError if this cannot happen in it."""
        self.state = TRANSITIONS[self.state, event]

    def begin(self, route: bytes, *, resumed: bool, now_s: float) -> None:
        """Begin a new connection: SUBMIT and heartbeats count from 1 again, and so do results
        unless the session is resumed."""
        if self.state is BrokerSessionState.ENDED:
            self.known_since = KnownSince.LATER
        self.move(BrokerSessionEvent.HELLO)
        self.route = route
        self.last_heard_s = now_s
        self.submitted = self.heartbeat_seen = self.heartbeats_sent = 0
        if not resumed:
            self.unacked = deque(
                batch._replace(number=number) for number, batch in enumerate(self.unacked, 1)
            )
            self.published = len(self.unacked)

    def end(self, why: BrokerSessionEvent) -> None:
        """Note that the client is gone."""
        self.move(why)
        self.route = None
        self.deferred.take()
        self.never_ran = []

    def never_run(self, seq: int) -> bool:
        """Tell whether a request was dropped from the queue when the session expired, and so never ran."""
        place = bisect_right(self.never_ran, (seq, MAX_SEQ)) - 1
        return place >= 0 and seq <= self.never_ran[place][1]

    def may_have_run(self) -> set[int]:
        """Return the pending requests that a worker has or may have had.

        The others wait here, and those of them that must not be repeated were never leased.
        """
        leased = {seq for seq, place in self.open.items() if place.worker is not None}
        return leased.union(self.doubtful, self.deferred.seqs)

    def is_silent(self, now_s: float, liveness_s: float) -> bool:
        """Tell whether its client seems frozen, killed or cut off, judging by its silence."""
        return now_s - self.last_heard_s > liveness_s

    @property
    def pending(self) -> int:
        """Requests of it that have not ended."""
        count = len(self.open)
        return count + len(self.deferred.seqs) if self.deferred.groups else count

    def note_let_go(self, number: int, most: int) -> None:
        """Remember that the client released a pin that is not known here; keep the last ``most``."""
        self.let_go[number] = None
        if len(self.let_go) > most:
            del self.let_go[next(iter(self.let_go))]

    @property
    def has_room(self) -> bool:
        """Whether more may be leased for it: a client that does not acknowledge throttles only itself."""
        return len(self.unacked) < ROOM_BATCHES and self.unacked_bytes < ROOM_BYTES

    def retain(
        self,
        blob: bytes,
        seqs: tuple[int, ...],
        keepers: tuple[tuple[Worker, int], ...] = (),
        attempts: tuple[tuple[int, int], ...] = (),
    ) -> ResultBatch:
        """Number a result batch and retain it until it is acknowledged."""
        self.published += 1
        batch = ResultBatch(self.published, blob, seqs, keepers, attempts)
        self.unacked.append(batch)
        self.unacked_bytes += len(blob)
        return batch

    def attach(self, seqs: Iterable[int], worker: Worker) -> None:
        """Note that a worker has sent outcomes of requests that have already ended.

        Perhaps it sends everything again on a new connection. It retains them until the client has
        acknowledged the outcome that it got.
        """
        told = set(seqs)
        for place, batch in enumerate(self.unacked):
            if not told.isdisjoint(batch.seqs):
                # Numbers of its earlier connections mean nothing any more.
                others = (
                    keeper for keeper in batch.keepers if keeper[0] is not worker or keeper[1] > worker.base
                )
                self.unacked[place] = batch._replace(keepers=(*others, (worker, worker.part_published())))

    def frames(self, batch: ResultBatch, epoch: int) -> list[bytes]:
        """Return the frames that publish a batch."""
        attempts = (batch.attempts,) if batch.attempts else ()
        return [
            self.id,
            wire.encode(Verb.RESULTS, epoch, batch.number, self.submitted, *attempts),
            batch.blob,
        ]

    def acknowledge(self, number: int) -> list[ResultBatch]:
        """Forget the batches up to ``number``; returns them."""
        done = []
        unacked = self.unacked
        while unacked and unacked[0].number <= number:
            batch = unacked.popleft()
            self.unacked_bytes -= len(batch.blob)
            done.append(batch)
        return done

    def unknown(self, seqs: Iterable[int]) -> set[int]:
        """Return those of ``seqs`` that neither wait nor run, and have no unacknowledged result."""
        fresh = set(seqs).difference(self.open)
        for batch in self.unacked:
            fresh.difference_update(batch.seqs)
        return fresh

    def superseded(self, seqs: set[int], worker: Worker) -> set[int]:
        """Return those of ``seqs``, running at a worker that was away, that ended or run elsewhere meanwhile.

        What must not be repeated never runs elsewhere while a worker may have it.
        """
        ended = {seq for batch in self.unacked for seq in batch.seqs if seq in seqs}
        gone = ended.difference(self.open)
        for seq in seqs.intersection(self.open):
            place = self.open[seq]
            if place.worker is not None and place.worker is not worker and place.idempotent:
                gone.add(seq)
        return gone

    def report(self, now_s: float, limits: ClientLimits) -> dict[str, Any]:
        """Return what ``status`` shows; how much it uses of its limits is in percent."""
        queued_bytes = self.queued_bytes + self.deferred.size_bytes
        return {
            "id": wire.shown_id(self.id),
            "name": self.name,
            "pid": self.pid,
            "pending": self.pending,
            "unacked": len(self.unacked),
            "done": self.done,
            "refused": self.refused,
            "pending_percent": round(100 * self.pending / limits.max_pending, 1),
            "bytes_percent": round(100 * queued_bytes / limits.max_queued_bytes, 1),
            "messages_percent": round(100 * self.messages / limits.max_messages_per_s, 1),
            "age_s": round(now_s - self.created_s, 3),
            "silent_s": round(now_s - self.last_heard_s, 3),
        }
