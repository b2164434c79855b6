"""The short readers of SUBMIT and RESULTS agree with the tables, whatever comes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_wire import values_of

from reqpool_contract import wire
from reqpool_contract.errors import ProtocolError
from reqpool_contract.plain_messages import plain_results, plain_submit
from reqpool_contract.wire import BadGroup, SubmitGroup, Verb

MUTATED = 4_000
ODD = (
    None, True, False, 0, 1, -1, 2, 3, 1.0, float("nan"), 2**64 - 1, wire.MAX_SPAN_MS + 1, "", "redis", b"",
    b"x", bytes(16), bytes(wire.MAX_TRACE_BYTES + 1), (), (1,), (b"p",), (("redis",),), {}, {"a": 1},
    "x" * (wire.MAX_ORIGIN_CHARS + 1), tuple(range(wire.MAX_BATCH_REQUESTS + 1)),
)  # fmt: skip
PLAIN_SUBMIT = (
    16, 7, 3,
    (
        ("redis", ("redis://h:1",), 5_000, 1, 1, None, None, (5, 6), (b"p5", b"p6"), b"secret"),
        ("http", ("http://h",), 5_000, 0, 0, None, b"trace", (7,), (b"p7",), b"", None),
        ("tcp", ("tcp://h:9",), 1, 0, 2, None, None, (8,), (b"",), b"", None, b""),
        ("dns", ("dns://h",), wire.MAX_SPAN_MS, 1, 2, None, None, (9,), (b"p9",)),
    ),
)  # fmt: skip
PLAIN_RESULTS = (19, 5, 2, 9, ((b"a" * 16, (1, 2), 0), (b"b" * 16, (1,), 1)))


class Known(dict[tuple[str, tuple[str, ...], bytes], Any]):
    """Knows exactly the names and settings that the tables accept."""

    def __bool__(self) -> bool:
        return True

    def get(self, asked: Any, default: Any = None) -> Any:
        hash(asked)
        kind, origins, own = asked
        group = (kind, origins, 1, 0, 0, None, None, (1,), (b"",), own)
        try:
            _, (_, _, (read,)) = wire.decode(msgpack.packb((16, 1, 0, (group,))), wire.CLIENT_TO_BROKER)
        except ProtocolError:
            return None
        return None if isinstance(read, BadGroup) else asked


def submit_agrees(frame: bytes) -> bool:
    """Compare the readers; returns whether the short one read the message."""
    read = plain_submit(frame, Known())
    if read is None:
        return False
    number, acked, groups = read
    verb, values = wire.decode(frame, wire.CLIENT_TO_BROKER)
    assert verb is Verb.SUBMIT
    assert values == [number, acked, [SubmitGroup(*group) for _, group in groups]]
    assert [type(value) for value in values[:2]] == [int, int]
    for found, group in groups:
        assert found == (group[0], group[1], group[9] if len(group) > 9 else b"")
    seqs = [seq for _, group in groups for seq in group[7]]
    assert len(set(seqs)) == len(seqs)
    return True


def results_agree(frame: bytes) -> bool:
    """As :func:`submit_agrees`."""
    read = plain_results(frame)
    if read is None:
        return False
    verb, values = wire.decode(frame, wire.WORKER_TO_BROKER)
    assert verb is Verb.RESULTS
    epoch, seen, number, groups = read
    assert values == [epoch, seen, number, list(groups)]
    for _, seqs, _ in groups:
        assert len(set(seqs)) == len(seqs)
    assert len({session for session, _, _ in groups}) == len(groups)
    return True


def mutated(chance: random.Random, value: Any) -> Any:
    """Return a value in which one element, somewhere, is another, missing or there twice."""
    if type(value) is not tuple or not value or chance.random() < 0.1:
        return chance.choice(ODD)
    at = chance.randrange(len(value))
    how = chance.random()
    if how < 0.1:
        return (*value[:at], *value[at + 1 :])
    if how < 0.2:
        return (*value[:at], value[at], *value[at:])
    return (*value[:at], mutated(chance, value[at]), *value[at + 1 :])


def frames(seed: int, message: tuple[Any, ...]) -> Iterator[bytes]:
    chance = random.Random(seed)
    for _ in range(MUTATED):
        yield msgpack.packb(mutated(chance, message))


def test_the_usual_messages_are_read() -> None:
    assert submit_agrees(msgpack.packb(PLAIN_SUBMIT))
    assert results_agree(msgpack.packb(PLAIN_RESULTS))


@pytest.mark.parametrize("seed", range(3))
def test_a_submit_that_is_slightly_different_is_read_alike_or_not_at_all(seed: int) -> None:
    read = [submit_agrees(frame) for frame in frames(seed, PLAIN_SUBMIT)]
    assert 100 < sum(read) < MUTATED - 100


@pytest.mark.parametrize("seed", range(3))
def test_a_results_that_is_slightly_different_is_read_alike_or_not_at_all(seed: int) -> None:
    read = [results_agree(frame) for frame in frames(seed, PLAIN_RESULTS)]
    assert 100 < sum(read) < MUTATED - 100


@settings(max_examples=300)
@given(data=st.data())
def test_whatever_the_tables_read_is_read_alike_or_not_at_all(data: st.DataObject) -> None:
    submit_agrees(wire.encode(Verb.SUBMIT, *data.draw(values_of(wire.CLIENT_TO_BROKER, Verb.SUBMIT))))
    results_agree(wire.encode(Verb.RESULTS, *data.draw(values_of(wire.WORKER_TO_BROKER, Verb.RESULTS))))


@settings(max_examples=300)
@given(junk=st.binary(max_size=60))
def test_junk_behind_a_usual_beginning_is_read_alike_or_not_at_all(junk: bytes) -> None:
    submit_agrees(b"\x94\x10" + junk)
    results_agree(b"\x95\x13" + junk)


@pytest.mark.parametrize(
    "groups",
    [
        (PLAIN_SUBMIT[3][0], PLAIN_SUBMIT[3][0]),
        ((*PLAIN_SUBMIT[3][0][:7], (5, 5), (b"p", b"q"), b""),),
        ((*PLAIN_SUBMIT[3][0][:3], int(wire.Flag.RESUBMITTED), *PLAIN_SUBMIT[3][0][4:]),),
        ((*PLAIN_SUBMIT[3][0][:5], 1, *PLAIN_SUBMIT[3][0][6:]),),
        ((*PLAIN_SUBMIT[3][0], 0),),
        ((*PLAIN_SUBMIT[3][0], None, bytes(16)),),
    ],
    ids=["a seq in two groups", "a seq twice", "resubmitted", "a pin", "cached settings", "a watermark"],
)
def test_a_submit_that_takes_more_thought_is_left_to_the_tables(groups: tuple[Any, ...]) -> None:
    assert plain_submit(msgpack.packb((16, 1, 0, groups)), Known()) is None


def test_a_session_that_is_named_twice_in_a_results_is_left_to_the_tables() -> None:
    group = PLAIN_RESULTS[4][0]
    assert plain_results(msgpack.packb((19, 5, 2, 9, (group, group)))) is None


def test_a_large_submit_is_left_to_the_tables() -> None:
    large = (*PLAIN_SUBMIT[3][0][:7], (5,), (bytes(wire.LARGE_MESSAGE_BYTES),), b"")
    assert plain_submit(msgpack.packb((16, 1, 0, (large,))), Known()) is None
