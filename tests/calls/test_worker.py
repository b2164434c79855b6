"""The worker's side: from a LEASE to its RESULTS, with its real loop, and real sockets to an upstream that is
played on the same thread."""

from __future__ import annotations

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
from .played_upstreams import PlayedDns, PlayedHttp, PlayedRedis, PlayedUpstream

EPOCH = 7


class PlayedBroker:
    """In the place of the worker's socket: what the broker says, and what it is told.

    Attributes:
        results: of the RESULTS that have come, how many outcomes.
    """

    def __init__(self, worker: WorkerProcess, upstream: PlayedUpstream) -> None:
        self._worker = worker
        self._upstream = upstream
        self._said: deque[list[bytes]] = deque()
        self._seen = self._received = self._beats = self._ungranted = 0
        self._wanted = 1
        self.results = 0

    def say(self, verb: Verb, *values: Any) -> None:
        self._said.append([wire.encode(verb, EPOCH, self._seen, *values)])

    # --- the worker's -----------------------------------------------------------------------------

    @property
    def readable(self) -> bool:
        self._upstream.answer()
        return bool(self._said)

    def receive(self) -> list[bytes] | None:
        return self._said.popleft() if self._said else None

    def send(self, frames: list[bytes]) -> None:
        verb, fields = wire.decode(frames[0], wire.WORKER_TO_BROKER)
        if verb is Verb.HELLO:
            about = {"epoch": EPOCH, "heartbeat_ms": 60_000, "liveness_ms": 300_000}
            self._said.append([wire.encode(Verb.WELCOME, wire.VERSION, about)])
            self.acknowledge()
            for number, origin in enumerate(self._upstream.origins, 1):
                self.say(Verb.GRANT, origin, number, self._upstream.granted, {})
            self._ungranted = len(self._upstream.origins)
        elif verb is Verb.HEARTBEAT:
            self._seen = fields[2]
        elif verb is Verb.GRANTED:
            self._ungranted -= 1
            if not self._ungranted:
                self._worker.loop.stop()
        elif verb is Verb.RESULTS:
            self._received = fields[2]
            for (_, seqs, failed), blob in zip(fields[3], frames[1:], strict=True):
                assert not failed
                assert all(map(self._upstream.is_answer, wire.decode_blob(blob)[2::3]))
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
    upstream: PlayedUpstream

    def dial(self) -> None:
        self.broker = PlayedBroker(self, self.upstream)
        self._socket = self.broker  # type: ignore[assignment]


@contextmanager
def running(upstream: PlayedUpstream) -> Iterator[FedWorker]:
    """A worker with connections granted."""
    worker = FedWorker("ipc://nowhere", bytes(16), "counted", load_kinds())
    worker.upstream = upstream
    try:
        worker.loop.run(worker._end_turn)  # until GRANTED has come
        yield worker
    finally:
        worker.stop()
        worker.run()
        upstream.close()


def _group(session: int, upstream: PlayedUpstream, origin: str, seqs: range) -> LeaseGroup:
    payloads = (upstream.payload,) * len(seqs)
    flags = int(Flag.IDEMPOTENT)
    identity = session.to_bytes(wire.SESSION_ID_BYTES)
    return LeaseGroup(identity, upstream.kind, origin, 10_000, flags, 1, None, None, tuple(seqs), payloads)


def _count(upstream: PlayedUpstream, sessions: int, requests: int) -> Counted:
    """Lease so many sessions' requests to each origin in one message; count until all have been answered."""
    with running(upstream) as worker:
        seq = 0
        for _ in range(4):
            leased = []
            for session in range(sessions):
                for origin in upstream.origins:
                    leased.append(_group(session, upstream, origin, range(seq + 1, seq + 1 + requests)))
                    seq += requests
            worker.broker.lease(leased)
            with Counted() as counted:
                worker.loop.run(worker._end_turn, worker.conversation.wake)
            assert worker.broker.results == len(leased) * requests
            worker.broker.acknowledge()
            worker._end_turn()
    return counted


def lone() -> Counted:
    """One request."""
    return _count(PlayedRedis(1), 1, 1)


def groups() -> Counted:
    """One request of each of many sessions."""
    return _count(PlayedRedis(1), GROUPS, 1)


def batch() -> Counted:
    """Many requests of one session."""
    return _count(PlayedRedis(1), 1, BATCH)


def questions() -> Counted:
    """Many questions of one session, by datagram."""
    return _count(PlayedDns(), 1, BATCH)


def gets() -> Counted:
    """Many requests of one session, each on a connection of its own."""
    return _count(PlayedHttp(1), 1, GROUPS)


def sites() -> Counted:
    """Requests of one session to many origins, one to each."""
    return _count(PlayedHttp(GROUPS), 1, 1)


LOADS = [
    Load("worker, a lone request", 1, "request", 42, lone),
    Load(
        "worker, groups of one request, each of another session, in one message",
        GROUPS,
        "group",
        674,
        groups,
    ),
    Load("worker, one group", BATCH, "request", 281, batch),
    Load("worker, one group of DNS questions", BATCH, "request", 653, questions),
    Load("worker, one group of HTTP requests", GROUPS, "request", 672, gets),
    Load("worker, groups of one HTTP request, each to another origin", GROUPS, "group", 1_049, sites),
]


@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.name)
def test_the_way_of_a_request_through_the_worker_is_no_longer_than_it_was(load: Load) -> None:
    load.check()
