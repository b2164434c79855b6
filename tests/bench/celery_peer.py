"""Celery as a peer: a cluster of its own, with Redis as its broker."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.redis_server import RedisServer
from support.wait import wait_until

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
    """Run Redis, used by its Unix socket, and a prefork worker with two processes.

    Two, because the machine the bars were set on has two cores; gossip, mingle and heartbeat are traffic
    between workers, of which there is one.
    """
    with RedisServer() as server, tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "BENCH_REDIS_URL": f"redis+socket://{server.socket}"}
        command = [sys.executable, "-m", "celery", "-A", "bench.celery_app", "worker", "--concurrency", "2"]
        command += ["--loglevel", "ERROR", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        path = Path(folder, "celery.log")
        with (
            path.open("wb") as log,
            ending(subprocess.Popen(command, cwd=TESTS_FOLDER, env=env, stdout=log, stderr=log)) as worker,
        ):

            def is_up() -> bool:
                if worker.poll() is not None:
                    raise RuntimeError(f"celery did not start:\n{path.read_text()}")
                return len(processes.descendants(worker.pid)) == 2

            wait_until(is_up, 30.0, "celery's two processes")
            pids = [worker.pid, *(child.pid for child in processes.descendants(worker.pid))]
            yield CeleryCluster(env, {"broker": [server.pid], "workers": pids})
