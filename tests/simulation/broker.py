"""A broker process: the real core, and a loop like that of :mod:`reqpool_broker.server`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from reqpool_broker.broker import Broker
from reqpool_broker.client_limits import ClientLimits
from reqpool_broker.config import Config
from reqpool_broker.recovery import LiveWorkers

from .network import Server
from .process import Process

if TYPE_CHECKING:
    from .supervisor import SupervisorProcess
    from .world import World

TICK_S = 0.05
MESSAGES_PER_TURN = 64
SLEPT_STATUS = 75
LAST_WORDS_S = 0.2
QUIET_S = 0.02
MAX_PENDING = ClientLimits.max_pending
MAX_QUEUED_BYTES = ClientLimits.max_queued_bytes
MAX_MESSAGES_PER_S = ClientLimits.max_messages_per_s
CHECK_EVERY = 256
"""Turns between two looks at the books."""


class BrokerProcess(Process):
    """One broker.

    Attributes:
        core: None until its sockets are bound.
        warm: it has come so far that it only waits for its line.
        status: how it ended: an exit status; negative if it was killed, None while it lives.
    """

    def __init__(self, world: World, name: str, parent: SupervisorProcess, boot_s: float) -> None:
        super().__init__(world, name)
        self.parent = parent
        self.status: int | None = None
        self.core: Broker | None = None
        self.warm = False
        self._line: bytes | None = None
        self._stopping = False
        self._end_s = self._quiet_s = math.inf
        self._turns = 0
        self._last_turn_s = self._next_tick_s = 0.0
        self.wake_at(self.scheduler.now_s + boot_s)

    def tell(self, line: bytes) -> None:
        """Its supervisor writes the line to its standard input."""
        self._line = line
        if self.warm:
            self.stir()

    def stop(self) -> None:
        """SIGTERM."""
        self._stopping = True
        self.stir()

    def end(self, status: int) -> None:
        """The process ends, killed or not."""
        if self.alive:
            self.status = status
            self.die(linger=status == 0)

    def buried(self) -> None:
        self.world.broker_ended(self)

    def _bind(self, line: bytes, now_s: float) -> Broker:
        world = self.world
        epoch = self.random.getrandbits(48) | 1
        workers, reign, deaths = LiveWorkers.read(line)
        limits = ClientLimits(
            max_pending=MAX_PENDING, max_queued_bytes=MAX_QUEUED_BYTES, max_messages_per_s=MAX_MESSAGES_PER_S
        )
        core = self.core = Broker(
            "5571",
            now_s,
            epoch=epoch,
            predecessors=workers,
            reign=reign,
            deaths=deaths,
            config=Config(clients=limits),
        )
        self.intake = Server(world.network, self, world.url)
        self.results = Server(world.network, self, world.results_url)
        self.workers = Server(world.network, self, world.workers_url)
        self.servers = [self.intake, self.results, self.workers]
        for server in self.servers:
            world.network.bind(server)
        self._last_turn_s = self._next_tick_s = now_s
        self.parent.broker_ready()
        return core

    def turn(self, now_s: float) -> float:
        if self.core is None and self._line is None:
            self.warm = True
            if not self.parent.alive:  # its standard input has ended
                self.end(0)
            return math.inf
        core = self.core or self._bind(self._line or b"", now_s)
        if not self.parent.alive or (self._stopping and core.may_end(now_s)):
            return self._hear_out(core, now_s)
        if now_s - self._last_turn_s > core.liveness_s + TICK_S:
            self.end(SLEPT_STATUS)
            return now_s
        self._last_turn_s = now_s
        more = False
        for server, take in (
            (self.intake, core.client_messages.message),
            (self.workers, core.worker_messages.message),
        ):
            for _ in range(MESSAGES_PER_TURN):
                if not server.inbox:
                    break
                connection, frames = server.read()
                take(connection.route, frames, now_s)
            more = more or bool(server.inbox)
        for _ in range(MESSAGES_PER_TURN):
            if not self.results.inbox:
                break
            connection, frames = self.results.read()
            topic = frames[0][1:]
            if core.lifecycle.subscription(topic, 0):
                self.results.accept(connection, topic)
                core.lifecycle.subscribed(topic)
        if now_s >= self._next_tick_s:
            self._next_tick_s = now_s + TICK_S
            core.tick(now_s)
        else:
            core.flush(now_s)
        if self.world.oracle.away:
            self.world.oracle.doubt_away()
        self._send(core)
        self._turns += 1
        if self._turns % CHECK_EVERY == 0:
            self.world.oracle.check_books(core)
        return now_s if more or self.results.inbox else min(self._next_tick_s, core.next_beat_s)

    def _hear_out(self, core: Broker, now_s: float) -> float:
        """Read the last words of workers and of the supervisor, say goodbye, end."""
        if self._end_s == math.inf:
            self._end_s = now_s + LAST_WORDS_S
            self._quiet_s = now_s + QUIET_S
        for _ in range(MESSAGES_PER_TURN):
            if not self.workers.inbox:
                break
            connection, frames = self.workers.read()
            core.worker_messages.message(connection.route, frames, now_s)
            self._quiet_s = now_s + QUIET_S
        if now_s < min(self._quiet_s, self._end_s):
            return min(self._quiet_s, self._end_s)
        core.heartbeats.goodbye("the broker is stopping")
        self._send(core)
        self.end(0)
        return now_s

    def _send(self, core: Broker) -> None:
        outbox = core.outbox
        for route, *frames in outbox.workers:
            self.workers.send(route, frames)
        for topic, *frames in outbox.results:
            self.results.publish(topic, [topic, *frames])
        for route, *frames in outbox.intake:
            self.intake.send(route, frames)
        outbox.workers.clear()
        outbox.results.clear()
        outbox.intake.clear()
