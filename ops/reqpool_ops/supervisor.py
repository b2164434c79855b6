"""The supervisor: starts the broker and the workers, replaces what dies or hangs, stops everything in order.

One thread, one poll. Signal handlers only queue (gunicorn's arbiter is the model). Everything is an event
of the poll: a signal's byte, a child's pidfd, the parent's pidfd, the broker's first line, a report.

SIGINT and SIGTERM stop the cluster (:mod:`.shutdown`); a second one, or the end of the parent, kills
everything at once. SIGHUP rereads the configuration; without a configuration it acts like SIGTERM. SIGUSR1
adds a worker, SIGUSR2 removes one, SIGRTMIN replaces all processes (:mod:`.rolling`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import zmq

from reqpool_contract.descriptors import raise_file_limit
from reqpool_contract.errors import UsageError

from . import early_signals, runtime
from .broker_process import BrokerProcess
from .children import Child, ended
from .cluster_spans import SERVE_ON_S, WORKER_ENDS_S
from .fleet import Fleet
from .reign import Reign
from .report_values import counted
from .restart import RESTART_SIGNAL
from .rolling import Restarts
from .runtime import MAX_WORKERS, CannotStart
from .shutdown import Phase, PhaseEvent, Shutdown
from .signal_queue import SCALE_SIGNALS, SignalQueue

if TYPE_CHECKING:  # it loads all kinds, which takes as long as the rest of a start
    from .checked_config import CheckedConfig

ASK_EVERY_S = 1.0
ASK_OFTEN_S = 0.1
"""How often the broker is asked while a worker is silent, or is waited for."""
ORPHANS_S = 5.0
"""How long the children of a killed supervisor may take to notice that and end."""

log = logging.getLogger("reqpool")


@dataclass
class ClusterPlan:
    """What to run.

    Attributes:
        url: the intake to bind, checked.
        workers: the number of worker processes.
        embedded_parent_pid: the process to end with; None for a cluster of its own.
        drain_s: how long workers that are told to leave may take to finish before they are killed.
        broker: the broker's module; arguments are added.
        worker: a worker's module; likewise.
        serve_on_s: how long a cluster that is told to stop serves on while requests or pins from before that
            are left.
        config: names and policies of upstreams, None if there are none. The supervisor closes it.
    """

    url: str
    workers: int
    embedded_parent_pid: int | None = None
    drain_s: float = WORKER_ENDS_S
    broker: list[str] = field(default_factory=lambda: ["-m", "reqpool_broker"])
    worker: list[str] = field(default_factory=lambda: ["-m", "reqpool_workers"])
    serve_on_s: float = SERVE_ON_S
    config: CheckedConfig | None = None


class Supervisor:
    """Runs one cluster in the foreground of the main thread.

    Args:
        plan: what to run.
    """

    def __init__(self, plan: ClusterPlan) -> None:
        self._plan = plan
        # An embedded cluster is stopped when its only client has closed: no one reads what is still running.
        self._late_level = logging.WARNING if plan.embedded_parent_pid is None else logging.INFO
        self._shutdown = Shutdown(plan.serve_on_s)
        reign = Reign(os.urandom(8))
        self._broker = BrokerProcess(plan.broker, plan.url, plan.config, reign)
        self._fleet = Fleet(plan.worker, plan.workers, plan.drain_s, reign, self._broker.tell_news)
        self._lock: runtime.Lock | None = None
        self._signals = SignalQueue(embedded=plan.embedded_parent_pid is not None)
        self._parent_fd = -1
        self._restarts = Restarts(self._fleet, self._broker, self._note)

    def run(self) -> int:
        """Run until told to stop.

        Returns:
            The exit status: 0 after an orderly stop, 1 when it had to be cut short.

        Raises:
            CannotStart: if the address is taken or the first broker does not start.
        """
        os.umask(0o077)  # sockets and locks are for this user only, wherever they are
        raise_file_limit()  # for the children, too: a connection costs one, or two
        early_signals.hold()  # a process that reads the lock may send one
        self._claim()
        self._signals.catch()
        try:
            self._watch_parent()
            now_s = time.monotonic()
            self._broker.start(now_s)
            if self._workers_url is not None:  # workers need not wait: the broker will be up when they are
                self._fleet.start_all(now_s)
            while self._shutdown.phase is not Phase.OVER:
                self._turn()
        finally:
            self._kill_all()
            self._clean_up()
        return self._shutdown.status

    # --- start ---

    def _claim(self) -> None:
        url = self._plan.url
        if url.endswith((":0", ":*")):  # any free port: nothing to collide with
            return
        self._lock = runtime.Lock(url, os.getpid(), self._plan.workers)
        self._restarts.note()
        try:
            runtime.check_free(url, ORPHANS_S if self._lock.after_kill else 0.0)
        except CannotStart:
            if not self._lock.after_kill:  # otherwise the next one must wait for those children, too
                self._lock.close()
            raise

    def _watch_parent(self) -> None:
        pid = self._plan.embedded_parent_pid
        if pid is None:
            return
        try:
            self._parent_fd = os.pidfd_open(pid)
        except ProcessLookupError as error:
            raise CannotStart(f"the parent process {pid} has already ended") from error

    @property
    def _workers_url(self) -> str | None:
        return self._broker.urls.get("workers") or runtime.workers_url(self._plan.url)

    # --- one turn ---

    def _turn(self) -> None:
        self._poll()
        now_s = time.monotonic()
        self._take_signals(now_s)
        self._reap(now_s)
        self._hear_broker(now_s)
        for child in self._broker.children:
            if child.kill_late(now_s):
                log.log(self._late_level, "the broker (pid %d) did not stop in time; killed", child.pid)
        self._fleet.kill_late(now_s, self._late_level)
        if self._shutdown.phase is Phase.RUNNING:
            self._start_workers(now_s)
            self._restarts.further(now_s)
        if self._keeps_standby:
            self._broker.keep_standby(now_s)
        if self._shutdown.wants_broker and self._broker.child.due_s <= now_s:
            self._broker.start(now_s)
        if self._shutdown.phase is not Phase.RUNNING:
            self._stop_further(now_s)

    @property
    def _keeps_standby(self) -> bool:
        # Not for an embedded cluster: its only client would pay for it at each start.
        serves_many = self._plan.embedded_parent_pid is None
        return serves_many and self._shutdown.phase is Phase.RUNNING and not self._restarts.is_running

    def _poll(self) -> None:
        now_s = time.monotonic()
        poller = zmq.Poller()
        poller.register(self._signals.readable, zmq.POLLIN)
        if self._parent_fd >= 0 and self._shutdown.phase is not Phase.OVER:
            poller.register(self._parent_fd, zmq.POLLIN)
        for child in (*self._broker.children, *self._fleet.workers):
            if child.process is not None:
                poller.register(child.pidfd, zmq.POLLIN)
        for readable in self._broker.sockets:
            poller.register(readable, zmq.POLLIN)
        due = [min(child.due_s, child.kill_s) for child in (self._broker.child, *self._fleet.workers)]
        if self._keeps_standby:
            due.append(self._broker.stand_by_s)
        wake_s = min(now_s + self._ask_every_s, *due)
        ready = dict(poller.poll(int(max(0.0, wake_s - now_s) * 1000) + 1))
        if self._parent_fd in ready:
            log.info("the parent process has ended; stopping")
            self._shutdown.cut_short()

    @property
    def _ask_every_s(self) -> float:
        often = self._restarts.is_running or self._fleet.is_uneasy or self._broker.is_uneasy
        often = often and self._shutdown.phase is Phase.RUNNING
        return ASK_OFTEN_S if often or self._shutdown.phase is Phase.FINISHING else ASK_EVERY_S

    def _take_signals(self, now_s: float) -> None:
        while (number := self._signals.take()) is not None:
            name = signal.Signals(number).name
            if number == signal.SIGHUP and self._plan.config is not None:
                self._reload(self._plan.config)
            elif number in SCALE_SIGNALS:
                self._scale(SCALE_SIGNALS[signal.Signals(number)], now_s)
            elif number == RESTART_SIGNAL:
                self._restarts.ask()
            elif self._shutdown.phase is Phase.RUNNING:
                log.info("%s: stopping; signal again to stop at once", name)
                self._stop(now_s)
            elif self._shutdown.phase is not Phase.OVER:
                log.warning("%s again: stopping at once", name)
                self._shutdown.cut_short()

    def _reload(self, config: CheckedConfig) -> None:
        try:
            changed = config.reload()
        except (UsageError, OSError) as error:
            log.error("SIGHUP: the configuration stays as it was:\n%s", error)
            return
        log.info("SIGHUP: new configuration: %s", changed or "nothing changed")
        self._broker.tell_config()

    def _scale(self, step: int, now_s: float) -> None:
        """Add a worker, or remove one, which finishes what it is running and hands back the rest."""
        count = self._plan.workers + step
        if self._shutdown.phase is not Phase.RUNNING or not 1 <= count <= MAX_WORKERS:
            log.warning(
                "the number of workers stays %d: it must be from 1 to %d", self._plan.workers, MAX_WORKERS
            )
            return
        if self._restarts.is_running:
            log.warning("the number of workers stays %d: they are being replaced", self._plan.workers)
            return
        if step > 0:
            self._fleet.add(now_s)
        else:
            self._fleet.dismiss(self._fleet.staying[-1], now_s)
        self._plan.workers = count
        self._note(workers=count)
        log.info("scaling to %s", counted(count, "worker"))

    def _note(self, **figures: int | str) -> None:
        if self._lock is not None:
            self._lock.note(**figures)

    def _start_workers(self, now_s: float) -> None:
        url = self._workers_url
        if url is not None:
            self._fleet.start_due(url, now_s)

    # --- the end of children ---

    def _reap(self, now_s: float) -> None:
        gone = self._broker.reap(now_s)
        if gone is not None:
            self._fleet.lose_broker()
            self._note_end(self._broker.child, *gone, now_s)
        for end in self._fleet.reap():
            self._note_end(*end, now_s)

    def _note_end(self, child: Child, pid: int, status: int, now_s: float) -> None:
        is_broker, running = child is self._broker.child, self._shutdown.phase is Phase.RUNNING
        if is_broker and not self._broker.urls and running:
            raise CannotStart(f"the broker {ended(status)} before it was ready; see its output above")
        wanted = self._shutdown.wants_broker if is_broker else running and not child.leaving
        if wanted:
            child.plan_next(pid, status, now_s)
        elif status != 0 and -status not in child.signals:  # otherwise that is how it was told to end
            log.warning("%s (pid %d) %s while stopping", child.name, pid, ended(status))

    # --- what the broker sends ---

    def _hear_broker(self, now_s: float) -> None:
        if self._shutdown.phase is Phase.OVER:
            return
        first = not self._broker.urls
        if self._broker.hear(now_s):
            if first:
                self._broker_is_up(now_s)
            else:
                self._broker.child.log.info("the broker is back (pid %d)", self._broker.child.pid)
        report = self._broker.report(now_s)
        if report is not None and self._shutdown.phase in (Phase.RUNNING, Phase.FINISHING):
            self._fleet.judge(report, now_s)
            if self._shutdown.phase is Phase.FINISHING and self._shutdown.is_served(report):
                self._drain(now_s)
        self._broker.ask(now_s, self._ask_every_s)

    def _broker_is_up(self, now_s: float) -> None:
        url = self._broker.urls["intake"]
        if self._lock is None:
            self._lock = runtime.Lock(url, os.getpid(), self._plan.workers)
            self._restarts.note()
            self._fleet.start_all(now_s)
        log.info("the pool is up at %s: broker and %s", url, counted(self._plan.workers, "worker"))

    # --- stop ---

    def _stop(self, now_s: float) -> None:
        self._shutdown.order(now_s)
        self._note(stopping=True)
        self._broker.drop_standby()
        self._restarts.give_up("the cluster is stopping")

    def _drain(self, now_s: float) -> None:
        self._shutdown.move(PhaseEvent.SERVED)
        self._fleet.dismiss_all(now_s)

    def _stop_further(self, now_s: float) -> None:
        # A broker that has never been up has never had a request.
        may_drain = self._shutdown.is_late(now_s) or not self._broker.urls
        if self._shutdown.phase is Phase.FINISHING and may_drain:
            self._drain(now_s)
        if self._shutdown.phase is Phase.DRAINING and not self._fleet.workers:
            self._shutdown.move(PhaseEvent.WORKERS_GONE)
            self._broker.dismiss(now_s)
        if self._shutdown.phase is Phase.STOPPING and self._broker.child.process is None:
            self._shutdown.move(PhaseEvent.BROKER_GONE)

    def _kill_all(self) -> None:
        children = [child for child in (*self._broker.children, *self._fleet.workers) if child.process]
        for child in children:
            child.signal(signal.SIGKILL)
        for child in children:
            child.wait()

    def _clean_up(self) -> None:
        self._broker.close()
        runtime.remove_sockets(self._plan.url)
        if self._lock is not None:
            self._lock.close()
        if self._plan.config is not None:
            self._plan.config.close()
        if self._plan.embedded_parent_pid is not None:
            self._remove_embedded()
        if self._parent_fd >= 0:
            os.close(self._parent_fd)
        self._signals.close()

    def _remove_embedded(self) -> None:
        """Remove the folder that the parent made: it may have been killed, and only this process knows it."""
        path = runtime.ipc_path(self._plan.url)
        if path is not None:
            runtime.lock_path(self._plan.url).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # the parent was quicker, or has files there
                path.parent.rmdir()
