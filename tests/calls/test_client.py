"""The client's side: from ``pool.redis(…)`` to the value that ``result()`` returns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

import reqpool
from reqpool.listener_probe import Loss
from reqpool.stub import Stub
from reqpool_contract import wire
from reqpool_contract.wire import Verb

from .counting import BATCH, GROUPS, Counted, Load

URL = "tcp://127.0.0.1:5570"
REDIS = "redis://127.0.0.1:6379"
REPLY, VALUE = b'"value', b"value"


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
                    flat += (seq, 0, REPLY)
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


def _many(urls: list[str]) -> Counted:
    """Submit many; the I/O thread's turn sends them in one message, and takes all answers in one."""
    pool, stub = opened()
    for _ in range(2):
        sent = stub.stats().batches_out
        futures, values = [], []
        # Loops, as a comprehension would be a call of the test's, in which nothing is counted.
        with Counted() as counted:
            for url in urls:
                futures.append(pool.redis(url, "GET", "key"))
            stub._loop.turn(math.inf)
            for future in futures:
                values.append(future.result())
        assert values == [VALUE] * len(urls)
        assert stub.stats().batches_out == sent + 1
    return counted


def groups() -> Counted:
    """As many origins as requests."""
    return _many([f"redis://127.0.0.1:{port}" for port in range(1, GROUPS + 1)])


def batch() -> Counted:
    """One origin."""
    return _many([REDIS] * BATCH)


LOADS = [
    Load("client, a lone request", 1, "request", 18, lone),
    Load("client, groups of one request in one message", GROUPS, "group", 617, groups),
    Load("client, one group", BATCH, "request", 1_841, batch),
]


@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.name)
def test_the_way_of_a_request_through_the_client_is_no_longer_than_it_was(load: Load) -> None:
    load.check()
