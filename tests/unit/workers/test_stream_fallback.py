"""How requests end whose answer was cut short and that were asked again over a connection."""

from __future__ import annotations

from typing import Any, cast

import pytest

from reqpool_contract.errors import BadResponse, Code, ConnectionLost, UsageError
from reqpool_workers.connection import Connection
from reqpool_workers.event_loop import EventLoop
from reqpool_workers.outcome_sink import OutcomeSink
from reqpool_workers.protocols import DatagramKind, numeric_address
from reqpool_workers.protocols.udp import OneDatagram
from reqpool_workers.stream_fallback import StreamFallback

ORIGIN = "dns://192.0.2.1:53"
REQUEST: Any = object()


class Sink:
    """Notes how requests end."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, object]] = []

    def finish(self, request: object, code: int, data: bytes) -> None:
        self.ended.append(("finish", data))

    def decline(self, request: object, answer: bytes) -> None:
        self.ended.append(("decline", answer))

    def conclude(self, request: object, code: Code, text: str, *, phase: str = "", sent: bool) -> None:
        self.ended.append(("conclude", (code, sent)))

    def fail(self, requests: list[object], code: Code, text: str, *, phase: str, sent: bool) -> None:
        self.ended += [("fail", (code, sent)) for _ in requests]


class Line:
    """Stands in for a connection."""

    reason = ""

    def close(self, reason: str) -> None:
        self.reason = reason


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def fallback(sink: Sink) -> StreamFallback:
    kind = DatagramKind(
        name="dns",
        limit=8,
        address=numeric_address,
        protocol=lambda _origin, _now_s: OneDatagram(),
        requests_per_socket=1,
        repeats=True,
        declines=lambda answer: answer == b"refused",
    )
    loop = cast(EventLoop, None)
    return StreamFallback(loop, cast(OutcomeSink, sink), kind, ORIGIN, numeric_address(ORIGIN))


def test_an_answer_is_reported_unless_another_origin_may_have_a_better_one(
    fallback: StreamFallback, sink: Sink
) -> None:
    fallback.on_answers([(REQUEST, Code.OK, b"answer"), (REQUEST, Code.OK, b"refused")])
    assert sink.ended == [("finish", b"answer"), ("decline", b"refused")]


def test_a_lost_connection_is_a_failed_attempt_that_may_have_been_acted_on(
    fallback: StreamFallback, sink: Sink
) -> None:
    connection = cast(Connection, Line())
    fallback.connections.add(connection)
    # Before it was ready, too: the datagram was sent.
    fallback.on_closed(connection, ConnectionLost("lost"), [REQUEST], sent=False)
    assert sink.ended == [("fail", (Code.CONNECTION_LOST, True))]
    assert not fallback.connections


def test_an_answer_that_was_not_taken_ends_its_request(fallback: StreamFallback, sink: Sink) -> None:
    fallback.on_unreadable(REQUEST, BadResponse("too large"))
    assert sink.ended == [("conclude", (Code.BAD_RESPONSE, True))]


def test_a_request_that_cannot_be_asked_ends_with_its_connection(
    fallback: StreamFallback, sink: Sink
) -> None:
    connection = Line()
    fallback.on_refused(cast(Connection, connection), REQUEST, UsageError("malformed"))
    assert sink.ended == [("conclude", (Code.USAGE, True))]
    assert connection.reason
