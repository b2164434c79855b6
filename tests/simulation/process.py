"""A process: it takes turns, is stopped and continued, dies."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .network import Dealer, Server

if TYPE_CHECKING:
    from .world import World


class Process:
    """What all processes have in common.

    A turn is what happens between two sleeps of a process's loop: nothing comes in between. Whatever is said
    in a turn may be lost all the same, if the process is killed before it has left.

    Attributes:
        name: for traces, and for chance.
        alive: it has not ended.
        frozen: it is stopped (SIGSTOP), or starved.
        frozen_s: since when, or when last.
        thawed_s: since when it has not been.
        dealers: its sockets that call.
        servers: its sockets that listen.
    """

    turn_delay_s = 0.0002
    """Longest time between a message's arrival and the turn that may read it, on a quiet machine."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.scheduler = world.scheduler
        self.name = name
        self.alive = True
        self.frozen = False
        self.frozen_s = self.thawed_s = self.scheduler.now_s
        self.dealers: dict[Dealer, None] = {}
        self.servers: list[Server] = []
        self.random = self.scheduler.random(f"process/{name}")
        self._turn_s = math.inf

    def turn(self, now_s: float) -> float:
        """Take one turn; return when to take the next at the latest."""
        raise NotImplementedError

    def stir(self) -> None:
        """Something has arrived: take a turn soon."""
        if self._turn_s > self.scheduler.now_s + self.turn_delay_s:
            self.wake_at(self.scheduler.now_s + self.random.random() * self.turn_delay_s)

    def wake_at(self, when_s: float) -> None:
        """Take a turn at ``when_s`` at the latest."""
        if when_s < self._turn_s:
            self._turn_s = when_s
            self.scheduler.at(when_s, self._take_turn, when_s)

    def _take_turn(self, when_s: float) -> None:
        if when_s != self._turn_s or self.frozen or not self.alive:
            return
        self._turn_s = math.inf
        self.scheduler.steps += 1
        due_s = self.turn(self.scheduler.now_s)
        if self.alive:
            self.wake_at(max(due_s, self.scheduler.now_s + 0.0001))

    def lost_connection(self, dealer: Dealer) -> None:
        """A connection that ``dealer`` had is lost; it calls again by itself."""

    def freeze(self) -> None:
        """Stop it (SIGSTOP)."""
        self.frozen = True
        self.frozen_s = self.scheduler.now_s

    def thaw(self) -> None:
        """Let it go on (SIGCONT)."""
        if self.frozen:
            self.frozen = False
            self.thawed_s = self.scheduler.now_s
            self.world.oracle.speaks(self)
            self._turn_s = math.inf
            self.wake_at(self.scheduler.now_s + 0.00001)

    def die(self, *, linger: bool = False) -> None:
        """It ends: killed, or with ``linger`` by its own will, and what it said last still goes out."""
        if not self.alive:
            return
        self.alive = False
        self.world.oracle.speaks(self)
        for server in self.servers:
            self.world.network.close(server, linger=linger)
        for dealer in list(self.dealers):
            dealer.close(linger=linger)
        self.buried()

    def buried(self) -> None:
        """It has ended: whoever is to know learns of it."""
