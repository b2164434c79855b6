"""The client's side: from ``pool.redis(…)`` and the like to a look at the value that ``result()`` returns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

import reqpool
from reqpool.kinds.dns_answer import DnsRecord
from reqpool.listener_probe import Loss
from reqpool.stub import Stub
from reqpool_contract import wire
from reqpool_contract.payloads.dns_query import query
from reqpool_contract.payloads.mysql import BINARY_ROWS
from reqpool_contract.wire import Verb

from .counting import BATCH, GROUPS, Counted, Load

URL = "tcp://127.0.0.1:5570"
REDIS = "redis://127.0.0.1:6379"
MYSQL = "mysql://app@127.0.0.1/shop"
VALUE = b"value"
NAME = "www.example.com"


def _packets(*payloads: bytes) -> bytes:
    """A MySQL answer."""
    return b"".join(
        len(payload).to_bytes(3, "little") + bytes((number,)) + payload
        for number, payload in enumerate(payloads, 1)
    )


def _column(name: bytes, type_number: int, collation: int) -> bytes:
    texts = (b"def", b"shop", b"items", b"items", name, name)
    numbers = collation.to_bytes(2, "little") + bytes(4) + bytes((type_number,)) + bytes(5)
    return b"".join(bytes((len(text),)) + text for text in texts) + b"\x0c" + numbers


REPLIES = {
    "redis": b'"value',
    "dns": b"\0\1\x81\x80\0\1\0\1\0\0\0\0"
    + query(NAME, "A")[12:-11]
    + b"\xc0\x0c\0\1\0\1\0\0\1\x2c\0\4\x7f\0\0\1",
    "http": b"HTTP/1.1 200 OK\r\nServer: played\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nvalue",
    "mysql": BINARY_ROWS
    + _packets(
        b"\2", _column(b"id", 3, 63), _column(b"name", 253, 45), b"\0\0\x07\0\0\0\5value", b"\xfe\0\0\2\0\0\0"
    ),
}
"""What the worker halves make of the upstreams' answers, by kind."""


class ScriptedSockets:
    """Stands in for :class:`.BrokerSockets`: a broker that answers each SUBMIT with one publication."""

    blocked = False
    loss: Loss | None = None

    def __init__(self, _context: object, topic: bytes) -> None:
        self._topic = topic
        self._came: list[tuple[bool, list[bytes]]] = []
        self._number = self._submits = 0

    def wake(self) -> None:
        pass

    def dial(self, _url: str, hello: bytes) -> None:
        self.send(hello)

    def subscribe(self, _url: str) -> None:
        self._publish(wire.encode(Verb.OPEN, 7))

    def hang_up(self, _linger_ms: int = 0) -> None:
        raise AssertionError("the client has hung up")

    def has_room(self) -> bool:
        return True

    def submit(self, head: bytes) -> bool:
        return self.send(head)

    def send(self, head: bytes, *payloads: bytes) -> bool:
        verb, fields = wire.decode(head, wire.CLIENT_TO_BROKER, payloads)
        if verb is Verb.HELLO:
            # No heartbeat falls due while this is counted, and none is missed.
            about = {"epoch": 7, "results": "5571", "heartbeat_ms": 60_000, "liveness_ms": 300_000}
            self._came.append((True, [wire.encode(Verb.WELCOME, wire.VERSION, about)]))
        elif verb is Verb.SUBMIT:
            self._submits, _, groups = fields
            flat: list[Any] = []
            for group in groups:
                for seq in group.seqs:
                    flat += (seq, 0, REPLIES[group.kind])
            self._number += 1
            head = wire.encode(Verb.RESULTS, 7, self._number, self._submits)
            self._publish(head, wire.encode_blob(flat))
        return True

    def _publish(self, *frames: bytes) -> None:
        self._came.append((False, [self._topic, *frames]))

    def has_messages(self) -> bool:
        return False

    def sleep(self, _span_s: float) -> None:
        pass

    def await_results(self, _span_s: float) -> list[bytes] | None:
        return self._came.pop(0)[1] if self._came else None

    def messages(self) -> Iterator[tuple[bool, list[bytes]]]:
        while self._came:
            yield self._came.pop(0)


def opened() -> tuple[reqpool.Pool, Any]:
    """Make a pool whose session is open, and whose threads were not started: this thread turns its loop."""
    pool = reqpool.Pool(URL)
    with mock.patch("reqpool.stub.BrokerSockets", ScriptedSockets), reqpool.host.start_lock():
        stub = Stub(URL, embedded=None, max_pending=1_000, executor=None)
    pool._dispatcher._stub = stub
    for _ in range(3):
        stub._loop.turn(math.inf)
    assert stub.stats().state == "open"
    return pool, stub


def lone() -> Counted:
    """Submit one request and wait for it, as the thread does that leads while the I/O thread is parked."""
    pool, stub = opened()
    stub._driver.parked = True
    pool.redis(REDIS, "GET", "key").result()
    with Counted() as counted:
        value = pool.redis(REDIS, "GET", "key").result()
    assert value == VALUE
    return counted


def _many(kind: str, asked: list[tuple[Any, ...]], options: dict[str, Any], part: str, value: Any) -> Counted:
    """Submit many; the I/O thread's turn sends them in one message, and takes all answers in one.

    Args:
        kind: the method of the pool.
        asked: its arguments, for each.
        options: its others.
        part: the attribute of each answer that is looked at; empty if it has no parts.
        value: of that.
    """
    pool, stub = opened()
    ask = getattr(pool, kind)
    for _ in range(2):
        sent = stub.stats().batches_out
        futures, values = [], []
        # Loops, as a comprehension would be a call of the test's, in which nothing is counted.
        with Counted() as counted:
            for one in asked:
                futures.append(ask(*one, **options))
            stub._loop.turn(math.inf)
            for future in futures:
                answer = future.result()
                values.append(getattr(answer, part) if part else answer)
        assert values == [value] * len(asked)
        assert stub.stats().batches_out == sent + 1
    return counted


def groups() -> Counted:
    """As many origins as requests."""
    urls = [f"redis://127.0.0.1:{port}" for port in range(1, GROUPS + 1)]
    return _many("redis", [(url, "GET", "key") for url in urls], {}, "", VALUE)


def batch() -> Counted:
    """One origin."""
    return _many("redis", [(REDIS, "GET", "key")] * BATCH, {}, "", VALUE)


def questions() -> Counted:
    """Questions to one name server, and their records."""
    records = (DnsRecord(NAME, "A", 300, "127.0.0.1"),)
    return _many("dns", [(NAME, "A")] * BATCH, {"server": "127.0.0.1:53"}, "records", records)


def gets() -> Counted:
    """Requests to one HTTP server, and their bodies."""
    return _many("http", [("GET", "http://127.0.0.1/")] * BATCH, {}, "content", VALUE)


def rows() -> Counted:
    """A row by its key, of the binary protocol."""
    sql = "SELECT id, name FROM items WHERE id = %s"
    asked = [(MYSQL, sql, (number,)) for number in range(BATCH)]
    return _many("mysql", asked, {}, "rows", [(7, "value")])


LOADS = [
    Load("client, a lone request", 1, "request", 18, lone),
    Load("client, groups of one request in one message", GROUPS, "group", 617, groups),
    Load("client, one group", BATCH, "request", 1_841, batch),
    Load("client, one group of DNS questions", BATCH, "request", 2_441, questions),
    Load("client, one group of HTTP requests", BATCH, "request", 2_241, gets),
    Load("client, one group of MySQL statements", BATCH, "request", 3_041, rows),
]


@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.name)
def test_the_way_of_a_request_through_the_client_is_no_longer_than_it_was(load: Load) -> None:
    load.check()
