"""The broker's sockets and its loop.

ZeroMQ facts it relies on (libzmq 4.3.5):

- ``ROUTER_MANDATORY``: a message to a peer that has gone is an error (EHOSTUNREACH), not dropped in silence.
- A peer that does not begin with a greeting (a browser, say) is taken for one of ZeroMQ 2, its bytes for
  messages, and each such connection leaks about 10 kB. With a ``ZAP_DOMAIN`` such peers are refused
  (``zmtp_engine.cpp``); without a handler for it, and without ``ZAP_ENFORCE_DOMAIN``, nobody else notices.
- ``ZMQ_FD`` is edge-triggered: see :mod:`reqpool_contract.zmq_sockets` for when a socket must be asked
  before sleeping.
"""

from __future__ import annotations

import logging
import os
import random
import select
import time
from collections.abc import Callable
from typing import Any

import psutil
import zmq

from reqpool_contract import wire, zmq_sockets
from reqpool_contract.errors import UsageError

from .broker import Broker
from .broker_spans import GOODBYE_LINGER_S, LAST_WORDS_S, TICK_S
from .config import EMPTY, Config
from .connection_gate import HANDSHAKE_MS, ConnectionGate, file_limit
from .freeze_detector import FreezeDetector
from .publisher import READ_S, Publisher, endpoint, last_part
from .recovery import REIGN_BYTES, LiveWorkers

MESSAGES_PER_TURN = 64
"""Messages read from one socket before the others get their turn; the bound in time is
:data:`.publisher.READ_S`."""
BYTES_PER_TURN = 4 << 20
"""The same in bytes of heads, since further frames are passed on unread. A message that exceeds it is read to
its end."""
PEER_MESSAGES = 512
"""High-water mark per peer."""
SLEPT_EXIT = 75
"""Exit status of a broker that was frozen for longer than the liveness span: start a new one."""
SAMPLE_SPAN_S = 1.0
QUIET_MS = 20
"""At the end, a socket from which nothing has come for this long has nothing more to report."""
PLANNED = "the broker is stopping"
ORPHANED = "the broker is stopping because its supervisor has died"
"""Reasons that clients are given at its end."""

log = logging.getLogger("reqpool")


class BrokerServer:
    """Bound sockets around one :class:`~.broker.Broker`.

    Args:
        intake: URL to bind for clients, ``tcp://host:port`` or ``ipc://path``. Port 0 takes a free one.
        results: URL for the first results socket; None puts it beside the intake: the next port, a free port
            if the intake's was 0, or the intake's path with ``.results`` appended.
        workers: URL for the workers socket; None as for ``results`` (the port after the next, ``.workers``).
        advertise: how WELCOME names the results socket, where clients cannot derive it; then there is only
            one.
        predecessors: what the supervisor knows; None: there is none.
        config: see :class:`~.broker.Broker`.

    Raises:
        UsageError: if a URL cannot be bound; names it and why.
    """

    def __init__(
        self,
        intake: str,
        results: str | None = None,
        workers: str | None = None,
        advertise: str | None = None,
        predecessors: LiveWorkers | None = None,
        config: Config = EMPTY,
    ) -> None:
        self._context = zmq.Context()
        self._gate = ConnectionGate(file_limit(), config.clients)
        self._epoll = select.epoll()
        self._takers: dict[int, Callable[[float], bool]] = {}
        self._intake = self._socket(zmq.ROUTER, intake, PEER_MESSAGES)
        self._results = Publisher(
            lambda url: self._socket(zmq.XPUB, url, PEER_MESSAGES),
            results or _beside(intake, 1, "results"),
            None if advertise else lambda number: _another(self.urls["results"], intake, number),
            self._gate.note_strange,
        )
        # Towards workers, credit is the bound; a high-water mark would only lose leases.
        self._workers = self._socket(zmq.ROUTER, workers or _beside(intake, 2, "workers"), 0, clients=False)
        self.urls = {
            "intake": endpoint(self._intake),
            "results": self._results.urls[0],
            "workers": endpoint(self._workers),
        }
        self._fds = {socket: int(socket.FD) for socket in (self._intake, self._workers)}
        self._process = psutil.Process()
        self._sample: dict[str, Any] = {}
        self._lag_s = 0.0
        self._ended = False
        named = advertise or last_part(self.urls["results"])
        workers_known, reign, deaths = predecessors or (None, os.urandom(REIGN_BYTES), 0)
        self.broker = broker = Broker(
            named,
            time.monotonic(),
            epoch=random.SystemRandom().getrandbits(48) | 1,
            predecessors=workers_known,
            reign=reign,
            deaths=deaths,
            config=config,
        )
        intake_fd, workers_fd = self._fds.values()
        self.listen(intake_fd, lambda now_s: _drain(self._intake, broker.client_messages.message, now_s))
        self.listen(workers_fd, lambda now_s: _drain(self._workers, broker.worker_messages.message, now_s))
        self.listen(self._results.fileno(), lambda _: self._results.take(broker))

    def _socket(self, kind: int, url: str, send_mark: int, *, clients: bool = True) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_MESSAGE_BYTES)
        socket.setsockopt(zmq.IPV6, 1)
        socket.setsockopt(zmq.ZAP_DOMAIN, b"reqpool")
        # Per peer: one that sends faster than is read is slowed down by its own connection; for one that
        # does not read, replies are dropped (EAGAIN).
        socket.setsockopt(zmq.RCVHWM, PEER_MESSAGES)
        socket.setsockopt(zmq.SNDHWM, send_mark)
        if kind == zmq.ROUTER:
            socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        else:
            socket.setsockopt(zmq.XPUB_MANUAL, 1)
            socket.setsockopt(zmq.XPUB_NODROP, 1)
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        socket.setsockopt(zmq.BACKLOG, self._gate.backlog)
        fd = self._gate.watch(socket, clients=clients)
        try:
            socket.bind(url)
        except zmq.ZMQError as error:
            self._gate.unwatch(fd, socket)
            socket.close()
            raise UsageError(f"cannot bind {url}: {os.strerror(error.errno or 0)}") from error
        self.listen(fd, lambda _: self._gate.take(fd))
        return socket

    def listen(self, fd: int, take: Callable[[float], bool]) -> None:
        """Call ``take`` in each turn in which there may be something to read; it returns whether more is."""
        self._takers[fd] = take
        self._epoll.register(fd, select.EPOLLIN)

    def end(self) -> None:
        """End in this turn, before anything more is leased; to be called by what :meth:`listen` calls."""
        self._ended = True

    def run(self, stop: Callable[[], bool], reload: Callable[[], Config | None]) -> int:
        """Serve until ``stop()`` is true; call it on the thread that made the server.

        Args:
            stop: asked about every 50 ms.
            reload: likewise; a configuration that it returns is taken.

        Returns:
            An exit status: 0, or :data:`SLEPT_EXIT` if the process was frozen and must begin a new epoch.
        """
        broker, clock = self.broker, time.monotonic
        epoll, takers = self._epoll, self._takers
        placement = broker.placement
        due_s = next_tick_s = next_sample_s = looked_s = ended_s = clock()
        freezes = FreezeDetector(broker.liveness_s + TICK_S)
        unread = list(takers)
        status = 0
        while True:
            ready = unread
            for fd, _ in epoll.poll(0.0 if unread else max(0.0, due_s - ended_s)):
                if fd not in ready:
                    ready.append(fd)
            now_s = clock()
            ticks = now_s >= next_tick_s
            if ticks:
                if stop():
                    break
                config = reload()
                if config is not None:
                    broker.reconfigure(config)
                    self._gate.reconfigure(config.clients)
            unread = [fd for fd in ready if takers[fd](now_s)]
            span_s = clock() - looked_s
            if span_s > freezes.most_s and freezes.slept(span_s):
                # Frozen, perhaps in the middle of the turn: what was queued here is old, peers have moved on
                # without this broker, and nothing that this turn has decided may leave.
                status = SLEPT_EXIT
                break
            if self._ended:
                break
            looked_s += span_s
            if ticks:
                next_tick_s = now_s + TICK_S
                freezes.note()
                if now_s >= next_sample_s:
                    next_sample_s = now_s + SAMPLE_SPAN_S
                    self._take_sample()
                broker.tick(now_s)
            else:
                broker.flush(now_s)
            if now_s >= due_s:
                due_s = min(next_tick_s, broker.next_beat_s)
            if placement.wanting:
                self._results.extend(broker, now_s)
            self._send(unread)
            ended_s = clock()
            if ended_s - now_s > self._lag_s:
                self._lag_s = ended_s - now_s
        freezes.close()
        return status

    def close(self, why: str = PLANNED) -> None:
        """Say goodbye and close the sockets; waits at most 200 ms for the goodbyes to leave.

        Args:
            why: the reason that clients are given.
        """
        self._hear_out(all_leave=why == ORPHANED)
        self.broker.heartbeats.goodbye(why)
        self._send([])
        self._gate.close(self._intake, *self._results.sockets, self._workers)
        for socket in (self._intake, *self._results.sockets, self._workers):
            socket.close(linger=round(GOODBYE_LINGER_S * 1000))
        self._context.term()
        self._results.close()
        self._epoll.close()

    def _hear_out(self, *, all_leave: bool) -> None:
        """Read the last reports of workers and of the supervisor: what has ended, and what was never run.

        They were sent before the signal that ends this process, but may come after it. With ``all_leave``,
        every worker is about to hand back what it has not sent.
        """
        end_s = time.monotonic() + LAST_WORDS_S
        while (now_s := time.monotonic()) < end_s and (
            self._workers.poll(QUIET_MS) or (all_leave and self.broker.connections.any_serves)
        ):
            _drain(self._workers, self.broker.worker_messages.message, now_s)

    def _send(self, unread: list[int]) -> None:
        """Send what the broker has decided; adds the fds of sockets that have become readable meanwhile."""
        outbox = self.broker.outbox
        for socket, messages in ((self._workers, outbox.workers), (self._intake, outbox.intake)):
            if messages:
                _send_all(socket, messages)
                fd = self._fds[socket]
                if fd not in unread and zmq_sockets.readable(socket):
                    unread.append(fd)
        if outbox.results and self._results.send(self.broker) and self._results.fileno() not in unread:
            unread.append(self._results.fileno())

    def _take_sample(self) -> None:
        process = self._process
        try:
            with process.oneshot():
                self._sample = {
                    "pid": process.pid,
                    "cpu_percent": process.cpu_percent(),  # since the last sample; 0.0 in the first
                    "rss_bytes": process.memory_info().rss,
                    "fds": process.num_fds(),
                    "threads": process.num_threads(),
                }
        except OSError:
            pass  # /proc is read through file descriptors, of which there may be none: the last sample stands
        self.broker.status.sample = {
            **self._sample,
            "loop_lag_ms": round(self._lag_s * 1000, 3),
            "connections": self._gate.report(),
        }
        self._lag_s = 0.0
        if news := self._gate.news(time.monotonic()):
            log.warning("%s", news)


def _drain(
    socket: zmq.Socket[bytes], take: Callable[[bytes, list[bytes], float], None], now_s: float
) -> bool:
    """Read messages, in bounds; returns True if more may be there."""
    end_s = size_bytes = 0.0
    for number in range(1, MESSAGES_PER_TURN + 1):
        try:
            frames = zmq_sockets.receive(socket)
        except zmq.Again:
            return False
        take(frames[0], frames[1:], now_s)
        if number < zmq_sockets.SEVERAL and not zmq_sockets.readable(socket):
            return False
        # Only now: a message that comes alone, as most do, needs no bound.
        clock_s = time.monotonic()
        end_s = end_s or clock_s + READ_S
        size_bytes += len(frames[1])
        if size_bytes > BYTES_PER_TURN or clock_s >= end_s:
            break
    return True


def _send_all(socket: zmq.Socket[bytes], messages: list[list[bytes]]) -> None:
    for frames in messages:
        try:
            zmq_sockets.send(socket, frames)
        except zmq.Again:
            # Only the intake has a high-water mark: what is dropped is for a peer that does not read.
            continue
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            # The peer has gone: its silence will be noticed, and what it had handed to others.
    messages.clear()


def _beside(url: str, offset: int, name: str) -> str:
    scheme, _, rest = url.partition("://")
    if scheme == "ipc":
        # Derived from the whole name: several clusters, and other files, may share the folder.
        return f"ipc://{rest}.{name}"
    host, _, port = rest.rpartition(":")
    if not port.isdigit():
        raise UsageError(f"cannot bind {url}: expected tcp://host:port or ipc://path")
    return f"{scheme}://{host}:{int(port) + offset if int(port) else 0}"


def _another(results: str, intake: str, number: int) -> str:
    """Return where another results socket may be: a port of the first one's host, or beside the intake."""
    if results.startswith("tcp:"):
        return f"{results.rpartition(':')[0]}:0"
    return _beside(intake, 0, f"res{number}")
