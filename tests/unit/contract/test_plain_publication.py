"""What is read in one look is what the tables read; anything unusual is left to them."""

from __future__ import annotations

import random
from typing import Any

import msgpack
import pytest

from reqpool_contract import plain_messages, wire
from reqpool_contract.errors import ProtocolError
from reqpool_contract.wire import Verb

HEAD = [int(Verb.RESULTS), 7, 3, 2]
BLOB = [5, 0, b"data"]
ODD: list[Any] = [
    -1, 0, 1, 2**63, 2**64 - 1, True, False, None, 1.0, "7", b"", b"x", [], [1], {}, {"a": 1},
    msgpack.ExtType(1, b"x"),
]  # fmt: skip


def packed(value: Any) -> bytes:
    data: bytes = msgpack.packb(value)
    return data


def by_the_tables(head: bytes, blob: bytes) -> tuple[int, int, int, tuple[Any, ...]] | None:
    try:
        verb, fields = wire.decode(head, wire.PUBLISHED)
        flat = wire.decode_blob(blob)
    except ProtocolError:
        return None
    if verb is not Verb.RESULTS or fields[3] or len(flat) != 3:
        return None
    return fields[0], fields[1], fields[2], flat


def test_the_usual_publication_is_read() -> None:
    assert plain_messages.plain_publication(packed(HEAD), packed(BLOB)) == (7, 3, 2, (5, 0, b"data"))


@pytest.mark.parametrize(
    ("head", "blob"),
    [
        ([*HEAD, [(5, 2)]], BLOB),
        (HEAD, BLOB * 2),
        (HEAD, []),
        ([int(Verb.HEARTBEAT), 7, 3, 2, 1], BLOB),
        (HEAD[:3], BLOB),
    ],
)
def test_what_is_less_usual_is_left_to_the_tables(head: Any, blob: Any) -> None:
    assert plain_messages.plain_publication(packed(head), packed(blob)) is None


@pytest.mark.parametrize("seed", range(20))
def test_a_publication_is_read_as_the_tables_read_it_or_left_to_them(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(200):
        head, blob = list(HEAD), list(BLOB)
        for values in (head, blob):
            for _ in range(chance.choice((0, 0, 1, 2))):
                values[chance.randrange(len(values))] = chance.choice(ODD)
        frames = [bytearray(packed(head)), bytearray(packed(blob))]
        if chance.random() < 0.3:
            frame = chance.choice(frames)
            frame[chance.randrange(len(frame))] = chance.randrange(256)
        if chance.random() < 0.1:
            del chance.choice(frames)[-1:]
        read = plain_messages.plain_publication(bytes(frames[0]), bytes(frames[1]))
        assert read in (None, by_the_tables(bytes(frames[0]), bytes(frames[1])))
        if frames == [packed(HEAD), packed(BLOB)]:
            assert read is not None
