"""Invariants: replies read as hiredis reads them, however they are cut; else it is a BadResponse, no more."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reqpool.kinds.redis_answer import decode
from reqpool_contract.errors import BadResponse, RedisError
from reqpool_workers.protocols import Refused
from reqpool_workers.protocols.redis_framer import Framer

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
).filter(lambda reply: len(reply) <= MAX_BYTES)


def framed(data: bytes, cuts: list[int], protocol: int = 2) -> list[bytes]:
    framer = Framer(protocol, MAX_BYTES)
    answers: list[bytes] = []
    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        answers += [taken(answer) for answer in framer.feed(data[begin:end])]
    assert not framer.begun
    assert framer.broken is None
    return answers


def taken(answer: Any) -> bytes:
    assert type(answer) is tuple, f"refused: {answer.error}"
    assert answer[0] == 0
    data: bytes = answer[1]
    return data


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


def a_stream(items: list[bytes], mark: bytes) -> bytes:
    return mark + b"?\r\n" + b"".join(items) + b".\r\n"


LEAVES3 = st.one_of(
    LEAVES,
    st.sampled_from([
        b"_\r\n", b"#t\r\n", b"#f\r\n", b"~-1\r\n", b"%-1\r\n", b"=-1\r\n", b",inf\r\n", b",-inf\r\n",
        b",nan\r\n", b",-NAN\r\n", b",nan(0x8)\r\n", b",.5\r\n", b",1e5\r\n", b",-1.25E-3\r\n", b":+007\r\n",
        b"(%d\r\n" % 10**40, b":%d\r\n" % 10**30,
    ]),
    BULKS.map(lambda data: b"=%d\r\ntxt:%b\r\n" % (len(data) + 4, data)),
    BULKS.map(lambda data: b"!%d\r\n%b\r\n" % (len(data), data)),
    st.lists(st.binary(min_size=1, max_size=20), max_size=3).map(
        lambda parts: b"$?\r\n" + b"".join(b";%d\r\n%b\r\n" % (len(p), p) for p in parts) + b";0\r\n"
    ),
)  # fmt: skip
REPLIES3 = st.recursive(
    LEAVES3,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda items: b"*%d\r\n" % len(items) + b"".join(items)),
        st.lists(inner, max_size=4).map(lambda items: b"~%d\r\n" % len(items) + b"".join(items)),
        st.lists(inner, max_size=2).map(lambda items: b"%%%d\r\n" % len(items) + b"".join(items * 2)),
        st.tuples(inner, inner).map(lambda pair: b"|1\r\n+ttl\r\n" + pair[0] + pair[1]),
        st.lists(inner, max_size=3).map(lambda items: a_stream(items, b"*")),
        st.lists(inner, max_size=3).map(lambda items: a_stream(items, b"~")),
        st.lists(inner, max_size=2).map(lambda items: a_stream(items * 2, b"%")),
    ),
    max_leaves=12,
).filter(lambda reply: len(reply) <= MAX_BYTES)
REFUSED = st.sampled_from([
    b",1.2.3\r\n",
    b":12x\r\n",
    b"#maybe\r\n",
    b"_null\r\n",
    b"*1\r\n" * 200 + b":1\r\n",
    b"*?\r\n" * 150 + b".\r\n" * 150,
    b"$70000\r\n" + b"x" * 70_000 + b"\r\n",
    b"+" + b"x" * 70_000 + b"\r\n",
    b"*2\r\n:1\r\n*30000\r\n" + b":1\r\n" * 30_000,
    b"*1\r\n$?\r\n;70000\r\n" + b"x" * 70_000 + b"\r\n;0\r\n",
])  # fmt: skip


@given(st.lists(REPLIES3, min_size=1, max_size=5), st.data())
def test_what_is_framed_is_decoded_whatever_its_type_and_however_cut(
    replies: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(replies)
    whole = framed(stream, [], 3)
    assert len(whole) == len(replies)
    for answer in whole:
        try:
            decode(answer)
        except RedisError:
            continue
    assert framed(stream, list(range(1, len(stream))), 3) == whole
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    assert framed(stream, cuts, 3) == whole


@given(st.lists(st.tuples(REPLIES3, REFUSED), min_size=1, max_size=3), st.data())
def test_a_reply_that_is_refused_is_one_answer_and_those_around_it_are_as_without_it(
    pairs: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    stream = b"".join(good + bad for good, bad in pairs)
    expected = [answer for good, _ in pairs for answer in (*framed(good, [], 3), "refused")]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    for cut in ([], cuts):
        assert outcome(stream, 3, cut) == (expected, False)


@pytest.mark.parametrize("protocol", [2, 3])
@given(replies=st.lists(REPLIES3, min_size=1, max_size=4), data=st.data())
def test_wrong_bytes_are_replies_or_a_bad_response(
    protocol: int, replies: list[bytes], data: st.DataObject
) -> None:
    mutated = bytearray(b"".join(replies))
    for _ in range(data.draw(st.integers(1, 6))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(
            st.integers(0, 255) | st.sampled_from(b"+-:$*_#,(=!~%>|;.?0159\r\n")
        )
    stream = bytes(mutated)
    outcomes = [outcome(stream, protocol, range(step, len(stream), step)) for step in (1, 5, len(stream))]
    assert outcomes[0] == outcomes[1] == outcomes[2], "however they are cut"
    for answer in outcomes[0][0]:
        if isinstance(answer, bytes):
            try:
                decode(answer)
            except RedisError:
                continue


def outcome(stream: bytes, protocol: int, cuts: Iterable[int]) -> tuple[list[bytes | str], bool]:
    """Return the answers, and did the framer give up?"""
    framer = Framer(protocol, MAX_BYTES)
    answers: list[bytes | str] = []
    for begin, end in itertools.pairwise([0, *cuts, len(stream)]):
        for answer in framer.feed(stream[begin:end]):
            answers.append("refused" if isinstance(answer, Refused) else answer[1])
        if framer.broken is not None:
            return answers, True
    return answers, False


@given(st.binary(max_size=100))
def test_garbage_decodes_or_is_a_bad_response(data: bytes) -> None:
    try:
        decode(data)
    except (BadResponse, RedisError):
        return
