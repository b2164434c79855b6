"""A real cluster for tests: ``python -m reqpool_ops up`` in a temporary folder.

    with cluster(tmp_path, workers=2) as running:
        pool = reqpool.Pool(running.url)

At exit it is stopped as a user would stop it, and looked at: every process gone, no socket left behind, no
traceback in the log.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from reqpool_contract.errors import BrokerUnavailable
from reqpool_ops import status
from reqpool_ops.cluster_spans import STOP_ENDS_S

from .wait import wait_until

START_WITHIN_S = 20.0
STOP_WITHIN_S = STOP_ENDS_S
PROGRAM = ("-m", "reqpool_ops")


class Cluster:
    """A running cluster.

    Attributes:
        url: the broker's intake.
        runtime_dir: its ``$XDG_RUNTIME_DIR``.
        log_path: what supervisor, broker and workers wrote to stderr.
        supervisor: the ``reqpool up`` process.
    """

    def __init__(
        self,
        folder: Path,
        bind: str,
        workers: int,
        arguments: Sequence[str],
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self.url = bind
        self.workers = workers
        self.runtime_dir = str(folder)
        self.log_path = folder / "cluster.log"
        with self.log_path.open("ab") as log:
            self.supervisor = subprocess.Popen(
                [
                    sys.executable, "-P", *program, "up",
                    "--bind", bind, "--workers", str(workers), *arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"XDG_RUNTIME_DIR": self.runtime_dir},
            )  # fmt: skip

    def report(self) -> dict[str, Any]:
        """Return the broker's STATUS report.

        Raises:
            BrokerUnavailable: if it does not answer.
        """
        return status.fetch(self.url, 1.0)

    def live_workers(self) -> list[dict[str, Any]]:
        """Return what the broker reports of each live worker, by name; empty while no broker answers."""
        try:
            workers = self.report()["workers"]
        except BrokerUnavailable:
            return []
        return sorted((w for w in workers if w["state"] == "live"), key=lambda worker: str(worker["name"]))

    def wait_ready(self) -> None:
        """Wait until every worker is live."""

        def ready() -> bool:
            assert self.supervisor.poll() is None, f"the cluster did not start:\n{self.log()}"
            return len(self.live_workers()) == self.workers

        wait_until(ready, START_WITHIN_S, "all workers live")

    def wait_settled(self, timeout_s: float = 15.0) -> dict[str, Any]:
        """Wait until every worker is live and nothing waits or runs anywhere; return the broker's report."""

        def settled() -> dict[str, Any]:
            try:
                report = self.report()
            except BrokerUnavailable:
                return {}
            well = sum(worker["state"] == "live" for worker in report["workers"]) == self.workers
            busy = [
                *(worker["in_flight"] for worker in report["workers"]),
                *(session["pending"] for session in report["sessions"]),
                *(origin[what] for origin in report["origins"].values() for what in ("queued", "in_flight")),
            ]
            return report if well and not any(busy) else {}

        try:
            return wait_until(settled, timeout_s, "settled")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.report()}") from None

    def holder(self) -> int:
        """Return the pid of the one worker that has requests in flight."""
        (worker,) = (worker for worker in self.live_workers() if worker["in_flight"])
        return int(worker["pid"])

    @contextlib.contextmanager
    def no_fds_left(self) -> Iterator[None]:
        """Fail if after the block, and when all is settled, a worker holds more fds than before it."""

        def fds() -> list[int]:
            return [worker["sample"].get("fds", 0) for worker in self.live_workers()]

        wait_until(lambda: len(fds()) == self.workers and all(fds()), 5.0, "a sample of every worker")
        before = max(fds())
        yield
        self.wait_settled()
        # An idle datagram socket is closed after 2 s, and a sample comes every 0.5 s.
        wait_until(lambda: len(fds()) == self.workers and max(fds()) <= before, 10.0, f"{before} fds again")

    def children(self) -> list[psutil.Process]:
        """Return the supervisor's children: the broker, perhaps one that stands by, and the workers."""
        return psutil.Process(self.supervisor.pid).children()

    @property
    def worker_pids(self) -> list[int]:
        """The pids of the live workers, by name."""
        return [worker["pid"] for worker in self.live_workers()]

    @property
    def broker_pid(self) -> int:
        """The broker's pid."""
        brokers = [child for child in self.children() if "reqpool_broker" in child.cmdline()]
        return min(brokers, key=psutil.Process.create_time).pid  # the one that stands by is younger

    def log(self) -> str:
        """Return what has been logged so far."""
        return self.log_path.read_text(errors="replace")

    def stop(self) -> int:
        """Stop it as Ctrl-C does; return the exit status."""
        if self.supervisor.poll() is None:
            self.supervisor.send_signal(signal.SIGINT)
        return self.supervisor.wait(STOP_WITHIN_S)

    def kill(self) -> None:
        """Kill the supervisor; its children end by themselves."""
        self.supervisor.kill()
        self.supervisor.wait()


@contextlib.contextmanager
def cluster(
    folder: Path | None = None,
    *,
    workers: int = 2,
    bind: str | None = None,
    arguments: Sequence[str] = (),
    program: Sequence[str] = PROGRAM,
    config: str | None = None,
) -> Iterator[Cluster]:
    """Run a cluster and check at exit that it leaves nothing behind.

    Args:
        folder: for its log and socket; None makes a temporary one (a test's own may be too long a path for a
            socket).
        workers: how many.
        bind: where; None takes an ipc socket in a folder of its own.
        arguments: more for ``reqpool up``.
        program: what to run ``up`` of.
        config: text of a ``reqpool.toml`` for it.
    """
    with tempfile.TemporaryDirectory(prefix="rp-") as short:
        place = folder or Path(short)
        if config is not None:
            (place / "reqpool.toml").write_text(config)
            arguments = (*arguments, "--config", str(place / "reqpool.toml"))
        running = Cluster(place, bind or f"ipc://{short}/pool.sock", workers, arguments, program)
        seen: list[psutil.Process] = []
        try:
            running.wait_ready()
            seen += running.children()
            yield running
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                seen += running.children()
            try:
                running.stop()
            except subprocess.TimeoutExpired:
                running.kill()
                print(running.log())
                raise
            _, left = psutil.wait_procs(seen, timeout=5)
            for process in left:
                process.kill()
            print(running.log())
        assert not left, f"processes left behind: {left}"
        assert "Traceback" not in running.log(), "a traceback in the cluster's log"
        sockets = [path.name for path in Path(short).iterdir() if path.is_socket()]
        assert not sockets, f"sockets left behind: {sockets}"
