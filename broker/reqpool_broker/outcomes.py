"""Outcomes: how requests end, and what is published of it. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable

from reqpool_contract import wire
from reqpool_contract.errors import PIN_GONE, Code
from reqpool_contract.wire import MAX_BATCH_REQUESTS

from .broker_session_state import BrokerSessionState
from .lease_record import Lease
from .lease_sender import LeaseSender
from .outgoing import Outgoing
from .overload_control import Refusal, Refusals
from .records import Records
from .session import Session
from .terms import NEW, Past, Terms
from .worker import Worker

_OPEN, _ENDED = BrokerSessionState.OPEN, BrokerSessionState.ENDED


class Outcomes:
    """Ends requests.

    Args:
        epoch: this broker's.
        outbox: where messages go.
        records: where requests are.
        sender: notifies workers of requests that ended elsewhere.

    Attributes:
        refusals: what :meth:`refuse` has gathered in this turn.
    """

    def __init__(self, epoch: int, outbox: Outgoing, records: Records, sender: LeaseSender) -> None:
        self._epoch = epoch
        self._outbox = outbox.results
        self._records = records
        self._sender = sender
        self.refusals = Refusals()

    def publish(
        self,
        session: Session,
        blob: bytes,
        seqs: tuple[int, ...],
        worker: Worker | None = None,
        attempts: tuple[tuple[int, int], ...] = (),
    ) -> None:
        """Number a result batch, keep it, and send it if the session listens.

        ``attempts``: (seq, attempts) of those that took more than one.
        """
        if session.state is _ENDED:
            return
        keepers = ((worker, worker.part_published()),) if worker is not None else ()
        batch = session.retain(blob, seqs, keepers, attempts)
        if session.state is _OPEN:
            self._outbox.append(session.frames(batch, self._epoch))

    def fail(
        self,
        session: Session,
        seqs: Iterable[int],
        code: Code,
        text: str,
        *,
        origin: str | None = None,
        phase: str | None = None,
        attempts: int = 0,
        sent: bool | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        """Publish one error for requests that are no longer open."""
        data = wire.encode_error(
            text, origin=origin, phase=phase, attempts=attempts, sent=sent, retry_after_ms=retry_after_ms
        )
        self.conclude(session, seqs, code, data)

    def conclude(self, session: Session, seqs: Iterable[int], code: int, data: bytes) -> None:
        """Publish one encoded error, or an answer, for requests that are no longer open."""
        numbers = tuple(seqs)
        if code == Code.OK:
            self._records.done += len(numbers)
        else:
            name = Code(code).name.lower() if code in Code._value2member_map_ else str(code)
            self._records.count_failed(name, len(numbers))
        session.done += len(numbers)
        for start in range(0, len(numbers), MAX_BATCH_REQUESTS):
            chunk = numbers[start : start + MAX_BATCH_REQUESTS]
            flat: list[object] = []
            for seq in chunk:
                flat += (seq, code, data)
            self.publish(session, wire.encode_blob(flat), chunk)

    def refuse(self, terms: Terms, seqs: tuple[int, ...], past: Past, origin: str, refusal: Refusal) -> None:
        """End requests that would not be served in time; published by :meth:`publish_refusals`."""
        self._records.close(terms.session, seqs)
        if past.answer is None:
            self.refusals.add(terms, seqs, past, origin, refusal)
        else:
            self.conclude(terms.session, seqs, Code.OK, past.answer)

    def publish_refusals(self) -> None:
        """Publish what :meth:`refuse` has gathered in this turn, one batch for a client."""
        for session, seqs, blob in self.refusals.take():
            self._records.count_failed("overloaded", len(seqs))
            session.done += len(seqs)
            self.publish(session, blob, seqs)

    def finish(
        self, worker: Worker, session: Session, seqs: tuple[int, ...], failed: int, blob: bytes
    ) -> int:
        """Publish what ``worker`` sent, ``failed`` of them errors; returns how many were still open."""
        fresh, attempts, elsewhere = self._records.finish(worker, session, seqs, failed)
        for other, seq in elsewhere:
            self._sender.cancel(other, session.id, seq)
        if fresh:
            self.publish(session, blob, seqs, worker, attempts)
        if fresh < len(seqs):
            session.attach(seqs, worker)
        return fresh

    def end_leased(
        self,
        lease: Lease,
        pairs: list[tuple[int, bytes]],
        code: Code,
        text: str,
        *,
        phase: str | None = None,
        sent: bool = True,
    ) -> None:
        """End requests, taken out of a lease, whose outcome its worker has not reported.

        ``sent``: whether an upstream could have acted on them.
        """
        session = lease.terms.session
        name = lease.origin.name if lease.origin else None
        seqs = [seq for seq, _ in pairs]
        self._records.close(session, seqs)
        if lease.past.answer is None:
            self.fail(session, seqs, code, text, origin=name, phase=phase, attempts=lease.attempt, sent=sent)
        else:
            self.conclude(session, seqs, Code.OK, lease.past.answer)

    def end_gone(self, terms: Terms, seqs: Iterable[int]) -> None:
        """End requests whose pinned connection is lost."""
        self.end_unleased(terms, seqs, Code.CONNECTION_LOST, PIN_GONE, NEW)

    def end_unleased(self, terms: Terms, seqs: Iterable[int], code: Code, text: str, past: Past) -> None:
        """End requests that are neither queued nor leased at this moment."""
        session, numbers = terms.session, tuple(seqs)
        self._records.close(session, numbers)
        if past.answer is None:
            self.fail(
                session,
                numbers,
                code,
                text,
                origin=terms.origins[0],
                phase="queue",
                attempts=past.attempts,
                sent=past.sent,
            )
        else:
            self.conclude(session, numbers, Code.OK, past.answer)
