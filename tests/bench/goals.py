"""Every figure that reqpool is meant to reach, in one table: ops/bench.sh.

Real servers on loopback, everything on the same cores, answers looked at, in rounds that alternate; each line
is of medians. With ``--against REV`` that revision's client, broker and workers run beside these, under the
same loads.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial

from . import asked, bare_pool, dns, http, mysql, redis, report, tools
from .compare import Measured, Ours, cpu, measure, p50, rate
from .report import Goals
from .run import Figures
from .sections import OURS, Bench, Benchmark, Contestant, Service, nothing_lost
from .services import IN_FLIGHT, PRODUCERS, one_limit

FLOOR = "floor"
SHAPES = ((1, 200), (8, 25), (32, 8), (100, 10))
"""Producers and requests in flight in each."""

Measure = Callable[[Bench], Goals]


def synchronous(
    bench: Bench, subject: str, client: str, more: Mapping[str, Contestant] | None = None
) -> Measured:
    """Measure 32 producers with one request in flight each, and a blocking library in as many processes."""
    peer = partial(bench.peer, "thread_load", client, subject, "--threads", 1, producers=PRODUCERS)
    ours = Ours("sync", subject, producers=PRODUCERS)
    return measure(bench, [ours], {client: peer, **(more or {})}, one_limit(bench.service))


def redis_sync(bench: Bench) -> Goals:
    """Synchronous producers of Redis GET; what a request costs beside the floor."""

    def floor() -> Figures:
        with bare_pool.running(bench.service.port) as (folder, roles):
            return bench.floor("pool", "--folder", folder, producers=PRODUCERS, roles=roles)

    found = synchronous(bench, "redis-get", "redis-py", {FLOOR: floor})
    sides = [
        found.goal(
            f"  CPU µs of {role} : the ZeroMQ floor's",
            cpu(role),
            1.6,
            peer=FLOOR,
            least=False,
        )
        for role in OURS
    ]
    text = f"{PRODUCERS} synchronous x 1, Redis GET, req/s : redis-py"
    return found.section("redis-sync", found.goal(text, rate, 1.0, peer="redis-py"), *sides)


def mysql_sync(bench: Bench) -> Goals:
    """Synchronous producers of one-row SELECTs."""
    found = synchronous(bench, "mysql-one", "pymysql")
    text = f"{PRODUCERS} synchronous x 1, MySQL one row, req/s : PyMySQL"
    return found.section("mysql-sync", found.goal(text, rate, 0.8, peer="pymysql"))


def http_sync(bench: Bench) -> Goals:
    """Synchronous producers of HTTP GET."""
    found = synchronous(bench, "http-small", "requests")
    text = f"{PRODUCERS} synchronous x 1, HTTP GET, req/s : requests"
    return found.section("http-sync", found.goal(text, rate, 4.0, peer="requests"))


def lone(bench: Bench) -> Goals:
    """One DNS request at a time, beside two ZeroMQ round trips and one bare query."""
    trip, query = "round trip", "bare query"
    peers = {trip: partial(bench.floor, "ipc"), query: partial(bench.floor, "query")}
    found = measure(bench, [Ours("sync", "dns")], peers)
    floor_us = 2 * p50(found.figures[trip]) + p50(found.figures[query])
    text = "lone request, p50 µs : 2 ZeroMQ round trips + 1 query"
    return found.section("lone", found.goal(text, p50, 1.5, peer=floor_us, least=False))


def window(bench: Bench, subject: str, peers: Mapping[str, Contestant]) -> Measured:
    """Measure one producer with 200 requests in flight."""
    return measure(bench, [Ours("window", subject, IN_FLIGHT)], peers)


def redis_window(bench: Bench) -> Goals:
    """Redis GET, 200 in flight."""
    count = int(redis.RATE_PER_S[0] * bench.measure_s)
    peer = partial(tools.redis_benchmark, bench.service.port, count, bench.service.pids, "-c", 32)
    found = window(bench, "redis-get", {redis.UNPIPELINED: peer})
    text = f"Redis GET, {IN_FLIGHT} in flight, req/s : {redis.UNPIPELINED}"
    return found.section("redis", found.goal(text, rate, 1.0, peer=redis.UNPIPELINED))


def dns_window(bench: Bench) -> Goals:
    """DNS, 200 in flight."""
    peer = partial(dns.aiodns, bench, "--window", IN_FLIGHT, "--look")
    found = window(bench, "dns", {"aiodns": peer})
    text = f"DNS, {IN_FLIGHT} in flight, req/s : aiodns"
    return found.section("dns", found.goal(text, rate, 3.0, peer="aiodns"))


def aiohttp(bench: Bench, subject: str, connections: int) -> Contestant:
    """Return what measures aiohttp on uvloop."""
    sizes = ("--window", IN_FLIGHT, "--connections", connections)
    return partial(bench.peer, "async_load", "aiohttp", subject, *sizes, "--look")


def http_window(bench: Bench) -> Goals:
    """HTTP GET, 200 in flight."""
    found = window(bench, "http-small", {http.UVLOOP: aiohttp(bench, "http-small", http.CONNECTIONS)})
    text = f"HTTP GET, {IN_FLIGHT} in flight, req/s : {http.UVLOOP}"
    return found.section("http", found.goal(text, rate, 5.0, peer=http.UVLOOP))


def mysql_window(bench: Bench) -> Goals:
    """MySQL, one row by key, 200 in flight; what a request costs its producer."""
    sizes = ("--window", IN_FLIGHT, "--connections", mysql.CONNECTIONS)
    peer = partial(bench.peer, "async_load", "asyncmy", "mysql-one", *sizes, "--look")
    found = window(bench, "mysql-one", {"asyncmy": peer})
    text = f"MySQL one row, {IN_FLIGHT} in flight, req/s : asyncmy"
    return found.section(
        "mysql",
        found.goal(text, rate, 1.0, peer="asyncmy"),
        found.goal("  CPU µs of producer", cpu("producer"), 12.0, least=False),
    )


def http_origins(bench: Bench) -> Goals:
    """HTTP GET spread over 1, 100 and 1,000 origins, 200 in flight: a crawler's load."""
    one, most = f" {asked.ORIGINS[0]}", f" {asked.ORIGINS[-1]}"
    peers = {
        f"aiohttp {count}": aiohttp(bench, f"http-origins-{count}", IN_FLIGHT) for count in asked.ORIGINS
    }
    loads = [Ours("window", f"http-origins-{count}", IN_FLIGHT, case=f" {count}") for count in asked.ORIGINS]
    found = measure(bench, loads, peers)
    goals = []
    for count in asked.ORIGINS:
        origins = f"{count:,} origin{'s' if count > 1 else ''}"
        limit = 2.0 if count == asked.ORIGINS[-1] else None
        text = f"HTTP GET over {origins}, req/s : {http.UVLOOP}"
        goals.append(found.goal(text, rate, limit, case=f" {count}", peer=f"aiohttp {count}"))
        goals.append(found.goal("  CPU µs of broker", cpu("broker"), case=f" {count}"))
    text = f"HTTP GET over {asked.ORIGINS[-1]:,} origins, req/s : over one"
    return found.section("http-origins", *goals, found.goal(text, rate, 0.6, case=most, beside=one))


def redis_producers(bench: Bench) -> Goals:
    """Redis GET by more and more producers."""
    cases = [f" {producers} x {in_flight}" for producers, in_flight in SHAPES]
    loads = [
        Ours("window", "redis-get", in_flight, producers, case)
        for (producers, in_flight), case in zip(SHAPES, cases, strict=True)
    ]
    found = measure(bench, loads, {})
    first = found.goal(f"Redis GET, producers x in flight{cases[0]}, req/s", rate, case=cases[0])
    others = (
        found.goal(
            f"Redis GET, producers x in flight{case}, req/s :{cases[0]}",
            rate,
            limit,
            case=case,
            beside=cases[0],
        )
        for case, limit in zip(cases[1:], (0.85, 0.6, 0.5), strict=True)
    )
    return found.section("redis-producers", first, *others)


def served(serve: Callable[[], AbstractContextManager[Service]], measure: Measure) -> Measure:
    """Return what runs the service, measures the section, and adds the bar that nothing of ours is lost."""

    def section(bench: Bench) -> Goals:
        with serve() as service:
            found = measure(replace(bench, service=service))
        nothing_lost(found)
        return found

    return section


@contextmanager
def no_service() -> Iterator[Service]:
    """Run nothing: each section runs its own."""
    yield Service("", [])


BENCHMARK = Benchmark(
    kind="goals",
    about=__doc__.splitlines()[0],
    sections={
        "redis-sync": served(redis.serve, redis_sync),
        "mysql-sync": served(mysql.serve, mysql_sync),
        "http-sync": served(http.serve, http_sync),
        "lone": served(dns.serve, lone),
        "redis": served(redis.serve, redis_window),
        "dns": served(dns.serve, dns_window),
        "http": served(http.serve, http_window),
        "mysql": served(mysql.serve, mysql_window),
        "http-origins": served(partial(http.serve, asked.ORIGIN_HOSTS), http_origins),
        "redis-producers": served(redis.serve, redis_producers),
    },
    programs={
        "knotd": "knot",
        "mariadbd": "mariadb-server",
        "nginx": "nginx-light",
        "redis-benchmark": "redis-tools",
        "redis-server": "redis-server",
    },
    serve=no_service,
    compares=True,
    header=report.goals_header,
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
