"""Who may wait for an origin: what cannot be done in time is refused at once. No I/O, no clock.

A queue in front of a server that is asked for more than it serves grows until those at its head have no time
left. What is served then is thrown away: the server is fully busy to no effect. CoDel (RFC
8289) and adaptive LIFO ("Fail at Scale", ACM Queue 2015) mend that without knowing how long a caller waits:
the one drops from a queue that does not empty, the other serves the newest first and lets the oldest rot.
Here each request has a deadline, and :class:`~.service_rate.ServiceRate` measures what the server does, so
nothing has to be guessed:

* A request whose turn would come too late is refused when it comes, with when to try again. What is accepted
  is served first come, first served.
* What is *before* a request is counted as the queue is served: strict between priorities, in turns between
  clients. Beside a client with 5,000 waiting, one with none waits for one turn only, and is accepted.
* A *burst* may use all of its time: the queue that it makes goes away. CoDel calls that a good queue. A bad
  one stays: once a request has been refused, and until the queue has been empty, a request may spend half of
  the time that it can spare in it. So under lasting overload answers take about half of the timeout, and an
  estimate that is wrong by as much does no harm.
* The estimate may be wrong by more, if the server slows down meanwhile. So it is consulted again while they
  wait, and at the lease: what cannot be answered any more is not sent, nor does it stand in others' way.
* A queue shorter than half of what may be in work at a time is never too long: with so few waiting, an
  upstream that has recovered is fully busy while the estimate catches up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from reqpool_contract import wire
from reqpool_contract.errors import Code
from reqpool_contract.wire import LOWEST_PRIORITY, MAX_BATCH_REQUESTS

from .fair_queue import FairQueue, QueuedGroup
from .service_rate import ServiceRate
from .session import Session
from .terms import Past, Terms

PATIENT_SHARE = 0.5
"""Of the time that a request can spare for waiting, what it may wait in a queue that does not go away."""
BENEFIT = 1.1
"""Of the doubt: the estimate is not better than this."""
COUNTED_S = 0.02
"""How long a count of the requests of each client that wait is used."""
TAKEN_COUNT = 512
"""The priorities of about this many requests are remembered."""
LEAST_SHARE = 0.01
MOST_RETRY_S = 60.0


class Refusal(NamedTuple):
    """Why some requests must not wait.

    Attributes:
        accepted: how many of the group, from its front, may.
        text: for display.
        retry_after_s: when what is before them now will have been served.
    """

    accepted: int
    text: str
    retry_after_s: float


class OverloadControl:
    """The door of one origin's queue.

    Args:
        queue: that it guards.
        service: what the upstream serves.

    Attributes:
        overloaded: a request was refused, and the queue has not been empty since.
    """

    def __init__(self, queue: FairQueue, service: ServiceRate) -> None:
        self.overloaded = False
        self._queue = queue
        self._service = service
        self._counted_s = float("-inf")
        self._counts: dict[int, dict[Session, int]] = {}
        self._taken = [0.0] * (LOWEST_PRIORITY + 1)
        self._taken_count = 0.0

    def judge(self, group: QueuedGroup, now_s: float, free: int, places: int) -> Refusal | None:
        """Decide about requests that are to wait; None: all may.

        Args:
            group: with its ``due_s``. The service must be known.
            now_s: now.
            free: how many of the places are free.
            places: requests that may be in work at a time.
        """
        service, terms = self._service, group.terms
        count, level = len(group.seqs), terms.priority
        left_s = (terms.deadline_s - now_s) / max(1, len(terms.origins) - group.past.tried)
        spare_s = min(left_s - service.needed_s, group.due_s - now_s)
        allowed_s = spare_s * (PATIENT_SHARE if self.overloaded else BENEFIT)
        rate_per_s = service.rate_per_s * self._left_by_higher(level)
        most = free + max(0.0, allowed_s) * rate_per_s
        if self._queue.waiting + count <= most:
            if now_s < self._counted_s + COUNTED_S:
                self._add(terms, count)
            return None
        if spare_s > 0:
            most = max(most, places // 2, 1)
        counts = self._count(now_s)
        higher = sum(sum(counts[other].values()) for other in counts if other < level)
        waiting = counts.get(level, {})
        own = waiting.get(terms.session, 0)
        accepted = min(count, max(0, int(fair_place(most - higher, waiting.values(), own)) - own))
        self._add(terms, accepted)
        if accepted == count:
            return None
        place = own + accepted
        before = higher + place
        before += sum(min(n, place + 1) for session, n in waiting.items() if session is not terms.session)
        wait_s = max(0, before - free) / rate_per_s
        text = f"{self._serves()} and {before} requests are ahead of it: this one would "
        queue_s = group.due_s - now_s
        if queue_s < left_s - service.needed_s:
            text += f"wait {_span(wait_s)}, but the queue timeout of this upstream is {_span(queue_s)}"
        else:
            text += f"take {_span(wait_s + service.time_s)}, but its timeout is {_span(left_s)}"
        if self.overloaded:
            text += "; it may spend half of that in a queue that does not empty"
        self.overloaded = self.overloaded or spare_s > 0
        return Refusal(accepted, text, min(wait_s or service.time_s, MOST_RETRY_S))

    def leased(self, priority: int, count: int) -> None:
        """Note what has been taken from the queue, to know what the first leave to the last."""
        self._taken[priority] += count
        self._taken_count += count
        if self._taken_count > TAKEN_COUNT:
            self._taken = [number / 2 for number in self._taken]
            self._taken_count /= 2

    def _left_by_higher(self, priority: int) -> float:
        """The part of what is served that those of higher priority leave to this one."""
        taken = self._taken
        return max(LEAST_SHARE, 1 - sum(taken[:priority]) / sum(taken)) if any(taken[:priority]) else 1.0

    def _add(self, terms: Terms, count: int) -> None:
        """More wait than were counted."""
        waiting = self._counts.setdefault(terms.priority, {})
        waiting[terms.session] = waiting.get(terms.session, 0) + count

    def _count(self, now_s: float) -> dict[int, dict[Session, int]]:
        """Return how many requests of each client wait, by priority; counted now and then only."""
        if now_s >= self._counted_s + COUNTED_S:
            self._counted_s = now_s
            self._counts = self._queue.count()
        return self._counts

    def too_late(self, group: QueuedGroup, now_s: float) -> Refusal:
        """Refuse requests that have waited for too long to be answered in time."""
        waited_s, left_s = now_s - group.since_s, group.terms.deadline_s - now_s
        text = (
            f"{self._serves()}, in {_span(self._service.time_s)} each: "
            f"after {_span(waited_s)} in the queue this one has {_span(left_s)} left"
        )
        return Refusal(0, text, min(self._queue.waiting / self._service.rate_per_s, MOST_RETRY_S))

    def _serves(self) -> str:
        rate_per_s = self._service.served_per_s
        return f"the upstream serves {rate_per_s:{',.0f' if rate_per_s >= 10 else '.2g'}} requests/s"

    def rest(self) -> None:
        """Note that the queue has been empty: who comes now does not belong to the overload that was."""
        self.overloaded = False


def fair_place(most: float, waiting: Iterable[int], own: int) -> float:
    """Return how many requests a client may have waiting: up to its last, no more than ``most`` are served.

    In turns: before its n-th request the others have n served, or all they have if that is less.

    Args:
        most: requests that may be served up to its last, that one included.
        waiting: how many each client has, itself included if it has any.
        own: how many of these are its own.
    """
    others = sorted(waiting)
    if own:
        others.remove(own)
    left = most
    for place, theirs in enumerate(others):
        share = left / (len(others) - place + 1)
        if share <= theirs:
            return share
        left -= theirs
    return left


class Refusals:
    """Refusals that gather until the end of a turn: one batch for a client, whatever message they came in.

    Attributes:
        by_session: what has gathered for each client: the requests, and their error.
    """

    def __init__(self) -> None:
        self.by_session: dict[Session, list[tuple[tuple[int, ...], bytes]]] = {}

    def add(self, terms: Terms, seqs: tuple[int, ...], past: Past, origin: str, refusal: Refusal) -> None:
        """Gather requests that are no longer open."""
        data = wire.encode_error(
            refusal.text,
            origin=origin,
            phase="queue",
            attempts=past.attempts,
            sent=past.sent,
            retry_after_ms=max(1, round(refusal.retry_after_s * 1000)),
        )
        self.by_session.setdefault(terms.session, []).append((seqs, data))

    def take(self) -> Iterator[tuple[Session, tuple[int, ...], bytes]]:
        """Return what has gathered: the client, the requests, and the blob that ends them."""
        by_session, self.by_session = self.by_session, {}
        for session, refused in by_session.items():
            pairs = [(seq, data) for seqs, data in refused for seq in seqs]
            for start in range(0, len(pairs), MAX_BATCH_REQUESTS):
                chunk = pairs[start : start + MAX_BATCH_REQUESTS]
                flat = [value for seq, data in chunk for value in (seq, int(Code.OVERLOADED), data)]
                yield session, tuple(seq for seq, _ in chunk), wire.encode_blob(flat)


def _span(span_s: float) -> str:
    """Return a span for display, without digits that an estimate does not have."""
    return f"{span_s:.2g} s" if span_s < 10 else f"{span_s:.0f} s"
