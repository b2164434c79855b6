"""What goes wrong in a run, and whom it hits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .broker import BrokerProcess
from .client import ClientProcess
from .network import Connection
from .plan import Fault, Strike, concerned
from .process import Process
from .worker import WorkerProcess

if TYPE_CHECKING:
    from .world import World


class Strikes:
    """Has the faults of a plan strike.

    Args:
        world: of the run.

    Attributes:
        struck: how many hit somebody.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.struck = 0
        self._awaited: list[Strike] = []
        self._concerned: Process | None = None
        self._away_until_s: dict[WorkerProcess, float] = {}

    def strike(self, strike: Strike) -> None:
        """Its time has come; or that to wait for its message."""
        if strike.after:
            self._awaited.append(strike)
            self.world.network.watcher = self._watch
        else:
            self._hit((strike, None))

    def _watch(self, connection: Connection, frames: list[bytes]) -> None:
        """Some strike waits for a message, and one has arrived."""
        head = frames[0] if connection.dealer.topic is None else frames[-1 if len(frames) < 3 else 1]
        verb = head[1] if len(head) > 1 else 0  # behind the array's length
        owner = connection.dealer.owner
        for strike in [strike for strike in self._awaited if strike.after == verb]:
            sort = _SORTS.get(concerned(strike.fault))
            if sort is not None and not isinstance(owner, sort):
                continue
            self._awaited.remove(strike)
            when_s = self.world.scheduler.now_s + strike.delay_s
            self.world.scheduler.at(when_s, self._hit, (strike, owner))
        if not self._awaited:
            self.world.network.watcher = None

    def _hit(self, about: tuple[Strike, Process | None]) -> None:
        if self.world.healing:
            return
        strike, self._concerned = about
        self.world.scheduler.steps += 1
        if _STRIKES[strike.fault](self, strike):
            self.struck += 1

    def _pick_client(self, strike: Strike) -> ClientProcess | None:
        if isinstance(self._concerned, ClientProcess) and self._concerned.alive:
            return self._concerned
        alive = [client for client in self.world.clients if client.alive]
        return alive[strike.whom % len(alive)] if alive else None

    def _pick_worker(self, strike: Strike) -> WorkerProcess | None:
        if isinstance(self._concerned, WorkerProcess) and self._concerned.alive:
            return self._concerned
        return self.world.workers[strike.whom % len(self.world.workers)] if self.world.workers else None

    def _kill_client(self, strike: Strike) -> bool:
        client = self._pick_client(strike)
        if client is not None:
            self.world.trace(client.name, "is killed")
            client.die()
        return client is not None

    def _leave_client(self, strike: Strike) -> bool:
        client = self._pick_client(strike)
        if client is not None:
            self.world.trace(client.name, "leaves")
            client.leave()
        return client is not None

    def _freeze(self, process: Process | None, strike: Strike) -> bool:
        if process is None or not process.alive or process.frozen:
            return False
        self.world.trace(process.name, f"is frozen for {strike.span_s:.3f} s")
        process.freeze()
        self.world.scheduler.at(self.world.scheduler.now_s + strike.span_s, self._thaw, process)
        return True

    def _thaw(self, process: Process) -> None:
        if process.alive and process.frozen:
            self.world.trace(process.name, "wakes")
            process.thaw()
            if isinstance(process, WorkerProcess):
                self.lose_worker(process, "was frozen", 3.0)

    def lose_worker(self, worker: WorkerProcess, why: str, span_s: float) -> None:
        """A worker cannot be reached for so long."""
        oracle, until_s = self.world.oracle, self.world.scheduler.now_s + span_s
        oracle.doubt_worker(worker, why)
        oracle.away[worker] = why
        self._away_until_s[worker] = max(until_s, self._away_until_s.get(worker, 0.0))
        self.world.scheduler.at(until_s, self._regain_worker, worker)

    def _regain_worker(self, worker: WorkerProcess) -> None:
        if not worker.frozen and self.world.scheduler.now_s >= self._away_until_s[worker]:
            self.world.oracle.away.pop(worker, None)

    def _freeze_client(self, strike: Strike) -> bool:
        client = self._pick_client(strike)
        struck = self._freeze(client, strike)
        if struck and client is not None and strike.span_s > 50.0:
            self.world.oracle.doubt_client(client, "its client was frozen for long")
        return struck

    def _freeze_worker(self, strike: Strike) -> bool:
        worker = self._pick_worker(strike)
        struck = self._freeze(worker, strike)
        if struck and worker is not None:
            self.lose_worker(worker, "is frozen", strike.span_s)
        return struck

    def _pick_broker(self, strike: Strike) -> BrokerProcess | None:
        """One of them, for one may stand by; mostly the one that serves."""
        if strike.whom and self.world.broker is not None:
            return self.world.broker
        return self.world.brokers[-1] if self.world.brokers else None

    def _freeze_broker(self, strike: Strike) -> bool:
        return self._silence(self._pick_broker(strike), strike)

    def _freeze_supervisor(self, strike: Strike) -> bool:
        return self._silence(self.world.supervisor, strike)

    def _silence(self, process: Process | None, strike: Strike) -> bool:
        struck = self._freeze(process, strike)
        if struck and process is not None:
            self.world.oracle.silent(process)
        return struck

    def _kill_broker(self, strike: Strike) -> bool:
        broker = self._pick_broker(strike)
        if broker is not None:
            self.world.trace(broker.name, "is killed")
            broker.end(-9)
        return broker is not None

    def _stop_broker(self, strike: Strike) -> bool:
        broker = self.world.broker
        if broker is not None:
            self.world.trace(broker.name, "is told to stop")
            broker.stop()
        return broker is not None

    def _kill_worker(self, strike: Strike) -> bool:
        worker = self._pick_worker(strike)
        if worker is not None:
            self.world.trace(worker.name, "is killed")
            worker.end(-9)
        return worker is not None

    def _drain_worker(self, strike: Strike) -> bool:
        worker = self._pick_worker(strike)
        if worker is not None:
            self.world.trace(worker.name, "is told to drain")
            worker.drain()
        return worker is not None

    def _kill_supervisor(self, strike: Strike) -> bool:
        if not self.world.supervisor.alive:
            return False
        self.world.trace(self.world.supervisor.name, "is killed")
        self.world.supervisor.die()
        return True

    def _restart_cluster(self, strike: Strike) -> bool:
        self.world.trace(self.world.supervisor.name, "is told to replace all processes")
        self.world.supervisor.restart()
        return True

    def _stop_cluster(self, strike: Strike) -> bool:
        self.world.trace(self.world.supervisor.name, "is told to stop")
        self.world.supervisor.stop()
        return True

    def _connections(self, process: Process | None, *, results: bool) -> list[Connection]:
        if process is None:
            return []
        return [
            dealer.connection
            for dealer in process.dealers
            if dealer.connection is not None and (dealer.topic is not None) is results
        ]

    def _cut(self, process: Process | None, *, results: bool) -> bool:
        connections = self._connections(process, results=results)
        for connection in connections:
            self.world.trace(
                connection.dealer.owner.name, f"loses its connection to {connection.server.address}"
            )
            connection.end()
        return bool(connections)

    def _cut_intake(self, strike: Strike) -> bool:
        return self._cut(self._pick_client(strike), results=False)

    def _cut_results(self, strike: Strike) -> bool:
        return self._cut(self._pick_client(strike), results=True)

    def _cut_worker(self, strike: Strike) -> bool:
        worker = self._pick_worker(strike)
        if worker is not None:
            self.lose_worker(worker, "was cut off", 3.0)
        return self._cut(worker, results=False)

    def _stall(self, process: Process | None, strike: Strike) -> bool:
        connections = self._connections(process, results=False) + self._connections(process, results=True)
        for connection in connections:
            self.world.trace(connection.dealer.owner.name, f"is cut off for {strike.span_s:.3f} s, unnoticed")
            connection.stall(self.world.scheduler.now_s + strike.span_s)
        return bool(connections)

    def _stall_client(self, strike: Strike) -> bool:
        return self._stall(self._pick_client(strike), strike)

    def _stall_worker(self, strike: Strike) -> bool:
        worker = self._pick_worker(strike)
        if worker is not None:
            self.lose_worker(worker, "was cut off", strike.span_s + 3.0)
        return self._stall(worker, strike)

    def _break_upstream(self, strike: Strike) -> bool:
        self.world.trace(self.world.upstreams[0].origin, "closes all connections")
        self.world.upstreams[0].break_all()
        return True

    def _down_upstream(self, strike: Strike) -> bool:
        self.world.trace(self.world.upstreams[0].origin, f"refuses connections for {strike.span_s:.3f} s")
        self.world.upstreams[0].down_until_s = self.world.scheduler.now_s + strike.span_s
        return True


_STRIKES: dict[Fault, Callable[[Strikes, Strike], bool]] = {
    fault: getattr(Strikes, f"_{fault.name.lower()}") for fault in Fault
}


_SORTS: dict[str, type[Process]] = {"client": ClientProcess, "worker": WorkerProcess}
