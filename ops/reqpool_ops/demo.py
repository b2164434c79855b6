"""The demo: its own cluster and upstreams on loopback, thousands of requests of every kind, and a table.

``python -m reqpool_ops.demo``; exit status 0 only if every request was answered correctly. Cluster and
upstreams watch this process by pidfd, so nothing is left running however it ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import reqpool
from reqpool_contract.masking import without_password

from . import health, status
from .cli import DEFAULT_WORKERS
from .cluster_spans import STOP_ENDS_S
from .demo_upstreams.zone import HOSTS, ZONE
from .report_values import counted, text

WINDOW = 200
"""Requests in flight at a time."""
ITEMS = 1_000
"""How many keys, rows and paths are requested."""
START_WITHIN_S = 20.0
TIMEOUT_S = 5.0

HEAD = (
    "kind", "sent", "done", "failed", "req/s", "p50 ms", "p99 ms",
    "CPU µs/req: producer", "broker", "workers",
)  # fmt: skip


@dataclass
class Load:
    """The requests of one kind.

    Attributes:
        kind: its name, as the table shows it.
        count: how many requests.
        submit: sends request `number` with a callback.
        right: returns whether this is the right answer to request `number`.
    """

    kind: str
    count: int
    submit: Callable[[int, Callable[[Any], None]], Any]
    right: Callable[[int, Any], bool]


def main() -> int:
    """Run the demo and return the exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.ExitStack() as stack:
            return demonstrate(stack)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except (reqpool.PoolError, TimeoutError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


def demonstrate(stack: contextlib.ExitStack) -> int:
    """Start everything, load it, and print the table; the stack stops what was started."""
    upstreams = stack.enter_context(upstream_process())
    url = stack.enter_context(cluster(DEFAULT_WORKERS))
    report = wait_for_workers(url, DEFAULT_WORKERS)
    broker_pids = [report["broker"]["pid"]]
    worker_pids = [worker["pid"] for worker in report["workers"]]
    print(f"pool: {url}, broker and {counted(len(worker_pids), 'worker')}")
    targets, servers = upstreams["targets"], upstreams["servers"]
    places = [f"{kind} {without_password(targets[kind])} ({servers[kind]})" for kind in sorted(targets)]
    print("upstreams:", ", ".join(places))
    for kind, reason in upstreams["reasons"].items():
        print(f"left out: {kind}: {text(reason)}")
    sys.stdout.flush()
    pool = stack.enter_context(reqpool.Pool(url, timeout=TIMEOUT_S))
    rows = []
    answered = True
    for load in loads(pool, targets):
        row = run(load, broker_pids, worker_pids)
        rows.append(row)
        answered = answered and row[2] == load.count
    print()
    print(status.table(HEAD, rows))
    return 0 if answered else 1


def loads(pool: reqpool.Pool, targets: dict[str, str]) -> Iterator[Load]:
    """Yield what to send, every kind in turn.

    Args:
        pool: the pool.
        targets: the target of requests, by kind; missing kinds are left out.
    """
    dns, udp, tcp, http = (targets[kind] for kind in ("dns", "udp", "tcp", "http"))

    def host(number: int) -> str:
        return f"host-{number % HOSTS}.{ZONE}"

    def line(number: int) -> bytes:
        return b"hello %d\n" % number

    yield Load(
        "dns A",
        10_000,
        lambda n, done: pool.dns(host(n), "A", server=dns, callback=done),
        lambda n, answer: [record.value for record in answer.records] == [f"192.0.2.{n % HOSTS}"],
    )
    yield Load(
        "dns AAAA",
        5_000,
        lambda n, done: pool.dns(host(n), "AAAA", server=dns, callback=done),
        lambda n, answer: len(answer.records) == 1,
    )
    yield Load(
        "udp echo",
        5_000,
        lambda n, done: pool.udp(udp, line(n), callback=done),
        lambda n, answer: bool(answer == line(n)),
    )
    yield Load(
        "tcp line echo",
        5_000,
        lambda n, done: pool.tcp(tcp, line(n), until=b"\n", callback=done),
        lambda n, answer: bool(answer == line(n)),
    )
    yield Load(
        "http GET",
        5_000,
        lambda n, done: pool.http("GET", f"{http}/item-{n % ITEMS}", callback=done),
        lambda n, answer: answer.status == 200 and bool(answer.text == f"/item-{n % ITEMS}\n"),
    )
    if "redis" in targets:
        yield from redis_loads(pool, targets["redis"])
    if "mysql" in targets:
        yield from mysql_loads(pool, targets["mysql"])


def redis_loads(pool: reqpool.Pool, url: str) -> Iterator[Load]:
    """Yield loads that set keys, and then get them."""
    yield Load(
        "redis SET",
        ITEMS,
        lambda n, done: pool.redis(url, "SET", f"key-{n}", f"value-{n}", callback=done),
        lambda n, answer: bool(answer == b"OK"),
    )
    yield Load(
        "redis GET",
        10_000,
        lambda n, done: pool.redis(url, "GET", f"key-{n % ITEMS}", callback=done),
        lambda n, answer: bool(answer == b"value-%d" % (n % ITEMS)),
    )


def mysql_loads(pool: reqpool.Pool, url: str) -> Iterator[Load]:
    """Fill a table in one transaction, then yield a load that selects its rows."""
    pool.mysql(url, "CREATE TABLE item (id INT PRIMARY KEY, name VARCHAR(40) NOT NULL)").result()
    with pool.mysql_session(url) as session:
        for number in range(ITEMS):
            session.query("INSERT INTO item VALUES (%s, %s)", (number, f"item-{number}")).result()
    yield Load(
        "mysql SELECT",
        5_000,
        lambda n, done: pool.mysql(
            url, "SELECT name FROM item WHERE id = %s", (n % ITEMS,), idempotent=True, callback=done
        ),
        lambda n, answer: bool(answer.rows == [(f"item-{n % ITEMS}",)]),
    )


def run(load: Load, broker_pids: list[int], worker_pids: list[int]) -> tuple[Any, ...]:
    """Send one load, a window at a time, and return its row of the table."""
    window = threading.Semaphore(WINDOW)
    started_s = [0.0] * load.count
    took_s = [0.0] * load.count
    futures = []

    def sender(number: int) -> Callable[[Any], None]:
        def done(_future: Any) -> None:
            took_s[number] = time.perf_counter() - started_s[number]
            window.release()

        return done

    before = time.perf_counter(), time.process_time(), health.cpu_s(broker_pids), health.cpu_s(worker_pids)
    for number in range(load.count):
        window.acquire()
        started_s[number] = time.perf_counter()
        futures.append(load.submit(number, sender(number)))
        if number % 500 == 0:
            progress(load.kind, number, load.count)
    for _ in range(WINDOW):
        window.acquire()
    after = time.perf_counter(), time.process_time(), health.cpu_s(broker_pids), health.cpu_s(worker_pids)
    progress(load.kind, load.count, load.count)

    failures = []
    for number, future in enumerate(futures):
        error = future.exception()
        if error is None and not load.right(number, future.result()):
            error = reqpool.BadResponse(f"a wrong answer: {future.result()!r}")
        if error is not None:
            failures.append(error)
    for failure in failures[:3]:
        print(f"  {load.kind}: {failure}", file=sys.stderr)
    elapsed_s, *cpu_s = (end - begin for begin, end in zip(before, after, strict=True))
    percentiles = statistics.quantiles(took_s, n=100)
    return (
        load.kind,
        load.count,
        load.count - len(failures),
        len(failures),
        f"{load.count / elapsed_s:,.0f}",
        f"{percentiles[49] * 1000:.1f}",
        f"{percentiles[98] * 1000:.1f}",
        *(f"{used_s * 1e6 / load.count:.1f}" for used_s in cpu_s),
    )


def progress(kind: str, count: int, total: int) -> None:
    """Show how far a load is: updated in place on a terminal, otherwise one line at the end."""
    if sys.stdout.isatty():
        print(f"\r{kind}: {count:,} of {total:,}", end="\n" if count == total else "", flush=True)
    elif count == total:
        print(f"{kind}: {count:,} sent", flush=True)


@contextlib.contextmanager
def upstream_process() -> Iterator[dict[str, dict[str, str]]]:
    """Run the demo's upstreams; yield their report (:mod:`reqpool_ops.demo_upstreams.__main__`)."""
    command = [sys.executable, "-P", "-m", "reqpool_ops.demo_upstreams", "--parent-pid", str(os.getpid())]
    with child(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise TimeoutError("the demo's upstreams did not start; see their output above")
        report: dict[str, dict[str, str]] = json.loads(line)
        yield report


@contextlib.contextmanager
def cluster(workers: int) -> Iterator[str]:
    """Run a cluster in a temporary folder; yield its URL."""
    with tempfile.TemporaryDirectory(prefix="reqpool-demo-") as folder:
        url = f"ipc://{folder}/pool.sock"
        command = [
            sys.executable, "-P", "-m", "reqpool_ops", "up", "--workers", str(workers), "--bind", url,
            "--embedded", "--parent-pid", str(os.getpid()),
        ]  # fmt: skip
        with child(command):
            yield url


@contextlib.contextmanager
def child(command: list[str], stdout: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process in its own group, which a terminal's Ctrl-C does not reach, and stop it."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, process_group=0) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_ENDS_S)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_for_workers(url: str, workers: int) -> dict[str, Any]:
    """Return the first report in which every worker is live.

    Raises:
        TimeoutError: if there is none within 20 s.
    """
    deadline_s = time.monotonic() + START_WITHIN_S
    while time.monotonic() < deadline_s:
        with contextlib.suppress(reqpool.BrokerUnavailable):
            report = status.fetch(url)
            if sum(worker["state"] == "live" for worker in report["workers"]) == workers:
                return report
        time.sleep(0.02)
    raise TimeoutError("the cluster did not start; see its output above")


if __name__ == "__main__":
    sys.exit(main())
