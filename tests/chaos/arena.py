"""What faults are done to: a cluster, its upstreams, and producers that use it; in one temporary folder."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import psutil

from reqpool_contract.errors import BrokerUnavailable
from reqpool_ops import runtime, status
from support.cluster import Cluster
from support.wait import wait_until

from .journal import GOOD
from .relay import Relay, Relays
from .upstreams import Upstreams

WORKERS, FEWEST_WORKERS, MOST_WORKERS = 3, 2, 5
PRODUCERS = 3
SOCKET = "pool.sock"
TESTS = str(Path(__file__).parents[1])
ANSWER_WITHIN_S = 0.1
LOOK_EVERY_S = 0.2
SERVED_WITHIN_S = 20.0
BACK_WITHIN_S = 45.0
"""A cluster that has failed again and again is started again after 30 s at the latest."""
FINISH_WITHIN_S = 40.0
"""What producers get to see the end of everything: the longest timeout, and some."""

_DEFAULTS = "[defaults]\nidle_timeout_s = 3\n"


class NoTarget(Exception):
    """There is nothing now that this fault could be done to."""


@dataclass
class ProducerProcess:
    """One producer.

    Attributes:
        name: unique in the run.
        process: the process.
        journal: path of what it writes down.
        frozen: it is, now.
        killed: it was.
    """

    name: str
    process: subprocess.Popen[bytes]
    journal: Path
    frozen: bool = False
    killed: bool = False


class Arena:
    """The cluster and the producers of a run.

    Args:
        folder: an empty one, closed to others; its path is short enough for sockets.
        upstreams: running.
        seed: of the producers' choices.
        rate_per_s: requests a second of all producers together.

    Attributes:
        wanted: how many workers there are to be.
        changing: the supervisor has been told to restart, to roll or to scale, and is at it.
        cluster: the present one.
        producers: all there ever were.
        seen: the cluster's processes, those of supervisors that are gone included, by pid.
        drained: processes that were told to stop by us, not by the supervisor.
        down: names of upstreams that were killed and are not back.
        fronts: the relays that every second pool connects through.
    """

    def __init__(self, folder: Path, upstreams: Upstreams, seed: int, rate_per_s: float) -> None:
        self.upstreams = upstreams
        self.wanted = WORKERS
        self.changing = False
        self.producers: list[ProducerProcess] = []
        self.seen: dict[int, psutil.Process] = {}
        self.drained: set[psutil.Process] = set()
        self.down: set[str] = set()
        self.fronts: list[Relay] = []
        self._folder = folder
        self._random = Random(seed)
        self._rate_per_s = rate_per_s
        self._reloads = 0
        self._looked_s, self._live = 0.0, 0
        self._config = folder / "reqpool.toml"
        self.write_config()
        self._url = f"ipc://{folder}/{SOCKET}"
        self.up()
        self.cluster.wait_ready()

    # --- the cluster ----------------------------------------------------------------------------

    def write_config(self) -> None:
        """Write a configuration that differs from the one before."""
        self._reloads += 1
        tables = [
            f'[upstreams.{name}]\nurl = "{url}"\nmax_connections = {30 + self._reloads % 3}\n'
            for name, url in self.upstreams.named.items()
        ]
        extra = f'[upstreams.extra{self._reloads % 2}]\nurl = "tcp://127.0.0.1:9"\n'
        written = self._config.with_suffix(".new")
        written.write_text("\n".join([_DEFAULTS, *tables, extra]))
        written.rename(self._config)

    def up(self) -> None:
        """Start the cluster (again)."""
        self.cluster = Cluster(self._folder, self._url, self.wanted, ("--config", str(self._config)))
        self.seen[self.cluster.supervisor.pid] = psutil.Process(self.cluster.supervisor.pid)

    def tend_cluster(self) -> int | None:
        """Start the cluster again if its supervisor has ended by itself, as systemd would.

        Returns:
            The exit status, if so.
        """
        status_code = self.cluster.supervisor.poll()
        if self.changing or status_code is None:
            return None
        self.up()
        return status_code

    @property
    def url(self) -> str:
        """The broker's intake."""
        return self._url

    def supervisor(self) -> subprocess.Popen[bytes]:
        """Return the running supervisor.

        Raises:
            NoTarget: if there is none, or it is on its way out.
        """
        if self.changing or self.cluster.supervisor.poll() is not None:
            raise NoTarget("no supervisor")
        return self.cluster.supervisor

    def listener(self) -> subprocess.Popen[bytes]:
        """Return the running supervisor if its lock names it: the product's tools tell no other anything.

        Raises:
            NoTarget: if there is none, it is on its way out, or it is still starting.
        """
        supervisor = self.supervisor()
        if (runtime.read_lock(self._url) or {}).get("pid") != supervisor.pid:
            raise NoTarget("the supervisor is starting")
        return supervisor

    def children(self, module: str) -> list[psutil.Process]:
        """Return the cluster's processes of a module, the oldest first."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.cluster.supervisor.pid).children():
                self.seen.setdefault(child.pid, child)
        return sorted((child for child in self._living() if _runs(child, module)), key=_born)

    def _living(self) -> Iterator[psutil.Process]:
        for pid, process in list(self.seen.items()):
            if gone(process):
                del self.seen[pid]
            else:
                yield process

    def broker(self) -> psutil.Process:
        """Return the broker; one that is kept ready to take its place is younger.

        Raises:
            NoTarget: if there is none.
        """
        for process in self.children("reqpool_broker"):
            return process
        raise NoTarget("no broker")

    def worker(self, random: Random, draining: bool = True) -> psutil.Process:
        """Choose a worker.

        Args:
            random: chooses.
            draining: may it be one of :attr:`drained`?

        Raises:
            NoTarget: if there is none.
        """
        workers = [w for w in self.children("reqpool_workers") if draining or w not in self.drained]
        if not workers:
            raise NoTarget("no worker")
        return random.choice(workers)

    def ready(self) -> bool:
        """Does the broker answer, and are all wanted workers live? Looks again every 0.2 s at most."""
        if time.monotonic() - self._looked_s >= LOOK_EVERY_S:
            try:
                workers = status.fetch(self._url, ANSWER_WITHIN_S)["workers"]
            except BrokerUnavailable:
                workers = []
            self._looked_s = time.monotonic()
            self._live = [worker["state"] for worker in workers].count("live")
        return self._live == self.wanted

    # --- producers ------------------------------------------------------------------------------

    def connect_producers(self, relays: Relays) -> None:
        """Make the relays to the cluster, and start the producers."""
        front = self._folder / "front"
        front.mkdir(mode=0o700)
        for name in (SOCKET, f"{SOCKET}.results"):
            self.fronts.append(relays.to(str(self._folder / name), str(front / name)))
        self.tend_producers()

    def tend_producers(self) -> None:
        """Start one for each that was killed."""
        while len(self.living_producers()) < PRODUCERS:
            name = f"p{len(self.producers) + 1}"
            journal = self._folder / f"{name}.journal"
            arguments = [
                name, str(journal), str(self._random.getrandbits(32)), str(self._rate_per_s / PRODUCERS),
                json.dumps(self.upstreams.targets), self._url, f"ipc://{self._folder}/front/{SOCKET}",
            ]  # fmt: skip
            with (self._folder / "producers.log").open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "chaos.producer", *arguments],
                    stdin=subprocess.PIPE, stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": TESTS},
                )  # fmt: skip
            self.producers.append(ProducerProcess(name, process, journal))

    def wait_served(self) -> None:
        """Wait until every producer has been answered something."""

        def served() -> bool:
            running = all(producer.process.poll() is None for producer in self.producers)
            assert running, f"a producer ended:\n{self.log('producers')}"
            return all(
                producer.journal.exists() and f'"{GOOD}"' in producer.journal.read_text()
                for producer in self.producers
            )

        wait_until(served, SERVED_WITHIN_S, "every producer has had an answer")

    def living_producers(self) -> list[ProducerProcess]:
        """Return those that were not killed."""
        return [producer for producer in self.producers if not producer.killed]

    def finish_producers(self) -> list[str]:
        """Have them stop and wait until everything they asked has ended.

        Returns:
            A line for each that did not end as it should.
        """
        for producer in self.living_producers():
            assert producer.process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it failed; its exit status is told below
                producer.process.stdin.close()
        deadline_s, wrong = time.monotonic() + FINISH_WITHIN_S, []
        for producer in self.living_producers():
            try:
                code = producer.process.wait(max(0.0, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                producer.process.kill()
                producer.process.wait()
                wrong.append(f"producer {producer.name} had not ended after {FINISH_WITHIN_S:g} s")
            else:
                if code:
                    wrong.append(f"producer {producer.name} ended with status {code}")
        return wrong

    def log(self, name: str) -> str:
        """Return the text of ``cluster`` or ``producers``."""
        path = self._folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # --- the end --------------------------------------------------------------------------------

    def wait_back(self) -> bool:
        """Wait until the cluster is whole again after the last fault."""
        try:
            wait_until(self.ready, BACK_WITHIN_S)
        except AssertionError:
            return False
        return True

    def stop(self) -> int:
        """Stop the cluster as an administrator would; return the exit status."""
        self.children("")  # to have seen them all
        return self.cluster.stop()

    def left(self) -> list[psutil.Process]:
        """Return the processes of the cluster that have not ended."""
        return psutil.wait_procs(list(self._living()), timeout=5)[1]

    def kill_all(self) -> None:
        """Kill whatever still runs; nothing is left behind, whatever went wrong."""
        for producer in self.producers:
            producer.process.kill()
            producer.process.wait()
            if producer.process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    producer.process.stdin.close()
        if self.cluster.supervisor.poll() is None:
            self.children("")
            self.cluster.kill()
        for process in self._living():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs(list(self._living()), timeout=5)

    def sockets(self) -> list[str]:
        """Return the names of sockets in the cluster's folder."""
        return [name for name in os.listdir(self._folder) if (self._folder / name).is_socket()]


def gone(process: psutil.Process) -> bool:
    """Has it ended?"""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _runs(process: psutil.Process, module: str) -> bool:
    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    return not module or module in command


def _born(process: psutil.Process) -> float:
    return float(process.create_time())
