"""The broker's side: from a SUBMIT to its LEASE, and from a RESULTS to what is published."""

from __future__ import annotations

from typing import Any

import pytest

from reqpool_contract import wire
from reqpool_contract.wire import Flag, SubmitGroup, Verb
from support.fake_peers import Desk, FakeClient, FakeWorker

from .counting import BATCH, GROUPS, Counted, Load

REDIS = ("redis", True, 64, 128)
ORIGIN = "redis://127.0.0.1"


class Site:
    """A broker, its only worker, and so many clients, each with a session."""

    def __init__(self, clients: int) -> None:
        self.desk = Desk()
        self.worker: FakeWorker = self.desk.worker(REDIS)
        self.clients: list[FakeClient] = [self.desk.client() for _ in range(clients)]
        self._seq = 0

    def run(self, requests: int, origins: int = 1) -> Counted:
        """Have each client submit ``requests`` for each of ``origins`` in one message, all in one turn.

        The worker answers all in one message.
        """
        broker, now_s = self.desk.broker, self.desk.now_s
        submits = []
        for client in self.clients:
            client.submitted += 1
            head = wire.encode(Verb.SUBMIT, client.submitted, client.acked, self._groups(requests, origins))
            submits.append((client.route, [head]))
        with Counted() as counted:
            for route, frames in submits:
                broker.client_messages.message(route, frames, now_s)
            broker.flush(now_s)
        self.desk.deliver()
        assert len(self.worker.held()) == requests * origins * len(self.clients)
        results = self._results()
        with counted:
            broker.worker_messages.message(self.worker.route, results, now_s)
            broker.flush(now_s)
        self.desk.deliver()
        for client in self.clients:
            assert len(client.outcomes) == requests * origins
            client.outcomes.clear()
            client.acked = max(client.batches)
        return counted

    def _groups(self, requests: int, origins: int) -> list[SubmitGroup]:
        return [self._group(requests, f"{ORIGIN}:{6379 + number}") for number in range(origins)]

    def _group(self, requests: int, origin: str) -> SubmitGroup:
        seqs = tuple(range(self._seq + 1, self._seq + 1 + requests))
        self._seq += requests
        payloads = (b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n",) * requests
        return SubmitGroup("redis", (origin,), 10_000, int(Flag.IDEMPOTENT), 1, None, None, seqs, payloads)

    def _results(self) -> list[bytes]:
        worker = self.worker
        by_session: dict[bytes, tuple[int, ...]] = {}
        for lease in worker.leases:
            by_session[lease.session] = by_session.get(lease.session, ()) + lease.seqs
        told = [(session, seqs, 0) for session, seqs in by_session.items()]
        blobs = []
        for seqs in by_session.values():
            flat: list[Any] = []
            for seq in seqs:
                flat += (seq, 0, b'"value')
            blobs.append(wire.encode_blob(flat))
        worker.leases = []
        worker.numbered += 1
        head = wire.encode(Verb.RESULTS, worker.epoch, worker.seen, worker.numbered, told)
        return [head, *blobs]


def _count(clients: int, requests: int, origins: int = 1) -> Counted:
    site = Site(clients)
    for _ in range(3):
        counted = site.run(requests, origins)
    site.desk.check_books()
    return counted


def lone() -> Counted:
    """One request of one session."""
    return _count(1, 1)


def groups() -> Counted:
    """One request of each of many sessions, in one turn."""
    return _count(GROUPS, 1)


def origins() -> Counted:
    """One request of one session for each of many origins, in one message."""
    return _count(1, 1, GROUPS)


def batch() -> Counted:
    """Many requests of one session for one origin."""
    return _count(1, BATCH)


LOADS = [
    Load("broker, a lone request", 1, "request", 20, lone),
    Load("broker, groups of one request, each of another session, in one turn", GROUPS, "group", 656, groups),
    Load(
        "broker, groups of one request, each for another origin, in one message",
        GROUPS,
        "group",
        340,
        origins,
    ),
    Load("broker, one group", BATCH, "request", 20, batch),
]


@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.name)
def test_the_way_of_a_request_through_the_broker_is_no_longer_than_it_was(load: Load) -> None:
    load.check()
