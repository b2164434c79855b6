"""The MySQL benchmark: ``ops/bench.sh mysql``. Real MariaDB on loopback, everything in one run.

All contestants select from the same table of 10,000 rows, in rounds that alternate, each measured between the
same two instants by its parent; ratios are of medians. All compare each row with what it has to be.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pymysql

from support.mariadb import MariadbServer

from . import asked
from .report import Section
from .sections import Bench, Benchmark, Contestant, Service, at_least, at_most, nothing_lost
from .services import IN_FLIGHT, MOST_PRODUCER_CPU_US, POOL, THREADS, Library, one_producer, synchronous

MANY_IN_FLIGHT = 32
CONNECTIONS = 16
"""Of the asynchronous peers' pools: neither more nor fewer made them faster."""

PYMYSQL = f"PyMySQL, {THREADS} threads"


def one(bench: Bench) -> Section:
    """One row by its key."""
    section, figures = one_producer(
        bench, "one", "mysql-one", "SELECT of one row by key", IN_FLIGHT, peers(bench, "mysql-one", IN_FLIGHT)
    )
    ours = figures[POOL]
    section.bars = [
        at_least("x asyncmy", ours.rate_per_s / figures["asyncmy"].rate_per_s, 0.9),
        at_most("producer CPU µs per request", ours.cpu_us["producer"], MOST_PRODUCER_CPU_US),
    ]
    return nothing_lost(section)


def many(bench: Bench) -> Section:
    """1,000 rows."""
    section, figures = one_producer(
        bench,
        "many",
        "mysql-many",
        f"SELECT of {asked.MANY:,} rows",
        MANY_IN_FLIGHT,
        peers(bench, "mysql-many", MANY_IN_FLIGHT),
    )
    rate_per_s = figures[POOL].rate_per_s
    section.bars = [
        at_least(f"x {PYMYSQL}", rate_per_s / figures[PYMYSQL].rate_per_s, 1.0),
        at_least("x asyncmy", rate_per_s / figures["asyncmy"].rate_per_s, 1.0, counts=False),
    ]
    return nothing_lost(section)


def peers(bench: Bench, subject: str, in_flight: int) -> dict[str, Contestant]:
    """Return the libraries, by the name of their row."""
    window = ("--window", in_flight, "--connections", CONNECTIONS, "--look")
    return {
        "asyncmy": lambda: bench.peer("async_load", "asyncmy", subject, *window),
        "aiomysql": lambda: bench.peer("async_load", "aiomysql", subject, *window),
        PYMYSQL: lambda: bench.peer("thread_load", "pymysql", subject, "--threads", THREADS),
    }


def producers(bench: Bench) -> Section:
    """32 synchronous producers of one-row SELECTs."""
    return synchronous(bench, "mysql-one", Library("PyMySQL", "pymysql"))


@contextmanager
def serve() -> Iterator[Service]:
    """Run MariaDB, with the table in it."""
    with MariadbServer() as server:
        connection = pymysql.connect(host=server.host, port=server.port, user="free", database="bench")
        with connection, connection.cursor() as cursor:
            cursor.execute(asked.TABLE)
            rows = [asked.row_of(number) for number in range(asked.COUNT)]
            cursor.executemany("INSERT INTO bench VALUES (%s, %s, %s, %s, %s)", rows)
            connection.commit()
        yield Service(server.url("free", "", database="bench"), [server.pid])


BENCHMARK = Benchmark(
    kind="mysql",
    about=__doc__.splitlines()[0],
    sections={section.__name__: section for section in (one, many, producers)},
    programs={"mariadbd": "mariadb-server"},
    serve=serve,
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
