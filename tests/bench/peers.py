"""What reqpool is compared with, where that needs more than a load process: Celery's cluster, and dnsperf."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from . import processes
from .run import TESTS_FOLDER, Figures, Load, measure
from .tally import NAMES_COUNT, ZONE


def missing_programs() -> list[str]:
    """Return the programs the benchmark needs and the machine lacks."""
    return [name for name in ("knotd", "dnsperf", "redis-server") if shutil.which(name) is None]


@contextmanager
def ending(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """End the process on leaving, kindly first."""
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class CeleryCluster:
    """A running Redis and a running Celery worker."""

    env: Mapping[str, str]
    roles: processes.Roles

    def look_ups(
        self, server: str, window: int, server_pids: list[int], warm_s: float, measure_s: float
    ) -> Figures:
        """Measure one producer with ``window`` tasks in flight."""
        with Load("celery_load", "--server", server, "--window", window, env=self.env) as load:
            roles = {**self.roles, "server": server_pids}
            return measure([load], roles, warm_s=warm_s, measure_s=measure_s)


@contextmanager
def celery_cluster() -> Iterator[CeleryCluster]:
    """Run Redis on a Unix socket, writing nothing to disk, and a prefork worker with two processes.

    Two, because the machine the bars were set on has two cores; gossip, mingle and heartbeat are traffic
    between workers, of which there is one.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = folder / "redis.sock"
        redis_command = ["redis-server", "--port", "0", "--unixsocket", str(path), "--dir", str(folder)]
        redis_command += ["--save", "", "--appendonly", "no"]
        server = stack.enter_context(ending(subprocess.Popen(redis_command, stdout=subprocess.DEVNULL)))
        env = {**os.environ, "BENCH_REDIS_URL": f"redis+socket://{path}"}
        command = [sys.executable, "-m", "celery", "-A", "bench.celery_app", "worker", "--concurrency", "2"]
        command += ["--loglevel", "ERROR", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        _wait_for_redis(path)
        log = stack.enter_context((folder / "celery.log").open("wb"))
        worker = stack.enter_context(
            ending(subprocess.Popen(command, cwd=TESTS_FOLDER, env=env, stdout=log, stderr=log))
        )
        deadline_s = time.monotonic() + 30
        while len(processes.descendants(worker.pid)) < 2:
            if worker.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"celery did not start:\n{(folder / 'celery.log').read_text()}")
            time.sleep(0.05)
        pids = [worker.pid, *(child.pid for child in processes.descendants(worker.pid))]
        yield CeleryCluster(env, {"broker": [server.pid], "workers": pids})


def _wait_for_redis(path: Path) -> None:
    deadline_s = time.monotonic() + 10
    while True:
        try:
            with redis.Redis(unix_socket_path=str(path)) as client:
                client.ping()
                return
        except redis.RedisError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.02)


def dnsperf(server: str, window: int, server_pids: list[int], measure_s: float) -> Figures:
    """Measure dnsperf, one client and one thread in C, as the limit of server and kernel."""
    host, port = server.rsplit(":", 1)
    with tempfile.NamedTemporaryFile("w", suffix=".names") as names:
        names.writelines(f"h{i}.{ZONE} A\n" for i in range(NAMES_COUNT))
        names.flush()
        command = ["dnsperf", "-s", host, "-p", port, "-d", names.name, "-e", "-q", str(window)]
        command += ["-l", str(max(1, round(measure_s)))]
        roles = {"server": server_pids}
        before = processes.sample(roles)
        used = os.times()
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=measure_s + 30)
        after = processes.sample(roles)
        now = os.times()
    completed = _figure(r"Queries completed:\s+(\d+)", done.stdout)
    lost = _figure(r"Queries lost:\s+(\d+)", done.stdout)
    own_s = now.children_user + now.children_system - used.children_user - used.children_system
    return Figures(
        rate_per_s=_figure(r"Queries per second:\s+([\d.]+)", done.stdout),
        cpu_us={
            "producer": own_s / completed * 1e6,
            "server": processes.cpu_between(before, after)["server"] / completed * 1e6,
        },
        idle=processes.idle_between(before, after),
        submitted=int(completed + lost),
        lost=int(lost),
    )


def _figure(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"dnsperf said nothing of {pattern}:\n{text}")
    return float(found[1])
