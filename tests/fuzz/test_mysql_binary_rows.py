"""Invariants: a row is read as the same values from the binary and from the text protocol; what is not a row
is a BadResponse and nothing else.
"""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reqpool.kinds.mysql_result import MysqlResult
from reqpool_contract.errors import BadResponse
from support import mysql_peer as peer
from support.mysql_peer import AUTOCOMMIT, BINARY, MORE_RESULTS, UTF8MB4, column, ok, packets

Value = tuple[bytes, bytes]
"""A value as its text, and as the binary protocol has it."""
Row = list[Value | None]
UNSIGNED = 32
VARYING = 31
MARK = bytes(4)


def integers(kind: int, code: str) -> dict[bytes, st.SearchStrategy[Value]]:
    bits = 8 * struct.calcsize("<" + code)
    return {
        column("c", kind, BINARY): st.integers(-(1 << bits - 1), (1 << bits - 1) - 1).map(
            lambda number: (b"%d" % number, struct.pack("<" + code, number))
        ),
        column("c", kind, BINARY, UNSIGNED): st.integers(0, (1 << bits) - 1).map(
            lambda number: (b"%d" % number, struct.pack("<" + code.upper(), number))
        ),
    }


def strings(drawn: st.SearchStrategy[bytes]) -> st.SearchStrategy[Value]:
    return drawn.map(lambda data: (data, peer.text(data)))


def single(number: float) -> Value:
    stored = struct.pack("<f", number)
    return b"%.6g" % struct.unpack("<f", stored), stored


def date_of(day: tuple[int, int, int]) -> Value:
    written = struct.pack("<BHBB", 4, *day) if any(day) else b"\0"
    return b"%04d-%02d-%02d" % day, written


def datetime_of(day: tuple[int, int, int], clock: tuple[int, int, int], fraction: int, digits: int) -> Value:
    micros = fraction * 10 ** (6 - digits)
    text = b"%04d-%02d-%02d %02d:%02d:%02d" % (*day, *clock)
    if digits:
        text += b".%0*d" % (digits, fraction)
    if micros:
        return text, struct.pack("<BHBBBBBI", 11, *day, *clock, micros)
    if any(clock):
        return text, struct.pack("<BHBBBBB", 7, *day, *clock)
    return text, date_of(day)[1]


def time_of(negative: bool, hours: int, clock: tuple[int, int], fraction: int, digits: int) -> Value:
    micros = fraction * 10 ** (6 - digits)
    if not (hours or any(clock) or micros):
        negative = False
    text = b"%s%02d:%02d:%02d" % (b"-" if negative else b"", hours, *clock)
    if digits:
        text += b".%0*d" % (digits, fraction)
    parts = (negative, hours // 24, hours % 24, *clock)
    if micros:
        return text, struct.pack("<BBIBBBI", 12, *parts, micros)
    return text, struct.pack("<BBIBBB", 8, *parts) if any(parts) else b"\0"


DAYS = st.tuples(st.sampled_from([0, 1, 1000, 2024, 9999]), st.integers(0, 12), st.integers(0, 31))
SIXTY = st.integers(0, 59)
CLOCKS = st.one_of(st.just((0, 0, 0)), st.tuples(st.integers(0, 23), SIXTY, SIXTY))
SINGLES = st.floats(width=32, allow_nan=False, allow_infinity=False)
TYPES: dict[bytes, st.SearchStrategy[Value]] = {
    **integers(1, "b"), **integers(2, "h"), **integers(3, "i"), **integers(8, "q"), **integers(9, "i"),
    column("c", 13, BINARY, UNSIGNED): st.integers(0, 2155).map(
        lambda year: (b"%d" % year, struct.pack("<H", year))
    ),
    column("c", 4, BINARY, decimals=VARYING): SINGLES.map(single),
    column("c", 5, BINARY, decimals=VARYING): st.floats(allow_nan=False, allow_infinity=False).map(
        lambda number: (repr(number).encode(), struct.pack("<d", number))
    ),
    column("c", 5, BINARY, decimals=2): st.floats(-1e15, 1e15).map(
        lambda number: (b"%.2f" % number, struct.pack("<d", number))
    ),
    column("c", 246, BINARY): strings(
        st.decimals(-(10**9), 10**9, places=3).map(lambda number: str(number).encode())
    ),
    column("c", 253, UTF8MB4): strings(st.text(max_size=300).map(str.encode) | st.binary(max_size=300)),
    column("c", 252, BINARY): strings(st.binary(max_size=300)),
    column("c", 16, BINARY): strings(st.binary(max_size=8)),
    column("c", 245, BINARY): strings(st.text().map(str.encode)),
    column("c", 10, BINARY): DAYS.map(date_of),
    **{
        column("c", kind, BINARY, decimals=digits): st.builds(
            datetime_of, DAYS, CLOCKS, st.integers(0, 10**digits - 1), st.just(digits)
        )
        for kind in (7, 12) for digits in (0, 3, 6)
    },
    **{
        column("c", 11, BINARY, decimals=digits): st.builds(
            time_of, st.booleans(), st.integers(0, 838), st.tuples(SIXTY, SIXTY),
            st.integers(0, 10**digits - 1), st.just(digits),
        )
        for digits in (0, 1, 6)
    },
}  # fmt: skip


def binary_row(values: Row) -> bytes:
    nulls = sum(4 << bit for bit, value in enumerate(values) if value is None)
    bitmap = nulls.to_bytes((len(values) + 9) // 8, "little")
    return b"\0" + bitmap + b"".join(value[1] for value in values if value is not None)


def answers(
    columns: list[bytes], rows: list[Row], status: int = AUTOCOMMIT
) -> tuple[list[bytes], list[bytes]]:
    """Return the packets of an answer in the text, and in the binary protocol."""
    texts = [[None if value is None else value[0] for value in row] for row in rows]
    text = peer.rows(columns, texts, status=status)
    return text, [*text[: 1 + len(columns)], *map(binary_row, rows), text[-1]]


@st.composite
def results(draw: st.DrawFn, most_columns: int = 12) -> tuple[list[bytes], list[Row]]:
    columns = draw(st.lists(st.sampled_from(sorted(TYPES)), min_size=1, max_size=most_columns))
    row = st.tuples(*(st.none() | TYPES[kind] for kind in columns)).map(list)
    return columns, draw(st.lists(row, max_size=5))


def seen(data: bytes) -> Any:
    return [(found.fields, repr(found.rows), found.warnings) for found in MysqlResult(data).sets]


@given(st.lists(results(), min_size=1, max_size=2))
def test_a_row_has_the_same_values_in_both_protocols(drawn: list[Any]) -> None:
    text, binary = [], []
    for at, (columns, rows) in enumerate(drawn):
        status = AUTOCOMMIT | (MORE_RESULTS if at + 1 < len(drawn) else 0)
        one, other = answers(columns, rows, status)
        text += one
        binary += other
    assert seen(packets(1, text)) == seen(MARK + packets(1, binary))


@given(results(most_columns=4), st.data())
def test_what_is_cut_short_or_changed_is_a_bad_response_or_another_row(
    drawn: Any, data: st.DataObject
) -> None:
    raw = MARK + packets(1, answers(*drawn)[1])
    with pytest.raises(BadResponse):
        seen(raw[: data.draw(st.integers(4, len(raw) - 1))])
    at = data.draw(st.integers(4, len(raw) - 1))
    with contextlib.suppress(BadResponse):
        seen(raw[:at] + bytes((data.draw(st.integers(0, 255)),)) + raw[at + 1 :])


@pytest.mark.parametrize("count", [1, 6, 7, 512, 513, 2000])
def test_any_count_of_columns_and_of_nulls(count: int) -> None:
    values = [None if at % 3 == 1 else (b"%d" % at, struct.pack("<i", at)) for at in range(count)]
    text, binary = answers([column("c", 3, BINARY)] * count, [values, values[::-1], [None] * count])
    assert seen(packets(1, text)) == seen(MARK + packets(1, binary))


@pytest.mark.parametrize("size", [(1 << 24) - 20, 1 << 24, (1 << 25) + 5])
def test_a_row_of_16_mb_is_read(size: int) -> None:
    data = bytes(size)
    columns = [column("c", 252, BINARY), column("c", 3, BINARY)]
    values: list[Row] = [[(data, peer.text(data)), (b"7", struct.pack("<i", 7))], [None, None]]
    text, binary = answers(columns, values)
    for raw in (packets(1, text), MARK + packets(1, binary)):
        assert MysqlResult(raw).rows == [(data, 7), (None, None)]


@pytest.mark.parametrize(
    "payload", [b"\xff\x1a\x04#HY000x", b"\x01\0\0", b"\0\0\x07", b"\0\0\x02ab\0", b"\0"]
)
def test_what_is_not_a_row(payload: bytes) -> None:
    raw = MARK + packets(1, [b"\x01", column("c"), payload, ok(ends_rows=True)])
    with pytest.raises(BadResponse):
        seen(raw)


@pytest.mark.parametrize(
    ("kind", "value"),
    [(10, b"\x05" + bytes(5)), (12, b"\x03" + bytes(3)), (11, b"\x04" + bytes(4)), (3, b"\0")],
)
def test_values_of_an_impossible_length(kind: int, value: bytes) -> None:
    for count in (1, 600):
        row = b"\0" + bytes((count + 9) // 8) + value * count
        raw = MARK + packets(
            1, [peer.number(count), *[column("c", kind, BINARY)] * count, row, ok(ends_rows=True)]
        )
        with pytest.raises(BadResponse):
            seen(raw)


@pytest.mark.parametrize("fraction", [b"", b".500000"])
def test_a_date_that_is_none_in_an_expression_whose_count_of_digits_varies(fraction: bytes) -> None:
    at = struct.pack("<HBBBBB", 2024, 0, 10, 1, 2, 3)
    value = b"\x0b" + at + struct.pack("<I", 500_000) if fraction else b"\x07" + at
    columns = [column("c", 12, BINARY, decimals=39)]
    text, binary = answers(columns, [[(b"2024-00-10 01:02:03" + fraction, value)]])
    assert seen(packets(1, text)) == seen(MARK + packets(1, binary))
