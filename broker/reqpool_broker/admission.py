"""Admission: what becomes of each group that a client submits. No I/O, no clock.

Five steps, each a decision of its own: names are resolved by the configuration, requests that are known
already are sifted out, those that were submitted before are judged, limits are checked, and what is left goes
to a queue or to its pinned connection.
"""

from __future__ import annotations

from collections.abc import Iterable

from reqpool_contract import wire
from reqpool_contract.errors import Code, UsageError
from reqpool_contract.wire import Flag

from .broker_session_state import KnownSince
from .epoch import Epoch
from .fair_queue import QueuedGroup
from .pin import MAX_PINS
from .session import Session
from .terms import NEW, Past, Terms

MAX_ALL_PENDING = 2_000_000
"""Requests held for all sessions together, above which those that hold many are refused more."""
MAX_ALL_QUEUED_BYTES = 1 << 30
"""The same in bytes of payloads."""
OVERLOAD_RETRY_MS = 250
_IDEMPOTENT = int(Flag.IDEMPOTENT)
_RESUBMITTED = int(Flag.RESUBMITTED)
_OPENS = int(Flag.OPENS)


class Admission:
    """Admits groups, or ends their requests.

    Args:
        epoch: shared by both sides of the broker.
    """

    def __init__(self, epoch: Epoch) -> None:
        self._epoch = epoch
        self._records = epoch.records
        self._outcomes = epoch.outcomes
        self._pins = epoch.pins
        self._leasing = epoch.leasing

    def admit(self, session: Session, group: wire.SubmitGroup, deadline_s: float, now_s: float) -> None:
        """Decide about one group.

        Args:
            session: whose it is.
            group: as it was submitted, its cached settings filled in.
            deadline_s: when its requests end at the latest; monotonic.
            now_s: now; monotonic.
        """
        own_bytes = 0 if group.kept is not None else len(group.settings)
        asked = None
        if group.kept is None and own_bytes < wire.KEPT_FROM_BYTES:
            asked = (group.kind, group.origins, group.settings)
        unusable = ""
        try:
            group = self._resolve_names(group)
        except UsageError as error:
            # Some of them may be running all the same, under the previous configuration.
            unusable = error.text
        terms = Terms(
            session,
            group.kind,
            () if unusable else group.origins,
            group.flags,
            group.priority,
            group.trace,
            deadline_s,
            group.settings,
            group.pin,
            own_bytes,
            asked,
        )
        seqs, payloads, sent = group.seqs, group.payloads, False
        resubmitted = group.flags & _RESUBMITTED
        if resubmitted or len(set(seqs)) != len(seqs) or not session.open.keys().isdisjoint(seqs):
            unknown = self._sift_known(session, terms, group)
            if resubmitted:
                sent = self._judge_resubmitted(session, group, unknown)
            if not unknown:
                return
            seqs, payloads = tuple(unknown), tuple(unknown.values())
        if unusable:
            self._outcomes.fail(session, seqs, Code.USAGE, unusable, origin=group.origins[0], sent=sent)
        elif over := self.check_limits(session, group.flags, len(seqs), sum(map(len, payloads)) + own_bytes):
            self._refuse(session, seqs, over, sent=sent)
        else:
            self._route(QueuedGroup(terms, seqs, payloads, Past(sent=True) if sent else NEW), now_s)

    def _resolve_names(self, group: wire.SubmitGroup) -> wire.SubmitGroup:
        """Replace names, and URLs without passwords, by what the configuration knows of them.

        Raises:
            UsageError: for an unknown name, or something that no worker would accept.
        """
        # What is repeated to its client for each of 512 requests, or passed on unchanged, must be short.
        if len(group.kind) > wire.MAX_KIND_CHARS:
            raise UsageError(f"a kind's name can have at most {wire.MAX_KIND_CHARS} characters")
        if group.trace is not None and len(group.trace) > wire.MAX_TRACE_BYTES:
            raise UsageError(f"a trace context can have at most {wire.MAX_TRACE_BYTES} bytes")
        if group.pin is not None and not group.flags & _OPENS:
            return group  # where it goes is settled, whatever is configured now
        config = self._records.origins.config
        if not config.upstreams and not any(origin[0] == "@" for origin in group.origins):
            return group
        resolved = [config.resolve(group.kind, origin, group.settings) for origin in group.origins]
        if len({settings for _, settings in resolved}) > 1:
            raise UsageError("upstreams that are tried in turn must have equal settings (passwords, TLS)")
        if any(len(name) > wire.MAX_ORIGIN_CHARS for name, _ in resolved):
            raise UsageError(
                f"an origin, with what the configuration adds, has more than {wire.MAX_ORIGIN_CHARS} "
                "characters"
            )
        return group._replace(origins=tuple(name for name, _ in resolved), settings=resolved[0][1])

    def _sift_known(self, session: Session, terms: Terms, group: wire.SubmitGroup) -> dict[int, bytes]:
        """Return the requests that are not known yet, each once: seq to payload.

        Those that were known only from a worker's report are claimed.
        """
        pairs = dict(zip(group.seqs, group.payloads, strict=True))
        for worker, requests in self._records.disclaim(session, pairs).items():
            self._leasing.adopt(worker, terms, requests)
            if terms.opens and terms.pin in session.let_go:  # released while this was deferred
                self._pins.unpin(session, terms.pin, tell=True)
        unknown = session.unknown(group.seqs)
        return {seq: payload for seq, payload in pairs.items() if seq in unknown}

    def _judge_resubmitted(
        self, session: Session, group: wire.SubmitGroup, unknown: dict[int, bytes]
    ) -> bool:
        """End the requests that must not be repeated and that a worker may have sent upstream.

        Args:
            session: whose they are.
            group: as it was submitted again.
            unknown: its requests that are not known here; those that end are removed.

        Returns:
            Whether the others may have been sent.
        """
        if group.flags & _IDEMPOTENT:
            # Workers do not retain the results of these for the client: that none has one proves nothing.
            return session.known_since is KnownSince.LATER
        lost = self._lost(session, unknown, group.watermark)
        text = "the pool lost track of it; it may or may not have run"
        self._outcomes.fail(session, lost, Code.OUTCOME_UNKNOWN, text, origin=group.origins[0], sent=True)
        for seq in lost:
            del unknown[seq]
        return False

    def _lost(self, session: Session, seqs: Iterable[int], watermark: bytes) -> tuple[int, ...]:
        """Return which of these, submitted again and not known here, a worker may have sent upstream."""
        in_doubt = session.known_since is KnownSince.LATER and self._epoch.recovery.in_doubt(watermark)
        return tuple(
            seq for seq in seqs if seq in session.doubtful or (in_doubt and not session.never_run(seq))
        )

    def check_limits(self, session: Session, flags: int, count: int, size_bytes: int) -> str:
        """Return why the session may not queue ``count`` more requests of ``size_bytes``; empty if it may.

        The sums over all sessions are only made for those that hold much. As for messages: a ROUTER cannot
        leave one peer unread, and REJECT would make it connect again and repeat everything. So what it
        submits is refused, which its client understands; what is submitted again was let in once.
        """
        limits = self._records.origins.config.clients
        if session.messages > limits.max_messages_per_s and not flags & _RESUBMITTED:
            return (
                f"the broker accepts at most {limits.max_messages_per_s} messages of a client per second "
                "(max_messages_per_s)"
            )
        pending = session.pending + count
        queued_bytes = session.queued_bytes + session.deferred.size_bytes + size_bytes
        if pending > limits.max_pending:
            return f"the broker holds at most {limits.max_pending} requests of a client (max_pending)"
        if queued_bytes > limits.max_queued_bytes:
            return f"the broker queues at most {limits.max_queued_bytes} bytes of a client (max_queued_bytes)"
        if (
            pending > limits.max_pending // 10
            and sum(len(s.open) for s in self._records.sessions.values()) > MAX_ALL_PENDING
        ):
            return f"the broker holds at most {MAX_ALL_PENDING} requests of all clients"
        if (
            queued_bytes > limits.max_queued_bytes // 10
            and sum(s.queued_bytes + s.deferred.size_bytes for s in self._records.sessions.values())
            > MAX_ALL_QUEUED_BYTES
        ):
            return f"the broker queues at most {MAX_ALL_QUEUED_BYTES} bytes of all clients"
        return ""

    def _refuse(self, session: Session, seqs: tuple[int, ...], why: str, *, sent: bool) -> None:
        """End requests of a session that is at a limit."""
        session.refused += len(seqs)
        self._outcomes.fail(session, seqs, Code.OVERLOADED, why, sent=sent, retry_after_ms=OVERLOAD_RETRY_MS)

    def _route(self, group: QueuedGroup, now_s: float) -> None:
        """Queue a group, or lease it to the worker that has its pinned connection."""
        terms = group.terms
        if terms.pin is None:
            self._leasing.enqueue(group, now_s)
        elif terms.goes_to_pin:
            self._lease_pinned(group, now_s)
        elif self._open_pin(terms, group.seqs, now_s):
            self._leasing.enqueue(group, now_s)

    def _lease_pinned(self, group: QueuedGroup, now_s: float) -> None:
        terms, seqs = group.terms, group.seqs
        session = terms.session
        if len(seqs) != 1 or terms.idempotent or len(terms.origins) != 1:
            text = "requests for a pinned connection must come one at a time and not be idempotent"
            self._outcomes.fail(session, seqs, Code.USAGE, text, origin=terms.origins[0], sent=False)
        elif session.unacked_bytes > self._records.origins.config.clients.max_queued_bytes:
            # They pass the queue, where others wait until the client has acknowledged what it was sent.
            text = f"{session.unacked_bytes} bytes of results are not acknowledged"
            self._outcomes.fail(
                session, seqs, Code.OVERLOADED, text, sent=False, retry_after_ms=OVERLOAD_RETRY_MS
            )
        else:
            self._leasing.lease_pinned(group, now_s)

    def _open_pin(self, terms: Terms, seqs: tuple[int, ...], now_s: float) -> bool:
        """Note the pin that a request opens; returns False, and ends the request, if it cannot be opened."""
        session, number = terms.session, terms.pin
        text = ""
        if terms.flags & _RESUBMITTED and number is not None:
            # A worker reported the pin to this broker, and handed back the request that opens it before its
            # client claimed it: no connection is pinned.
            self._pins.unpin(session, number, tell=True)
            if number in session.let_go:  # released while this was deferred
                self._outcomes.end_gone(terms, seqs)
                return False
        if len(seqs) != 1 or terms.idempotent or len(terms.origins) != 1:
            text = "a pin must be opened by a single non-idempotent request to a single upstream"
        elif number in self._records.pins_of(session):
            text = f"pin {number} is already open"
        elif len(self._records.pins_of(session)) >= MAX_PINS:
            text = f"{MAX_PINS} connections are already pinned to this session"
        if text or number is None:
            self._outcomes.fail(session, seqs, Code.USAGE, text, origin=terms.origins[0], sent=False)
            return False
        origin = self._records.origins.get(terms.kind, terms.origins[0], now_s)
        session.let_go.pop(number, None)
        self._records.open_pin(session, number, origin)
        return True
