"""What a client has yet to send, in which order, and how far it may go on: sans-IO."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from reqpool_contract import wire
from reqpool_contract.grace import CLUSTER_GRACE_S

from .batching import next_batch
from .completions import Completions
from .entry import RequestEntry
from .pending import Pending, within
from .session_actions import Action, Opened
from .session_protocol import SessionProtocol
from .session_state import SessionState

BATCHES_PER_TURN = 64
"""Most batches sent from a queue before what has come in is looked at again."""
FRESH_S = 0.02
"""How recently the broker must have been heard for a request to be sent without a look at the connection."""
UNPINNED_REMEMBERED = 1_000
"""The last pins that were released: UNPIN is sent again for them on a new connection."""


class Intake(Protocol):
    """The way to the broker."""

    blocked: bool
    """The intake socket took no more when last asked."""

    def submit(self, head: bytes) -> bool:
        """Send a SUBMIT while the intake is not ``blocked``; never blocks.

        Returns:
            False if there is no connection that it could be sent on.
        """

    def has_room(self) -> bool:
        """Return whether the next message that is sent will certainly be taken."""

    def send(self, head: bytes, *payloads: bytes) -> bool:
        """Send one message through the intake socket; never blocks. Returns False if it was not taken."""


class SendQueues:
    """Requests to be sent, cancellations, and pins to be released.

    One thread at a time may call its methods. Any thread may append to ``outbox``, ``cancels``, ``unpins``.

    Attributes:
        outbox: what was submitted and not yet sent.
        cancels: cancelled requests for which no CANCEL was sent yet.
        unpins: released pins for which no UNPIN was sent yet.
        backlog: what is submitted again on a new connection.
        large: what waits for room for its large payload.
        large_again: likewise, of what is submitted again: until these have gone out, not all has been.
        batches_out: SUBMIT messages sent.
    """

    def __init__(self, session: SessionProtocol, table: Pending, intake: Intake, ends: Completions) -> None:
        """Begin with nothing to send.

        Args:
            session: numbers the messages.
            table: the requests that have not ended.
            intake: messages go through it.
            ends: counts those that were cancelled.
        """
        self.outbox: deque[RequestEntry] = deque()
        self.cancels: deque[RequestEntry] = deque()
        self.unpins: deque[int] = deque()
        self.backlog: deque[RequestEntry] = deque()
        self.large: deque[RequestEntry] = deque()
        self.large_again: deque[RequestEntry] = deque()
        self.batches_out = 0
        self._session = session
        self._table = table
        self._intake = intake
        self._ends = ends
        # In the order of sending: a queue, how many requests of it go into one message, and where those wait
        # for which there is no room.
        self._queues = (
            (self.backlog, wire.MAX_BATCH_REQUESTS, self.large_again),
            (self.large_again, 1, self.large_again),
            (self.large, 1, self.large),
            (self.outbox, wire.MAX_BATCH_REQUESTS, self.large),
        )
        self._stuck_seq = 0
        self._unpinned: deque[int] = deque(maxlen=UNPINNED_REMEMBERED)

    def submit_one(self, entry: RequestEntry, now_s: float) -> bool:
        """Send a new request at once, unless something else waits to be sent or the connection may be lost.

        Returns:
            False if it was not sent; it is in no queue then.
        """
        session, route, intake = self._session, entry.route, self._intake
        if (
            session.state is not SessionState.OPEN
            or self.outbox
            or self.cancels
            or self.unpins
            or self.backlog
            or self.large
            or self.large_again
            or session.resubmission.under_way
            or now_s - session.heard_s >= FRESH_S
            or now_s - session.answered_s >= session.liveness_s
            or len(route.settings) >= wire.KEPT_FROM_BYTES
            or len(entry.payload) > wire.LARGE_MESSAGE_BYTES
            or intake.blocked
        ):
            return False
        deadline_s = entry.deadline_s
        span_ms = int((deadline_s - now_s) * 1000) + 1
        head = session.submit(
            [
                (
                    route.kind_name,
                    route.origins,
                    span_ms if span_ms < wire.MAX_SPAN_MS else wire.MAX_SPAN_MS,
                    route.flags,
                    entry.priority,
                    route.pin,
                    None,
                    (entry.seq,),
                    (entry.payload,),
                    route.settings,
                    None,
                    b"",
                )
            ]
        )
        # Set first: what an exception cuts short here counts as sent.
        entry.connection = session.connection
        if not intake.submit(head):
            entry.connection = 0
            return False  # the connection is being given up, and its numbers with it
        self.batches_out += 1
        due_s = deadline_s + CLUSTER_GRACE_S
        if due_s < self._table.due_s:
            self._table.expect(due_s)
        return True

    def flush(self, now_s: float) -> Sequence[Action]:
        """Send what is to be sent, as far as the broker takes it.

        Returns:
            What the session asks for if a message that was promised room was not taken.
        """
        if not (self.outbox or self.cancels or self.backlog or self.large or self.large_again or self.unpins):
            return ()
        session, table, intake = self._session, self._table, self._intake
        if session.state is not SessionState.OPEN:
            self._put_off()
            while self.outbox:
                table.expect(self.outbox.popleft().deadline_s + CLUSTER_GRACE_S)
        submits = session.submits
        for queue, most, large in self._queues:
            for _ in range(BATCHES_PER_TURN):
                if not queue or (queue is large and submits.room_bytes <= 0) or not intake.has_room():
                    break
                groups, earliest_s, size_bytes = next_batch(
                    queue, session.connection, now_s, session.keeping, most, submits.room_bytes, large
                )
                table.expect(earliest_s + CLUSTER_GRACE_S)
                if groups and not self._submit(groups, size_bytes):
                    # Room was asked for one message, and what follows a missing one would be misread.
                    return session.give_in(now_s, "the broker accepts no more messages for now")
        if self.outbox and self.outbox[-1].seq != self._stuck_seq:
            # Not sent, as there was no room: a sweep finds out when these are due.
            self._stuck_seq = self.outbox[-1].seq
            table.expect(now_s)
        if session.resubmission.under_way and session.state is SessionState.OPEN:
            self._note_resubmitted()
        while self.unpins and session.state is SessionState.OPEN and intake.has_room():
            pin = self.unpins.popleft()
            self._unpinned.append(pin)
            intake.send(wire.encode(wire.Verb.UNPIN, pin))
        if self.cancels:
            cancelled = [self.cancels.popleft() for _ in range(len(self.cancels))]
            self._ends.cancelled += len(cancelled)
            sent = [entry.seq for entry in cancelled if entry.connection == session.connection]
            if sent and session.state is SessionState.OPEN:
                intake.send(wire.encode(wire.Verb.CANCEL, sent))
        return ()

    def has_more(self) -> bool:
        """Return whether something is left that may be sent, room in the intake socket permitting."""
        if (self.large or self.large_again) and self._session.submits.room_bytes > 0:
            return True
        return bool(self.backlog or self.outbox)

    def resubmit(self, opened: Opened) -> None:
        """Put everything that is pending into the queues: the session is open."""
        # What was released on a connection that broke may not have arrived; the broker ignores repetitions.
        self.unpins.extend(self._unpinned)
        self._unpinned.clear()
        pending = list(self._table.futures.values())
        seqs = [entry.seq for entry in pending]
        never_ran, doubtful = within(seqs, opened.never_ran), within(seqs, opened.doubtful)
        for entry in pending:
            again = entry.resubmitted is not None
            unrun = opened.unrun_all if again else opened.unrun
            unrun = unrun and not entry.route.idempotent and entry.seq not in doubtful
            if unrun or entry.seq in never_ran:
                entry.connection, entry.resubmitted = 0, None
            elif entry.connection and (not again or opened.settled):
                entry.resubmitted = opened.watermark
        # Some are in the outbox as well: each is sent once per connection.
        self._put_off()
        self.backlog.extend(pending)
        self._note_resubmitted()

    def _note_resubmitted(self) -> None:
        if not (self.backlog or self.large_again):
            self._session.resubmission.done(self._session.submits.number)

    def _put_off(self) -> None:
        """Send nothing that waits but the outbox: when the session opens, all of the table is submitted."""
        self.backlog.clear()
        self.large.clear()
        self.large_again.clear()

    def _submit(self, groups: list[Any], size_bytes: int) -> bool:
        payloads: list[Any] = []
        session = self._session
        if size_bytes > wire.LARGE_MESSAGE_BYTES and session.takes_apart:
            groups, payloads = wire.set_apart(groups, wire.PAYLOADS_AT[wire.Verb.SUBMIT])
        head = session.submit(groups, sum(map(len, payloads)) if payloads else 0)
        keeping = session.keeping
        keeps = [wire.encode(wire.Verb.KEEP, *fresh) for fresh in keeping.take_fresh()]
        keeping.end_turn()
        send = self._intake.send
        self.batches_out += 1
        return all(map(send, keeps)) and send(head, *payloads)
