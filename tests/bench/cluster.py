"""A reqpool cluster as users run it (``reqpool up``), with the pids of its parts."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from support.wait import wait_until

from . import processes
from .run import TESTS_FOLDER, ending

MOST_LOG = 3_000
"""Characters of its log that are shown when something goes wrong: the last ones."""


@dataclass(frozen=True)
class Cluster:
    """A running cluster.

    Attributes:
        url: of its intake.
        python: the interpreter that it runs with, and so which reqpool it is; its producers use the same.
        roles: pids of its broker and its workers.
    """

    url: str
    python: str
    supervisor_pid: int
    roles: processes.Roles


@contextmanager
def cluster(workers: int, config: str | None = None, python: str = sys.executable) -> Iterator[Cluster]:
    """Run a cluster with so many workers, and wait until ``reqpool status`` calls it well.

    Args:
        workers: processes.
        config: the text of its reqpool.toml; None: it has none.
        python: the interpreter to run it with.
    """
    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        url = f"ipc://{folder}/reqpool.sock"
        program = [python, "-m", "reqpool_ops"]
        log_path = folder / "up.log"
        with log_path.open("wb") as log:
            command = [*program, "up", "--workers", str(workers), "--bind", url]
            if config is not None:
                config_path = folder / "reqpool.toml"
                config_path.write_text(config, encoding="utf-8")
                command += ["--config", str(config_path)]
            up = subprocess.Popen(command, cwd=TESTS_FOLDER, stdout=log, stderr=log)
            with ending(up):

                def is_up() -> bool:
                    if up.poll() is not None:
                        raise RuntimeError(f"the cluster did not start:\n{log_path.read_text()[-MOST_LOG:]}")
                    return _is_well(program, url)

                wait_until(is_up, 30.0, "the cluster is well")
                try:
                    yield Cluster(url, python, up.pid, _roles(up.pid, workers))
                except BaseException:
                    print(log_path.read_text()[-MOST_LOG:], file=sys.stderr)
                    raise


def _is_well(program: list[str], url: str) -> bool:
    asked = subprocess.run([*program, "status", "--url", url], capture_output=True, timeout=30, check=False)
    return asked.returncode == 0


def _roles(supervisor_pid: int, workers: int) -> dict[str, list[int]]:
    roles: dict[str, list[int]] = {"broker": [], "workers": []}
    for process in sorted(processes.descendants(supervisor_pid), key=psutil.Process.create_time):
        words = process.cmdline()
        if "reqpool_broker" in words:
            roles["broker"].append(process.pid)
        elif "reqpool_workers" in words:
            roles["workers"].append(process.pid)
    del roles["broker"][1:]  # one that stands by, and does nothing
    if len(roles["broker"]) != 1 or len(roles["workers"]) != workers:
        raise RuntimeError(f"expected one broker and {workers} workers, found {roles}")
    return roles
