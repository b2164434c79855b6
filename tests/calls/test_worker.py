"""The worker's side: from a LEASE to its RESULTS, with its real loop, and real connections to a Redis that is
played on the same thread."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from reqpool_contract import wire
from reqpool_contract.wire import Flag, LeaseGroup, Verb
from reqpool_workers.protocols import load as load_kinds
from reqpool_workers.worker_process import WorkerProcess

from .counting import BATCH, GROUPS, Counted, Load

EPOCH = 7
REPLY = b'"value'
"""A bulk string as kind redis has it travel."""
SLOTS = 4
"""Connections that are granted."""


class PlayedRedis:
    """Answers each command, whatever it is, with the same value, when asked to."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._connections: list[socket.socket] = []
        self.origin = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"

    def answer(self) -> None:
        """Take connections that wait, and answer what has come."""
        try:
            while True:
                connection, _ = self._listener.accept()
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._connections.append(connection)
        except BlockingIOError:
            pass
        for connection in self._connections:
            try:
                data = connection.recv(1 << 20)
            except BlockingIOError:
                continue
            replies = [
                b"+OK\r\n" if b"SETNAME" in command else b"$5\r\nvalue\r\n"
                for command in data.split(b"*")[1:]
            ]
            connection.sendall(b"".join(replies))

    def close(self) -> None:
        for one in (self._listener, *self._connections):
            one.close()


class PlayedBroker:
    """In the place of the worker's socket: what the broker says, and what it is told.

    Attributes:
        results: of the RESULTS that have come, how many outcomes.
    """

    def __init__(self, worker: WorkerProcess, redis: PlayedRedis) -> None:
        self._worker = worker
        self._redis = redis
        self._said: deque[list[bytes]] = deque()
        self._seen = self._received = self._beats = 0
        self._wanted = 1
        self.results = 0

    def say(self, verb: Verb, *values: Any) -> None:
        self._said.append([wire.encode(verb, EPOCH, self._seen, *values)])

    # --- the worker's -----------------------------------------------------------------------------

    @property
    def readable(self) -> bool:
        self._redis.answer()
        return bool(self._said)

    def receive(self) -> list[bytes] | None:
        return self._said.popleft() if self._said else None

    def send(self, frames: list[bytes]) -> None:
        verb, fields = wire.decode(frames[0], wire.WORKER_TO_BROKER)
        if verb is Verb.HELLO:
            about = {"epoch": EPOCH, "heartbeat_ms": 60_000, "liveness_ms": 300_000}
            self._said.append([wire.encode(Verb.WELCOME, wire.VERSION, about)])
            self.acknowledge()
            self.say(Verb.GRANT, self._redis.origin, 1, SLOTS, {})
        elif verb is Verb.HEARTBEAT:
            self._seen = fields[2]
        elif verb is Verb.GRANTED:
            self._worker.loop.stop()
        elif verb is Verb.RESULTS:
            self._received = fields[2]
            for (_, seqs, failed), blob in zip(fields[3], frames[1:], strict=True):
                assert not failed
                assert wire.decode_blob(blob)[2::3] == (REPLY,) * len(seqs)
                self.results += len(seqs)
            if self.results >= self._wanted:
                self._worker.loop.stop()

    def close(self, *, goodbye: bool = False) -> None:
        pass

    # --- the test's -------------------------------------------------------------------------------

    def lease(self, groups: list[LeaseGroup]) -> None:
        """Lease requests, and have the loop stop once all have been answered."""
        self.results, self._wanted = 0, sum(len(group.seqs) for group in groups)
        self.say(Verb.LEASE, groups)

    def acknowledge(self) -> None:
        """Tell the worker that all results have come, with the next message."""
        self._beats += 1
        self.say(Verb.HEARTBEAT, self._beats, self._received, ())


class FedWorker(WorkerProcess):
    """A worker whose broker is played."""

    broker: PlayedBroker
    redis: PlayedRedis

    def dial(self) -> None:
        self.broker = PlayedBroker(self, self.redis)
        self._socket = self.broker  # type: ignore[assignment]


@contextmanager
def running() -> Iterator[FedWorker]:
    """A worker with connections granted."""
    worker = FedWorker("ipc://nowhere", bytes(16), "counted", load_kinds())
    worker.redis = PlayedRedis()
    try:
        worker.loop.run(worker._end_turn)  # until GRANTED has come
        yield worker
    finally:
        worker.stop()
        worker.run()
        worker.redis.close()


def _group(session: int, origin: str, seqs: range) -> LeaseGroup:
    payloads = (b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n",) * len(seqs)
    flags = int(Flag.IDEMPOTENT)
    identity = session.to_bytes(wire.SESSION_ID_BYTES)
    return LeaseGroup(identity, "redis", origin, 10_000, flags, 1, None, None, tuple(seqs), payloads)


def _count(sessions: int, requests: int) -> Counted:
    """Lease so many sessions' requests in one message; count until all have been answered."""
    with running() as worker:
        seq = 0
        for _ in range(4):
            leased = []
            for session in range(sessions):
                leased.append(_group(session, worker.redis.origin, range(seq + 1, seq + 1 + requests)))
                seq += requests
            worker.broker.lease(leased)
            with Counted() as counted:
                worker.loop.run(worker._end_turn, worker.conversation.wake)
            assert worker.broker.results == sessions * requests
            worker.broker.acknowledge()
            worker._end_turn()
    return counted


def lone() -> Counted:
    """One request."""
    return _count(1, 1)


def groups() -> Counted:
    """One request of each of many sessions."""
    return _count(GROUPS, 1)


def batch() -> Counted:
    """Many requests of one session."""
    return _count(1, BATCH)


LOADS = [
    Load("worker, a lone request", 1, "request", 46, lone),
    Load(
        "worker, groups of one request, each of another session, in one message",
        GROUPS,
        "group",
        745,
        groups,
    ),
    Load("worker, one group", BATCH, "request", 286, batch),
]


@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.name)
def test_the_way_of_a_request_through_the_worker_is_no_longer_than_it_was(load: Load) -> None:
    load.check()
