"""One run: a cluster, its clients and upstreams, and what happens to them."""

from __future__ import annotations

import hashlib
import os
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from reqpool.kinds import Kind, Route
from reqpool_broker.broker import Broker
from reqpool_ops.children import NEVER_BEGAN

from .broker import BrokerProcess
from .client import ClientProcess, SimulatedKind, route_of
from .limits import in_force
from .network import Network, Weather
from .oracle import Oracle
from .plan import Plan
from .process import Process
from .scheduler import Scheduler
from .strikes import Strikes
from .supervisor import SupervisorProcess
from .upstream import Upstream
from .worker import WorkerProcess
from .wrong import Broken, Wrong

REST_S = 75.0
"""Virtual time after the last fault in which everything is to come to rest: a session's expiry, and then
some; longer where a request has more time."""
MOST_STEPS = 300_000
"""More in one run means that something goes round in circles."""


class Outcome(NamedTuple):
    """How a run went.

    Attributes:
        seed: of the run.
        steps: how many there were.
        faults: how many struck somebody.
        asked: requests that were submitted.
        well: requests that ended with a result.
        wrong: which sort of promise did not hold; None if all did.
        text: what did not hold.
        codes: how the others ended.
        at_s: virtual time at the end.
        digest: of all that was traced, empty unless it was.
    """

    seed: int
    steps: int
    faults: int
    asked: int
    well: int
    wrong: Wrong | None
    text: str
    codes: dict[str, int]
    at_s: float
    digest: str


class World:
    """All there is in one run: see :func:`play`.

    Args:
        plan: what is to happen.
        tell: is given each line of a trace; None: nothing is traced.

    Attributes:
        drains_s: of clusters that were told to stop, the time from when the workers were, too, to the end.
    """

    url = "tcp://10.0.0.9:5570"
    results_url = "tcp://10.0.0.9:5571"
    workers_url = "tcp://10.0.0.9:5572"

    def __init__(self, plan: Plan, tell: Callable[[str], None] | None = None) -> None:
        self.plan = plan
        self.scheduler = Scheduler(plan.seed)
        self.random = self.scheduler.random("world")
        self.network = Network(self.scheduler, Weather(plan.slow, plan.slow_s), plan.most_queued)
        self.tracing = tell is not None
        self._tell = tell
        self._digest = hashlib.blake2b(digest_size=8)
        self._began_s = self.scheduler.now_s
        if self.tracing:
            self.network.tracer = self._trace_message
        self.oracle = Oracle(self)
        self.upstreams = [Upstream(self, *host) for host in plan.hosts]
        self._upstreams = {upstream.origin: upstream for upstream in self.upstreams}
        self._kinds: dict[str, Kind] = {host.kind: SimulatedKind(host.kind) for host in plan.hosts}
        self._routes: dict[tuple[int, bool], Route] = {}
        self.clients: list[ClientProcess] = []
        self.workers: list[WorkerProcess] = []
        self.brokers: list[BrokerProcess] = []
        self.drains_s: list[float] = []
        self._ids = 0
        self._counts: dict[str, int] = {}
        self._strikes = Strikes(self)
        self.healing = False
        self.supervisor = self._start_supervisor()
        for number in range(plan.clients):
            self._start_client(number)
        for ask in plan.asks:
            self.scheduler.at(self._began_s + ask.at_s, self._ask, ask)
        for strike in plan.strikes:
            self.scheduler.at(self._began_s + strike.at_s, self._strikes.strike, strike)

    # --- a run ------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Play the plan, let all heal, and look that nothing is left."""
        wrong, text = None, ""
        scheduler = self.scheduler
        try:
            scheduler.run(self._began_s + self.plan.span_s, MOST_STEPS)
            self._heal()
            scheduler.run(scheduler.now_s + 1.0, MOST_STEPS)  # what waited for frozen clients is submitted
            scheduler.run(max(scheduler.now_s + REST_S, self.oracle.last_deadline_s + 5.0), MOST_STEPS)
            if scheduler.steps >= MOST_STEPS:
                self.oracle.fail(Wrong.CIRCLES, f"over {MOST_STEPS} steps")
            self.oracle.check_rest()
        except Broken as error:
            wrong, text = error.wrong, str(error)
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            wrong = Wrong.RAISED
            text = f"{type(error).__name__}: {error} at {os.path.basename(frame.filename)}:{frame.lineno}"
        if wrong is not None:
            self.trace("oracle", f"{wrong.value}: {text}")
        return Outcome(
            self.plan.seed,
            scheduler.steps,
            self._strikes.struck,
            sum(one.future is not None for one in self.oracle.asked.values()),
            self.oracle.ended_well,
            wrong,
            text,
            self.oracle.codes,
            scheduler.now_s - self._began_s,
            self._digest.hexdigest() if self.tracing else "",
        )

    def trace(self, who: str, what: str) -> None:
        """Note a line of the trace."""
        if self._tell is not None:
            line = f"{self.scheduler.now_s - self._began_s:11.6f} {who}: {what}"
            self._digest.update(line.encode())
            self._tell(line)

    def _trace_message(self, sender: str, receiver: str, frames: list[bytes]) -> None:
        from .tracing import describe

        text = describe(frames)
        if text:
            self.trace(f"{sender} -> {receiver}", text)

    def _heal(self) -> None:
        self.healing = True
        self.trace("world", "nothing more goes wrong")
        for process in self.processes:
            process.thaw()

    @property
    def processes(self) -> list[Process]:
        """All that live."""
        some: list[Process] = [self.supervisor]
        some += self.brokers
        some += self.workers
        some += self.clients
        return [process for process in some if process.alive]

    @property
    def broker(self) -> BrokerProcess | None:
        """The broker that serves."""
        return next((broker for broker in self.brokers if broker.core is not None), None)

    @property
    def core(self) -> Broker | None:
        """The same's core."""
        return self.broker.core if self.broker is not None else None

    def upstream(self, origin: str) -> Upstream:
        """Find one by its origin."""
        return self._upstreams[origin]

    def route(self, upstream: int, *, once: bool) -> Route:
        """The route of requests to one; the same object each time, as kinds do it."""
        route = self._routes.get((upstream, once))
        if route is None:
            host = self.upstreams[upstream]
            route = self._routes[upstream, once] = route_of(self._kinds[host.kind], host.origin, once=once)
        return route

    # --- starts and ends --------------------------------------------------------------------------

    def _name(self, what: str) -> str:
        count = self._counts[what] = self._counts.get(what, 0) + 1
        return f"{what}-{count}"

    def _start_supervisor(self) -> SupervisorProcess:
        return SupervisorProcess(self, self._name("supervisor"), self.plan.workers)

    def _start_client(self, number: int) -> None:
        name = self._name(f"client-{number}")
        client = ClientProcess(self, name, _identity("session", self.plan.seed, name), self.url)
        client.number = number
        self.clients.append(client)

    def start_broker(self, parent: SupervisorProcess) -> BrokerProcess:
        """The supervisor starts a broker."""
        name = self._name("broker")
        self.trace(parent.name, f"starts {name}")
        boot_s = self.scheduler.random(f"boot/{name}").uniform(0.02, 0.4)
        broker = BrokerProcess(self, name, parent, boot_s)
        self.brokers.append(broker)
        return broker

    def new_worker_id(self) -> bytes:
        """What a supervisor draws for a worker."""
        self._ids += 1
        return _identity("worker", self.plan.seed, str(self._ids))

    def start_worker(self, parent: SupervisorProcess, identity: bytes) -> WorkerProcess:
        """The supervisor starts a worker."""
        name = self._name("worker")
        self.trace(parent.name, f"starts {name}")
        boot_s = self.scheduler.random(f"boot/{name}").uniform(0.02, 0.4)
        worker = WorkerProcess(self, name, identity, self.workers_url, parent, boot_s)
        self.workers.append(worker)
        return worker

    def worker_ended(self, worker: WorkerProcess) -> None:
        """A worker's process has ended; its supervisor learns of it."""
        self.trace(worker.name, f"has ended: {worker.status}")
        if worker.status not in (0, NEVER_BEGAN):
            self._strikes.lose_worker(worker, "died", 3.0)  # the broker leases to it until it is told
        self.workers.remove(worker)
        self._tell_supervisor(worker.parent, worker)

    def broker_ended(self, broker: BrokerProcess) -> None:
        """The broker's process has ended; its supervisor learns of it."""
        self.trace(broker.name, f"has ended: {broker.status}")
        if broker.core is not None:
            self.oracle.forget()
        self.brokers.remove(broker)
        self._tell_supervisor(broker.parent, broker)

    def supervisor_ended(self, supervisor: SupervisorProcess) -> None:
        """The supervisor's process has ended: its children learn of it, and somebody starts another."""
        self.trace(supervisor.name, "has ended")
        self.oracle.lost("the supervisor died")
        for worker in self.workers:
            if worker.parent is supervisor:
                worker.stop()
        for broker in self.brokers:
            if broker.parent is supervisor:
                broker.stir()
        self.scheduler.at(self.scheduler.now_s + self.random.uniform(1.0, 4.0), self._replace_supervisor)

    def _replace_supervisor(self, _about: None) -> None:
        if any(broker.core is not None for broker in self.brokers):
            # The address is taken as long as the old broker has it.
            self.scheduler.at(self.scheduler.now_s + 1.0, self._replace_supervisor)
            return
        self.supervisor = self._start_supervisor()

    def _tell_supervisor(self, parent: SupervisorProcess, child: BrokerProcess | WorkerProcess) -> None:
        span_s = self.random.uniform(0.0002, 0.005)
        self.scheduler.at(self.scheduler.now_s + span_s, self._child_ended, (parent, child))

    def _child_ended(self, about: tuple[SupervisorProcess, Any]) -> None:
        parent, child = about
        if parent.alive:
            parent.child_ended(child)

    # --- what is asked, and what goes wrong -------------------------------------------------------

    def _client(self, number: int) -> ClientProcess | None:
        alive = [client for client in self.clients if client.alive and client.number == number]
        return alive[-1] if alive else None

    def _ask(self, ask: Any) -> None:
        client = self._client(ask.client)
        if client is None:
            self._start_client(ask.client)
            client = self.clients[-1]
        asked = self.oracle.add(ask)
        kind = "once" if ask.once else "repeatable"
        self.trace(client.name, f"is asked for {asked.key.decode()} ({kind}, {ask.timeout_s:.2f} s)")
        client.ask(asked)
        if ask.cancel_s is not None:
            self.scheduler.at(self.scheduler.now_s + ask.cancel_s, self._cancel, (client, asked))

    def _cancel(self, about: tuple[ClientProcess, Any]) -> None:
        client, asked = about
        if client.alive:
            client.cancel(asked)


def play(plan: Plan, tell: Callable[[str], None] | None = None) -> Outcome:
    """Run a plan, with its limits; the arguments are those of :class:`World`."""
    with in_force(plan.limits):
        return World(plan, tell).run()


def _identity(what: str, seed: int, name: str) -> bytes:
    """16 bytes that are random enough."""
    return hashlib.blake2b(f"{what}/{seed}/{name}".encode(), digest_size=16).digest()
