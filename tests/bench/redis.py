"""The Redis benchmark: ``ops/bench.sh redis``. Real redis-server on loopback, everything in one run.

All contestants GET the same 10,000 keys, each with a value of its own, in rounds that alternate, each
measured between the same two instants by its parent; ratios are of medians. All but redis-benchmark compare
the values.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from support.redis_server import RedisServer

from . import asked, tools
from .report import Section
from .run import Figures
from .sections import Bench, Benchmark, Service, at_least, at_most, nothing_lost
from .services import (
    IN_FLIGHT,
    MOST_PRODUCER_CPU_US,
    POOL,
    THREADS,
    Library,
    one_producer,
    pool_with,
    synchronous,
)

UVLOOP, ASYNCIO = "redis.asyncio on uvloop", "redis.asyncio on asyncio"
UNPIPELINED, PIPELINED = "redis-benchmark -c 32", "redis-benchmark -c 32 -P 16 (limit)"
MORE_IN_FLIGHT = 1_000
"""Told beside the others: what is pipelined costs less the more of it there is."""
RATE_PER_S = 100_000, 1_000_000
"""About what redis-benchmark does without and with -P 16: it runs by count, not by time."""


def get(bench: Bench) -> Section:
    """GET of a small value."""
    window = ("--window", IN_FLIGHT, "--look")

    def benchmark(rate_per_s: int, *options: object) -> Figures:
        count = int(rate_per_s * bench.measure_s)
        return tools.redis_benchmark(bench.service.port, count, bench.service.pids, *options)

    section, figures = one_producer(
        bench,
        "get",
        "redis-get",
        f"GET of {asked.VALUE_BYTES} bytes",
        IN_FLIGHT,
        {
            UVLOOP: lambda: bench.peer("async_load", "redis-asyncio", "redis-get", *window),
            ASYNCIO: lambda: bench.peer(
                "async_load", "redis-asyncio", "redis-get", *window, "--loop", "asyncio"
            ),
            f"redis-py, {THREADS} threads": lambda: bench.peer(
                "thread_load", "redis-py", "redis-get", "--threads", THREADS
            ),
            UNPIPELINED: lambda: benchmark(RATE_PER_S[0], "-c", 32),
            PIPELINED: lambda: benchmark(RATE_PER_S[1], "-c", 32, "-P", 16),
        },
        more=[MORE_IN_FLIGHT],
    )
    ours, more = figures[POOL], figures[pool_with(MORE_IN_FLIGHT)]
    limit = figures[UNPIPELINED].rate_per_s
    rival = max(figures[UVLOOP].rate_per_s, figures[ASYNCIO].rate_per_s)
    section.bars = [
        at_least("x redis.asyncio (the faster of the two)", ours.rate_per_s / rival, 4.0),
        at_least(f"x {UNPIPELINED}", ours.rate_per_s / limit, 1.0),
        at_least(
            f"x {UNPIPELINED}, {MORE_IN_FLIGHT:,} in flight", more.rate_per_s / limit, 1.0, counts=False
        ),
        at_most("producer CPU µs per request", ours.cpu_us["producer"], MOST_PRODUCER_CPU_US),
    ]
    return nothing_lost(section)


def producers(bench: Bench) -> Section:
    """32 synchronous producers."""
    return synchronous(bench, "redis-get", Library("redis-py", "redis-py"))


@contextmanager
def serve() -> Iterator[Service]:
    """Run Redis, with the values in it."""
    with RedisServer() as server:
        keys = asked.find("redis-get").targets
        server.command("MSET", *(word for key in keys for word in (key, asked.value_of(key))))
        yield Service(server.url, [server.pid])


BENCHMARK = Benchmark(
    kind="redis",
    about=__doc__.splitlines()[0],
    sections={section.__name__: section for section in (get, producers)},
    programs={"redis-server": "redis-server", "redis-benchmark": "redis-tools"},
    serve=serve,
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
