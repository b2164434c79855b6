"""Upstreams: who is asked in the end. They count what they are made to do."""

from __future__ import annotations

from collections import deque
from enum import Enum
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from .wrong import Wrong

if TYPE_CHECKING:
    from .worker import WorkerProcess
    from .world import World


class Manner(Enum):
    """What an upstream does with a request that reaches it."""

    ANSWER = "answers"
    BREAK = "breaks off before it does anything"
    BREAK_DONE = "does it and breaks off"
    SILENT = "does it and never answers"


class Attempt(NamedTuple):
    """How one attempt at a request goes.

    Attributes:
        manner: see :class:`Manner`.
        span_s: how long it takes until then.
    """

    manner: Manner
    span_s: float


class Upstream:
    """A server.

    Attributes:
        origin: its name.
        kind: of the requests it takes.
        most: connections that the pool may have, or requests in flight there.
        depth: requests that may be unanswered on one connection; 0 if it has no connections.
        down_until_s: it refuses connections until then.
        open: connections that there are.
    """

    def __init__(self, world: World, origin: str, kind: str, most: int, depth: int) -> None:
        self.world = world
        self.origin = origin
        self.kind = kind
        self.most = most
        self.depth = depth
        self.down_until_s = 0.0
        self.open: dict[Line, None] = {}
        self.random: Random = world.scheduler.random(f"upstream/{origin}")

    def connect(self, line: Line) -> None:
        """A connection is being made: it counts from now on."""
        self.open[line] = None
        # A frozen worker whose supervisor was killed is nobody's any more: the next knows nothing of it.
        count = sum(one.worker.parent is line.worker.parent for one in self.open)
        if self.depth and count > self.most:
            self.world.oracle.fail(
                Wrong.CONNECTIONS, f"{count} connections to {self.origin}, {self.most} are allowed"
            )
        span_s = self.random.uniform(0.0002, 0.003)
        self.world.scheduler.at(self.world.scheduler.now_s + span_s, self._accept, line)

    def _accept(self, line: Line) -> None:
        self.world.scheduler.steps += 1
        if line in self.open:
            line.tell("refused" if self.world.scheduler.now_s < self.down_until_s else "ready")

    def close(self, line: Line) -> None:
        """A connection is closed on the pool's side."""
        self.open.pop(line, None)

    def ask(self, line: Line, key: bytes) -> None:
        """A request has been written: it arrives soon, even if its writer is killed right away."""
        span_s = self.random.uniform(0.0001, 0.001)
        self.world.scheduler.at(self.world.scheduler.now_s + span_s, self._take, (line, key))

    def _take(self, about: tuple[Line, bytes]) -> None:
        line, key = about
        self.world.scheduler.steps += 1
        if line.broken or (line not in self.open and self.random.random() < 0.3):
            return
        attempt = self.world.oracle.attempt(key)
        if attempt.manner is not Manner.BREAK:
            self.world.oracle.executed(key, line.worker.name)
        if attempt.manner is not Manner.SILENT:
            self.world.scheduler.at(
                self.world.scheduler.now_s + attempt.span_s, self._end, (line, key, attempt)
            )

    def _end(self, about: tuple[Line, bytes, Attempt]) -> None:
        line, key, attempt = about
        self.world.scheduler.steps += 1
        if line.broken or line not in self.open:
            return
        if attempt.manner is Manner.ANSWER:
            line.answer(key)
        elif self.depth:
            line.break_off()

    def break_all(self) -> None:
        """It closes all connections, as a restart does."""
        for line in list(self.open):
            line.break_off()


class Line:
    """A worker's connection, or its datagram socket, as its upstream sees it."""

    __slots__ = ("_done", "_order", "broken", "upstream", "worker")

    def __init__(self, upstream: Upstream, worker: WorkerProcess) -> None:
        self.upstream = upstream
        self.worker = worker
        self.broken = False
        self._order: deque[bytes] = deque()
        self._done: set[bytes] = set()

    def send(self, key: bytes) -> None:
        """Write a request."""
        self._order.append(key)
        self.upstream.ask(self, key)

    def answer(self, key: bytes) -> None:
        """An answer is there: on a connection it leaves once those before it have."""
        if not self.upstream.depth:
            self.tell("answer", key)
            return
        self._done.add(key)
        while self._order and self._order[0] in self._done:
            first = self._order.popleft()
            self._done.discard(first)
            self.tell("answer", first)

    def break_off(self) -> None:
        """The server closes the connection."""
        if not self.broken:
            self.broken = True
            self.tell("broken")

    def tell(self, what: str, key: bytes = b"") -> None:
        """The worker's loop sees it in its next turn."""
        self.worker.happened(self, what, key)
