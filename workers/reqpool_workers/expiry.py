"""Ends what a worker holds for a limited time, apart from requests: ``lease_timers.py`` ends those.

One timer looks at all of it: idle and old connections and sockets, origins without either, name servers, and
ports at which an answer is owed. How long each is kept is said where it is held. Two spans that are shorter
than this timer's have timers of their own: a connection that is being opened, and a read timeout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from .event_loop import Timer

EVERY_S = 1.0


class Expiring(Protocol):
    """Holds something for a limited time."""

    def tend(self, now_s: float) -> None:
        """Close or forget what has been held for long enough."""


class Expiry:
    """Looks at all of it once a second.

    Args:
        at: has a timer called at an instant.
        held: in the order in which they are looked at.
        then: is called when something may have been closed.
    """

    def __init__(
        self, at: Callable[[float, Timer], None], held: Sequence[Expiring], then: Callable[[], None]
    ) -> None:
        self._at = at
        self._held = held
        self._then = then

    def begin(self, now_s: float) -> None:
        """Start the timer."""
        self._at(now_s + EVERY_S, self._look)

    def _look(self, now_s: float) -> float:
        for one in self._held:
            one.tend(now_s)
        self._then()
        return now_s + EVERY_S
