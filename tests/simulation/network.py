"""ZeroMQ as the cores see it: pipes that are first in, first out, break, come back, and lose or keep bytes.

What is modelled, and how libzmq 4.3.5 does it:

* A DEALER, or SUB, connects by itself and again after a loss. What it had not written to the kernel by then
  it writes to whoever listens next, *before* anything new: an old message may reach the next broker ahead
  of its HELLO.
* A ROUTER gives each connection a new routing id. Sending to one that is gone is an error, which the broker
  ignores. What it had received of a connection that broke can still be read.
* XPUB (manual): a subscription is a message; after each reconnect the SUB sends it again.
* A process that was stopped keeps its sockets: what is sent to it waits, up to the high-water mark. What is
  sent past that by a ROUTER or XPUB is dropped; a DEALER is told that there is no room.
* When a process dies its kernel still delivers a part of what it had sent, in order, and nothing behind a
  gap.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from .scheduler import Scheduler

if TYPE_CHECKING:
    from .process import Process

Frames = list[bytes]


class Weather:
    """How long messages take.

    Attributes:
        slow: the part of the messages that take up to ``slow_s``, others take about 0.1 ms.
    """

    __slots__ = ("slow", "slow_s")

    def __init__(self, slow: float, slow_s: float) -> None:
        self.slow = slow
        self.slow_s = slow_s


class Server:
    """A bound ROUTER or XPUB.

    Attributes:
        owner: the process whose it is.
        inbox: what can be read, with the connection it came by.
        peers: routing id to connection.
    """

    def __init__(self, network: Network, owner: Process, address: str) -> None:
        self.network = network
        self.owner = owner
        self.address = address
        self.inbox: deque[tuple[Connection, Frames]] = deque()
        self.peers: dict[bytes, Connection] = {}
        self.topics: dict[bytes, dict[Connection, None]] = {}

    def send(self, route: bytes, frames: Frames) -> None:
        """Send to one peer; dropped if it has gone, or takes no more."""
        connection = self.peers.get(route)
        if connection is not None:
            connection.send_down(frames)

    def publish(self, topic: bytes, frames: Frames) -> None:
        """Send to all whose subscription was accepted."""
        for connection in self.topics.get(topic, ()):
            connection.send_down(frames)

    def accept(self, connection: Connection, topic: bytes) -> None:
        """Accept a subscription."""
        if connection.alive:
            self.topics.setdefault(topic, {})[connection] = None

    def read(self) -> tuple[Connection, Frames]:
        """Take one message; only if there is one."""
        connection, frames = self.inbox.popleft()
        connection.unread_up -= 1
        return connection, frames

    def forget(self, connection: Connection) -> None:
        """A connection is gone."""
        self.peers.pop(connection.route, None)
        for topic in [topic for topic, peers in self.topics.items() if connection in peers]:
            del self.topics[topic][connection]
            if not self.topics[topic]:
                del self.topics[topic]


class Dealer:
    """A DEALER or SUB socket, from its dial to its close.

    Args:
        network: where it is.
        owner: the process whose it is.
        address: whom it calls.
        topic: for a SUB, what it subscribes to.
        bounded: it has a high-water mark, both ways.

    Attributes:
        inbox: what can be read.
        backlog: what was sent and not yet written to a connection.
        told_lost: called when an established connection is lost.
    """

    def __init__(
        self,
        network: Network,
        owner: Process,
        address: str,
        topic: bytes | None = None,
        *,
        bounded: bool = True,
    ) -> None:
        self.network = network
        self.most_queued = network.most_queued if bounded else math.inf
        self.owner = owner
        self.address = address
        self.topic = topic
        self.inbox: deque[Frames] = deque()
        self.backlog: deque[Frames] = deque()
        self.connection: Connection | None = None
        self.closed = False
        owner.dealers[self] = None
        network.dial(self, 0.0)

    @property
    def has_room(self) -> bool:
        """Would a message be taken?"""
        connection = self.connection
        return (len(self.backlog) if connection is None else connection.load_up) < self.most_queued

    def send(self, frames: Frames) -> bool:
        """Queue a message; False if there is no room."""
        connection = self.connection
        if not self.has_room:
            return False
        if connection is None:
            self.backlog.append(frames)
        else:
            connection.send_up(frames)
        return True

    def read(self) -> Frames:
        """Take one message; only if there is one."""
        if self.connection is not None:
            self.connection.unread_down -= 1
        return self.inbox.popleft()

    def close(self, *, linger: bool = False) -> None:
        """Close: what was not sent is lost, unless it lingers; what was not read is lost."""
        if self.closed:
            return
        self.closed = True
        self.owner.dealers.pop(self, None)
        self.inbox.clear()
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.end(dealer_gone=True, all_up=linger)
        self.network.hang_up(self)

    def arrived(self) -> None:
        """Something can be read."""
        self.owner.stir()


class Connection:
    """One established connection between a :class:`Dealer` and a :class:`Server`."""

    __slots__ = (
        "_down",
        "_down_s",
        "_random",
        "_up",
        "_up_s",
        "alive",
        "dealer",
        "network",
        "route",
        "server",
        "stalled_s",
        "unread_down",
        "unread_up",
    )

    def __init__(self, network: Network, dealer: Dealer, server: Server, route: bytes) -> None:
        self.network = network
        self.dealer = dealer
        self.server = server
        self.route = route
        self.alive = True
        self.unread_up = self.unread_down = 0
        self.stalled_s = 0.0
        self._up: deque[Frames] = deque()
        self._down: deque[Frames] = deque()
        self._up_s = self._down_s = 0.0
        self._random: Random = network.scheduler.random(f"connection/{dealer.owner.name}/{route.hex()}")

    @property
    def load_up(self) -> int:
        """Messages on the way up that the server has not read."""
        return len(self._up) + self.unread_up

    def _arrival_s(self, last_s: float) -> float:
        draw = self._random.random
        weather = self.network.weather
        chance = draw()
        span_s = draw() * weather.slow_s if chance < weather.slow else 0.00005 + 0.0002 * chance
        return max(last_s, self.stalled_s, self.network.scheduler.now_s + span_s)

    def send_up(self, frames: Frames) -> None:
        """Towards the server; the caller has seen that there is room."""
        self._up.append(frames)
        self._up_s = self._arrival_s(self._up_s)
        self.network.scheduler.at(self._up_s, self._arrive_up)

    def send_down(self, frames: Frames) -> None:
        """Towards the dealer; dropped if that takes no more."""
        if len(self._down) + self.unread_down >= self.dealer.most_queued:
            return
        self._down.append(frames)
        self._down_s = self._arrival_s(self._down_s)
        self.network.scheduler.at(self._down_s, self._arrive_down)

    def _arrive_up(self, _about: None) -> None:
        if self.alive:
            self.network.scheduler.steps += 1
            self._hand_up()

    def _arrive_down(self, _about: None) -> None:
        if self.alive:
            self.network.scheduler.steps += 1
            self._hand_down()

    def _hand_up(self) -> None:
        frames = self._up.popleft()
        if self.network.tracer is not None:
            self.network.tracer(self.dealer.owner.name, self.server.owner.name, frames)
        if self.network.watcher is not None:
            self.network.watcher(self, frames)
        self.unread_up += 1
        self.server.inbox.append((self, frames))
        self.server.owner.stir()

    def _hand_down(self) -> None:
        frames = self._down.popleft()
        if self.network.tracer is not None:
            self.network.tracer(self.server.owner.name, self.dealer.owner.name, frames)
        if self.network.watcher is not None:
            self.network.watcher(self, frames)
        self.unread_down += 1
        self.dealer.inbox.append(frames)
        self.dealer.arrived()

    def stall(self, until_s: float) -> None:
        """Nothing that is sent from now on arrives before ``until_s``."""
        self.stalled_s = max(self.stalled_s, until_s)

    def end(
        self,
        *,
        dealer_gone: bool = False,
        server_gone: bool = False,
        all_up: bool = False,
        all_down: bool = False,
    ) -> None:
        """The connection breaks: of what is under way a first part arrives all the same.

        Args:
            dealer_gone: the dealer is closed, or its process dead.
            server_gone: the same of the server.
            all_up: all that is on the way up arrives, as after a close that lingers.
            all_down: the same of what is on the way down.
        """
        if not self.alive:
            return
        self.alive = False
        draw = self._random.randint
        arrives = len(self._up) if all_up else draw(0, len(self._up))
        if not server_gone:
            for _ in range(arrives):
                self._hand_up()
        else:
            for _ in range(arrives):
                self._up.popleft()
        for _ in range(draw(0, len(self._up))):
            self._up.popleft()
        if not dealer_gone:
            for _ in range(len(self._down) if all_down else draw(0, len(self._down))):
                self._hand_down()
        self.server.forget(self)
        dealer = self.dealer
        if not dealer_gone:
            dealer.connection = None
            if dealer.topic is None:
                dealer.backlog.extendleft(reversed(self._up))
            self.network.dial(dealer, self._random.uniform(0.01, 0.5))
            dealer.owner.lost_connection(dealer)


class Network:
    """Who listens where, and who calls.

    Args:
        scheduler: of the run.
        weather: how long messages take.
        most_queued: high-water mark of every pipe.
    """

    def __init__(self, scheduler: Scheduler, weather: Weather, most_queued: int) -> None:
        self.scheduler = scheduler
        self.weather = weather
        self.most_queued = most_queued
        self.tracer: Callable[[str, str, Frames], None] | None = None
        self.watcher: Callable[[Connection, Frames], None] | None = None
        self._random = scheduler.random("network")
        self._listening: dict[str, Server] = {}
        self._calling: dict[str, dict[Dealer, None]] = {}
        self._routes = 0

    def bind(self, server: Server) -> None:
        """A server listens from now on; those who called in vain come soon."""
        self._listening[server.address] = server
        for dealer in self._calling.pop(server.address, {}):
            self.scheduler.at(self.scheduler.now_s + self._random.uniform(0.001, 0.3), self._connect, dealer)

    def close(self, server: Server, *, linger: bool = False) -> None:
        """A server is no more."""
        if self._listening.get(server.address) is server:
            del self._listening[server.address]
        server.inbox.clear()
        for connection in list(server.peers.values()):
            connection.end(server_gone=True, all_down=linger)

    def dial(self, dealer: Dealer, after_s: float) -> None:
        """Connect a dealer, as soon as somebody listens."""
        span_s = after_s + self._random.uniform(0.0001, 0.001)
        self.scheduler.at(self.scheduler.now_s + span_s, self._connect, dealer)

    def hang_up(self, dealer: Dealer) -> None:
        """A dealer calls no more."""
        callers = self._calling.get(dealer.address)
        if callers is not None:
            callers.pop(dealer, None)

    def _connect(self, dealer: Dealer) -> None:
        if dealer.closed or dealer.connection is not None:
            return
        server = self._listening.get(dealer.address)
        if server is None:
            self._calling.setdefault(dealer.address, {})[dealer] = None
            return
        self._routes += 1
        route = self._routes.to_bytes(5, "big")
        connection = dealer.connection = server.peers[route] = Connection(self, dealer, server, route)
        # What the old connection had brought can still be read.
        connection.unread_down = len(dealer.inbox)
        if dealer.topic is not None:
            connection.send_up([b"\x01" + dealer.topic])
        while dealer.backlog:
            connection.send_up(dealer.backlog.popleft())
