"""The states of a worker, and what moves it from one to the next. No I/O, no clock.

Whether a worker has room (``Worker.full``) is another matter: a heartbeat says so in any state.
"""

from __future__ import annotations

from enum import Enum


class WorkerState(Enum):
    """What the broker thinks of a worker; the values appear in ``reqpool status``."""

    LIVE = "live"
    """It is leased requests."""
    DRAINING = "draining"
    """It finishes what it has."""
    SUSPECT = "suspect"
    """It has been silent for too long, and still has what it had."""
    STRANGER = "stranger"
    """No supervisor has announced it, so nobody would report its death: it is leased nothing."""
    GONE = "gone"
    """It has nothing any more, and is not in the records."""


class WorkerEvent(Enum):
    """What happens to a worker."""

    HELLO = "it said HELLO"
    STRANGE = "it said HELLO, and the supervisor has not announced it"
    STARTED = "the supervisor announced it"
    DRAIN = "it has been asked to stop"
    SILENT = "nothing was heard from it for the liveness span"
    ENDED = "it said GOODBYE, or is dead, or was silent for too long"


TRANSITIONS: dict[tuple[WorkerState, WorkerEvent], WorkerState] = {
    (WorkerState.LIVE, WorkerEvent.HELLO): WorkerState.LIVE,
    (WorkerState.DRAINING, WorkerEvent.HELLO): WorkerState.LIVE,  # it says DRAIN again
    (WorkerState.SUSPECT, WorkerEvent.HELLO): WorkerState.LIVE,
    (WorkerState.STRANGER, WorkerEvent.HELLO): WorkerState.LIVE,
    (WorkerState.LIVE, WorkerEvent.STRANGE): WorkerState.STRANGER,
    (WorkerState.DRAINING, WorkerEvent.STRANGE): WorkerState.STRANGER,
    (WorkerState.SUSPECT, WorkerEvent.STRANGE): WorkerState.STRANGER,
    (WorkerState.STRANGER, WorkerEvent.STRANGE): WorkerState.STRANGER,
    (WorkerState.STRANGER, WorkerEvent.STARTED): WorkerState.LIVE,
    (WorkerState.LIVE, WorkerEvent.DRAIN): WorkerState.DRAINING,
    (WorkerState.DRAINING, WorkerEvent.DRAIN): WorkerState.DRAINING,
    (WorkerState.STRANGER, WorkerEvent.DRAIN): WorkerState.DRAINING,
    (WorkerState.LIVE, WorkerEvent.SILENT): WorkerState.SUSPECT,
    (WorkerState.DRAINING, WorkerEvent.SILENT): WorkerState.SUSPECT,
    (WorkerState.STRANGER, WorkerEvent.SILENT): WorkerState.SUSPECT,
    (WorkerState.LIVE, WorkerEvent.ENDED): WorkerState.GONE,
    (WorkerState.DRAINING, WorkerEvent.ENDED): WorkerState.GONE,
    (WorkerState.SUSPECT, WorkerEvent.ENDED): WorkerState.GONE,
    (WorkerState.STRANGER, WorkerEvent.ENDED): WorkerState.GONE,
}
"""What follows what; any other pair is a fault of the broker's."""
