"""Invariants: replies read as hiredis reads them, however they are cut; else it is a BadResponse, no more."""

from __future__ import annotations

from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reqpool.errors import BadResponse, RedisError
from reqpool.kinds.redis_reply import decode
from reqpool_workers.protocols.redis import Framer

MAX_BYTES = 1 << 16

TEXTS = st.text(st.characters(codec="ascii", exclude_characters="\r\n"), max_size=20).map(str.encode)
BULKS = st.binary(max_size=40) | st.sampled_from([b"\r\n", b"$5\r\n", b"", b"x" * 5000])
LEAVES = st.one_of(
    BULKS.map(lambda data: b"$%d\r\n%b\r\n" % (len(data), data)),
    TEXTS.map(lambda text: b"+%b\r\n" % text),
    TEXTS.map(lambda text: b"-ERR %b\r\n" % text),
    st.integers(-(2**63), 2**63 - 1).map(lambda number: b":%d\r\n" % number),
    st.sampled_from([b"$-1\r\n", b"*-1\r\n", b"*0\r\n"]),
)
REPLIES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=5).map(lambda items: b"*%d\r\n" % len(items) + b"".join(items)),
    max_leaves=20,
)


def framed(data: bytes, cuts: list[int], protocol: int = 2) -> list[bytes]:
    framer = Framer(protocol, MAX_BYTES)
    answers = []
    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        answers += framer.feed(data[begin:end])
    assert not framer.begun
    assert framer.broken is None
    return [answer for code, answer in answers if code == 0]


def as_hiredis(data: bytes) -> Any:
    """Our value with errors as hiredis has them."""

    def swapped(value: Any) -> Any:
        if isinstance(value, RedisError):
            return ("error", value.text)
        return [swapped(item) for item in value] if isinstance(value, list) else value

    try:
        return swapped(decode(data))
    except RedisError as error:
        return swapped(error)


def by_hiredis(data: bytes) -> list[Any]:
    def swapped(value: Any) -> Any:
        if isinstance(value, hiredis.ReplyError):
            return ("error", str(value))
        return [swapped(item) for item in value] if isinstance(value, list) else value

    reader = hiredis.Reader(notEnoughData=Ellipsis)
    reader.feed(data)
    values = []
    while (value := reader.gets()) is not Ellipsis:
        values.append(swapped(value))
    return values


@given(st.lists(REPLIES, min_size=1, max_size=6), st.data())
def test_replies_are_what_hiredis_says_whole_and_cut_anywhere(
    replies: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(replies)
    whole = framed(stream, [])
    assert [as_hiredis(answer) for answer in whole] == by_hiredis(stream)
    assert [as_hiredis(reply) for reply in replies] == by_hiredis(stream)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    assert framed(stream, cuts) == whole


@given(st.lists(REPLIES, min_size=1, max_size=4))
def test_replies_byte_by_byte_are_the_same(replies: list[bytes]) -> None:
    stream = b"".join(replies)
    assert framed(stream, list(range(1, len(stream)))) == framed(stream, [])


@pytest.mark.parametrize("protocol", [2, 3])
@given(replies=st.lists(REPLIES, min_size=1, max_size=4), data=st.data())
def test_wrong_bytes_are_replies_or_a_bad_response(
    protocol: int, replies: list[bytes], data: st.DataObject
) -> None:
    mutated = bytearray(b"".join(replies))
    for _ in range(data.draw(st.integers(1, 6))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(
            st.integers(0, 255) | st.sampled_from(b"+-:$*_#,(=!~%>|0159\r\n")
        )
    outcomes = [outcome(bytes(mutated), protocol, step) for step in (1, 5, len(mutated))]
    assert outcomes[0] == outcomes[1] == outcomes[2], "however they are cut"
    for answer in outcomes[0][0]:
        try:
            decode(answer)
        except RedisError:
            continue


def outcome(stream: bytes, protocol: int, step: int) -> tuple[list[bytes], bool]:
    framer = Framer(protocol, MAX_BYTES)
    answers: list[bytes] = []
    for at in range(0, len(stream), step):
        answers += [answer for _, answer in framer.feed(stream[at : at + step])]
        if framer.broken is not None:
            return answers, True
    return answers, False


@given(st.binary(max_size=100))
def test_garbage_decodes_or_is_a_bad_response(data: bytes) -> None:
    try:
        decode(data)
    except (BadResponse, RedisError):
        return
