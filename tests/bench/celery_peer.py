"""Celery as a peer: a cluster of its own, with Redis as its broker."""

from __future__ import annotations

import os
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
from .run import TESTS_FOLDER, Figures, Load, ending, measure


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
