"""Which worker gets what, and who is granted how many connections: pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b

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
    """How many workers should share an origin, one step at a time.

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


def slots(
    limit: int, wanted: int, owners: Sequence[Worker], reserved: Mapping[Worker, int]
) -> dict[Worker, int]:
    """Decide the level of each worker's grant for one origin.

    What is reserved elsewhere counts until its holder confirms that it is closed, so the sum of what is
    reserved never exceeds ``limit`` at any moment, whoever freezes or dies.

    Args:
        limit: most connections to the origin in the whole pool.
        wanted: connections that the load could use now.
        owners: who should hold them.
        reserved: slots that workers, owners or not, may hold now.

    Returns:
        Slots for each owner, and 0 for each other holder.
    """
    levels = {worker: 0 for worker in reserved if worker not in owners}
    if not owners:
        return levels
    share, rest = divmod(min(wanted, limit), len(owners))
    fair = {worker: share + (place < rest) for place, worker in enumerate(owners)}
    free = max(0, limit - sum(reserved.values()))
    short = sum(max(0, fair[worker] - reserved.get(worker, 0)) for worker in owners) > free
    for worker in owners:
        holds = reserved.get(worker, 0)
        more = min(max(0, fair[worker] - holds), free)
        free -= more
        # Who holds more than its share gives it up only when somebody else goes short.
        levels[worker] = fair[worker] if short and holds > fair[worker] else holds + more
    return levels
