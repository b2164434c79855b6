"""A LEASE that is read in one look is what the tables read; anything unusual is left to them."""

from __future__ import annotations

import random
from typing import Any

import msgpack
import pytest

from reqpool_contract import plain_messages, wire
from reqpool_contract.errors import ProtocolError
from reqpool_contract.wire import LeaseGroup, Verb

LEASE_GROUP = LeaseGroup(bytes(16), "dns", "dns://a", 1000, 1, 1, None, None, (1, 2), (b"a", b"b"))
ODD: list[Any] = [
    None, True, -1, 1.5, "text", b"bytes", b"x" * 17, (), ("a",), (1, -1), (None,), {}, {b"key": 1},
    0, 1, 2**63, 2**64 - 1, 0.0, False, "", b"", b"x" * 16, (0,), (b"a",), ("a", "b"), (1, 2, 3),
]  # fmt: skip
"""Values of which each field takes some."""
EDGES: list[dict[str, Any]] = [
    {"span_ms": wire.MAX_SPAN_MS},
    {"span_ms": wire.MAX_SPAN_MS + 1},
    {"origin": "x" * wire.MAX_ORIGIN_CHARS},
    {"origin": "x" * (wire.MAX_ORIGIN_CHARS + 1)},
    {"settings": bytes(wire.MAX_SETTINGS_BYTES)},
    {"settings": bytes(wire.MAX_SETTINGS_BYTES + 1)},
    {"seqs": tuple(range(wire.MAX_BATCH_REQUESTS)), "payloads": (b"",) * wire.MAX_BATCH_REQUESTS},
    {"seqs": tuple(range(wire.MAX_BATCH_REQUESTS + 1)), "payloads": (b"",) * (wire.MAX_BATCH_REQUESTS + 1)},
    {"seqs": (1, -1)},
    {"seqs": (1, True)},
    {"payloads": (b"a", "b")},
    {"payloads": (b"a",)},
    {"seqs": (), "payloads": ()},
]


def agrees(frame: bytes) -> bool:
    """Compare the reader of LEASE with the tables; return whether it took the message."""
    lease = plain_messages.plain_lease(frame)
    if lease is not None:
        verb, values = wire.decode(frame, wire.BROKER_TO_WORKER)
        assert verb is Verb.LEASE
        assert values == [*lease, 0]
        assert all(type(group) is LeaseGroup for group in lease[2])
    return lease is not None


@pytest.mark.parametrize(
    "change",
    [{}, {"settings": b"s"}, {"kept": 5}, {"wait_ms": 0}, {"queued_ms": 7, "flags": 31, "attempt": 3}],
)
def test_the_usual_leases_are_taken(change: dict[str, Any]) -> None:
    assert agrees(wire.encode(Verb.LEASE, 1, 0, [LEASE_GROUP, LEASE_GROUP._replace(**change)]))


@pytest.mark.parametrize("change", [{"pin": 1}, {"trace": b"t"}])
def test_what_is_less_usual_is_left_to_the_tables(change: dict[str, Any]) -> None:
    assert not agrees(wire.encode(Verb.LEASE, 1, 0, [LEASE_GROUP._replace(**change)]))


@pytest.mark.parametrize("field", LeaseGroup._fields)
def test_a_lease_with_any_value_in_a_field(field: str) -> None:
    for value in ODD:
        agrees(wire.encode(Verb.LEASE, 1, 1, [LEASE_GROUP, LEASE_GROUP._replace(**{field: value})]))


@pytest.mark.parametrize("change", EDGES, ids=lambda change: " ".join(change))
def test_a_lease_at_its_limits(change: dict[str, Any]) -> None:
    frame = wire.encode(Verb.LEASE, 1, 1, [LEASE_GROUP._replace(**change)])
    (group,) = wire.decode(frame, wire.BROKER_TO_WORKER)[1][2]
    assert agrees(frame) is isinstance(group, LeaseGroup)


@pytest.mark.parametrize(
    "head",
    [
        (), (32,), (32, 1, 1), (32, 1, 1, ()), (32, -1, 1, ()), (32, 1, None, ()), (32, True, 1, ()),
        (32, 1, 1, None), (32, 1, 1, {}), (32, 1, 1, (), 0), (32, 1, 1, (), 5), (32.0, 1, 1, ()),
        (5, 1, 1, ()), {32: 1}, 32, b" ", [[32, 1, 1, []]],
    ],
    ids=repr,
)  # fmt: skip
def test_heads_of_any_shape(head: Any) -> None:
    taken = agrees(msgpack.packb(head))
    assert taken is (repr(head) == "(32, 1, 1, ())")


def test_mutated_leases() -> None:
    draw = random.Random(9)
    good = wire.encode(Verb.LEASE, 7, 3, [LEASE_GROUP, LEASE_GROUP._replace(settings=b"s", wait_ms=5)])
    taken = 0
    for _ in range(20_000):
        frame = bytearray(good)
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(len(frame))
            if draw.random() < 0.7:
                frame[at] = draw.choice([draw.randrange(256), frame[at] ^ 1, 0xC0, 0xC2, 0x00, 0x90])
            elif draw.random() < 0.5:
                del frame[at]
            else:
                frame.insert(at, draw.randrange(256))
        taken += agrees(bytes(frame))
    assert taken > 500
    with pytest.raises(ProtocolError):
        wire.decode(good[:-1], wire.BROKER_TO_WORKER)
    assert not agrees(good[:-1])
