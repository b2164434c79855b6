"""Requests whose connection closes in the turn in which they were asked: they were not sent."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import pytest

from reqpool_contract.errors import Code
from reqpool_contract.policy import Policy
from reqpool_contract.wire import Flag, LeaseGroup
from reqpool_workers.connection import Connection
from reqpool_workers.connection_state import ConnectionState
from reqpool_workers.event_loop import EventLoop
from reqpool_workers.lease import Pin
from reqpool_workers.lease_outcomes import LeaseOutcomes
from reqpool_workers.owed_ports import OwedPorts
from reqpool_workers.resolver import Resolver
from reqpool_workers.stream_origin import StreamOrigin
from reqpool_workers.worker_ledger import WorkerLedger
from reqpool_workers.worker_origins import WorkerOrigins
from support.lines import lines

SESSION = bytes(16)
PIN: Pin = (SESSION, 7)


class Site:
    """An origin, and its server, on one thread.

    Attributes:
        peers: connections that the server has accepted.
    """

    def __init__(self, loop: EventLoop, listener: socket.socket) -> None:
        self.loop = loop
        self.ledger = WorkerLedger()
        self.reports = self.ledger.reports
        ports = OwedPorts()
        self.origins = WorkerOrigins(loop, LeaseOutcomes(self.ledger), lines(4), Resolver(loop, ports), ports)
        self.name = f"lines://127.0.0.1:{listener.getsockname()[1]}"
        self.origins.grant(self.name, 2, Policy())
        origin = self.origins.reach("lines", self.name, b"")
        assert isinstance(origin, StreamOrigin)
        self.origin = origin
        self.peers: list[socket.socket] = []
        self._listener = listener

    def submit(self, *seqs: int, flags: int = 0, pin: int | None = None) -> None:
        payloads = tuple(b"%d\n" % seq for seq in seqs)
        group = LeaseGroup(SESSION, "lines", self.name, 10_000, flags, 1, pin, None, seqs, payloads)
        lease = self.ledger.admit(group, self.loop.now_s)
        lease.upstream = self.origin
        if pin is not None and not flags & Flag.OPENS:
            self.origin.submit_pinned(lease, (SESSION, pin))
        else:
            self.origin.submit(lease, self.loop.now_s)

    def serve(self) -> None:
        """Answer what has come, in the peer's part."""
        try:
            while True:
                peer, _ = self._listener.accept()
                peer.setblocking(False)
                self.peers.append(peer)
        except BlockingIOError:
            pass
        for peer in self.peers:
            with suppress(OSError):
                peer.sendall(peer.recv(1_000))

    def run_until(self, condition: Callable[[], object]) -> None:
        """Run the loop; it is stopped at the end of a turn, before what gathered in it has been written."""
        written = self.loop.write_out
        self.loop.write_out = lambda: None if condition() else written()  # type: ignore[method-assign]

        def end_turn() -> bool:
            self.serve()
            if condition():
                self.loop.stop()
            return True

        try:
            self.loop.run(end_turn)
        finally:
            self.loop.write_out = written  # type: ignore[method-assign]

    def asked(self) -> bool:
        """Whether a connection has been asked for something that is not written."""
        return any(one._io.gathered for one in self.origin.pool.members)

    def cut(self) -> Connection:
        """Close the connection for which something has gathered."""
        (one,) = (one for one in self.origin.pool.members if one._io.gathered)
        one.close("cut")
        return one

    def results(self) -> dict[int, int]:
        return {
            seq: code
            for _, flat, _ in self.reports.take_results()
            for seq, code in zip(flat[0::3], flat[1::3], strict=True)
        }


@pytest.fixture
def site() -> Iterator[Site]:
    loop = EventLoop()
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.setblocking(False)
        site = Site(loop, listener)
        yield site
        site.origins.close("the test is over")
        for peer in site.peers:
            peer.close()
    loop.close()


def test_they_are_asked_on_a_fresh_connection_though_they_must_not_be_repeated(site: Site) -> None:
    site.submit(1)
    site.run_until(lambda: site.reports.done == 1)
    site.submit(2, 3)
    assert site.asked()
    site.cut()
    site.run_until(lambda: site.reports.done == 3)
    assert site.results() == {1: 0, 2: 0, 3: 0}
    assert len(site.peers) == 2
    assert not site.reports.take_failures()


def test_the_second_time_they_end_as_not_sent(site: Site) -> None:
    site.submit(1)
    for _ in range(2):
        site.run_until(site.asked)
        site.cut()
    assert [(one.seqs, one.code, one.sent) for one in site.reports.take_failures()] == [
        ((1,), Code.CONNECTION_LOST, False)
    ]
    assert not any(site.ledger.running())


def test_a_pin_that_was_to_begin_is_not_lost(site: Site) -> None:
    site.submit(1, flags=Flag.OPENS, pin=7)
    site.run_until(site.asked)
    assert site.origin.pins == [PIN]
    site.cut()
    assert site.origin.pins == []
    site.run_until(lambda: site.reports.done == 1)
    assert site.results() == {1: 0}
    assert site.origin.pins == [PIN]
    assert site.reports.take_unpinned() == []


def test_on_a_pinned_connection_they_end_with_it(site: Site) -> None:
    site.submit(1, flags=Flag.OPENS, pin=7)
    site.run_until(lambda: site.reports.done == 1)
    site.results()
    (pinned,) = site.origin.pool.members
    assert pinned.state is ConnectionState.READY
    site.submit(2, pin=7)
    site.cut()
    assert site.reports.take_unpinned() == [PIN]
    assert [(one.seqs, one.code, one.sent) for one in site.reports.take_failures()] == [
        ((2,), Code.CONNECTION_LOST, False)
    ]
