"""The states of a client's session, and all transitions between them."""

from __future__ import annotations

from enum import Enum, auto


class SessionState(Enum):
    """The state of the session."""

    CLOSED = auto()
    GREETING = auto()
    SUBSCRIBING = auto()
    OPEN = auto()


class Event(Enum):
    """What changes the state of a session."""

    DIAL = auto()
    WELCOME = auto()
    PUBLICATION = auto()
    LOSS = auto()


# All transitions. Any publication proves the subscription, so the next heartbeat makes up for an OPEN that
# was lost.
TRANSITIONS: dict[tuple[SessionState, Event], SessionState] = {
    (SessionState.CLOSED, Event.DIAL): SessionState.GREETING,
    (SessionState.GREETING, Event.WELCOME): SessionState.SUBSCRIBING,
    (SessionState.GREETING, Event.LOSS): SessionState.CLOSED,
    (SessionState.SUBSCRIBING, Event.PUBLICATION): SessionState.OPEN,
    (SessionState.SUBSCRIBING, Event.LOSS): SessionState.CLOSED,
    (SessionState.OPEN, Event.PUBLICATION): SessionState.OPEN,
    (SessionState.OPEN, Event.LOSS): SessionState.CLOSED,
}
