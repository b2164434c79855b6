"""The DNS benchmark: ``ops/bench.sh dns``. Real knot on loopback, everything in one run.

All contestants ask one server for the same 10,000 distinct A records with EDNS, in rounds that alternate
(A B C A B C …), each measured between the same two instants by its parent; ratios are of medians. The zone's
TTL is 0: c-ares caches answers, so aiodns would ask nobody otherwise.
"""

from __future__ import annotations

import socket
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from support.knot import KnotServer

from . import processes, tools
from .celery_peer import celery_cluster
from .cluster import Cluster, cluster
from .query import BareQuery
from .report import Section
from .run import Figures
from .sections import OURS, Bench, Benchmark, Contestant, Service, at_least, at_most, nothing_lost, rows

IN_FLIGHT = 200
HELD = 20_000


def ours(bench: Bench, where: Cluster, mode: str, *arguments: object, producers: int = 1) -> Figures:
    """Measure reqpool."""
    return bench.ours(where, mode, "dns", *arguments, producers=producers)


def aiodns(bench: Bench, *arguments: object, inline: bool = False, producers: int = 1) -> Figures:
    """Measure aiodns as everybody gets it, or on the path it takes only by itself."""
    client = "aiodns-inline" if inline else "aiodns"
    return bench.peer("async_load", client, "dns", *arguments, producers=producers)


def throughput(bench: Bench) -> Section:
    """One producer, 200 in flight, answers untouched: beside aiodns, Celery and dnsperf."""
    window = ("--window", IN_FLIGHT)
    with celery_cluster() as celery, cluster(bench.workers) as shared:
        figures = bench.rounds_of(
            {
                "reqpool, callbacks": lambda: ours(bench, shared, "window", *window),
                "reqpool, pool.map": lambda: ours(bench, shared, "map", *window),
                "aiodns": lambda: aiodns(bench, *window),
                "aiodns, forced inline": lambda: aiodns(bench, *window, inline=True),
                "Celery + Redis": lambda: celery.look_ups(
                    bench.service.target, IN_FLIGHT, bench.service.pids, bench.warm_s, bench.measure_s
                ),
                "dnsperf (the limit)": lambda: tools.dnsperf(
                    bench.service.target, IN_FLIGHT, bench.service.pids, bench.measure_s
                ),
            }
        )
    pool, rival, inline = figures["reqpool, callbacks"], figures["aiodns"], figures["aiodns, forced inline"]
    section = Section(
        "throughput",
        f"one producer, {IN_FLIGHT} in flight, answers untouched; {bench.workers} workers",
        rows(figures, "reqpool, callbacks"),
    )
    section.bars = [
        at_least("x aiodns", pool.rate_per_s / rival.rate_per_s, 2.0),
        at_least("x aiodns forced inline", pool.rate_per_s / inline.rate_per_s, 2.0, counts=False),
        at_least("x Celery + Redis", pool.rate_per_s / figures["Celery + Redis"].rate_per_s, 50),
        at_most("producer CPU µs per request", pool.cpu_us["producer"], 10),
        at_most(
            "producer + broker + workers CPU : aiodns's",
            pool.total_cpu_us(*OURS) / rival.cpu_us["producer"],
            1.0,
        ),
        at_most(
            "producer + broker + workers CPU : forced inline's",
            pool.total_cpu_us(*OURS) / inline.cpu_us["producer"],
            1.0,
            counts=False,
        ),
    ]
    return nothing_lost(section)


def looked(bench: Bench) -> Section:
    """The same with each answer's records looked at."""
    window = ("--window", IN_FLIGHT, "--look")
    with cluster(bench.workers) as shared:
        figures = bench.rounds_of(
            {
                "reqpool, callbacks": lambda: ours(bench, shared, "window", *window),
                "aiodns": lambda: aiodns(bench, *window),
                "aiodns, forced inline": lambda: aiodns(bench, *window, inline=True),
            }
        )
    pool, inline = figures["reqpool, callbacks"], figures["aiodns, forced inline"]
    section = Section(
        "looked",
        f"one producer, {IN_FLIGHT} in flight, records looked at; {bench.workers} workers",
        rows(figures, "reqpool, callbacks"),
    )
    section.bars = [
        at_least("x aiodns", pool.rate_per_s / figures["aiodns"].rate_per_s, 1.3),
        at_least("x aiodns forced inline", pool.rate_per_s / inline.rate_per_s, 1.3, counts=False),
        at_most("producer CPU µs per request", pool.cpu_us["producer"], 16),
    ]
    return nothing_lost(section)


def producers(bench: Bench) -> Section:
    """Many producers at one cluster. A lost wake-up (FACTS: ZMQ_FD is edge-triggered) shows as idle CPU."""
    with cluster(bench.workers) as shared:
        figures = bench.rounds_of(
            {
                "reqpool, 8 x 25": lambda: ours(bench, shared, "window", "--window", 25, producers=8),
                "aiodns, 8 x 25": lambda: aiodns(bench, "--window", 25, producers=8),
                "reqpool, 32 x 1 synchronous": lambda: ours(bench, shared, "sync", producers=32),
                "aiodns, 32 x 1": lambda: aiodns(bench, "--window", 1, producers=32),
            }
        )
    section = Section("producers", f"many producers; {bench.workers} workers")
    for pool, theirs in (
        ("reqpool, 8 x 25", "aiodns, 8 x 25"),
        ("reqpool, 32 x 1 synchronous", "aiodns, 32 x 1"),
    ):
        section.rows += rows({name: figures[name] for name in (pool, theirs)}, pool)
        section.bars.append(at_most(f"machine idle %, {pool}", figures[pool].idle * 100, 30))
    return nothing_lost(section)


def lone(bench: Bench) -> Section:
    """One request at a time, beside the floor: two ZeroMQ hops there and back, and the query itself."""
    with cluster(bench.workers) as shared:
        figures = bench.rounds_of(
            {
                "reqpool": lambda: ours(bench, shared, "sync"),
                "aiodns": lambda: aiodns(bench, "--window", 1),
                "ZeroMQ ipc round trip": lambda: bench.floor("ipc"),
                "bare UDP query": lambda: bench.floor("query"),
            }
        )
    section = Section("lone", f"one lone request, submit and wait; {bench.workers} workers")
    section.rows = rows(figures, "reqpool")
    p50_us = {name: one.p50_us or 0.0 for name, one in figures.items()}
    floor_us = 2 * p50_us["ZeroMQ ipc round trip"] + p50_us["bare UDP query"]
    section.bars = [
        at_most(
            f"p50 : floor of 2 round trips + 1 query ({floor_us:.0f} µs)", p50_us["reqpool"] / floor_us, 2.0
        )
    ]
    return nothing_lost(section)


def growth(bench: Bench) -> Section:
    """CPU per request as in-flight and workers grow."""
    with cluster(1) as one, cluster(4) as four, cluster(bench.workers) as shared:
        contestants: dict[str, Contestant] = {}
        for size in (200, 2_000, 20_000):
            contestants[f"reqpool, {size:,} in flight"] = lambda size=size: ours(  # type: ignore[misc]
                bench, shared, "window", "--window", size
            )
        contestants["reqpool, 1 worker, 200"] = lambda: ours(bench, one, "window", "--window", IN_FLIGHT)
        contestants["reqpool, 4 workers, 200"] = lambda: ours(bench, four, "window", "--window", IN_FLIGHT)
        figures = bench.rounds_of(contestants)
    section = Section("growth", f"cost as work grows; {bench.workers} workers unless said")
    section.rows = rows(figures, "reqpool, 200 in flight")
    cost_us = {name: one_row.total_cpu_us(*OURS) for name, one_row in figures.items()}
    section.bars = [
        at_most(
            "CPU per request, 20,000 : 200 in flight",
            cost_us["reqpool, 20,000 in flight"] / cost_us["reqpool, 200 in flight"],
            1.2,
        ),
        at_most(
            "CPU per request, 4 : 1 workers",
            cost_us["reqpool, 4 workers, 200"] / cost_us["reqpool, 1 worker, 200"],
            1.2,
        ),
    ]
    return nothing_lost(section)


def memory(bench: Bench) -> Section:
    """Bytes per request held, and what stays after many."""
    section = Section("memory", f"PSS with {HELD:,} held by a silent upstream, RSS over time")
    grown: dict[str, list[float]] = {}
    held = HELD
    for _ in range(bench.rounds):
        with cluster(bench.workers) as shared, silent_upstream() as upstream:
            hold = ("--hold", HELD, "--silent", upstream)
            with bench.producer(shared, "hold", "dns", *hold) as load:
                roles = {"producer": [load.pid], **shared.roles, "supervisor": [shared.supervisor_pid]}
                load.hear(60)
                idle_bytes = settled_pss_bytes(roles)
                load.say("go 0 0")
                load.hear(60)
                held_bytes = settled_pss_bytes(roles)
                load.say("end")
                held = min(held, load.hear(60)["held"])
        for role in roles:
            grown.setdefault(role, []).append((held_bytes[role] - idle_bytes[role]) / HELD)
    section.bars.append(at_least("still held when measured", held, HELD))
    totals = [sum(by_role) for by_role in zip(*grown.values(), strict=True)]
    section.bars.append(at_most("PSS bytes per held request", statistics.median(totals), 4096))
    split = (f"{role} {statistics.median(each):.0f}" for role, each in grown.items())
    section.notes.append(f"of these: {', '.join(split)}")
    marks = (50_000, 500_000) if bench.quick else (200_000, 2_000_000)
    if bench.quick:
        section.notes.append("--quick: RSS after 500 k requests : 50 k, instead of 2 M : 200 k")
    with cluster(bench.workers) as shared:
        arguments = ("--window", IN_FLIGHT, "--marks", *marks)
        with bench.producer(shared, "count", "dns", *arguments) as load:
            roles = {"producer": [load.pid], **shared.roles, "supervisor": [shared.supervisor_pid]}
            load.hear(60)
            load.say("go 0 0")
            lost = load.hear(600)["lost"]
            before = processes.rss_bytes(roles)
            load.say("on")
            lost += load.hear(600)["lost"]
            after = processes.rss_bytes(roles)
            load.say("end")
    for role in roles:
        text = f"RSS of {role} after {marks[1]:,} : {marks[0]:,} requests ({after[role] / 1e6:.1f} MB)"
        section.bars.append(at_most(text, after[role] / before[role], 1.05))
    section.bars.append(at_most(f"lost of {marks[1]:,}", lost, 0))
    return section


def settled_pss_bytes(roles: processes.Roles) -> dict[str, int]:
    """Return PSS by role once the sum has moved by less than 0.2 % for a second, or after 20 s."""
    deadline_s = time.monotonic() + 20
    last_bytes = processes.pss_bytes(roles)
    while True:
        time.sleep(1.0)
        now_bytes = processes.pss_bytes(roles)
        moved_bytes = abs(sum(now_bytes.values()) - sum(last_bytes.values()))
        if moved_bytes < sum(now_bytes.values()) * 0.002 or time.monotonic() > deadline_s:
            return now_bytes
        last_bytes = now_bytes


@contextmanager
def silent_upstream() -> Iterator[str]:
    """Hold a UDP port open that takes everything and never answers; without it ICMP would."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as upstream:
        upstream.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{upstream.getsockname()[1]}"


def silent(bench: Bench) -> Section:
    """One upstream silent with 20,000 requests of the same producer at it; another goes on."""

    def beside(held: int) -> Figures:
        # A cluster for each: what a silent upstream still has in flight outlives its producer.
        with cluster(bench.workers) as shared, silent_upstream() as upstream:
            hold = ("--hold", held, "--silent", upstream)
            return ours(bench, shared, "window", "--window", IN_FLIGHT, *hold)

    figures = bench.rounds_of(
        {"reqpool, alone": lambda: beside(0), "reqpool, beside silent": lambda: beside(HELD)}
    )
    section = Section("silent", f"{HELD:,} requests at a silent upstream; {bench.workers} workers")
    section.rows = rows(figures, "reqpool, alone")
    kept = figures["reqpool, beside silent"].rate_per_s / figures["reqpool, alone"].rate_per_s
    section.bars = [at_least("throughput kept by the other upstream", kept, 0.8)]
    return nothing_lost(section)


def require_ttl_0(server: str) -> None:
    """Check that nobody can win by caching.

    Raises:
        RuntimeError: if the zone's answers may be cached.
    """
    name = "h0.example.test"
    answer = BareQuery(server).ask(name)
    # Behind header and question: a pointer to the name, type, class, then the TTL (RFC 1035 §4.1.3).
    at = 12 + len(name) + 2 + 4 + 2 + 2 + 2
    if int.from_bytes(answer[at : at + 4], "big"):
        raise RuntimeError("the zone's TTL must be 0: c-ares caches answers")


@contextmanager
def serve() -> Iterator[Service]:
    """Run knot."""
    with KnotServer() as knot:
        require_ttl_0(knot.address)
        yield Service(knot.address, [knot.pid])


BENCHMARK = Benchmark(
    kind="dns",
    about=__doc__.splitlines()[0],
    sections={
        section.__name__: section for section in (throughput, looked, producers, lone, growth, memory, silent)
    },
    programs={"knotd": "knot", "dnsperf": "dnsperf", "redis-server": "redis-server"},
    serve=serve,
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
