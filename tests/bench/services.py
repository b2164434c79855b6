"""What the services' benchmarks have in common: one producer beside its peers, and 32 synchronous ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from . import watches
from .cluster import cluster
from .report import Bar, Section
from .run import Figures, Watch
from .sections import OURS, Bench, Contestant, Service, at_most, nothing_lost, rows

IN_FLIGHT = 200
THREADS = 8
"""Of the blocking peers: more of them pass the GIL to and fro, and get less done."""
PRODUCERS = 32
MAX_CONNECTIONS = 8
"""The one limit for all producers together, as reqpool.toml says it."""
MOST_PRODUCER_CPU_US = 14.0
MOST_PROCESS_BYTES = 40_000_000
"""An idle process of ours: an interpreter and its libraries."""
MOST_COPIES = 4
"""Of each byte in flight, in all processes of one role: read, joined, packed, in a socket's buffer."""
MOST_IDLE_PERCENT = 30.0

POOL = "reqpool, callbacks"


def one_producer(
    bench: Bench,
    name: str,
    subject: str,
    about: str,
    window: int,
    peers: Mapping[str, Contestant],
    watch: Watch | None = None,
    more: Sequence[int] = (),
) -> tuple[Section, dict[str, Figures]]:
    """Measure one producer with callbacks, and its peers; answers are looked at in all of them.

    Args:
        name: of the section.
        subject: of :mod:`bench.asked`.
        about: what is asked, for people.
        window: requests in flight.
        peers: the others, by the name of their row.
        watch: looks on while ours runs.
        more: further numbers of requests in flight, a row of ours for each: see :func:`pool_with`.

    Returns:
        The section without bars, and the medians by row.
    """
    with cluster(bench.workers) as shared:
        contestants: dict[str, Contestant] = {
            POOL: lambda: bench.ours(shared, "window", subject, "--window", window, "--look", watch=watch)
        }
        for size in more:
            contestants[pool_with(size)] = lambda size=size: bench.ours(  # type: ignore[misc]
                shared, "window", subject, "--window", size, "--look"
            )
        figures = bench.rounds_of({**contestants, **peers})
    title = f"{about}; one producer, {window} in flight, answers looked at; {bench.workers} workers"
    return Section(name, title, rows(figures, POOL)), figures


def pool_with(window: int) -> str:
    """Return the name of the row of one producer with another number of requests in flight."""
    return f"reqpool, {window:,} in flight"


@dataclass(frozen=True)
class Library:
    """What synchronous producers would use directly.

    Attributes:
        name: as its users know it.
        client: of :mod:`bench.blocking_clients`.
    """

    name: str
    client: str


def one_limit(service: Service) -> str:
    """Return a reqpool.toml that allows ``MAX_CONNECTIONS`` to the service."""
    return f"[upstreams.bench]\nurl = {service.target!r}\nmax_connections = {MAX_CONNECTIONS}\n"


def synchronous(bench: Bench, subject: str, library: Library) -> Section:
    """32 producers with one request at a time each, as the web workers of a host: ours have one limit.

    The connections are the established ones that the server itself holds at its port, the most of all looks.
    A lost wake-up would show as an idle machine.
    """
    ours, theirs = f"reqpool, {PRODUCERS} x 1 synchronous", f"{library.name}, {PRODUCERS} x 1"
    pooled, direct = watches.Connections(bench.service.port), watches.Connections(bench.service.port)

    def pool() -> Figures:
        # A cluster for each round, so that its idle connections are not counted for the others.
        with cluster(bench.workers, one_limit(bench.service)) as shared:
            return bench.ours(shared, "sync", subject, "--look", producers=PRODUCERS, watch=pooled)

    figures = bench.rounds_of(
        {
            ours: pool,
            theirs: lambda: bench.peer(
                "thread_load", library.client, subject, "--threads", 1, producers=PRODUCERS, watch=direct
            ),
        }
    )
    title = f"{PRODUCERS} synchronous producers; {bench.workers} workers, max_connections = {MAX_CONNECTIONS}"
    section = Section("producers", title, rows(figures, ours))
    section.bars = [
        at_most(f"connections at the upstream, {ours}", pooled.most, MAX_CONNECTIONS),
        at_most(f"connections at the upstream, {theirs}", direct.most, MAX_CONNECTIONS, counts=False),
        at_most(f"machine idle %, {ours}", round(figures[ours].idle * 100, 1), MOST_IDLE_PERCENT),
    ]
    return nothing_lost(section)


def memory_bars(memory: watches.Memory, in_flight_bytes: int) -> list[Bar]:
    """Return the bars for memory while large answers are under way: it depends on what is in flight, and not
    on what has been.

    Args:
        memory: what was looked at, from the moment the loads had warmed up.
        in_flight_bytes: of all answers that can be under way at a time.
    """
    bars = []
    for role in OURS:
        first_mb, peak_mb, last_mb = (held[role] / 1e6 for held in (memory.first, memory.peak, memory.last))
        most_mb = (memory.processes[role] * MOST_PROCESS_BYTES + MOST_COPIES * in_flight_bytes) / 1e6
        text = f"peak RSS of {role}, MB (at first {first_mb:.0f}, at last {last_mb:.0f})"
        bars.append(at_most(text, peak_mb, most_mb))
    return bars
