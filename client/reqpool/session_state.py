"""Where a client's session is, and every move between those states."""

from __future__ import annotations

from enum import Enum, auto


class SessionState(Enum):
    """Where the session is."""

    CLOSED = auto()
    GREETING = auto()
    SUBSCRIBING = auto()
    OPEN = auto()


class Event(Enum):
    """What moves a session."""

    DIAL = auto()
    WELCOME = auto()
    PUBLICATION = auto()
    LOSS = auto()


# Every move there is. Anything published proves the subscription, so an OPEN that got lost is made up
# for by the next heartbeat.
TRANSITIONS: dict[tuple[SessionState, Event], SessionState] = {
    (SessionState.CLOSED, Event.DIAL): SessionState.GREETING,
    (SessionState.GREETING, Event.WELCOME): SessionState.SUBSCRIBING,
    (SessionState.GREETING, Event.LOSS): SessionState.CLOSED,
    (SessionState.SUBSCRIBING, Event.PUBLICATION): SessionState.OPEN,
    (SessionState.SUBSCRIBING, Event.LOSS): SessionState.CLOSED,
    (SessionState.OPEN, Event.PUBLICATION): SessionState.OPEN,
    (SessionState.OPEN, Event.LOSS): SessionState.CLOSED,
}
