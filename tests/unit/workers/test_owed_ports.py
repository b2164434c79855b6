"""A port at which an answer may yet come is nobody else's: the answer is not taken for another request's."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest

from reqpool_contract.wire import Verb
from reqpool_workers.owed_ports import KEPT_S, MOST_KEPT, OwedPorts
from support import dns_peer
from support.dns_peer import UdpPeer, echo
from support.fake_worker_broker import BROKER_FDS, SESSION, FakeBroker
from support.leaks import no_leak
from support.tcp_peer import TcpPeer, answers
from support.wait import wait_until


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    """A broker; what the test opened is closed when it is over."""
    with no_leak(), FakeBroker() as broker:
        yield broker


def is_taken(address: tuple[str, int]) -> bool:
    """Has somebody this port, so that nobody else can be given it?"""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.bind(("", address[1]))
        return False
    return True


def let_end(broker: FakeBroker, how: str, origin: str, peer: UdpPeer) -> None:
    """Have request 1 sent, and end it before it has an answer."""
    broker.lease("udp", origin, {1: b"early"}, flags=0, span_ms=300 if how == "timeout" else 10_000)
    peer.wait_for_queries(1)
    if how == "cancelled":
        broker.say(Verb.CANCEL, [(SESSION, (1,))])
    assert broker.results(1)[1][0] != 0


@pytest.mark.parametrize("how", ["timeout", "cancelled"])
def test_a_port_is_kept_until_the_answer_has_come(broker: FakeBroker, how: str) -> None:
    with UdpPeer(echo, held=True) as peer, broker.worker() as worker:
        broker.welcome()
        let_end(broker, how, f"udp://{peer.address}", peer)
        assert is_taken(peer.senders[0])
        peer.release()
        wait_until(lambda: not is_taken(peer.senders[0]))
        assert worker.ledger.reports.ignored == 1
        assert worker.loop.fds == BROKER_FDS
        assert broker.results(0) == {}


class Sockets:
    """Stands in for the socket module: sockets are made by ``make``."""

    def __init__(self, make: Callable[..., socket.socket]) -> None:
        self.socket = make

    def __getattr__(self, name: str) -> Any:
        return getattr(socket, name)


def test_a_late_answer_is_not_that_of_the_next_request(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with UdpPeer(echo, held=True) as peer, broker.worker():
        broker.welcome()
        origin = f"udp://{peer.address}"
        let_end(broker, "timeout", origin, peer)
        port = peer.senders[0][1]

        def with_that_port(*arguments: int) -> socket.socket:
            """What the kernel may do, with a port that is free."""
            made = socket.socket(*arguments)
            with contextlib.suppress(OSError):
                made.bind(("", port))
            return made

        monkeypatch.setattr("reqpool_workers.datagram_socket.socket", Sockets(with_that_port))
        broker.lease("udp", origin, {2: b"late"}, flags=0)
        peer.wait_for_queries(2)
        peer.release()
        assert broker.results(1) == {2: (0, b"late")}


def test_a_port_at_which_nothing_was_asked_is_free_at_once(broker: FakeBroker) -> None:
    with UdpPeer(echo) as peer, broker.worker() as worker:
        broker.welcome()
        broker.lease("udp", f"udp://{peer.address}", {1: b"on", 2: bytes(70_000)})
        broker.results(2)
        wait_until(lambda: worker.loop.fds == BROKER_FDS)


def test_queries_told_apart_by_an_id_keep_no_port(broker: FakeBroker) -> None:
    with UdpPeer(dns_peer.silent) as peer, broker.worker() as worker:
        broker.welcome()
        payload = b"\0\0\1\0\0\1\0\0\0\0\0\0\1x\0\0\1\0\1"
        broker.lease("dns", f"dns://{peer.address}", {1: payload}, span_ms=100)
        broker.failure()
        wait_until(lambda: worker.loop.fds == BROKER_FDS)


class Port:
    """Stands in for a socket."""

    def __init__(self, owed: OwedPorts) -> None:
        self._owed = owed
        self.closed = False

    def close(self) -> None:
        self.closed = True
        self._owed.remove(self)


def test_a_port_is_kept_for_a_while_only() -> None:
    owed = OwedPorts()
    first, second = Port(owed), Port(owed)
    owed.keep(first, 10.0)
    owed.keep(second, 20.0)
    owed.tend(10.0 + KEPT_S - 0.1)
    assert (first.closed, second.closed) == (False, False)
    owed.tend(10.0 + KEPT_S)
    assert (first.closed, second.closed) == (True, False)
    owed.close()
    assert second.closed
    assert not owed.give_way()


@pytest.mark.parametrize(("may_open", "most"), [(1 << 20, MOST_KEPT), (400, 100)])
def test_the_oldest_gives_way_where_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch, may_open: int, most: int
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (may_open, may_open))
    owed = OwedPorts()
    ports = [Port(owed) for _ in range(most + 1)]
    for port in ports:
        owed.keep(port, 0.0)
    assert [port.closed for port in ports] == [True] + most * [False]


@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_a_kept_port_gives_way_to_a_request(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    with (
        UdpPeer(echo, held=True) as peer,
        UdpPeer(echo) as other,
        TcpPeer(answers(b"yes\n")) as stream,
        broker.worker() as worker,
    ):
        broker.welcome()
        let_end(broker, "timeout", f"udp://{peer.address}", peer)

        def if_there_is_room(*arguments: int) -> socket.socket:
            if worker.loop.fds > BROKER_FDS:
                raise OSError(errno.EMFILE, "Too many open files")
            return socket.socket(*arguments)

        for module in ("datagram_socket", "happy_eyeballs"):
            monkeypatch.setattr(f"reqpool_workers.{module}.socket", Sockets(if_there_is_room))
        if kind == "udp":
            broker.lease("udp", f"udp://{other.address}", {2: b"yes\n"}, flags=0)
        else:
            origin = f"tcp://{stream.address}"
            broker.say(Verb.GRANT, origin, 1, 2, {})
            broker.lease("tcp", origin, {2: msgpack.packb([b"?\n", b"\n", None, 100])}, flags=0)
        assert broker.results(1) == {2: (0, b"yes\n")}
        assert not is_taken(peer.senders[0])
