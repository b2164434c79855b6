"""The worker: joins the broker's socket, the loop and the upstreams to the conversation with the broker."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping
from typing import Any

import zmq

from reqpool_contract import wire

from .broker_socket import MESSAGES_PER_TURN, READ_S, BrokerSocket
from .event_loop import READABLE, EventLoop, Timer
from .expiry import Expiry
from .lease_outcomes import LeaseOutcomes
from .owed_ports import OwedPorts
from .protocols import WorkerKind
from .resolver import Resolver
from .sample import Sampler
from .worker_conversation import WorkerConversation
from .worker_ledger import WorkerLedger
from .worker_origins import WorkerOrigins

log = logging.getLogger(__name__)


class WorkerProcess:
    """One worker. Everything but :meth:`drain` and :meth:`stop` belongs to the thread that calls :meth:`run`.

    Args:
        broker_url: the broker's workers socket.
        identity: 16 random bytes, or those the supervisor chose.
        name: for display.
        kinds: by name.
        parent_pid: process with which this one ends, or None.

    Raises:
        ProcessLookupError: if the parent is gone already.
    """

    def __init__(
        self,
        broker_url: str,
        identity: bytes,
        name: str,
        kinds: Mapping[str, WorkerKind],
        parent_pid: int | None = None,
    ) -> None:
        # First: it may raise, and there is nothing to be closed yet.
        self._parent_fd = -1 if parent_pid is None else os.pidfd_open(parent_pid)
        self.loop = EventLoop()
        self.ledger = WorkerLedger()
        outcomes = LeaseOutcomes(self.ledger)
        self._owed_ports = OwedPorts()
        self._resolver = Resolver(self.loop, self._owed_ports)
        self.origins = WorkerOrigins(self.loop, outcomes, kinds, self._resolver, self._owed_ports)
        self._url = broker_url
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: BrokerSocket | None = None
        self._sampler = Sampler(self.loop)
        self._orphaned = False
        if self._parent_fd >= 0:
            self.loop.register(self._parent_fd, self._on_parent_exit, READABLE)
        about = {
            "worker": identity,
            "name": wire.sendable(name, wire.MAX_NAME_CHARS),
            "pid": os.getpid(),
            "kinds": [kind.info for kind in kinds.values()],
        }
        self.conversation = WorkerConversation(about, self, self.origins, outcomes, self.loop.now_s)
        held = (self._owed_ports, self._resolver, self.origins)
        self._expiry = Expiry(self.loop.at, held, self.conversation.tend)

    def run(self) -> bool:
        """Serve until drained or stopped; closes every fd.

        Returns:
            Whether the end was orderly. True is a promise to the supervisor: all that must not be repeated
            and was sent upstream from here has been acknowledged by its client, or its deadline has passed.
        """
        self._expiry.begin(self.loop.now_s)
        try:
            self.loop.run(self._end_turn, self.conversation.wake)
            running = sum(len(seqs) for _, seqs in self.ledger.running())
            in_doubt = self.conversation.in_doubt
            if running or in_doubt:
                log.warning(
                    "stopped; still running: %d; in doubt: %d (these may have run, must not run again, and "
                    "their outcomes have not been acknowledged)",
                    running,
                    in_doubt,
                )
            return not (running or in_doubt)
        finally:
            self.origins.close("the worker stops")
            self._owed_ports.close()
            self._resolver.close("the worker stops")
            if self._socket is not None:
                self._socket.close(goodbye=self.conversation.said_goodbye or self._orphaned)
            if self._parent_fd >= 0:
                self.loop.unregister(self._parent_fd)
                os.close(self._parent_fd)
            self.loop.close()
            self._context.term()

    def drain(self) -> None:
        """Hand back what was not sent upstream, finish the rest, say GOODBYE, end. From any thread."""
        self.loop.wake(lambda: self.conversation.drain(time.monotonic()))

    def stop(self) -> None:
        """End now. From any thread."""
        self.loop.wake(self.loop.stop)

    # --- each turn ---------------------------------------------------------------------------------

    def _end_turn(self) -> bool:
        """Read the broker's messages, send it this turn's news. Returns True if more can be read."""
        conversation = self.conversation
        until_s = math.inf
        for _ in range(MESSAGES_PER_TURN):
            if self._socket is None or (frames := self._socket.receive()) is None:
                break
            # The clock is read after the message: a process stopped in between must not believe it.
            now_s = time.monotonic()
            conversation.take(frames, now_s)
            if now_s > until_s or self._socket is None or not self._socket.readable:
                break
            until_s = min(until_s, now_s + READ_S)
        inflow = self.loop.inflow
        reads_on = inflow.waiting and conversation.has_room
        if reads_on:
            inflow.read_on()
        if self.loop.unwritten:
            self.loop.write_out()
        conversation.end_turn(time.monotonic())
        if conversation.over:
            self.loop.stop()
        if reads_on and inflow.waiting:
            return True
        return self._socket is not None and self._socket.readable

    def _on_parent_exit(self, _mask: int) -> None:
        log.info("the parent process has ended")
        # The broker ends, too, and names what it believes to be here: what was not sent need not be among it.
        self.conversation.drain(self.loop.now_s)
        self._orphaned = True
        self.loop.stop()

    def _on_loss(self, why: str) -> None:
        self.conversation.lose(why, self.loop.now_s)

    # --- what the conversation asks for ------------------------------------------------------------

    def dial(self) -> None:
        """Open a fresh socket.

        Raises:
            OSError: if no file descriptor is left for it.
        """
        try:
            self._socket = BrokerSocket(self._context, self.loop, self._url, self._on_loss)
        except zmq.ZMQError as error:
            raise OSError(error.errno, error.strerror) from error

    def send(self, frames: list[bytes]) -> bool:
        """Send a message on it; False if its pipe has gone."""
        if self._socket is None:
            return False
        try:
            self._socket.send(frames)
        except zmq.Again:
            return False
        return True

    def hang_up(self) -> None:
        """Close it."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def at(self, due_s: float, timer: Timer) -> None:
        """Have a timer called at an instant."""
        self.loop.at(due_s, timer)

    def sample(self, now_s: float) -> dict[str, Any]:
        """This process's figures."""
        return self._sampler.take(now_s)
