"""Which workers serve an origin, and how many connections each is granted: pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

from .worker import Worker

BUSY_SHARE = 0.75
"""CPU share of every owner above which an origin gets one more."""
IDLE_SHARE = 0.40
"""CPU share that the remaining owners would have, below which an origin loses one."""


def ranking(origin: str, workers: Iterable[Worker]) -> list[Worker]:
    """Order workers by rendezvous hash (highest random weight, Thaler and Ravishankar 1998).

    When a worker comes or goes, only the origins it owns or will own move.
    """
    name = origin.encode()
    return sorted(workers, key=lambda worker: blake2b(worker.id + name, digest_size=8).digest(), reverse=True)


def owner_count(current: int, cpu_shares: Sequence[float], available: int) -> int:
    """Return how many workers should share an origin, at most one more or less than now.

    One owner makes the fullest batches and the fewest connections; another is added only when all
    the owners are short of CPU.

    Args:
        current: how many own it now, at least 1.
        cpu_shares: CPU share of each of those.
        available: how many workers serve its kind.
    """
    if cpu_shares and min(cpu_shares) > BUSY_SHARE:
        current += 1
    elif current > 1 and sum(cpu_shares) / (current - 1) < IDLE_SHARE:
        current -= 1
    return max(1, min(current, available))


def least_loaded(owners: Sequence[Worker], in_flight: Mapping[Worker, int]) -> Worker:
    """The owner with the fewest requests of this origin in flight; the first in ranking on a tie."""
    return min(owners, key=lambda worker: in_flight.get(worker, 0))


ROOM_SHARE = 8
"""One in this many connections of an upstream, and at least one, is kept from requests that wait there."""


class Claim(NamedTuple):
    """One origin's need of its upstream's connections.

    Attributes:
        name: the origin's.
        wanted: connections that its load could use now.
        owners: who should hold them.
        reserved: slots for it that workers, owners or not, may hold now.
        waits: its requests have their connections for as long as they like.
    """

    name: str
    wanted: int
    owners: Sequence[Worker]
    reserved: Mapping[Worker, int]
    waits: bool = False


def shares(limit: int, wanted: Sequence[int]) -> list[int]:
    """Divide ``limit`` fairly: none gets more than it wants, and one that wants more gets no less than the
    others.

    A connection that does not divide goes to one more in each place, from the front (max-min fairness).
    """
    given = [0] * len(wanted)
    left = limit
    hungry = [place for place, want in enumerate(wanted) if want > 0]
    while hungry and left > 0:
        each = max(1, left // len(hungry))
        for place in hungry:
            more = min(each, wanted[place] - given[place], left)
            given[place] += more
            left -= more
        hungry = [place for place in hungry if given[place] < wanted[place]]
    return given


def most_waiting(limit: int) -> int:
    """Return how many of an upstream's connections requests that wait there may have."""
    return limit - max(1, limit // ROOM_SHARE) if limit > 1 else limit


def _wanted(limit: int, claims: Sequence[Claim]) -> list[int]:
    """Return what each may want: those that wait leave some to the others, so that these need not wait."""
    wanted = [claim.wanted for claim in claims]
    waiting = [place for place, claim in enumerate(claims) if claim.waits]
    for place, share in zip(
        waiting, shares(most_waiting(limit), [wanted[place] for place in waiting]), strict=True
    ):
        wanted[place] = share
    return wanted


def slots(limit: int, claims: Sequence[Claim]) -> dict[tuple[Worker, str], int]:
    """Decide the level of each worker's grant for each origin of one upstream.

    What is reserved elsewhere counts until its holder confirms that it is closed, so the sum of what is
    reserved never exceeds ``limit`` at any moment, whichever worker freezes or dies.

    Args:
        limit: most connections to the upstream in the whole pool.
        claims: one for each origin that leads there.

    Returns:
        Slots for each owner by worker and origin name, and for each other holder that has any to give up.
    """
    if len(claims) == 1 and len(claims[0].owners) == 1:
        name, wanted, (owner,), reserved_now, waits = claims[0]
        if not waits and (not reserved_now or [*reserved_now] == [owner]):
            # There is no other to share with, as most of the time: what it does not need stays, up to the
            # limit. What follows comes to the same, but takes a third of the time of leasing one request.
            return {(owner, name): min(limit, max(wanted, reserved_now.get(owner, 0)))}
    fair: dict[tuple[Worker, str], int] = {}
    for claim, total in zip(claims, shares(limit, _wanted(limit, claims)), strict=True):
        share, rest = divmod(total, len(claim.owners)) if claim.owners else (0, 0)
        for place, worker in enumerate(claim.owners):
            fair[worker, claim.name] = share + (place < rest)
    reserved = {(worker, claim.name): n for claim in claims for worker, n in claim.reserved.items()}
    free = limit - sum(reserved.values())
    # What has to be given up by those who hold more than their share: no more than that, so that a connection
    # that is not needed stays open. Over the limit (it was lowered) ``free`` is negative.
    lacking = sum(max(0, share - reserved.get(who, 0)) for who, share in fair.items()) - free
    waiting = {claim.name for claim in claims if claim.waits}
    free_to_wait = most_waiting(limit) - sum(n for (_, name), n in reserved.items() if name in waiting)
    # The same among those that wait: what is free for others is not for them.
    lacking_to_wait = (
        sum(max(0, share - reserved.get(who, 0)) for who, share in fair.items() if who[1] in waiting)
        - free_to_wait
    )
    levels: dict[tuple[Worker, str], int] = {}
    for claim in claims:
        for worker, held in claim.reserved.items():
            if worker not in claim.owners and (
                claim.owners or lacking > 0 or (claim.waits and lacking_to_wait > 0)
            ):
                levels[worker, claim.name] = 0
                lacking -= held
                if claim.waits:
                    lacking_to_wait -= held
    for who, share in fair.items():
        holds = reserved.get(who, 0)
        waits = who[1] in waiting
        if holds > share:
            given_up = min(holds - share, max(0, lacking, lacking_to_wait if waits else 0))
            lacking -= given_up
            if waits:
                lacking_to_wait -= given_up
            levels[who] = holds - given_up
        else:
            more = min(share - holds, max(0, free))
            if waits:  # where it is to move to other workers, the one that has it may keep it
                more = min(more, max(0, free_to_wait))
                free_to_wait -= more
            free -= more
            levels[who] = holds + more
    return levels
