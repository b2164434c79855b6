"""How a cluster ends: its phases, and what moves it from one to the next. No process, socket or clock.

    running --ordered--> finishing --served--> draining --workers gone--> stopping --broker gone--> over
       |                    |                     |                          |                       ^
       +--------------------+---------------------+--------------------------+--- cut short ---------+

While it is finishing, the cluster serves as before: a client must not wait in the queue for another client's
slow request, or for a connection that another client has pinned. So the workers are told to go only once
everything that ran when the order came has ended, or after ``serve_on_s``; whatever they still run then began
after the order.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from typing import Any

from .report_values import maps, number


class Phase(enum.Enum):
    """Where the cluster is in its life."""

    RUNNING = "running"
    FINISHING = "finishing"
    DRAINING = "draining"
    STOPPING = "stopping"
    OVER = "over"


class PhaseEvent(enum.Enum):
    """What moves a cluster to another phase."""

    ORDERED = "ordered to stop"
    SERVED = "what ran at the order has ended, or has had its time"
    WORKERS_GONE = "no worker is left"
    BROKER_GONE = "the broker has ended"
    CUT_SHORT = "ordered again, or the parent has ended"


TRANSITIONS: dict[tuple[Phase, PhaseEvent], Phase] = {
    (Phase.RUNNING, PhaseEvent.ORDERED): Phase.FINISHING,
    (Phase.FINISHING, PhaseEvent.SERVED): Phase.DRAINING,
    (Phase.DRAINING, PhaseEvent.WORKERS_GONE): Phase.STOPPING,
    (Phase.STOPPING, PhaseEvent.BROKER_GONE): Phase.OVER,
    (Phase.RUNNING, PhaseEvent.CUT_SHORT): Phase.OVER,
    (Phase.FINISHING, PhaseEvent.CUT_SHORT): Phase.OVER,
    (Phase.DRAINING, PhaseEvent.CUT_SHORT): Phase.OVER,
    (Phase.STOPPING, PhaseEvent.CUT_SHORT): Phase.OVER,
}

BROKER_WANTED = frozenset((Phase.RUNNING, Phase.FINISHING, Phase.DRAINING))
"""Without a broker, nobody would learn of what draining workers finish."""


class WrongPhase(Exception):
    """An event that is not possible in the present phase."""


class Shutdown:
    """Keeps a cluster's phase.

    Args:
        serve_on_s: how long a cluster that was ordered to stop serves on at most.

    Attributes:
        phase: the present one.
        status: the supervisor's exit status: 0 after an orderly stop, 1 if it was cut short.
    """

    def __init__(self, serve_on_s: float) -> None:
        self.phase = Phase.RUNNING
        self.status = 0
        self._serve_on_s = serve_on_s
        self._ordered_s = math.inf

    @property
    def wants_broker(self) -> bool:
        """Whether a broker that ends is replaced."""
        return self.phase in BROKER_WANTED

    def order(self, now_s: float) -> None:
        """Begin to stop in order.

        Args:
            now_s: monotonic seconds.
        """
        self.move(PhaseEvent.ORDERED)
        self._ordered_s = now_s

    def cut_short(self) -> None:
        """End without waiting for anything."""
        self.move(PhaseEvent.CUT_SHORT)
        self.status = 1

    def is_served(self, report: Mapping[str, Any]) -> bool:
        """Return whether all that ran at the order has ended, by a broker's STATUS report."""
        return has_ended(report, self._ordered_s)

    def is_late(self, now_s: float) -> bool:
        """Return whether the cluster has served on for as long as it may."""
        return now_s >= self._ordered_s + self._serve_on_s

    def move(self, event: PhaseEvent) -> None:
        """Move to another phase.

        Raises:
            WrongPhase: if the event is not possible in the present phase, which then stays.
        """
        target = TRANSITIONS.get((self.phase, event))
        if target is None:
            raise WrongPhase(f"{event.value}: not possible while the cluster is {self.phase.value}")
        self.phase = target


def has_ended(report: Mapping[str, Any], since_s: float) -> bool:
    """Return whether all that workers had at an instant has ended, requests and pinned connections.

    Args:
        report: a broker's, whose number is the instant at which it was asked for, monotonic, in ms.
        since_s: the instant, monotonic.
    """
    if maps(report.get("awaited")):
        return False  # this broker has yet to hear what workers of the previous one are running
    asked_s = (number(report.get("number")) or 0.0) / 1000
    ages_s = [number(worker.get("oldest_s")) or 0.0 for worker in maps(report.get("workers"))]
    uptime_s = number(report.get("uptime_s"))
    if uptime_s is not None and asked_s - uptime_s > since_s:
        return not any(ages_s)  # a later broker does not know how long what it found had been running
    return asked_s - max(ages_s, default=0.0) > since_s
