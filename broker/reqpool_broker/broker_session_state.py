"""The states of a session, and what moves it from one to the next. No I/O, no clock."""

from __future__ import annotations

from enum import Enum


class BrokerSessionState(Enum):
    """How far a session has come, as its broker sees it."""

    UNCONNECTED = "a worker has named it; its client has not come yet"
    GREETED = "its client has said HELLO, and subscribes"
    OPEN = "what is published reaches its client"
    ENDED = "its client is gone for good; what runs finishes unheard"


class BrokerSessionEvent(Enum):
    """What happens to a session."""

    HELLO = "its client begins a connection"
    SUBSCRIBED = "its subscription was accepted"
    GOODBYE = "its client has ended it"
    REPLACED = "another session has taken over its connection"
    EXPIRED = "nothing was heard from its client for too long"


class KnownSince(Enum):
    """Since when the broker has known what a session submits."""

    BEGINNING = "it began in this epoch: what it submits again and is not known was never leased"
    LATER = "it comes from an earlier epoch, or has expired: some of that may have run"


TRANSITIONS: dict[tuple[BrokerSessionState, BrokerSessionEvent], BrokerSessionState] = {
    (BrokerSessionState.UNCONNECTED, BrokerSessionEvent.HELLO): BrokerSessionState.GREETED,
    (BrokerSessionState.GREETED, BrokerSessionEvent.HELLO): BrokerSessionState.GREETED,
    (BrokerSessionState.OPEN, BrokerSessionEvent.HELLO): BrokerSessionState.GREETED,
    (BrokerSessionState.ENDED, BrokerSessionEvent.HELLO): BrokerSessionState.GREETED,
    (BrokerSessionState.GREETED, BrokerSessionEvent.SUBSCRIBED): BrokerSessionState.OPEN,
    (BrokerSessionState.OPEN, BrokerSessionEvent.SUBSCRIBED): BrokerSessionState.OPEN,
    (BrokerSessionState.GREETED, BrokerSessionEvent.GOODBYE): BrokerSessionState.ENDED,
    (BrokerSessionState.OPEN, BrokerSessionEvent.GOODBYE): BrokerSessionState.ENDED,
    (BrokerSessionState.GREETED, BrokerSessionEvent.REPLACED): BrokerSessionState.ENDED,
    (BrokerSessionState.OPEN, BrokerSessionEvent.REPLACED): BrokerSessionState.ENDED,
    (BrokerSessionState.UNCONNECTED, BrokerSessionEvent.EXPIRED): BrokerSessionState.ENDED,
    (BrokerSessionState.GREETED, BrokerSessionEvent.EXPIRED): BrokerSessionState.ENDED,
    (BrokerSessionState.OPEN, BrokerSessionEvent.EXPIRED): BrokerSessionState.ENDED,
}
"""What follows what; any other pair is a fault of the broker's. With each HELLO, SUBMITs are numbered from 1
again, and no settings are cached. An ended session is forgotten once nothing of it runs; until then HELLO
revives it."""
