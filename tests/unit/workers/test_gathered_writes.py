"""What is asked in one turn of the loop is written in one go at its end; what is not written was not sent."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress

import pytest

from reqpool_contract.errors import ConnectionLost, PoolError, UsageError
from reqpool_contract.wire import Flag, LeaseGroup
from reqpool_workers import connection_io
from reqpool_workers.connection import Connection
from reqpool_workers.connection_owner import Finished
from reqpool_workers.event_loop import EventLoop
from reqpool_workers.lease import Request
from reqpool_workers.lease_outcomes import LeaseOutcomes
from reqpool_workers.protocols import Address
from reqpool_workers.worker_ledger import WorkerLedger
from support.lines import Lines

SESSION = bytes(16)


class Owner:
    """Notes what becomes of requests, by seq."""

    def __init__(self) -> None:
        self.ready = False
        self.answered: list[int] = []
        self.unsent: list[int] = []
        self.unanswered: list[int] = []
        self.errors: dict[str, PoolError] = {}

    def on_room(self, connection: Connection) -> None:
        self.ready = True

    def on_answers(self, answers: list[Finished]) -> None:
        self.answered += [request.seq for request, _, _ in answers]

    def on_unreadable(self, request: Request, error: PoolError) -> None:
        raise AssertionError(error)

    def on_refused(self, connection: Connection, request: Request, error: UsageError) -> None:
        raise AssertionError(error)

    def on_opening(self, connection: Connection, request: Request) -> None:
        raise AssertionError(request)

    def on_tried(self, address: Address, good: bool) -> None:
        pass

    def on_unsent(self, connection: Connection, error: PoolError, requests: list[Request]) -> None:
        assert all(request.place is None for request in requests)
        self.unsent += [request.seq for request in requests]
        self.errors["unsent"] = error

    def on_closed(
        self, connection: Connection, error: PoolError, unanswered: list[Request], sent: bool
    ) -> None:
        self.unanswered += [request.seq for request in unanswered]
        self.errors["closed"] = error


class Open:
    """A connection that is ready, and its peer, on one thread.

    Attributes:
        writes: the data of each ``send`` of the connection's socket.
    """

    def __init__(self, loop: EventLoop, listener: socket.socket) -> None:
        self.loop = loop
        self.owner = Owner()
        self.ledger = WorkerLedger()
        self.outcomes = LeaseOutcomes(self.ledger)
        self._seq = 0
        (first,) = self.requests(b"first\n")
        self.connection = Connection(loop, self.owner, Lines("lines://h:1", b"", 1 << 20), first)
        self.connection.bound(10.0)
        self.connection.open([Address(socket.AF_INET, listener.getsockname())])
        self.run_until(lambda: self.owner.ready)
        self.peer, _ = listener.accept()
        assert self.peer.recv(100) == b"first\n"

    def requests(self, *payloads: bytes) -> list[Request]:
        seqs = tuple(range(self._seq, self._seq + len(payloads)))
        self._seq += len(payloads)
        flags = int(Flag.IDEMPOTENT)
        group = LeaseGroup(SESSION, "lines", "lines://h:1", 10_000, flags, 1, None, None, seqs, payloads)
        return list(self.ledger.admit(group, self.loop.now_s).requests)

    def run_until(self, condition: object) -> None:
        assert callable(condition)

        def end_turn() -> bool:
            if condition():
                self.loop.stop()
            return False

        self.loop.run(end_turn)


@pytest.fixture
def opened() -> Iterator[Open]:
    loop = EventLoop()
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        opened = Open(loop, listener)
        with closing(opened.peer):
            yield opened
            opened.connection.close("the test is over")
    loop.close()


def test_what_is_asked_in_one_turn_is_written_in_one_go(opened: Open) -> None:
    sent: list[bytes] = []

    class Noting:
        def __init__(self, made: socket.socket) -> None:
            self._made = made
            self.fileno, self.recv, self.close = made.fileno, made.recv, made.close

        def send(self, data: bytes) -> int:
            sent.append(data)
            return self._made.send(data)

    io = opened.connection._io
    io._socket = Noting(io._socket)  # type: ignore[arg-type, assignment]
    opened.connection.send(opened.requests(b"1\n"))
    opened.connection.send(opened.requests(b"2\n", b"3\n"))
    assert sent == []
    opened.loop.write_out()
    assert sent == [b"1\n2\n3\n"]
    opened.loop.write_out()
    assert sent == [b"1\n2\n3\n"]
    opened.peer.sendall(b"0\n1\n2\n3\n")
    opened.run_until(lambda: len(opened.owner.answered) == 4)
    assert opened.owner.answered == [0, 1, 2, 3]


def test_the_loop_writes_what_its_end_of_turn_leaves(opened: Open) -> None:
    opened.loop.wake(lambda: opened.connection.send(opened.requests(b"1\n")))
    opened.loop.wake(opened.loop.stop)
    opened.loop.run(lambda: False)
    assert opened.peer.recv(100) == b"1\n"


def test_what_gathered_when_the_connection_closes_was_not_sent(opened: Open) -> None:
    opened.connection.send(opened.requests(b"1\n"))
    opened.loop.write_out()
    opened.connection.send(opened.requests(b"2\n", b"3\n"))
    opened.connection.close("cut", UsageError("the answer to the first"))
    assert opened.owner.unanswered == [0, 1]
    assert opened.owner.unsent == [2, 3]
    assert isinstance(opened.owner.errors["closed"], UsageError)
    assert isinstance(opened.owner.errors["unsent"], ConnectionLost)  # the error is the first one's
    opened.loop.write_out()
    assert opened.peer.recv(100) == b"1\n"
    assert opened.peer.recv(100) == b""


def test_if_nothing_else_was_asked_the_first_that_was_not_sent_has_the_error(opened: Open) -> None:
    opened.peer.sendall(b"0\n")
    opened.run_until(lambda: opened.owner.answered)
    opened.connection.send(opened.requests(b"1\n"))
    error = UsageError("odd")
    opened.connection.close("cut", error)
    assert opened.owner.unsent == [1]
    assert opened.owner.unanswered == []
    assert opened.owner.errors["unsent"] is error


def test_what_was_dropped_in_the_same_turn_ends_nowhere(opened: Open) -> None:
    one, two = opened.requests(b"1\n", b"2\n")
    opened.connection.send([one, two])
    opened.connection.drop(one, "cancelled")
    opened.connection.close("cut")
    assert opened.owner.unsent == [2]


def test_what_comes_before_a_request_is_written_is_not_its_answer(opened: Open) -> None:
    """A server that ends says so on its idle connections, while we are about to ask for something there."""
    opened.peer.sendall(b"0\n")
    opened.run_until(lambda: opened.owner.answered)
    opened.connection.send(opened.requests(b"1\n"))
    opened.connection.on_data(b"going down\n")
    assert opened.owner.answered == [0]
    assert opened.owner.unsent == [1]
    opened.loop.write_out()
    assert opened.peer.recv(100) == b""


def test_answers_to_what_was_written_are_taken_while_more_gathers(opened: Open) -> None:
    opened.connection.send(opened.requests(b"1\n", b"2\n"))
    opened.loop.write_out()
    opened.connection.send(opened.requests(b"3\n"))
    opened.connection.on_data(b"0\n1\n2\n?")
    assert opened.owner.answered == [0, 1, 2]
    opened.connection.on_data(b"\n")
    assert opened.owner.unsent == [3]


def test_what_could_not_be_written_counts_as_sent_since_it_may_be_read(opened: Open) -> None:
    class Full:
        def __init__(self, made: socket.socket) -> None:
            self.fileno, self.recv, self.close = made.fileno, made.recv, made.close

        def send(self, data: bytes) -> int:
            raise OSError(errno.EPIPE, "Broken pipe")

    io = opened.connection._io
    made = io._socket
    assert made is not None
    io._socket = Full(made)  # type: ignore[assignment]
    opened.connection.send(opened.requests(b"1\n"))
    opened.loop.write_out()
    assert opened.owner.unanswered == [0, 1]
    assert opened.owner.unsent == []


def test_what_is_too_large_for_a_turn_goes_out_in_order(opened: Open) -> None:
    large = b"x" * (2 * connection_io.WRITE_BYTES_PER_TURN) + b"\n"
    opened.connection.send(opened.requests(b"1\n"))
    opened.connection.send(opened.requests(large))
    received = bytearray()
    opened.peer.setblocking(False)

    def read() -> bool:
        with suppress(BlockingIOError):
            received.extend(opened.peer.recv(1 << 20))
        return len(received) == len(large) + 2

    opened.loop.register(opened.peer.fileno(), lambda _: None, 1)
    opened.run_until(read)
    opened.loop.unregister(opened.peer.fileno())
    assert bytes(received) == b"1\n" + large


def test_several_that_the_protocol_takes_at_once_are_asked_for_at_once(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def together(_self: Lines, requests: Sequence[Request]) -> bytes:
        return b"".join(request.payload.upper() for request in requests)

    monkeypatch.setattr(Lines, "send_all", together)
    opened.connection.send(opened.requests(b"a\n"))
    opened.connection.send(opened.requests(b"b\n", b"c\n"))
    opened.loop.write_out()
    assert opened.peer.recv(100) == b"a\nB\nC\n"
    opened.peer.sendall(b"0\n1\n2\n3\n")
    opened.run_until(lambda: len(opened.owner.answered) == 4)
    assert opened.owner.answered == [0, 1, 2, 3]


def test_a_protocol_that_fails_at_several_is_asked_for_each(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_self: Lines, requests: Sequence[Request]) -> bytes:
        raise KeyError("a fault of ours")

    monkeypatch.setattr(Lines, "send_all", failing)
    opened.connection.send(opened.requests(b"b\n", b"c\n"))
    opened.loop.write_out()
    assert opened.peer.recv(100) == b"b\nc\n"


def test_an_answer_beside_the_only_one_asked_for_is_unsolicited(opened: Open) -> None:
    opened.peer.sendall(b"0\nanother\n")
    opened.run_until(lambda: "closed" in opened.owner.errors)
    assert opened.owner.answered == [0]
    assert opened.connection.reason == "unsolicited answer from the peer"


def test_a_connection_that_its_answer_left_unclean_is_cleaned(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lines, "unclean", True)
    opened.peer.sendall(b"0\n")
    opened.run_until(lambda: "closed" in opened.owner.errors)
    assert opened.owner.answered == [0]
    assert opened.connection.reason == "released"  # which is how this protocol does it
