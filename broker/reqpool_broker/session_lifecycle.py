"""Sessions from HELLO to their end: WELCOME, subscription, goodbye, expiry. No I/O, no clock."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

from reqpool_contract import checks, wire
from reqpool_contract.wire import Reject, Verb

from .broker_session_state import BrokerSessionEvent, BrokerSessionState, KnownSince
from .cancellations import Cancellations
from .client_heartbeats import MAX_RANGES, seq_ranges
from .epoch import Epoch
from .results_placement import ResultsPlacement
from .session import Session
from .settings_budget import SettingsBudget
from .submissions import Submissions

MAX_SESSIONS = 10_000
MAX_TOMBSTONES = 1_000
"""Expired sessions of which the broker still knows what it dropped."""


class ClientHello(NamedTuple):
    """What a client's HELLO says.

    Attributes:
        id: of its session.
        epoch: of the broker that welcomed it last; None: it has had none.
        generation: numbering of results that it knows; None: it does not say.
        received: number of the last result batch that it has, all before it included.
        name, pid: of its process, for people.
    """

    id: bytes
    epoch: int | None
    generation: int | None
    received: int
    name: str
    pid: int

    @classmethod
    def read(cls, about: dict[str, Any]) -> ClientHello:
        """Check what a client sent.

        Raises:
            ProtocolError: if it is malformed.
        """
        return cls(
            checks.identity(about.get("session")),
            checks.optional_uint(about.get("epoch")),
            checks.optional_uint(about.get("generation")),
            checks.uint(about.get("received", 0)),
            checks.text(about.get("name", ""))[: wire.MAX_NAME_CHARS],
            checks.uint(about.get("pid", 0)),
        )


class SessionLifecycle:
    """Begins and ends sessions.

    Args:
        epoch: shared by both sides of the broker.
        placement: which session is published on which results socket.
        submissions: takes what clients acknowledge.
        budget: caches settings.
        cancellations: drops what a session has waiting.

    Attributes:
        by_route: sessions by the routing id of their connection.
    """

    def __init__(
        self,
        epoch: Epoch,
        placement: ResultsPlacement,
        submissions: Submissions,
        budget: SettingsBudget,
        cancellations: Cancellations,
    ) -> None:
        self._epoch = epoch
        self._outbox = epoch.outbox
        self._sessions = epoch.sessions
        self._placement = placement
        self._submissions = submissions
        self._budget = budget
        self._cancellations = cancellations
        self.by_route: dict[bytes, Session] = {}
        self._tombstones: OrderedDict[bytes, list[tuple[int, int]]] = OrderedDict()
        self._generations = 0

    def hello(self, route: bytes, now_s: float, lowest: int, highest: int, about: dict[str, Any]) -> None:
        """Take a HELLO: WELCOME, or REJECT.

        Raises:
            ProtocolError: if it is malformed.
        """
        epoch = self._epoch
        version = epoch.common_version(self._outbox.intake, route, lowest, highest)
        if version is None:
            return
        hello = ClientHello.read(about)
        session = self._sessions.get(hello.id)
        if session is None and len(self._sessions) >= MAX_SESSIONS:
            epoch.reject(self._outbox.intake, route, Reject.OVERLOADED, "too many sessions")
            return
        previous = self.by_route.pop(route, None)
        if previous is not None and previous is not session:
            previous.route = None
            self.end(previous, BrokerSessionEvent.REPLACED)
        resumed = False
        if session is None:
            session = epoch.new_session(hello.id, now_s)
            if hello.epoch is None:
                session.known_since = KnownSince.BEGINNING
        elif session.state is not BrokerSessionState.ENDED:
            # A WELCOME that did not arrive began a numbering that the client knows nothing of.
            resumed = hello.epoch == epoch.number and hello.generation in (None, session.generation)
        if session.route is not None:
            self.by_route.pop(session.route, None)
        self.by_route[route] = session
        self._budget.drop(session)
        session.begin(route, resumed=resumed, now_s=now_s)
        session.name, session.pid = hello.name, hello.pid
        if resumed:
            self._submissions.acknowledge(session, hello.received)
        else:
            self._generations += 1
            session.generation = self._generations
        if hello.epoch is not None and hello.epoch != epoch.number:
            epoch.follow(now_s)
        session.never_ran += self._tombstones.pop(hello.id, ())
        self._outbox.intake.append([route, self._welcome(session, version, resumed=resumed)])

    def _welcome(self, session: Session, version: int, *, resumed: bool) -> bytes:
        epoch = self._epoch
        about = {
            "epoch": epoch.number,
            "results": self._placement.join(session),
            "heartbeat_ms": epoch.heartbeat_ms,
            "liveness_ms": round(epoch.liveness_s * 1000),
            "expiry_ms": round(epoch.expiry_s * 1000),
            "resumed": resumed,
            "generation": session.generation,
            "watermark": epoch.recovery.watermark,
            "max_pending": epoch.records.origins.config.clients.max_pending,
            "never_ran": session.never_ran,
            "keeps": self._budget.room,
            "apart": True,
            "window_bytes": wire.WINDOW_BYTES,
        }
        return wire.encode(Verb.WELCOME, version, about)

    def subscription(self, topic: bytes, place: int) -> bool:
        """Tell whether somebody may subscribe to ``topic`` on this results socket.

        Only to a session that said HELLO and was sent there, and only exactly.
        """
        session = self._sessions.get(topic)
        if session is None or session.route is None or session.place != place:
            # What has the length of an id is usually from a client that connects again: its socket subscribes
            # before it says HELLO again, and will be closed.
            self._epoch.malformed["results"] += len(topic) != wire.SESSION_ID_BYTES
            return False
        return True

    def subscribed(self, topic: bytes) -> None:
        """Note that a subscription is accepted: say OPEN, and publish what has not been acknowledged."""
        session = self._sessions[topic]
        session.move(BrokerSessionEvent.SUBSCRIBED)
        self._outbox.results.append([topic, wire.encode(Verb.OPEN, self._epoch.number)])
        self.publish_again(session, 0, 0.0)

    def publish_again(self, session: Session, after: int, now_s: float) -> None:
        """Take a RESEND: publish the unacknowledged batches with a number above ``after``."""
        if session.state is BrokerSessionState.OPEN:
            for batch in session.unacked:
                if batch.number > after:
                    self._outbox.results.append(session.frames(batch, self._epoch.number))

    def end(self, session: Session, why: BrokerSessionEvent) -> None:
        """Note that the client is gone for good: what waits is dropped, what runs finishes unheard."""
        if session.route is not None:
            self.by_route.pop(session.route, None)
        self._submissions.acknowledge(session, session.published)
        for pin in list(self._epoch.records.pins_of(session)):
            self._epoch.pins.unpin(session, pin, tell=True)
        self._budget.drop(session)
        session.end(why)
        self._placement.leave(session)
        self._cancellations.forget(session)
        if not session.open:
            self._sessions.pop(session.id, None)

    def expire(self, session: Session) -> None:
        """End a session that was silent for too long; if its client returns, it is told what never ran."""
        ranges = seq_ranges(self._cancellations.forget(session))
        self._tombstones[session.id] = ranges if len(ranges) <= MAX_RANGES else []
        while len(self._tombstones) > MAX_TOMBSTONES:
            self._tombstones.popitem(last=False)
        self.end(session, BrokerSessionEvent.EXPIRED)
