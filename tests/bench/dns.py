"""The DNS benchmark: ``ops/bench.sh dns``. Real knot on loopback, everything in one run.

All contestants ask one server for the same 10,000 distinct A records with EDNS, in rounds that alternate
(A B C A B C …), each measured between the same two instants by its parent; ratios are of medians. The zone's
TTL is 0: c-ares caches answers, so aiodns would ask nobody otherwise.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from support.knot import KnotServer

from . import peers, processes, report
from .cluster import Cluster, cluster
from .query import BareQuery
from .report import Bar, Row, Section
from .run import Figures, Load, LoadFailed, measure

IN_FLIGHT = 200
HELD = 20_000
OURS = ("producer", "broker", "workers")
JSON_PATH = Path(__file__).resolve().parents[2] / "bench-dns.json"

Contestant = Callable[[], Figures]


@dataclass(frozen=True)
class Bench:
    """What a section needs to know.

    Attributes:
        server: the DNS server, ``host:port``.
        workers: of the shared cluster.
        warm_s, measure_s: of each measurement.
    """

    server: str
    server_pids: list[int]
    rounds: int
    workers: int
    warm_s: float
    measure_s: float
    quick: bool

    def rounds_of(self, contestants: Mapping[str, Contestant]) -> dict[str, Figures]:
        """Measure all contestants in turn, ``rounds`` times; return the medians."""
        measured: dict[str, list[Figures]] = {name: [] for name in contestants}
        for number in range(self.rounds):
            for name, contestant in contestants.items():
                progress(f"round {number + 1}/{self.rounds}: {name}")
                measured[name].append(contestant())
        progress("")
        return {name: report.median(rounds) for name, rounds in measured.items()}

    def ours(self, where: Cluster, mode: str, *arguments: object, producers: int = 1) -> Figures:
        """Measure reqpool: ``producers`` processes of :mod:`bench.load` at one cluster."""
        return self._together("load", producers, where.roles, mode, "--url", where.url, *arguments)

    def aiodns(self, *arguments: object, producers: int = 1) -> Figures:
        """Measure aiodns: ``producers`` processes of :mod:`bench.aiodns_load`."""
        return self._together("aiodns_load", producers, {}, *arguments)

    def floor(self, what: str) -> Figures:
        """Measure one of :mod:`bench.floor`."""
        return self._together("floor", 1, {}, what)

    def _together(self, module: str, producers: int, roles: processes.Roles, *arguments: object) -> Figures:
        with ExitStack() as stack:
            loads = []
            for number in range(producers):
                # Each starts elsewhere, so that they do not ask for the same names in lockstep.
                first = ("--first", number * 10_000 // producers) if producers > 1 else ()
                load = Load(module, *arguments, "--server", self.server, *first)
                loads.append(stack.enter_context(load))
            roles = {**roles, "server": self.server_pids}
            return measure(loads, roles, warm_s=self.warm_s, measure_s=self.measure_s)


def progress(text: str) -> None:
    """Show what is being measured, where somebody watches."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def rows(figures: Mapping[str, Figures], reference: str) -> list[Row]:
    """Make table rows; the ratio is that of the reference's rate to the row's."""
    rate_per_s = figures[reference].rate_per_s
    return [
        Row(name, one, name.startswith("reqpool"), rate_per_s / one.rate_per_s if one.rate_per_s else None)
        for name, one in figures.items()
    ]


def at_least(text: str, value: float, limit: float, counts: bool = True) -> Bar:
    """Return a bar that ``value`` has to reach."""
    return Bar(text, value, limit, True, counts)


def at_most(text: str, value: float, limit: float, counts: bool = True) -> Bar:
    """Return a bar that ``value`` must not pass."""
    return Bar(text, value, limit, False, counts)


def nothing_lost(section: Section) -> Section:
    """Add the bar that holds everywhere."""
    lost = sum(row.figures.lost for row in section.rows if row.ours)
    submitted = sum(row.figures.submitted for row in section.rows if row.ours)
    section.bars.append(at_most(f"lost of {submitted:,}", lost, 0))
    return section


def throughput(bench: Bench) -> Section:
    """One producer, 200 in flight, answers untouched: beside aiodns, Celery and dnsperf."""
    window = ("--window", IN_FLIGHT)
    with peers.celery_cluster() as celery, cluster(bench.workers) as shared:
        figures = bench.rounds_of(
            {
                "reqpool, callbacks": lambda: bench.ours(shared, "window", *window),
                "reqpool, pool.map": lambda: bench.ours(shared, "map", *window),
                "aiodns": lambda: bench.aiodns(*window),
                "aiodns, forced inline": lambda: bench.aiodns(*window, "--mode", "inline"),
                "Celery + Redis": lambda: celery.look_ups(
                    bench.server, IN_FLIGHT, bench.server_pids, bench.warm_s, bench.measure_s
                ),
                "dnsperf (the limit)": lambda: peers.dnsperf(
                    bench.server, IN_FLIGHT, bench.server_pids, bench.measure_s
                ),
            }
        )
    ours, aiodns, inline = figures["reqpool, callbacks"], figures["aiodns"], figures["aiodns, forced inline"]
    section = Section(
        "throughput",
        f"one producer, {IN_FLIGHT} in flight, answers untouched; {bench.workers} workers",
        rows(figures, "reqpool, callbacks"),
    )
    section.bars = [
        at_least("x aiodns", ours.rate_per_s / aiodns.rate_per_s, 2.0),
        at_least("x aiodns forced inline", ours.rate_per_s / inline.rate_per_s, 2.0, counts=False),
        at_least("x Celery + Redis", ours.rate_per_s / figures["Celery + Redis"].rate_per_s, 50),
        at_most("producer CPU µs per request", ours.cpu_us["producer"], 10),
        at_most(
            "producer + broker + workers CPU : aiodns's",
            ours.total_cpu_us(*OURS) / aiodns.cpu_us["producer"],
            1.0,
        ),
        at_most(
            "producer + broker + workers CPU : forced inline's",
            ours.total_cpu_us(*OURS) / inline.cpu_us["producer"],
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
                "reqpool, callbacks": lambda: bench.ours(shared, "window", *window),
                "aiodns": lambda: bench.aiodns(*window),
                "aiodns, forced inline": lambda: bench.aiodns(*window, "--mode", "inline"),
            }
        )
    ours, inline = figures["reqpool, callbacks"], figures["aiodns, forced inline"]
    section = Section(
        "looked",
        f"one producer, {IN_FLIGHT} in flight, records looked at; {bench.workers} workers",
        rows(figures, "reqpool, callbacks"),
    )
    section.bars = [
        at_least("x aiodns", ours.rate_per_s / figures["aiodns"].rate_per_s, 1.3),
        at_least("x aiodns forced inline", ours.rate_per_s / inline.rate_per_s, 1.3, counts=False),
        at_most("producer CPU µs per request", ours.cpu_us["producer"], 16),
    ]
    return nothing_lost(section)


def producers(bench: Bench) -> Section:
    """Many producers at one cluster. A lost wake-up (FACTS: ZMQ_FD is edge-triggered) shows as idle CPU."""
    with cluster(bench.workers) as shared:
        figures = bench.rounds_of(
            {
                "reqpool, 8 x 25": lambda: bench.ours(shared, "window", "--window", 25, producers=8),
                "aiodns, 8 x 25": lambda: bench.aiodns("--window", 25, producers=8),
                "reqpool, 32 x 1 synchronous": lambda: bench.ours(shared, "sync", producers=32),
                "aiodns, 32 x 1": lambda: bench.aiodns("--window", 1, producers=32),
            }
        )
    section = Section("producers", f"many producers; {bench.workers} workers")
    for ours, theirs in (
        ("reqpool, 8 x 25", "aiodns, 8 x 25"),
        ("reqpool, 32 x 1 synchronous", "aiodns, 32 x 1"),
    ):
        section.rows += rows({name: figures[name] for name in (ours, theirs)}, ours)
        section.bars.append(at_most(f"machine idle %, {ours}", figures[ours].idle * 100, 30))
    return nothing_lost(section)


def lone(bench: Bench) -> Section:
    """One request at a time, beside the floor: two ZeroMQ hops there and back, and the query itself."""
    with cluster(bench.workers) as shared:
        figures = bench.rounds_of(
            {
                "reqpool": lambda: bench.ours(shared, "sync"),
                "aiodns": lambda: bench.aiodns("--window", 1),
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
            contestants[f"reqpool, {size:,} in flight"] = lambda size=size: bench.ours(  # type: ignore[misc]
                shared, "window", "--window", size
            )
        contestants["reqpool, 1 worker, 200"] = lambda: bench.ours(one, "window", "--window", IN_FLIGHT)
        contestants["reqpool, 4 workers, 200"] = lambda: bench.ours(four, "window", "--window", IN_FLIGHT)
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
            with Load("load", "hold", "--url", shared.url, "--server", bench.server, *hold) as load:
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
        arguments = ("--url", shared.url, "--server", bench.server, "--window", IN_FLIGHT, "--marks", *marks)
        with Load("load", "count", *arguments) as load:
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
            return bench.ours(shared, "window", "--window", IN_FLIGHT, *hold)

    figures = bench.rounds_of(
        {"reqpool, alone": lambda: beside(0), "reqpool, beside silent": lambda: beside(HELD)}
    )
    section = Section("silent", f"{HELD:,} requests at a silent upstream; {bench.workers} workers")
    section.rows = rows(figures, "reqpool, alone")
    kept = figures["reqpool, beside silent"].rate_per_s / figures["reqpool, alone"].rate_per_s
    section.bars = [at_least("throughput kept by the other upstream", kept, 0.8)]
    return nothing_lost(section)


SECTIONS = {
    section.__name__: section for section in (throughput, looked, producers, lone, growth, memory, silent)
}


def measured(name: str, bench: Bench) -> Section:
    """Run one section; one that cannot be measured (a process died, say) fails, and the others go on."""
    try:
        return SECTIONS[name](bench)
    except (LoadFailed, RuntimeError, OSError, psutil.Error, subprocess.SubprocessError) as error:
        progress("")
        why = f"{type(error).__name__}: {error}"
        return Section(name, "not measured", bars=[at_most("could not be measured", 1, 0)], notes=[why])


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


def main() -> int:
    """Run the benchmark; exit status 0 if every bar holds, 1 if not, 2 if it cannot run."""
    parser = argparse.ArgumentParser(prog="ops/bench.sh dns", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="shorter measurements, fewer requests")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="alternating rounds (default 3)")
    parser.add_argument("--only", choices=list(SECTIONS), metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="of the cluster (default 2)")
    options = parser.parse_args()
    if missing := peers.missing_programs():
        print(f"not installed: {', '.join(missing)} (Debian: knot dnsperf redis-server)", file=sys.stderr)
        return 2
    chosen = [options.only] if options.only else list(SECTIONS)
    sections = []
    with KnotServer() as knot:
        require_ttl_0(knot.address)
        bench = Bench(
            server=knot.address,
            server_pids=[knot.pid],
            rounds=options.rounds,
            workers=options.workers,
            warm_s=0.7 if options.quick else 1.5,
            measure_s=1.5 if options.quick else 4.0,
            quick=options.quick,
        )
        print("\n".join(report.header()))
        for name in chosen:
            section = measured(name, bench)
            print("\n".join(section.lines()), flush=True)
            sections.append(section)
    about = {
        "rounds": options.rounds,
        "quick": options.quick,
        "workers": options.workers,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
    }
    return 0 if report.finish(sections, about, JSON_PATH) else 1


if __name__ == "__main__":
    sys.exit(main())
