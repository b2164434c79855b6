"""``ops/bench.sh bystander``: what a client with 60 requests a second notices of others on the same pool.

    python -m bench.bystander [--only NEIGHBOUR] [--seconds N] [--workers N]

It is measured alone, then beside each of :mod:`bench.neighbours`. Bars: nothing is lost, the broker is not
replaced, and p99 is at most three times what it is alone. Exit status 0 if every bar holds. ``busy`` has no
bar: it uses no pool, and shows what is the machine's doing where all of its cores are taken.
"""

from __future__ import annotations

import argparse
import json
import re
import selectors
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

import reqpool

from .cluster import Cluster, cluster
from .neighbours import BODY_BYTES, NEIGHBOURS
from .processes import descendants
from .run import TESTS_FOLDER, ending
from .tally import percentile

REQUESTS_PER_S = 60
TIMEOUT_S = 2.0
MOST_RATIO = 3.0
BESIDE = ("busy", "large", "answers", "requests", "idle", "subscriptions", "deaf", "frozen")
SPANS_S = {"frozen": 70.0, "large": 20.0, "answers": 20.0, "idle": 25.0}
"""How long it is watched beside each, where that is not the default."""
SPAN_S = 15.0


@dataclass(frozen=True)
class Seen:
    """What the bystander saw."""

    p50_ms: float
    p99_ms: float
    worst_ms: float
    asked: int
    errors: dict[str, int]

    @property
    def lost(self) -> int:
        return sum(self.errors.values())


def serve_lines() -> int:
    """The upstreams, a process: prints the ports of servers that answer lines, nothing, and 4 MiB."""
    listeners = [socket.create_server(("127.0.0.1", 0), backlog=512) for _ in range(3)]
    body = bytes(BODY_BYTES)
    print(json.dumps([listener.getsockname()[1] for listener in listeners]), flush=True)
    selector = selectors.DefaultSelector()

    def answer(connection: socket.socket, rest: list[bytes]) -> None:
        data = connection.recv(1 << 20)
        lines, newline, last = data.rpartition(b"\n")
        if newline:
            connection.setblocking(True)
            connection.sendall(b"".join((*rest, lines, newline)))
            connection.setblocking(False)
            rest[:] = [last]
        else:
            rest.append(data)
        if not data:
            raise ConnectionError

    def ignore(connection: socket.socket, rest: list[bytes]) -> None:
        if not connection.recv(1 << 20):
            raise ConnectionError

    def answer_at_length(connection: socket.socket, rest: list[bytes]) -> None:
        for _ in range(connection.recv(1 << 20).count(b"\n")):
            connection.sendall(body)
        raise ConnectionError  # kind tcp asks once on each

    serves = dict(zip(listeners, (answer, ignore, answer_at_length), strict=True))
    for listener in listeners:
        selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            ready = key.fileobj
            assert isinstance(ready, socket.socket)
            if ready in serves:
                connection, _ = ready.accept()
                selector.register(connection, selectors.EVENT_READ, (serves[ready], []))
                continue
            serve, rest = key.data
            try:
                serve(ready, rest)
            except OSError:
                selector.unregister(ready)
                ready.close()


def ask(url: str, target: str, span_s: float) -> int:
    """The bystander, a process: prints what it saw."""
    latencies_s: list[float] = []
    errors: Counter[str] = Counter()

    def ended(future: reqpool.Future[bytes], asked_s: float) -> None:
        latencies_s.append(time.monotonic() - asked_s)
        error = future.exception()
        if error is not None:
            errors[re.sub(r"\(.*|[0-9.]+ s", "", f"{type(error).__name__}: {error}")] += 1

    asked = 0
    with reqpool.Pool(url, timeout=TIMEOUT_S) as pool:
        start_s = time.monotonic()
        while (now_s := time.monotonic()) < start_s + span_s:
            pool.tcp(target, b"x\n", until=b"\n", callback=lambda future, at_s=now_s: ended(future, at_s))
            asked += 1
            time.sleep(max(0.0, start_s + asked / REQUESTS_PER_S - time.monotonic()))
    ordered = sorted(latencies_s)
    errors["never ended"] += asked - len(ordered)
    said = (
        percentile(ordered, 0.5) * 1e3,
        percentile(ordered, 0.99) * 1e3,
        ordered[-1] * 1e3,
        asked,
        +errors,
    )
    print(json.dumps(said), flush=True)
    return 0


def start(module: str, *arguments: object) -> subprocess.Popen[bytes]:
    """Start a process of this package, spoken with by lines."""
    command = [sys.executable, "-m", f"bench.{module}", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=TESTS_FOLDER)


@contextmanager
def serving() -> Iterator[list[str]]:
    """Run servers that answer lines, nothing, and 4 MiB, in a process; gives where they are."""
    with ending(start("bystander", "--serve")) as server:
        assert server.stdout
        yield [f"127.0.0.1:{port}" for port in json.loads(server.stdout.readline())]


def look(where: Cluster, target: str, span_s: float) -> Seen:
    """Let the bystander ask for so long."""
    process = start("bystander", "--ask", where.url, target, span_s)
    said, _ = process.communicate(timeout=span_s + 60)
    return Seen(*json.loads(said))


@contextmanager
def neighbour(name: str, *where: str) -> Iterator[None]:
    """Run one of the hard ones beside."""
    process = start("neighbours", name, *where)
    assert process.stdin
    assert process.stdout
    with ending(process):
        process.stdout.readline()
        process.stdin.write(b"go\n")
        process.stdin.flush()
        yield
        process.stdin.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def broker_of(where: Cluster) -> tuple[int, float]:
    """The broker's process now, and its resident megabytes; one that stands by is younger."""
    for process in sorted(descendants(where.supervisor_pid), key=psutil.Process.create_time):
        try:
            if "reqpool_broker" in process.cmdline():
                return process.pid, process.memory_info().rss / 1e6
        except psutil.Error:
            continue
    return 0, 0.0


def row(name: str, seen: Seen, alone: Seen, replaced: bool, rss_mb: float) -> bool:
    """Print a line; is it as it should be?"""
    ratio = seen.p99_ms / alone.p99_ms
    good = name == "beside busy" or (not seen.lost and not replaced and ratio <= MOST_RATIO)
    verdict, lives = "PASS" if good else "FAIL", "  broker replaced" if replaced else ""
    figures = f"{seen.p50_ms:>9.2f}{seen.p99_ms:>9.2f}{seen.worst_ms:>9.1f}{ratio:>7.1f}"
    counts = f"{seen.lost:>6}/{seen.asked:<6}{rss_mb:>7.0f} MB"
    print(f"  {verdict}  {name:<20}{figures}{counts}{lives}", flush=True)
    for text, count in seen.errors.items():
        print(f"          {count} x {text}")
    return good


def main() -> int:
    if sys.argv[1:2] == ["--serve"]:
        return serve_lines()
    if sys.argv[1:2] == ["--ask"]:
        return ask(sys.argv[2], sys.argv[3], float(sys.argv[4]))
    parser = argparse.ArgumentParser(prog="ops/bench.sh bystander", description="A client beside hard ones.")
    parser.add_argument("--only", choices=list(NEIGHBOURS), metavar="NEIGHBOUR", help=", ".join(NEIGHBOURS))
    parser.add_argument("--seconds", type=float, metavar="N", help="beside each (default: 15 to 70)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="of the cluster (default 2)")
    options = parser.parse_args()
    good = True
    # Each has a server of its own: whoever shares one waits there for the other, whatever the pool does.
    with serving() as (mine, *_), serving() as others:
        print(f"{'':<28}{'p50 ms':>9}{'p99 ms':>9}{'worst':>9}{'ratio':>7}{'lost':>8}{'broker':>13}")
        for name in [options.only] if options.only else BESIDE:
            with cluster(options.workers) as where:
                look(where, mine, 2.0)
                alone = look(where, mine, options.seconds or SPAN_S)
                row("alone", alone, alone, False, broker_of(where)[1])
                before, _ = broker_of(where)
                with neighbour(name, where.url, *others):
                    seen = look(where, mine, options.seconds or SPANS_S.get(name, SPAN_S))
                    after, rss_mb = broker_of(where)
                good &= row(f"beside {name}", seen, alone, before != after, rss_mb)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
