"""What one turn of a datagram socket reports, and in which order."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from reqpool_workers.datagram_socket import DatagramSocket, SocketOwner
from reqpool_workers.event_loop import EventLoop
from reqpool_workers.protocols.addresses import Address
from reqpool_workers.protocols.datagram_protocol import Then

THEN = {b"a": None, b"s": Then.STREAM, b"e": Then.ELSEWHERE, b"r": Then.AGAIN}


class Letters:
    """A protocol whose datagrams are a letter, which says what to do, and the request's number."""

    def __init__(self) -> None:
        self.asked: dict[bytes, Any] = {}

    @property
    def open_requests(self) -> list[Any]:
        return list(self.asked.values())

    def ask(self, request: Any) -> bytes:
        self.asked[request.seq] = request
        return b"ask" + request.seq

    def again(self, request: Any, _repeated: int) -> bytes:
        return b"again" + request.seq

    def feed(self, datagram: bytes) -> tuple[Any, Then | None] | None:
        then = THEN[datagram[:1]]
        request = self.asked.get(datagram[1:])
        if request is not None and then is not Then.AGAIN:
            del self.asked[datagram[1:]]
        return request and (request, then)


class Owner:
    """Notes what it is told."""

    name = "letters"

    def __init__(self, loop: EventLoop) -> None:
        self.loop = loop
        self.told: list[tuple[str, Any]] = []
        self.outcomes = self
        self.kind = SimpleNamespace(
            protocol=lambda _name, _now_s: Letters(), requests_per_socket=100, repeats=True
        )

    def finish_many(self, finished: Sequence[tuple[Any, int, bytes]]) -> None:
        for request, code, data in finished:
            request.lease.live -= 1
            self.told.append(("finish", (request.seq, code, data)))

    def count_ignored(self) -> None:
        self.told.append(("ignored", None))

    def measured(self, lease: Any) -> None:
        self.told.append(("measured", lease.name))

    def take_up(self, request: Any, then: Then, _datagram: bytes) -> None:
        self.told.append((then.value, request.seq))

    def forget_socket(self, _one: DatagramSocket) -> None:
        self.told.append(("closed", None))

    def fail(self, requests: list[Any], _error: OSError, *, sent: bool) -> None:
        self.told.append(("failed", [request.seq for request in requests]))


class Lease:
    """As much of one as a socket looks at."""

    resent = 0

    def __init__(self, name: str, live: int) -> None:
        self.name, self.live = name, live


class Exchange:
    """A socket with requests open, and its peer."""

    def __init__(self) -> None:
        self.peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.peer.bind(("127.0.0.1", 0))
        self.loop = EventLoop()
        self.owner = Owner(self.loop)
        address = Address(socket.AF_INET, self.peer.getsockname())
        self.socket = DatagramSocket(cast(SocketOwner, self.owner), address, self.loop.now_s)

    def ask(self, **leases: bytes) -> None:
        """Ask what the letters of each lease are."""
        for name, seqs in leases.items():
            lease = Lease(name, len(seqs))
            requests = [SimpleNamespace(seq=bytes((seq,)), lease=lease, place=None) for seq in seqs]
            assert self.socket.ask(cast(Any, requests)) is None

    def answered(self, *datagrams: bytes) -> list[tuple[str, Any]]:
        """What the owner is told of these, which have all come by the time of the turn."""
        place = self.socket.socket.getsockname()
        for datagram in datagrams:
            self.peer.sendto(datagram, place)
        self.owner.told.clear()
        self.socket.on_event(0)
        return self.owner.told


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    exchange = Exchange()
    yield exchange
    if exchange.socket.socket.fileno() >= 0:
        exchange.socket.close()
    exchange.peer.close()
    exchange.loop.close()


def test_outcomes_keep_the_order_of_their_datagrams(exchange: Exchange) -> None:
    exchange.ask(first=b"12345")
    assert exchange.answered(b"a1", b"s2", b"a3", b"a9", b"r4", b"e5") == [
        ("finish", (b"1", 0, b"a1")),
        ("stream", b"2"),
        ("ignored", None),
        ("finish", (b"3", 0, b"a3")),
        ("elsewhere", b"5"),
    ]
    assert exchange.socket.open == 1


def test_a_lease_is_measured_once_when_all_of_it_is_answered(exchange: Exchange) -> None:
    exchange.ask(first=b"12", second=b"34", third=b"56")
    told = exchange.answered(b"a1", b"a3", b"a2", b"a4", b"a5")
    assert [one for one in told if one[0] == "measured"] == [("measured", "first"), ("measured", "second")]


class Refused(socket.socket):
    """A socket whose second read reports that the peer's port is closed."""

    came = b"a1"

    def recv(self, *_: Any) -> bytes:
        came, self.came = self.came, b""
        if came:
            return came
        raise ConnectionRefusedError


def test_what_came_before_an_error_is_an_answer(exchange: Exchange) -> None:
    exchange.ask(first=b"12")
    exchange.socket.socket = Refused(fileno=exchange.socket.socket.detach())
    exchange.owner.told.clear()
    exchange.socket.on_event(0)
    assert exchange.owner.told == [("finish", (b"1", 0, b"a1")), ("closed", None), ("failed", [b"2"])]
