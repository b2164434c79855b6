"""The intake socket's messages: who takes each of them, and STATUS. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reqpool_contract import checks, wire
from reqpool_contract.errors import ProtocolError
from reqpool_contract.wire import Reject, Verb

from .broker_session_state import BrokerSessionEvent, KnownSince
from .cancellations import Cancellations
from .client_heartbeats import ClientHeartbeats
from .epoch import Epoch
from .pin import MAX_PINS
from .session import Session
from .session_lifecycle import SessionLifecycle
from .settings_budget import SettingsBudget
from .status_report import StatusReport
from .submissions import Submissions


class ClientMessages:
    """Reads what clients send (docs/protocol.md, verb x state).

    Args:
        epoch: shared by both sides of the broker.
        lifecycle: begins and ends sessions.
        submissions: takes SUBMIT, and what is acknowledged.
        heartbeats: confirms large payloads.
        budget: takes KEEP.
        cancellations: takes CANCEL.
        status: answers STATUS.
    """

    def __init__(
        self,
        epoch: Epoch,
        lifecycle: SessionLifecycle,
        submissions: Submissions,
        heartbeats: ClientHeartbeats,
        budget: SettingsBudget,
        cancellations: Cancellations,
        status: StatusReport,
    ) -> None:
        self._epoch = epoch
        self._outbox = epoch.outbox
        self._lifecycle = lifecycle
        self._submissions = submissions
        self._heartbeats = heartbeats
        self._cancellations = cancellations
        self._status = status
        self._by_route = lifecycle.by_route
        self._take_short = submissions.take_short
        self._on: dict[Verb, Callable[..., None]] = {
            Verb.SUBMIT: submissions.submit,
            Verb.HEARTBEAT: self._heartbeat,
            Verb.CANCEL: self._cancel,
            Verb.RESEND: lifecycle.publish_again,
            Verb.UNPIN: self._unpin,
            Verb.KEEP: budget.cache,
        }

    def message(self, route: bytes, frames: list[bytes], now_s: float) -> None:
        """Take one message of the intake socket, its routing id split off."""
        session = self._by_route.get(route)
        if session is not None and len(frames) == 1 and self._take_short(session, frames[0], now_s):
            return
        try:
            verb, values = wire.decode(frames[0] if frames else b"", wire.CLIENT_TO_BROKER, frames[1:])
            if verb is Verb.HELLO:
                self._lifecycle.hello(route, now_s, *values)
                return
            if verb is Verb.STATUS:
                self._outbox.intake.append([route, self._report(now_s, *values)])
                return
        except ProtocolError as error:
            self._epoch.malformed["intake"] += 1
            self._epoch.reject(self._outbox.intake, route, Reject.MALFORMED, error.text)
            return
        if session is None:
            if verb is not Verb.GOODBYE:
                self._epoch.reject(self._outbox.intake, route, Reject.UNKNOWN, "unknown session: send HELLO")
            return
        session.last_heard_s = now_s
        session.messages += 1
        if verb is Verb.GOODBYE:
            self._lifecycle.end(session, BrokerSessionEvent.GOODBYE)
        else:
            self._on[verb](session, *values, now_s)
            if len(frames) > 1:
                self._heartbeats.awaiting_confirmation[session] = None

    def begin_second(self) -> None:
        """Count messages anew, once a second."""
        for session in self._epoch.sessions.values():
            session.messages = 0

    def _report(self, now_s: float, query: dict[str, Any]) -> bytes:
        number = checks.optional_uint(query.get("number"))
        report = self._status.make(now_s)
        if number is not None:
            report["number"] = number
        head = wire.encode(Verb.STATUS, report)
        if len(head) > wire.MAX_MESSAGE_BYTES:
            # libzmq would close the connection of the peer that asks, again and again.
            report["workers"] = [{**worker, "sample": {}} for worker in report["workers"]]
            head = wire.encode(Verb.STATUS, report)
        return head

    def _heartbeat(self, session: Session, number: int, seen: int, acked: int, now_s: float) -> None:
        session.heartbeat_seen = number
        self._submissions.acknowledge(session, acked)

    def _cancel(self, session: Session, seqs: tuple[int, ...], now_s: float) -> None:
        self._cancellations.drop(session, seqs)
        session.deferred.drop(seqs)

    def _unpin(self, session: Session, pin: int, now_s: float) -> None:
        released = self._epoch.pins.unpin(session, pin, tell=True)
        if not released and session.known_since is KnownSince.LATER:
            session.note_let_go(pin, MAX_PINS)
