"""SUBMIT: numbers, acknowledgements, cached settings, bad groups, and what is deferred. No I/O, no clock."""

from __future__ import annotations

from reqpool_contract import wire
from reqpool_contract.errors import Code, ProtocolError
from reqpool_contract.wire import Flag, Reject

from .admission import Admission
from .broker_session_state import KnownSince
from .deferred import group_bytes
from .epoch import Epoch
from .session import MAX_UNACKED_BATCHES, Session
from .short_way import ShortSubmit

_RESUBMITTED = int(Flag.RESUBMITTED)
_OPENS = int(Flag.OPENS)


class Submissions:
    """Takes what clients submit.

    Args:
        epoch: shared by both sides of the broker.

    Attributes:
        take_short: takes a SUBMIT's frame by the short way; False if that is not possible.
    """

    def __init__(self, epoch: Epoch) -> None:
        self._epoch = epoch
        self._records = epoch.records
        self._outcomes = epoch.outcomes
        self._admission = Admission(epoch)
        self.take_short = ShortSubmit(epoch, self._admission).take
        self._deferring: dict[Session, None] = {}

    def submit(
        self,
        session: Session,
        number: int,
        acked: int,
        groups: list[wire.SubmitGroup | wire.BadGroup],
        now_s: float,
    ) -> None:
        """Take a SUBMIT; one that is repeated is ignored, and one after a gap is rejected."""
        if number != session.submitted + 1:
            if number > session.submitted:
                self._reject(session, Reject.GAP, f"SUBMIT {number} came after {session.submitted}")
            return
        self.acknowledge(session, acked)
        if len(session.unacked) > MAX_UNACKED_BATCHES:
            text = f"{len(session.unacked)} batches of results are not acknowledged"
            self._reject(session, Reject.OVERLOADED, text)
            return
        session.submitted = number
        bad: list[wire.BadGroup] = []
        admit = self._admission.admit
        for group in groups:
            self._records.submitted += len(group.seqs)
            if isinstance(group, wire.BadGroup):
                bad.append(group)
                continue
            if group.kept is not None:
                try:
                    group = group._replace(settings=session.cached.find(group.kept))
                except ProtocolError as error:
                    resubmitted = bool(group.flags & _RESUBMITTED)
                    bad.append(wire.BadGroup(b"", group.seqs, resubmitted, error.text))
                    continue
            deadline_s = now_s + group.span_ms / 1000
            if (
                group.flags & _RESUBMITTED or (group.pin is not None and not group.flags & _OPENS)
            ) and self._must_defer(session, group, now_s):
                session.deferred.add(group, deadline_s)
                self._deferring[session] = None
            else:
                admit(session, group, deadline_s, now_s)
        if bad:
            self._refuse(session, bad)

    def acknowledge(self, session: Session, number: int) -> None:
        """Note that the client has the result batches up to ``number``."""
        throttled = not session.has_room
        for batch in session.acknowledge(number):
            for worker, worker_number in batch.keepers:
                worker.part_delivered(worker_number)
            # From here on nothing else would know that they have ended.
            session.deferred.drop(batch.seqs)
        if throttled and session.has_room:
            self._records.origins.wake()

    def _must_defer(self, session: Session, group: wire.SubmitGroup, now_s: float) -> bool:
        """Whether a group that an earlier broker may have known has to wait for reports of its workers."""
        return (
            session.known_since is KnownSince.LATER
            and self._epoch.must_defer(now_s)
            and not self._admission.check_limits(session, group.flags, len(group.seqs), group_bytes(group))
        )

    def release_deferred(self, now_s: float) -> None:
        """Admit what was deferred until earlier workers report, once it need not wait any more."""
        if self._deferring and not self._epoch.must_defer(now_s):
            deferring, self._deferring = self._deferring, {}
            for session in deferring:
                for group, deadline_s in session.deferred.take():
                    self._admission.admit(session, group, deadline_s, now_s)

    def _reject(self, session: Session, code: Reject, text: str) -> None:
        if session.route is not None:
            self._epoch.reject(self._epoch.outbox.intake, session.route, code, text)

    def _refuse(self, session: Session, groups: list[wire.BadGroup]) -> None:
        """End the requests of groups that cannot be used: one error for all that are wrong alike."""
        self._epoch.malformed["intake"] += len(groups)
        alike: dict[tuple[str, bool], dict[int, None]] = {}
        # Those that are known end by themselves.
        unknown = session.unknown(seq for group in groups for seq in group.seqs)
        for group in groups:
            for seq in group.seqs:
                if seq in unknown:
                    sent = group.resubmitted and session.known_since is KnownSince.LATER
                    alike.setdefault((f"the broker cannot use it: {group.text}", sent), {})[seq] = None
        for (text, sent), seqs in alike.items():
            self._outcomes.fail(session, seqs, Code.PROTOCOL, text, sent=sent)
