"""What all parts of the broker share in one epoch: its number, records and spans. No I/O, no clock."""

from __future__ import annotations

from typing import Any

from reqpool_contract import wire
from reqpool_contract.wire import Reject, Verb

from .broker_spans import COME_S
from .config import Config
from .grant_table import GrantTable
from .lease_sender import LeaseSender
from .leasing import Leasing
from .outcomes import Outcomes
from .outgoing import Outgoing
from .pins import Pins
from .records import Records
from .recovery import Recovery
from .retries import Retries
from .session import Session

WORKER_FORGET_S = 600.0
"""How long a silent worker's connection slots stay reserved when nobody reports its death."""


class Epoch:
    """One life of the broker, from its start to its end.

    Attributes:
        number: its own; no other epoch has it.
        outbox: what to send.
        records: who is there, and where each request is.
        grants: the workers' connection slots.
        sender, outcomes, pins, leasing, retries: who decides about requests.
        sessions: by id.
        recovery: the workers of earlier epochs, and who has died.
        malformed: illegal messages counted per socket.
        heartbeat_ms: span between two heartbeats.
        liveness_s: silence after which a peer counts as lost.
        expiry_s: silence after which a session is forgotten.
    """

    def __init__(
        self,
        number: int,
        recovery: Recovery,
        heartbeat_ms: int,
        liveness_ms: int,
        session_expiry_ms: int,
        config: Config,
        now_s: float,
    ) -> None:
        self.number = number
        self.outbox = Outgoing()
        self.records = records = Records(config)
        self.grants = GrantTable(number, self.outbox, records.workers, records.origins)
        self.sender = LeaseSender(number, self.outbox)
        self.outcomes = Outcomes(number, self.outbox, records, self.sender)
        self.pins = Pins(number, self.outbox, records, self.sender, self.outcomes)
        self.leasing = Leasing(records, self.grants, self.sender, self.outcomes, self.pins)
        self.retries = Retries(records, self.sender, self.outcomes, self.pins, self.leasing, self.grants)
        self.sessions = records.sessions
        self.recovery = recovery
        self.malformed = {"intake": 0, "results": 0, "workers": 0}
        self.heartbeat_ms = heartbeat_ms
        self.liveness_s = liveness_ms / 1000
        self.expiry_s = session_expiry_ms / 1000
        self.grants.settled = not recovery.unheard
        self._defer_until_s = now_s + self.liveness_s
        self._settle_s = now_s + WORKER_FORGET_S
        self._stay_until_s = now_s + COME_S if recovery.unheard else now_s

    def new_session(self, id_: bytes, now_s: float) -> Session:
        """Begin to know a client, which a worker may have named before it comes itself."""
        session = self.sessions[id_] = Session(id_, now_s)
        return session

    def may_end(self, now_s: float) -> bool:
        """Tell whether clients of the previous epoch have had time to ask about their doubtful requests.

        Only brokers of one supervisor can know that a worker which ended in order had not sent them: the next
        supervisor cannot.
        """
        return now_s >= self._stay_until_s

    def must_defer(self, now_s: float) -> bool:
        """Tell whether resubmitted requests have to wait for reports of workers of earlier epochs."""
        recovery = self.recovery
        return now_s < self._defer_until_s and (not recovery.supervised or bool(recovery.unheard))

    def follow(self, now_s: float) -> None:
        """Note that a peer comes from an earlier epoch; workers that nobody knows get time to report."""
        if not self.recovery.supervised and now_s < self._defer_until_s:
            self.grants.settled = False
            self._settle_s = self._defer_until_s

    def settle(self, now_s: float) -> None:
        """Settle the grants once all workers of the earlier epoch have reported or died, or had time to."""
        if not self.grants.settled and (
            now_s >= self._settle_s or (self.recovery.supervised and not self.recovery.unheard)
        ):
            self.grants.settle()

    def common_version(self, out: list[list[bytes]], route: bytes, lowest: int, highest: int) -> int | None:
        """Return the version to speak with a peer that speaks these; None, after REJECT, if there is none."""
        if lowest <= wire.VERSION and highest >= wire.LOWEST_VERSION:
            return min(highest, wire.VERSION)
        ours = f"{wire.LOWEST_VERSION} to {wire.VERSION}"
        text = f"this broker speaks protocol versions {ours}, the peer {lowest} to {highest}"
        about = {"lowest": wire.LOWEST_VERSION, "highest": wire.VERSION}
        self.reject(out, route, Reject.VERSION, text, about)
        return None

    @staticmethod
    def reject(
        out: list[list[bytes]],
        route: bytes,
        code: Reject,
        text: str,
        about: dict[str, Any] | None = None,
    ) -> None:
        """Send REJECT."""
        out.append([route, wire.encode(Verb.REJECT, int(code), text, about or {})])
