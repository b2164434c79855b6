"""How requests are spread over sockets, and what is reported when there is none."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from reqpool_contract.errors import Code
from reqpool_contract.wire import LeaseGroup
from reqpool_workers import datagram_sender
from reqpool_workers.datagram_sender import (
    CHUNK,
    LONGEST_RESEND_S,
    SHORTEST_RESEND_S,
    SOCKETS,
    DatagramSender,
)
from reqpool_workers.event_loop import EventLoop
from reqpool_workers.lease import Request, SessionResults, WorkerLease
from reqpool_workers.owed_ports import OwedPorts
from reqpool_workers.protocols import Address, DatagramKind, numeric_address
from reqpool_workers.protocols.datagram_protocol import Then
from reqpool_workers.protocols.udp import OneDatagram

ORIGIN = "dns://192.0.2.1:53"


class Sink:
    """Notes how requests end."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, int]] = []
        self.resent = 0

    def finish(self, request: Request, code: int, data: bytes) -> None:
        self.ended.append(("finish", request.seq))

    def finish_many(self, finished: Sequence[tuple[Request, int, bytes]]) -> None:
        self.ended += [("finish", request.seq) for request, _, _ in finished]

    def conclude(
        self, request: Request, code: Code, text: str, *, phase: str | None = None, sent: bool | None = None
    ) -> None:
        self.ended.append(("conclude", request.seq))

    def fail(self, requests: list[Request], code: Code, text: str, *, phase: str, sent: bool) -> None:
        self.ended += [(text, request.seq) for request in requests]

    def decline(self, request: Request, answer: bytes) -> None:
        self.ended.append(("decline", request.seq))

    def give_back(self, requests: list[Request]) -> None:
        self.ended += [("give back", request.seq) for request in requests]

    def count_ignored(self) -> None:
        raise AssertionError

    def count_resent(self) -> None:
        self.resent += 1


class Socket:
    """Stands in for a socket: takes requests until it fails."""

    made: list[Socket]
    failure: OSError | None
    cannot_open: OSError | None

    def __init__(self, origin: DatagramSender, address: Address, now_s: float) -> None:
        if self.cannot_open is not None:
            raise self.cannot_open
        self.left = origin.kind.requests_per_socket
        self.open = 0
        self.used_s = self.retire_s = now_s
        self.asked: list[int] = []
        self.again_for: list[int] = []
        self.made.append(self)

    def ask(self, requests: list[Request]) -> OSError | None:
        for request in requests:
            if self.failure is not None and self.asked:
                return self.failure
            self.asked.append(request.seq)
            request.place = self
        self.left -= len(requests)
        return None

    def again(self, request: Request, repeated: int) -> bool:
        self.again_for.append(request.seq)
        return True


class Table:
    """A sender over such sockets."""

    def __init__(self, requests_per_socket: int = 10_000, *, repeats: bool = True) -> None:
        kind = DatagramKind(
            "dns", 8, numeric_address, lambda _origin, _now_s: OneDatagram(), requests_per_socket, repeats
        )
        self.sink = Sink()
        loop = cast(EventLoop, SimpleNamespace(now_s=100.0))
        self.sender = DatagramSender(loop, self.sink, kind, ORIGIN, OwedPorts())

    def lease(self, count: int) -> WorkerLease:
        seqs = tuple(range(count))
        group = LeaseGroup(b"", "dns", ORIGIN, 5_000, 0, 1, None, None, seqs, (b"",) * count)
        lease = WorkerLease(SessionResults(b""), group, 100.0)
        lease.requests = [Request(seq, b"", lease) for seq in seqs]
        lease.session.running.update(enumerate(lease.requests))
        lease.live = count
        return lease


@pytest.fixture(autouse=True)
def sockets(monkeypatch: pytest.MonkeyPatch) -> list[Socket]:
    made: list[Socket] = []
    for name, value in (("made", made), ("failure", None), ("cannot_open", None)):
        monkeypatch.setattr(Socket, name, value, raising=False)
    monkeypatch.setattr(datagram_sender, "DatagramSocket", Socket)
    return made


def test_a_burst_is_spread_over_a_few_sockets_in_turn(sockets: list[Socket]) -> None:
    table = Table()
    table.sender.submit(table.lease((SOCKETS + 1) * CHUNK), 100.0)
    assert [len(one.asked) for one in sockets] == [2 * CHUNK] + [CHUNK] * (SOCKETS - 1)


def test_a_socket_that_is_used_up_is_replaced(sockets: list[Socket]) -> None:
    table = Table(requests_per_socket=1)
    table.sender.submit(table.lease(2 * SOCKETS), 100.0)
    assert [one.asked for one in sockets] == [[seq] for seq in range(2 * SOCKETS)]


def test_without_a_descriptor_requests_are_handed_back(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table()
    monkeypatch.setattr(Socket, "cannot_open", OSError(errno.EMFILE, "Too many open files"))
    table.sender.submit(table.lease(2), 100.0)
    assert table.sink.ended == [("give back", 0), ("give back", 1)]


def test_an_address_that_cannot_be_reached_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table()
    monkeypatch.setattr(Socket, "cannot_open", OSError(errno.ENETUNREACH, "Network is unreachable"))
    table.sender.submit(table.lease(1), 100.0)
    assert table.sink.ended == [("cannot reach the upstream: Network is unreachable", 0)]


def test_after_a_socket_failed_the_rest_is_not_tried_on_another(
    sockets: list[Socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table()
    monkeypatch.setattr(Socket, "failure", OSError(errno.ECONNREFUSED, "Connection refused"))
    table.sender.submit(table.lease(CHUNK + 3), 100.0)
    assert len(sockets) == 1
    # The first one is reported by its socket.
    assert [seq for _, seq in table.sink.ended] == list(range(1, CHUNK + 3))


def test_what_is_unanswered_is_sent_again_each_time_after_twice_as_long(sockets: list[Socket]) -> None:
    table = Table()
    lease = table.lease(2)
    table.sender.submit(lease, 100.0)
    first_s = lease.resend_s
    assert SHORTEST_RESEND_S <= first_s - 100.0 <= LONGEST_RESEND_S
    assert table.sender.resend(lease, first_s - 0.01) == first_s
    del lease.session.running[0]
    second_s = table.sender.resend(lease, first_s)
    assert second_s == pytest.approx(first_s + 2 * (first_s - 100.0))
    assert [seq for one in sockets for seq in one.again_for] == [1]
    assert table.sink.resent == 1


def test_a_kind_that_must_not_repeat_has_no_schedule() -> None:
    table = Table(repeats=False)
    lease = table.lease(1)
    table.sender.submit(lease, 100.0)
    assert table.sender.resend(lease, 104.0) == lease.deadline_s
    assert table.sink.resent == 0


def test_an_answer_that_another_may_better_is_declined() -> None:
    table = Table()
    request: Any = table.lease(1).requests[0]
    table.sender.take_up(request, Then.ELSEWHERE, b"answer")
    assert table.sink.ended == [("decline", 0)]
