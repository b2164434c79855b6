"""The supervisor: starts the broker and the workers, replaces what dies or hangs, stops all in order.

One thread, one poll. Signal handlers only queue (gunicorn's arbiter is the model). Everything is an event
of the poll: a signal's byte, a child's pidfd, the parent's pidfd, the broker's first line, a report.

    running --SIGINT, SIGTERM----------> draining --workers gone, or 10 s--> stopping --broker gone--> over
       |                                  |  second signal, or the parent is gone      |
       +----------------------------------+---------> everything is killed <-----------+

SIGHUP has the configuration read again; without one it is as SIGTERM. SIGUSR1 is for one worker more, SIGUSR2
for one fewer.
"""

from __future__ import annotations

import collections
import contextlib
import enum
import itertools
import json
import logging
import math
import os
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import IO

import zmq

from reqpool import wire
from reqpool.errors import ProtocolError, UsageError

from . import health, runtime
from .checked_config import CheckedConfig
from .children import BOOT_FAILURE, MANY_FAILURES, Child
from .runtime import MAX_WORKERS, CannotStart
from .status import StatusClient

BROKER_READY_S = 15.0
"""A broker that has not bound its sockets by then is taken for hung."""
BROKER_HUNG_S = 10.0
"""So is one that leaves a question unanswered for this long."""
ASK_EVERY_S = 1.0
STOP_S = 2.0
"""What the broker gets to say goodbye."""
RECENT_S = 5.0
"""How long a worker's death may not have reached every client as the end of what it held."""
REMEMBERED_DEAD = 256
"""Ids of ended workers that a new broker is told of."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Not SIGTTIN and SIGTTOU, as elsewhere: the kernel sends those, too, to who reads or writes a terminal in the
# background (termios(3)).
SCALE_SIGNALS = {signal.SIGUSR1: 1, signal.SIGUSR2: -1}

log = logging.getLogger("reqpool")


class Phase(enum.Enum):
    """Where the cluster is in its life; see the picture above."""

    RUNNING = 1
    DRAINING = 2
    STOPPING = 3
    OVER = 4


@dataclass
class Plan:
    """What to run.

    Attributes:
        url: intake to bind, checked.
        workers: how many worker processes.
        embedded_parent_pid: die with this process; None for a cluster of its own.
        drain_s: what workers get to finish what they run when the cluster stops.
        broker: the broker's module, and the workers'; arguments are added.
        worker: the same of a worker.
        config: names and policies of upstreams, None if there are none. The supervisor closes it.
    """

    url: str
    workers: int
    embedded_parent_pid: int | None = None
    drain_s: float = 10.0
    broker: list[str] = field(default_factory=lambda: ["-m", "reqpool_broker"])
    worker: list[str] = field(default_factory=lambda: ["-m", "reqpool_workers"])
    config: CheckedConfig | None = None


class Supervisor:
    """Runs one cluster in the foreground of the main thread.

    Args:
        plan: what to run.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        # An embedded cluster is stopped when its only client has closed: what still runs has no reader.
        self._late_level = logging.WARNING if plan.embedded_parent_pid is None else logging.INFO
        self._phase = Phase.RUNNING
        self._phase_until_s = float("inf")
        self._status = 0
        self._broker = Child("broker")
        self._workers = [Child(f"worker-{number}") for number in range(1, plan.workers + 1)]
        self._lock: runtime.Lock | None = None
        self._signals: collections.deque[int] = collections.deque()
        self._wake_in, self._wake_out = socket.socketpair()
        self._parent_fd = -1
        # What the broker said when its sockets were bound; empty until then.
        self._said = b""
        self._urls: dict[str, str] = {}
        self._broker_ready = False
        # What it has been started with is no longer what is to be.
        self._config_changed = False
        # To the broker's present incarnation; None until it is ready.
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._intake: StatusClient | None = None
        self._undertaker: zmq.Socket[bytes] | None = None
        self._asked_s = 0.0
        self._answered_s = 0.0
        self._watch = health.Watch()
        self._dead: collections.deque[bytes] = collections.deque(maxlen=REMEMBERED_DEAD)
        # Of ended workers: a broker that answers after this time has settled what they held.
        self._settled_s: dict[bytes, float] = {}
        self._orphans: list[bytes] = []

    def run(self) -> int:
        """Run until told to stop.

        Returns:
            The exit status: 0 after an orderly stop, 1 when it had to be cut short.

        Raises:
            CannotStart: if the address is taken or the first broker does not start.
        """
        os.umask(0o077)  # sockets and locks are this user's alone, wherever they are
        self._claim()
        self._catch_signals()
        try:
            self._watch_parent()
            self._start_broker(time.monotonic())
            while self._phase is not Phase.OVER:
                self._turn()
        finally:
            self._kill_all()
            self._clean_up()
        return self._status

    # --- start ---

    def _claim(self) -> None:
        url = self._plan.url
        if url.endswith((":0", ":*")):  # any free port: there is nobody to collide with
            return
        self._lock = runtime.Lock(url, os.getpid(), self._plan.workers)
        try:
            runtime.check_free(url)
        except CannotStart:
            self._lock.close()
            raise

    def _catch_signals(self) -> None:
        for end in (self._wake_in, self._wake_out):
            end.setblocking(False)
        embedded = self._plan.embedded_parent_pid is not None
        for number in (*STOP_SIGNALS, *SCALE_SIGNALS):
            # A terminal's Ctrl-C is for the parent, which says what becomes of its embedded cluster.
            ignored = embedded and number != signal.SIGTERM
            signal.signal(number, signal.SIG_IGN if ignored else self._queue_signal)

    def _queue_signal(self, number: int, _frame: object) -> None:
        self._signals.append(number)
        with contextlib.suppress(BlockingIOError):  # full of wake-ups already
            self._wake_in.send(b"\0")

    def _watch_parent(self) -> None:
        pid = self._plan.embedded_parent_pid
        if pid is None:
            return
        try:
            self._parent_fd = os.pidfd_open(pid)
        except ProcessLookupError as error:
            raise CannotStart(f"the parent process {pid} is gone already") from error

    def _start_broker(self, now_s: float) -> None:
        arguments = [*self._plan.broker, "--bind", self._urls.get("intake", self._plan.url)]
        if self._urls:  # a replacement takes the same places: clients and workers come back by themselves
            arguments += ["--results", self._urls["results"], "--workers-url", self._urls["workers"]]
            arguments += ["--await", ",".join(identity.hex() for identity in self._orphans)]
        arguments += ["--parent-pid", str(os.getpid())]
        if self._plan.config is not None:
            arguments += ["--checked-config", self._plan.config.place]
        self._said, self._broker_ready, self._config_changed = b"", False, False
        self._broker.start(arguments, now_s, subprocess.PIPE)

    def _start_worker(self, worker: Child, now_s: float) -> None:
        identity = worker.renew_id()
        arguments = [
            *self._plan.worker, "--broker", self._urls["workers"], "--name", worker.name,
            "--id", identity, "--parent-pid", str(os.getpid()),
        ]  # fmt: skip
        worker.start(arguments, now_s, sys.stderr.fileno())
        self._watch.started(worker.id, now_s)

    # --- one turn ---

    def _turn(self) -> None:
        self._poll()
        now_s = time.monotonic()
        self._take_signals(now_s)
        self._reap(now_s)
        self._hear_broker(now_s)
        self._ask_broker(now_s)
        if self._phase is Phase.RUNNING:
            self._kill_late_leavers(now_s)
            self._start_due(now_s)
        else:
            self._stop_further(now_s)

    def _poll(self) -> None:
        now_s = time.monotonic()
        poller = zmq.Poller()
        poller.register(self._wake_out, zmq.POLLIN)
        if self._parent_fd >= 0 and self._phase is not Phase.OVER:
            poller.register(self._parent_fd, zmq.POLLIN)
        for child in (self._broker, *self._workers):
            if child.process is not None:
                poller.register(child.pidfd, zmq.POLLIN)
        if self._broker.stdout is not None and not self._broker_ready:
            poller.register(self._broker.stdout, zmq.POLLIN)
        if self._intake is not None:
            poller.register(self._intake.socket, zmq.POLLIN)
        due = [instant_s for child in self._wanted() for instant_s in (child.due_s, child.kill_s)]
        wake_s = min(now_s + ASK_EVERY_S, self._phase_until_s, *due)
        ready = dict(poller.poll(int(max(0.0, wake_s - now_s) * 1000) + 1))
        if self._parent_fd in ready:
            log.info("the parent process is gone; ending")
            self._phase, self._status = Phase.OVER, 1

    def _wanted(self) -> list[Child]:
        return [self._broker, *self._workers] if self._phase is Phase.RUNNING else []

    def _take_signals(self, now_s: float) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_out.recv(4096)
        while self._signals:
            number = self._signals.popleft()
            name = signal.Signals(number).name
            if number == signal.SIGHUP and self._plan.config is not None:
                self._reload(self._plan.config)
            elif number in SCALE_SIGNALS:
                self._scale(SCALE_SIGNALS[signal.Signals(number)], now_s)
            elif self._phase is Phase.RUNNING:
                log.info("%s: stopping; once more to stop at once", name)
                self._enter(Phase.DRAINING, now_s)
            elif self._phase is not Phase.OVER:
                log.warning("%s again: ending at once", name)
                self._phase, self._status = Phase.OVER, 1

    def _reload(self, config: CheckedConfig) -> None:
        try:
            changed = config.reload()
        except UsageError as error:
            log.error("SIGHUP: the configuration stays as it was:\n%s", error)
            return
        log.info("SIGHUP: new configuration: %s", changed or "nothing changed")
        if changed:
            self._config_changed = True
            self._tell_broker()

    def _tell_broker(self) -> None:
        """Have the broker take the changed configuration, as soon as it can take a signal."""
        if self._config_changed and self._broker_ready:
            self._config_changed = False
            self._broker.signal(signal.SIGHUP)

    def _scale(self, step: int, now_s: float) -> None:
        """Have one worker more, or one fewer: that one finishes what it runs and hands back the rest."""
        staying = [worker for worker in self._workers if not worker.leaving]
        count = len(staying) + step
        if self._phase is not Phase.RUNNING or not 1 <= count <= MAX_WORKERS:
            log.warning("%d workers stay: 1 to %d may run", len(staying), MAX_WORKERS)
            return
        if step > 0:
            taken = {worker.name for worker in self._workers}
            worker = Child(next(name for n in itertools.count(1) if (name := f"worker-{n}") not in taken))
            self._workers.append(worker)
            if self._urls:  # else it is started with the others, as soon as there is a broker
                worker.due_s = now_s
        else:
            worker = staying[-1]
            worker.leaving, worker.due_s, worker.kill_s = True, math.inf, now_s + self._plan.drain_s
            worker.signal(signal.SIGTERM)
            if worker.process is None:
                self._workers.remove(worker)
        self._plan.workers = count
        if self._lock is not None:
            self._lock.note(count)
        log.info("now to run: %d workers", count)

    def _kill_late_leavers(self, now_s: float) -> None:
        for worker in self._workers:
            if now_s >= worker.kill_s:
                worker.kill_s = math.inf
                log.warning("%s did not finish within %g s; killed", worker.name, self._plan.drain_s)
                worker.signal(signal.SIGKILL)

    def _start_due(self, now_s: float) -> None:
        for child in self._wanted():
            if child.due_s > now_s:
                continue
            if child is self._broker:
                self._start_broker(now_s)
            else:
                self._start_worker(child, now_s)

    # --- the end of children ---

    def _reap(self, now_s: float) -> None:
        for child in (self._broker, *self._workers):
            pid = child.pid
            status = child.reap()
            if status is None:
                continue
            if child is self._broker:
                self._hang_up()
                self._orphans = self._holders()
            else:
                self._watch.ended(child.id)
                self._dead.append(child.id)
                self._remember(child.id, status, now_s)
                self._report_dead(child.id)
            if child.leaving:
                self._workers.remove(child)
            if self._phase is Phase.RUNNING and not child.leaving:
                self._plan_next(child, pid, status, now_s)
            elif status != 0 and -status not in child.signals:  # else that is how it was told to end
                log.warning("%s (pid %d) %s while stopping", child.name, pid, ended(status))

    def _remember(self, worker: bytes, status: int, now_s: float) -> None:
        """Note the end of a worker: what it held is not settled before a broker has heard of it."""
        # One that ended in order had given everything back, if a broker was there to take it.
        orderly = status == 0 and self._undertaker is not None
        kept = self._unsettled()[1 - REMEMBERED_DEAD :]
        self._settled_s = {earlier: self._settled_s[earlier] for earlier in kept}
        self._settled_s[worker] = now_s + (0.0 if orderly else RECENT_S)

    def _unsettled(self) -> list[bytes]:
        # Not "until some time has passed": a broker that hangs hears of nothing.
        return [worker for worker, at_s in self._settled_s.items() if at_s > self._answered_s]

    def _holders(self) -> list[bytes]:
        """Ids of the workers that may hold, or have sent upstream, what a broker just gone had leased."""
        return [*self._unsettled(), *(worker.id for worker in self._workers if worker.process is not None)]

    def _plan_next(self, child: Child, pid: int, status: int, now_s: float) -> None:
        if child is self._broker and not self._urls:
            raise CannotStart(f"the broker {ended(status)} before it was ready; its own words are above")
        delay_s = child.backoff.delay_s(now_s - child.started_s, status)
        child.due_s = now_s + delay_s
        log.warning("%s (pid %d) %s; replaced in %.1f s", child.name, pid, ended(status), delay_s)
        if child.backoff.failures > MANY_FAILURES:
            log.error(
                "%s has failed %d times in a row within seconds of its start; its own words are above",
                child.name,
                child.backoff.failures,
            )

    def _report_dead(self, worker: bytes) -> None:
        if self._undertaker is not None:
            with contextlib.suppress(zmq.Again):  # the broker hangs: its successor is told of all the dead
                self._undertaker.send(wire.encode(wire.Verb.DEAD, worker), zmq.DONTWAIT)

    def _hang_up(self) -> None:
        """Close what led to a broker that is gone: what sits in the pipes is not for its successor."""
        if self._intake is not None:
            self._intake.close()
        if self._undertaker is not None:
            self._undertaker.close(0)
        self._intake = self._undertaker = None

    # --- the broker's word ---

    def _hear_broker(self, now_s: float) -> None:
        if self._broker.process is None:
            return
        if not self._broker_ready:
            self._read_ready_line(now_s)
            return
        if self._intake is None:
            return
        try:
            report = self._intake.answer()
        except ProtocolError as error:
            log.error("the broker's report cannot be read: %s", error)
            return
        if report is None:
            return
        self._answered_s = now_s
        if self._phase is not Phase.RUNNING:
            return
        hung = self._watch.hung(report, now_s)
        for worker in self._workers:
            if worker.process is not None and worker.id in hung:
                silent_s = health.HUNG_AFTER_S
                log.error(
                    "%s (pid %d) lives but is silent for %.1f s; killed", worker.name, worker.pid, silent_s
                )
                worker.signal(signal.SIGKILL)

    def _read_ready_line(self, now_s: float) -> None:
        stdout = self._broker.stdout
        if stdout is None:
            return
        self._said += os.read(stdout.fileno(), 65536) if readable(stdout) else b""
        line, newline, _ = self._said.partition(b"\n")
        if not newline:
            if now_s - self._broker.started_s > BROKER_READY_S:
                log.error("the broker (pid %d) has not bound its sockets; killed", self._broker.pid)
                self._broker.signal(signal.SIGKILL)
            return
        said = json.loads(line)
        first = not self._urls
        # A dual-stack socket names its IPv4 address in the mapped form (RFC 4291, 2.5.5.2).
        self._urls = {
            name: said[name].replace("[::ffff:127.0.0.1]", "127.0.0.1")
            for name in ("intake", "results", "workers")
        }
        self._broker_ready = True
        self._tell_broker()
        self._asked_s = self._answered_s = now_s
        self._intake = StatusClient(self._urls["intake"], self._context)
        self._undertaker = self._context.socket(zmq.DEALER)
        self._undertaker.linger = 0
        self._undertaker.connect(self._urls["workers"])
        for worker in self._dead:
            self._report_dead(worker)
        if first:
            self._broker_is_up(now_s)
        else:
            log.info("the broker is back (pid %d)", self._broker.pid)

    def _broker_is_up(self, now_s: float) -> None:
        url = self._urls["intake"]
        if self._lock is None:
            self._lock = runtime.Lock(url, os.getpid(), self._plan.workers)
        for worker in self._workers:
            worker.due_s = now_s
        log.info("the pool is up at %s: broker and %d workers", url, self._plan.workers)

    def _ask_broker(self, now_s: float) -> None:
        if self._intake is None or self._phase is Phase.OVER:
            return
        if now_s - self._answered_s > BROKER_HUNG_S and self._asked_s > self._answered_s:
            log.error(
                "the broker (pid %d) lives but has been silent for %.0f s; killed",
                self._broker.pid,
                BROKER_HUNG_S,
            )
            self._broker.signal(signal.SIGKILL)
            self._hang_up()
        elif now_s - self._asked_s >= ASK_EVERY_S:
            self._asked_s = now_s
            with contextlib.suppress(zmq.Again):  # its silence speaks for itself
                self._intake.ask()

    # --- stop ---

    def _enter(self, phase: Phase, now_s: float) -> None:
        self._phase = phase
        if phase is Phase.DRAINING:
            self._phase_until_s = now_s + self._plan.drain_s
            for worker in self._workers:
                if not worker.leaving:  # told already; a second time would have it end at once
                    worker.signal(signal.SIGTERM)
        elif phase is Phase.STOPPING:
            self._phase_until_s = now_s + STOP_S
            self._broker.signal(signal.SIGTERM)

    def _stop_further(self, now_s: float) -> None:
        late = now_s >= self._phase_until_s
        if self._phase is Phase.DRAINING:
            left = [worker for worker in self._workers if worker.process is not None]
            if left and late:
                log.log(
                    self._late_level,
                    "%s did not finish within %g s; killed",
                    ", ".join(w.name for w in left),
                    self._plan.drain_s,
                )
                for worker in left:
                    worker.signal(signal.SIGKILL)
                self._phase_until_s = float("inf")
            elif not left:
                self._enter(Phase.STOPPING, now_s)
        elif self._phase is Phase.STOPPING and (self._broker.process is None or late):
            if self._broker.process is not None:
                log.log(self._late_level, "the broker did not stop within %g s; killed", STOP_S)
            self._phase = Phase.OVER

    def _kill_all(self) -> None:
        children = [child for child in (self._broker, *self._workers) if child.process is not None]
        for child in children:
            child.signal(signal.SIGKILL)
        for child in children:
            child.wait()

    def _clean_up(self) -> None:
        self._hang_up()
        self._context.term()
        runtime.remove_sockets(self._plan.url)
        if self._lock is not None:
            self._lock.close()
        if self._plan.config is not None:
            self._plan.config.close()
        if self._plan.embedded_parent_pid is not None:
            self._remove_embedded()
        if self._parent_fd >= 0:
            os.close(self._parent_fd)
        self._wake_in.close()
        self._wake_out.close()

    def _remove_embedded(self) -> None:
        """Remove the folder the parent made for us: it may have been killed, and nobody else knows of it."""
        path = runtime.ipc_path(self._plan.url)
        if path is not None:
            runtime.lock_path(self._plan.url).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # the parent was quicker, or keeps something there
                path.parent.rmdir()


def readable(stream: IO[bytes]) -> bool:
    """Has a pipe something to read, or its end?"""
    return bool(select.select([stream], [], [], 0)[0])


def ended(status: int) -> str:
    """Say how a process ended: ``was killed by SIGKILL``, ``exited with status 3``."""
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    if status == BOOT_FAILURE:
        return f"could not start (exit status {status})"
    return f"exited with status {status}"
