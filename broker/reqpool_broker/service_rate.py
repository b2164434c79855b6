"""What an upstream serves to one origin: requests a second, and the time that one takes. No I/O, no clock.

Both are measured only while a queue *stands*: all that may be in work is, and more waits. At other times
answers come as fast as requests do, which does not show how fast they could come.

* **Rate.** Answers, not timeouts, over the time in which the queue stood; older ones weigh less. Where many
  connections are filled at the same moment their answers come in waves, so time is counted up to the last
  answer, not up to now; silence counts by itself only if it is long beside the time that a request takes.
* **Doubt.** Where n answers were seen, n + 3 would have been no surprise (the rule of three: with none in n
  trials 3/n is the 95 % confidence bound of a rate; Hanley and Lippman-Hand, JAMA 1983). They are added, so
  that a pause of some seconds does not refuse those that have minutes.
* **Time.** One lease at a time is watched until half of its requests have been answered. What timed out, or
  was with a worker that fell silent, does not count: an upstream that hung and recovers would look slow for
  ever, since no request would be sent there that could show that it no longer is.

Evidence is forgotten :data:`STALE_S` after the queue last stood, and at once if nothing is in work any more:
an upstream found idle is as good as new.
"""

from __future__ import annotations

from collections.abc import Sized
from math import ceil, exp
from typing import NamedTuple, Protocol

SHORTEST_S = 0.01
"""Between two looks: a turn of the broker's loop is much shorter on a busy day."""
PATIENCE_S = 0.5
"""Silence that counts, where requests take less than half of it."""
EVIDENCE_S = 0.25
"""How long a queue must have stood before requests are refused for it."""
WARM_S = 2.0
"""Until then it is not taken for slow before half of its connections have answered: they may be new."""
STALE_S = 2.0
LEAST_MEMORY_S, MOST_MEMORY_S = 1.0, 4.0
DOUBT = 3
MARGIN = 1.1
"""Of the time that requests take on average, what one needs to have left."""
SPARE_S = 0.05
TURN_S = 0.02
GAIN = 0.25
"""Weight of a new measurement of the time."""


class Watchable(Protocol):
    """What is watched of a lease."""

    @property
    def requests(self) -> Sized:
        """Those that have not ended."""

    @property
    def deadline_s(self) -> float:
        """When they end in any case."""

    @property
    def is_lost(self) -> bool:
        """Whether its worker is silent."""


class Watched(NamedTuple):
    """A lease that is watched, to see how long requests take.

    Attributes:
        lease: from the time it is handed to a worker.
        size: how many requests it had then.
        began_s: when that was.
    """

    lease: Watchable
    size: int
    began_s: float


class ServiceRate:
    """Rate and time of one origin's service.

    Attributes:
        busy: the queue stood when it was last looked at.
        known: there is enough evidence to refuse requests for it.
        rate_per_s: requests that are answered in a second, when as many as may be are in work.
        time_s: from lease to answer.
        watched: the lease that this is measured by, if there is one.
    """

    __slots__ = (
        "_done",
        "_served",
        "_since_s",
        "_span_s",
        "busy",
        "known",
        "rate_per_s",
        "time_s",
        "watched",
    )

    def __init__(self) -> None:
        self.busy = False
        self._since_s = 0.0
        self._done = 0
        self.watched: Watched | None = None
        self._forget()

    def _forget(self) -> None:
        self.known = False
        self.rate_per_s = self.time_s = 0.0
        self._served = self._span_s = 0.0

    @property
    def served_per_s(self) -> float:
        """The measured rate, without the doubt."""
        return self._served / self._span_s if self._span_s else 0.0

    @property
    def memory_s(self) -> float:
        """After so long evidence weighs e times less: a few times what one request takes."""
        return min(max(4 * self.time_s, LEAST_MEMORY_S), MOST_MEMORY_S)

    @property
    def needed_s(self) -> float:
        """The time that a request must have left when it is leased, to be usually answered in time."""
        return MARGIN * self.time_s

    @property
    def spare(self) -> int:
        """Requests that keep the connections busy until the broker has heard of answers and leased more."""
        return int(self.rate_per_s * SPARE_S)

    @property
    def turn(self) -> int:
        """Requests that a client may have in one go without others waiting for longer than a moment."""
        return ceil(self.rate_per_s * TURN_S)

    def watch(self, lease: Watchable, size: int, now_s: float) -> None:
        """Watch a new lease; for when none is watched."""
        self.watched = Watched(lease, size, now_s)

    def stand(self, now_s: float, done: int) -> None:
        """Note that more waits than can be in work now; ``done`` requests have been answered so far."""
        if self.busy:
            return
        self.age(now_s)
        self.busy = True
        self._since_s, self._done = now_s, done
        watched = self.watched
        if watched is not None and len(watched.lease.requests) < watched.size:
            self.watched = None  # answered some time ago, unnoticed

    def rest(self, now_s: float) -> None:
        """Note that nothing waits, or not for this upstream's sake."""
        self.busy = False
        self._since_s = now_s

    def age(self, now_s: float, *, idle: bool = False) -> None:
        """Forget what is too old to be true, or useless since nothing is in work there (``idle``)."""
        if not self.busy and (idle or now_s - self._since_s > STALE_S):
            self._forget()

    def observe(self, now_s: float, done: int, in_flight: int, limit: int) -> None:
        """Learn from what has happened since the last look. Call it while :attr:`busy`.

        Args:
            now_s: now.
            done: how many have been answered since the beginning.
            in_flight: how many are in work.
            limit: connections, or requests, that the upstream may have at a time.
        """
        span_s = now_s - self._since_s
        if span_s < SHORTEST_S:
            return
        served = done - self._done
        if not served and span_s < max(PATIENCE_S, 2 * self.time_s):
            return
        keep = exp(-span_s / self.memory_s)
        self._served = self._served * keep + served
        self._span_s = self._span_s * keep + span_s
        self._since_s, self._done = now_s, done
        self.rate_per_s = (self._served + DOUBT) / self._span_s
        self._take_time(now_s, served, in_flight)
        warm = 2 * self._served >= limit or self._span_s >= WARM_S
        self.known = self.known or (self.time_s > 0 and self._span_s >= EVIDENCE_S and warm)

    def _take_time(self, now_s: float, served: int, in_flight: int) -> None:
        watched = self.watched
        if watched is None:
            return
        lease, size, began_s = watched
        took_s = now_s - began_s
        if 2 * len(lease.requests) <= size:
            self.watched = None
            if served and now_s < lease.deadline_s and not lease.is_lost:
                self.time_s += (took_s - self.time_s) * (GAIN if self.time_s else 1.0)
        elif served and took_s > max(1.0, 4 * in_flight / self.rate_per_s):
            self.watched = None  # others are answered, this one hangs
