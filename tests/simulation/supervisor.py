"""A supervisor process: the real decisions about workers, restarts and what brokers are told.

:class:`reqpool_ops.reign.Reign`, :class:`reqpool_ops.fleet.Fleet`, :class:`reqpool_ops.children.Child` and
:func:`reqpool_ops.rolling.replace_all` are the ones that ship. What starts processes is simulated, and what
joins them (:mod:`reqpool_ops.supervisor`, :mod:`reqpool_ops.broker_process`) is written again in short.
"""

from __future__ import annotations

import math
import signal
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from reqpool_contract import wire
from reqpool_contract.wire import Verb
from reqpool_ops.broker_process import STAND_BY_AFTER_S, STAND_BY_AGAIN_S
from reqpool_ops.children import Backoff, Child
from reqpool_ops.cluster_spans import BROKER_ENDS_S, SERVE_ON_S, WORKER_ENDS_S
from reqpool_ops.fleet import Fleet
from reqpool_ops.reign import Reign
from reqpool_ops.rolling import RestartFailed, Steps, replace_all
from reqpool_ops.shutdown import has_ended

from .broker import BrokerProcess
from .network import Dealer
from .process import Process
from .worker import WorkerProcess

if TYPE_CHECKING:
    from .world import World

ASK_EVERY_S = 1.0
ASK_OFTEN_S = 0.1
BROKER_HUNG_S = 10.0
FROZEN_S = wire.LIVENESS_MS / 1000
UNEASY_S = 1.5
READY_S = 15.0


class Phase(Enum):
    """As in :mod:`reqpool_ops.supervisor`."""

    RUNNING = auto()
    FINISHING = auto()
    DRAINING = auto()
    STOPPING = auto()


class SimulatedChild(Child):
    """A place whose process is simulated."""

    process: Any

    def __init__(self, supervisor: SupervisorProcess, name: str) -> None:
        super().__init__(name)
        self.backoff = Backoff(supervisor.random.random)
        self._supervisor = supervisor
        self.known_status: int | None = None

    @property
    def pid(self) -> int:
        return 1 if self.process else 0

    def start(self, arguments: list[str], now_s: float, *, talks: bool = False) -> None:
        supervisor = self._supervisor
        if talks:
            self.process = supervisor.world.start_broker(supervisor)
        else:
            self.process = supervisor.world.start_worker(supervisor, self.id)
        self.known_status = None
        self.signals = set()
        self.started_s = now_s
        self.due_s = self.kill_s = math.inf

    def renew_id(self) -> bytes:
        self.id = self._supervisor.world.new_worker_id()
        return self.id

    def signal(self, number: int) -> None:
        if self.process is not None:
            self.signals.add(number)
            if number == signal.SIGKILL:
                self.process.end(-number)
            elif isinstance(self.process, WorkerProcess):
                self.process.drain()
            else:
                self.process.stop()

    def reap(self) -> int | None:
        if self.known_status is None:
            return None
        status, self.known_status = self.known_status, None
        self.process = None
        return status

    def wait(self) -> None:
        self.process = self.known_status = None


class SimulatedFleet(Fleet):
    """The fleet, with simulated places."""

    def __init__(self, supervisor: SupervisorProcess, count: int) -> None:
        super().__init__([], 0, WORKER_ENDS_S, supervisor.reign, supervisor.tell_news)
        self._supervisor = supervisor
        self.workers = [SimulatedChild(supervisor, f"worker-{number}") for number in range(count)]

    def add_beside(self, worker: Child, now_s: float) -> Child:
        successor = SimulatedChild(self._supervisor, worker.name)
        successor.due_s = now_s
        self.workers.insert(self.workers.index(worker) + 1, successor)
        return successor


class SimulatedBroker:
    """The place of the broker; see :class:`reqpool_ops.broker_process.BrokerProcess`."""

    def __init__(self, supervisor: SupervisorProcess) -> None:
        self._supervisor = supervisor
        self.child: Child = SimulatedChild(supervisor, "broker")
        self.standby: Child | None = None
        self.ready = False
        self._stand_by_s = math.inf
        self._told_s = 0.0
        self._intake: Dealer | None = None
        self._undertaker: Dealer | None = None
        self._asked_s = self._answered_s = 0.0

    @property
    def children(self) -> list[Child]:
        return [self.child] if self.standby is None else [self.child, self.standby]

    def start(self, now_s: float) -> None:
        if self.standby is not None:
            self.standby.follow(self.child, now_s)
            self.child, self.standby = self.standby, None
            self._stand_by_s = now_s + STAND_BY_AFTER_S
        else:
            self.child.start([], now_s, talks=True)
        self._told_s, self.ready = now_s, False
        if self.child.process is not None:
            self.child.process.tell(self._supervisor.reign.broker_starts())

    @property
    def stand_by_s(self) -> float:
        return self._stand_by_s if self.standby is None else math.inf

    def stand_by(self, now_s: float) -> Child:
        self.drop_standby()
        self.standby = SimulatedChild(self._supervisor, "broker")
        self.standby.start([], now_s, talks=True)
        return self.standby

    @property
    def is_standby_warm(self) -> bool:
        return self.standby is not None and self.standby.process is not None and self.standby.process.warm

    def drop_standby(self) -> None:
        if self.standby is not None:
            self.standby.signal(signal.SIGKILL)
            self.standby.wait()
            self.standby = None

    def dismiss(self, now_s: float) -> None:
        self.child.kill_s = now_s + BROKER_ENDS_S
        self.child.signal(signal.SIGTERM)

    def reap(self, now_s: float) -> int | None:
        if self.standby is not None and self.standby.reap() is not None:
            self.standby = None
            self._stand_by_s = now_s + STAND_BY_AGAIN_S
        status = self.child.reap()
        if status is None:
            return None
        self._hang_up()
        self.child.served = self.ready or (self.child.served and status == -signal.SIGKILL)
        self.ready = False
        self._supervisor.reign.broker_ended()
        return status

    def hear(self, now_s: float) -> None:
        """Is it ready by now?"""
        process = self.child.process
        if process is None or self.ready:
            return
        if process.core is None:
            if now_s - self._told_s > READY_S:
                self._told_s = math.inf
                self.child.signal(signal.SIGKILL)
            return
        self.ready = True
        if self._stand_by_s == math.inf:
            self._stand_by_s = now_s + STAND_BY_AFTER_S
        self._asked_s = self._answered_s = now_s
        world, supervisor = self._supervisor.world, self._supervisor
        self._intake = Dealer(world.network, supervisor, world.url)
        self._undertaker = Dealer(world.network, supervisor, world.workers_url, bounded=False)
        self.tell_news()

    def report(self, now_s: float) -> dict[str, Any] | None:
        report = None
        while self._intake is not None and self._intake.inbox:
            verb, values = wire.decode(self._intake.read()[0], wire.BROKER_TO_CLIENT)
            if verb is Verb.STATUS:
                report = values[0]
                self._answered_s = now_s
        return report

    def ask(self, now_s: float, every_s: float) -> None:
        if self._intake is None:
            return
        silent_s = now_s - self._answered_s if self._asked_s > self._answered_s else 0.0
        process = self.child.process
        still_s = now_s - process.frozen_s if process is not None and process.frozen else 0.0
        if silent_s > BROKER_HUNG_S or min(silent_s, still_s) > FROZEN_S:
            self.child.signal(signal.SIGKILL)
            self._hang_up()
        elif now_s - self._asked_s >= every_s:
            self._asked_s = now_s
            self._intake.send([wire.encode(Verb.STATUS, {"number": int(now_s * 1000)})])

    @property
    def is_uneasy(self) -> bool:
        return self._intake is not None and self._asked_s - self._answered_s > UNEASY_S

    def tell_news(self) -> None:
        if self._undertaker is not None:
            for head in self._supervisor.reign.take_news():
                self._undertaker.send([head])

    def _hang_up(self) -> None:
        for dealer in (self._intake, self._undertaker):
            if dealer is not None:
                dealer.close()
        self._intake = self._undertaker = None


class SupervisorProcess(Process):
    """One supervisor.

    Attributes:
        reign: what its brokers are told.
    """

    def __init__(self, world: World, name: str, workers: int) -> None:
        super().__init__(world, name)
        self.reign = Reign(self.random.randbytes(8))
        self._phase = Phase.RUNNING
        self._broker = SimulatedBroker(self)
        self._fleet = SimulatedFleet(self, workers)
        self._restarts_asked = self._restarts_begun = 0
        self._restart: Steps | None = None
        self._told_to_stop = False
        self._told_s = self._drained_s = math.inf
        now_s = self.scheduler.now_s
        self._broker.start(now_s)
        self._fleet.start_all(now_s)
        self.wake_at(now_s)

    # --- from outside -----------------------------------------------------------------------------

    def child_ended(self, process: BrokerProcess | WorkerProcess) -> None:
        """A child's pidfd says that it has ended."""
        for child in (*self._broker.children, *self._fleet.workers):
            if child.process is process:
                assert isinstance(child, SimulatedChild)
                child.known_status = process.status
        self.stir()

    def broker_ready(self) -> None:
        """The broker has said its ready line."""
        if self.alive:
            self.stir()

    def restart(self) -> None:
        """SIGUSR of ``reqpool restart``: replace all processes, one after the other."""
        self._restarts_asked += 1
        self.stir()

    def stop(self) -> None:
        """SIGTERM: stop the whole cluster in order."""
        self._told_to_stop = True
        self.stir()

    def buried(self) -> None:
        self.world.supervisor_ended(self)

    def tell_news(self) -> None:
        """Have the broker told what has become of workers."""
        self._broker.tell_news()

    # --- a turn -----------------------------------------------------------------------------------

    def turn(self, now_s: float) -> float:
        broker, fleet = self._broker, self._fleet
        if self._told_to_stop and self._phase is Phase.RUNNING:
            self._phase, self._told_s = Phase.FINISHING, now_s
            broker.drop_standby()
            self._restart = None
        self._reap(now_s)
        broker.hear(now_s)
        report = broker.report(now_s)
        if report is not None and self._phase in (Phase.RUNNING, Phase.FINISHING):
            fleet.judge(report, now_s)
            if self._phase is Phase.FINISHING and has_ended(report, self._told_s):
                self._drain(now_s)
        often = self._restart is not None or fleet.is_uneasy or broker.is_uneasy
        often = often and self._phase is Phase.RUNNING
        every_s = ASK_OFTEN_S if often or self._phase is Phase.FINISHING else ASK_EVERY_S
        broker.ask(now_s, every_s)
        for child in broker.children:
            child.kill_late(now_s)
        fleet.kill_late(now_s, 0)
        if self._phase is Phase.RUNNING:
            fleet.start_due("", now_s)
            self._restart_further(now_s)
            if self._restart is None and now_s >= broker.stand_by_s:
                broker.stand_by(now_s)
        if self._phase is not Phase.STOPPING and broker.child.due_s <= now_s:
            broker.start(now_s)
        if self._phase is Phase.FINISHING and now_s >= self._told_s + SERVE_ON_S:
            self._drain(now_s)
        if self._phase is Phase.DRAINING and not fleet.workers:
            self._phase = Phase.STOPPING
            broker.dismiss(now_s)
        if self._phase is Phase.STOPPING and broker.child.process is None:
            self.world.drains_s.append(now_s - self._drained_s)
            self.die()
            return now_s
        due = [min(child.due_s, child.kill_s) for child in (broker.child, *fleet.workers)]
        if self._phase is Phase.RUNNING and self._restart is None:
            due.append(broker.stand_by_s)
        return max(now_s + 0.001, min(now_s + every_s, *due))

    def _drain(self, now_s: float) -> None:
        self._phase, self._drained_s = Phase.DRAINING, now_s
        self._fleet.dismiss_all(now_s)

    def _restart_further(self, now_s: float) -> None:
        if self._restart is None:
            if self._restarts_begun == self._restarts_asked:
                return
            self._restarts_begun = self._restarts_asked
            self._restart = replace_all(self._fleet, self._broker)  # type: ignore[arg-type]
            next(self._restart)
        try:
            self._restart.send(now_s)
        except (StopIteration, RestartFailed):
            self._restart = None

    def _reap(self, now_s: float) -> None:
        status = self._broker.reap(now_s)
        if status is not None:
            self._fleet.lose_broker()
            if self._phase is not Phase.STOPPING:
                self._broker.child.plan_next(0, status, now_s)
        for child, _pid, status in self._fleet.reap():
            if self._phase is Phase.RUNNING and not child.leaving:
                child.plan_next(0, status, now_s)
