"""The HTTP benchmark: ``ops/bench.sh http``. Real nginx on loopback, everything in one run.

All contestants GET the same file over connections that are kept open, in rounds that alternate, each measured
between the same two instants by its parent; ratios are of medians. All compare status and body.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psutil

from support.nginx import NginxServer

from . import tools, watches
from .asked import BIG_BODY, SMALL_BODY
from .report import Section
from .sections import Bench, Benchmark, Service, at_least, at_most, nothing_lost
from .services import (
    IN_FLIGHT,
    MOST_PRODUCER_CPU_US,
    POOL,
    THREADS,
    Library,
    memory_bars,
    one_producer,
    synchronous,
)

BIG_IN_FLIGHT = 32
CONNECTIONS = 64
"""Of aiohttp's pool and of wrk: what reqpool has, too, if its configuration does not say otherwise."""

UVLOOP, ASYNCIO = "aiohttp on uvloop", "aiohttp on asyncio"
WRK = "wrk (the limit)"


def small(bench: Bench) -> Section:
    """A small body."""
    window = ("--window", IN_FLIGHT, "--connections", CONNECTIONS, "--look")
    section, figures = one_producer(
        bench,
        "small",
        "http-small",
        f"GET of {len(SMALL_BODY)} bytes, keep-alive",
        IN_FLIGHT,
        {
            UVLOOP: lambda: bench.peer("async_load", "aiohttp", "http-small", *window),
            ASYNCIO: lambda: bench.peer("async_load", "aiohttp", "http-small", *window, "--loop", "asyncio"),
            f"requests, {THREADS} threads": lambda: bench.peer(
                "thread_load", "requests", "http-small", "--threads", THREADS
            ),
            WRK: lambda: tools.wrk(
                f"{bench.service.target}/small", CONNECTIONS, bench.service.pids, bench.measure_s
            ),
        },
    )
    ours = figures[POOL]
    section.bars = [
        at_least(f"x {UVLOOP}", ours.rate_per_s / figures[UVLOOP].rate_per_s, 2.5),
        at_most("producer CPU µs per request", ours.cpu_us["producer"], MOST_PRODUCER_CPU_US),
    ]
    return nothing_lost(section)


def big(bench: Bench) -> Section:
    """A body of 1 MiB, and what memory it takes to have so many of them under way."""
    window = ("--window", BIG_IN_FLIGHT, "--look")
    memory = watches.Memory()
    section, figures = one_producer(
        bench,
        "big",
        "http-big",
        "GET of 1 MiB, keep-alive",
        BIG_IN_FLIGHT,
        {
            UVLOOP: lambda: bench.peer("async_load", "aiohttp", "http-big", *window),
            f"requests, {THREADS} threads": lambda: bench.peer(
                "thread_load", "requests", "http-big", "--threads", THREADS
            ),
            WRK: lambda: tools.wrk(
                f"{bench.service.target}/big", BIG_IN_FLIGHT, bench.service.pids, bench.measure_s
            ),
        },
        watch=memory,
    )
    ratio = figures[POOL].rate_per_s / figures[UVLOOP].rate_per_s
    section.bars = [at_least(f"x {UVLOOP}", ratio, 0.4), *memory_bars(memory, BIG_IN_FLIGHT * len(BIG_BODY))]
    return nothing_lost(section)


def producers(bench: Bench) -> Section:
    """32 synchronous producers of small requests."""
    return synchronous(bench, "http-small", Library("requests", "requests"))


@contextmanager
def serve(hosts: Sequence[str] = ()) -> Iterator[Service]:
    """Run nginx with one worker process, which the bars were set with.

    Args:
        hosts: further loopback addresses at which it listens.
    """
    with NginxServer(hosts) as nginx:
        master = psutil.Process(nginx.pid)
        pids = [nginx.pid, *(child.pid for child in master.children(recursive=True))]
        yield Service(f"http://{nginx.address}", pids)


BENCHMARK = Benchmark(
    kind="http",
    about=__doc__.splitlines()[0],
    sections={section.__name__: section for section in (small, big, producers)},
    programs={"nginx": "nginx-light", "wrk": "wrk"},
    serve=serve,
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
