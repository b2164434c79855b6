"""How a worker ends in order: what it waits for, and for how long. Sans-IO.

SERVING --TOLD--> ANNOUNCED --SEEN--> FINISHING <--ENDED, LEASED--> ACKNOWLEDGED
                      ^                   |                              |
                      +-------LOST--------+------------LOST--------------+
ANNOUNCED, FINISHING, ACKNOWLEDGED --GONE--> OVER --LOST--> ANNOUNCED
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from .worker_spans import ACKNOWLEDGE_S, DRAIN_PINS_S, DRAIN_S


class DrainState(Enum):
    """How far the worker is on its way to an orderly end."""

    SERVING = "serving"
    """It has not been told to end."""
    ANNOUNCED = "announced"
    """DRAIN is on its way to the broker, or will be once there is one: leases may still come."""
    FINISHING = "finishing"
    """The broker has seen DRAIN: only pinned connections are leased requests."""
    ACKNOWLEDGED = "acknowledged"
    """All that ran has ended as well: only clients' acknowledgements are waited for."""
    OVER = "over"
    """It can end; unless the connection is lost first, since being excused does not outlive that."""


class DrainEvent(Enum):
    """What moves a drain on, or back."""

    TOLD = "told to drain"
    SEEN = "the broker has seen DRAIN"
    ENDED = "nothing runs"
    LEASED = "something runs again, on a pinned connection"
    LOST = "the connection to the broker is lost"
    GONE = "there is nothing more to wait for"


TRANSITIONS: dict[tuple[DrainState, DrainEvent], DrainState] = {
    (DrainState.SERVING, DrainEvent.TOLD): DrainState.ANNOUNCED,
    (DrainState.ANNOUNCED, DrainEvent.SEEN): DrainState.FINISHING,
    (DrainState.ANNOUNCED, DrainEvent.GONE): DrainState.OVER,
    (DrainState.FINISHING, DrainEvent.ENDED): DrainState.ACKNOWLEDGED,
    (DrainState.FINISHING, DrainEvent.LOST): DrainState.ANNOUNCED,
    (DrainState.FINISHING, DrainEvent.GONE): DrainState.OVER,
    (DrainState.ACKNOWLEDGED, DrainEvent.LEASED): DrainState.FINISHING,
    (DrainState.ACKNOWLEDGED, DrainEvent.LOST): DrainState.ANNOUNCED,
    (DrainState.ACKNOWLEDGED, DrainEvent.GONE): DrainState.OVER,
    (DrainState.OVER, DrainEvent.LOST): DrainState.ANNOUNCED,
}
"""What else may happen leaves the state as it is."""


class Remaining(NamedTuple):
    """What there still is at the end of a turn.

    Attributes:
        running: requests run.
        pinned: connections are pinned.
        reported: the broker is there, and has been sent everything.
        arrived: it has received all results.
        in_doubt: some requests that must not be repeated may have run, and their clients have not
            acknowledged how they ended.
    """

    running: bool
    pinned: bool
    reported: bool
    arrived: bool
    in_doubt: bool


class Drain:
    """One worker's drain.

    Attributes:
        state: moved by :meth:`_move` alone.
        in_order: once over: nothing is in doubt and the broker is there, so GOODBYE is true.
        excused: the broker does not insist that the worker stays for what is in doubt.
    """

    def __init__(self) -> None:
        self.state = DrainState.SERVING
        self.in_order = False
        self.excused = False
        self._told_s = self._idle_s = 0.0
        self._drain_beat = self._return_beat = 0

    def begin(self, now_s: float) -> None:
        """The worker has been told to end."""
        self._told_s = self._idle_s = now_s
        self._move(DrainEvent.TOLD)

    def announced(self, beat: int) -> None:
        """DRAIN has been sent, and after it this heartbeat: once it is answered, no lease is on its way."""
        self._drain_beat = beat

    def returned(self, beat: int) -> None:
        """Requests have been handed back, and after that this heartbeat was sent.

        What the broker has not read when it hears of an end in doubt would count as sent upstream.
        """
        self._return_beat = beat

    def lost(self) -> None:
        """The connection to the broker is lost: over the next one DRAIN is said again."""
        self.excused = False
        self._return_beat = 0
        self._move(DrainEvent.LOST)

    def look(
        self,
        now_s: float,
        remaining: Remaining,
        *,
        answered: int,
        welcomed_s: float | None,
        liveness_s: float,
    ) -> DrainState:
        """See how far it has got at the end of a turn.

        Args:
            now_s: monotonic seconds.
            remaining: what there still is.
            answered: the last of our heartbeats that the broker has answered.
            welcomed_s: instant since which the broker is there; None while it is not.
            liveness_s: how long it may be silent.

        Returns:
            How far it has got.
        """
        if self._gone(now_s, remaining, answered, welcomed_s, liveness_s):
            self._move(DrainEvent.GONE)
        return self.state

    def _gone(
        self,
        now_s: float,
        remaining: Remaining,
        answered: int,
        welcomed_s: float | None,
        liveness_s: float,
    ) -> bool:
        if now_s - self._told_s > DRAIN_S:
            return True
        live = welcomed_s is not None
        if live and answered >= self._drain_beat:
            self._move(DrainEvent.SEEN)
        read_all = answered >= max(self._drain_beat, self._return_beat)
        may_go = live and self.excused and remaining.arrived and read_all
        if remaining.running:
            self._idle_s = now_s
            self._move(DrainEvent.LEASED)
            return may_go
        waited_s = now_s - self._idle_s
        if waited_s < DRAIN_PINS_S and remaining.pinned:
            return False
        self._move(DrainEvent.ENDED)
        if remaining.in_doubt:
            heard_s = 0.0 if welcomed_s is None else now_s - max(self._idle_s, welcomed_s)
            return heard_s > ACKNOWLEDGE_S or (remaining.reported and may_go)
        if remaining.reported and self.state is DrainState.ACKNOWLEDGED:
            self.in_order = True
            return True
        # With the broker away the orderly end says it all: what it leased here and has not heard of
        # was handed back, or may run again.
        return waited_s > liveness_s

    def _move(self, event: DrainEvent) -> None:
        self.state = TRANSITIONS.get((self.state, event), self.state)
