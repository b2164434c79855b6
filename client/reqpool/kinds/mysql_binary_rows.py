"""Reads rows of MySQL's binary protocol, the values as :mod:`.mysql_text_rows` reads them from their texts.

Some facts this file relies on:

* A text has a FLOAT in 6 digits (FLT_DIG), and a number with a fixed count of decimals in as many. The
  binary protocol has what is stored.
* What is not a date to Python, since a part of it is zero, stays a text. The binary protocol leaves out
  trailing parts if all of them are zero: it sends 0 bytes, or 4 without a time, 7 without microseconds, 11.

Source: https://mariadb.com/kb/en/resultset-row/
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache, partial
from typing import Any

from pymysql.constants import FIELD_TYPE

from reqpool_contract.errors import BadResponse

from .mysql_text_rows import (
    MOST_COLUMNS_WRITTEN_OUT,
    ColumnType,
    Many,
    Row,
    RowReader,
    read_length,
    read_text,
    text_datetime,
)

_VARYING_DECIMALS = 31
_MOST_DECIMALS = 6

_word = struct.Struct("<I").unpack_from
_day = struct.Struct("<HBB").unpack_from
_second = struct.Struct("<HBBBBB").unpack_from
_microsecond = struct.Struct("<HBBBBBI").unpack_from
_span = struct.Struct("<BIBBB").unpack_from

_NUMBERS = {
    FIELD_TYPE.TINY: "b", FIELD_TYPE.SHORT: "h", FIELD_TYPE.YEAR: "h", FIELD_TYPE.LONG: "i",
    FIELD_TYPE.INT24: "i", FIELD_TYPE.LONGLONG: "q", FIELD_TYPE.FLOAT: "f", FIELD_TYPE.DOUBLE: "d",
}  # fmt: skip
"""Types of fixed size, as struct has them."""

Value = Callable[[bytes, int], tuple[Any, int]]
"""Reads a value that is not NULL from an offset on; returns it and where it ends."""


def binary_reader(types: Sequence[ColumnType]) -> RowReader:
    """Make what reads rows of columns of these types."""
    kinds = tuple(_kind(column) for column in types)
    values = tuple(_value(kind) for kind in kinds)

    def one(payload: bytes) -> Row:
        return _row(payload, values)

    return RowReader(_written(kinds) if len(types) <= MOST_COLUMNS_WRITTEN_OUT else None, one)


def _kind(column: ColumnType) -> tuple[str, int]:
    """Return how a column's values are read, and a number of decimals where that counts."""
    code = _NUMBERS.get(column.number)
    decimals = column.decimals
    if code is None:
        converts = column.converts
        return converts, min(decimals, _MOST_DECIMALS + 1) if converts == "datetime" else 0
    if code in "fd":
        return code, min(decimals, _VARYING_DECIMALS)
    return code.upper() if column.unsigned or column.number == FIELD_TYPE.YEAR else code, 0


def _row(payload: bytes, values: Sequence[Value]) -> Row:
    """Read any row: of many columns, of texts that are not UTF-8, of 16 MB or more."""
    here = 1 + (len(values) + 9) // 8
    if payload[0]:
        raise BadResponse(f"a row that begins with byte {payload[0]}")
    row: list[Any] = []
    for bit, read in enumerate(values, 2):
        if payload[1 + bit // 8] >> bit % 8 & 1:
            row.append(None)
        else:
            value, here = read(payload, here)
            row.append(value)
    if here != len(payload):
        raise BadResponse("a row whose values do not add up to its length")
    return tuple(row)


# --- values -------------------------------------------------------------------------------------------


@lru_cache(256)
def _value(kind: tuple[str, int]) -> Value:
    name, decimals = kind
    if name in _VALUES:
        return _VALUES[name]
    if name == "datetime":
        return partial(_datetime, decimals)
    unpack = struct.Struct("<" + name).unpack_from
    return partial(_number, unpack, struct.calcsize("<" + name), _shown(kind))


def _number(unpack: Any, size: int, shown: str, data: bytes, at: int) -> tuple[Any, int]:
    (value,) = unpack(data, at)
    return float(shown % value) if shown else value, at + size


def _shown(kind: tuple[str, int]) -> str:
    """Return how a text has a floating-point number; empty if it has all its digits."""
    name, decimals = kind
    if name not in "fd":
        return ""
    if decimals < _VARYING_DECIMALS:
        return f"%.{decimals}f"
    return "%.6g" if name == "f" else ""


def _bytes(data: bytes, at: int) -> tuple[bytes, int]:
    size, at = read_length(data, at)
    if at + size > len(data):
        raise BadResponse("a value that is longer than its row")
    return data[at : at + size], at + size


def _text(data: bytes, at: int) -> tuple[str, int]:
    found, at = _bytes(data, at)
    return read_text(found), at


def _decimal(data: bytes, at: int) -> tuple[Decimal, int]:
    found, at = _bytes(data, at)
    return Decimal(found.decode("ascii")), at


def _date(data: bytes, at: int) -> tuple[Any, int]:
    size = data[at]
    if size == 4:
        year, month, day = _day(data, at + 1)
    elif size == 0:
        year = month = day = 0
    else:
        raise BadResponse(f"a date of {size} bytes")
    try:
        return date(year, month, day), at + 1 + size
    except ValueError:
        return f"{year:04d}-{month:02d}-{day:02d}", at + 1 + size


def _datetime(decimals: int, data: bytes, at: int) -> tuple[Any, int]:
    size = data[at]
    parts = (0, 0, 0, 0, 0, 0, 0)
    if size == 7:
        parts = _second(data, at + 1)
    elif size == 11:
        parts = _microsecond(data, at + 1)
    elif size == 4:
        parts = _day(data, at + 1)
    elif size:
        raise BadResponse(f"a date and time of {size} bytes")
    try:
        return datetime(*parts), at + 1 + size
    except ValueError:
        return _text_of(parts, decimals), at + 1 + size


def _text_of(parts: Sequence[int], decimals: int) -> Any:
    """Return a date and time that Python does not have as its text is read."""
    year, month, day, hour, minute, second, fraction = (*parts, 0, 0, 0, 0)[:7]
    text = f"{year:04d}-{month:02d}-{day:02d} {hour:02d}:{minute:02d}:{second:02d}"
    if decimals > _MOST_DECIMALS:
        decimals = _MOST_DECIMALS if fraction else 0
    if decimals:
        text += f".{fraction:06d}"[: 1 + decimals]
    return text_datetime(text.encode())


def _time(data: bytes, at: int) -> tuple[timedelta, int]:
    size = data[at]
    if size == 0:
        return timedelta(), at + 1
    if size not in (8, 12):
        raise BadResponse(f"a time of {size} bytes")
    negative, days, hours, minutes, seconds = _span(data, at + 1)
    fraction = _word(data, at + 9)[0] if size == 12 else 0
    found = timedelta(days, seconds, fraction, 0, minutes, hours)
    return -found if negative else found, at + 1 + size


_VALUES: dict[str, Value] = {"raw": _bytes, "text": _text, "decimal": _decimal, "date": _date, "time": _time}
_INLINE = {"raw": "data[p:q]", "text": "data[p:q].decode()", "decimal": "Decimal(data[p:q].decode())"}


@lru_cache(256)
def _written(kinds: tuple[tuple[str, int], ...]) -> Many:
    """Write the function that reads rows of columns of these kinds."""
    names: dict[str, Any] = {
        "word": _word,
        "second": _second,
        "datetime": datetime,
        "length": read_length,
        "Unreadable": BadResponse,
        "Decimal": Decimal,
    }
    bitmap = range((len(kinds) + 9) // 8)
    lines = [
        "def read(data, at, add):",
        "    while True:",
        "        size = word(data, at)[0] & 0xFFFFFF",
        "        p = at + 4",
        "        if data[p] == 0xFE or size == 0xFFFFFF: return at",
        "        at = p + size",
        "        if data[p]: raise Unreadable(f'a row that begins with byte {data[p]}')",
        *(f"        nulls{number} = data[p + {1 + number}]" for number in bitmap),
        f"        p += {1 + len(bitmap)}",
    ]
    for number, kind in enumerate(kinds):
        bit = number + 2
        lines += [
            f"        if nulls{bit // 8} & {1 << bit % 8}: v{number} = None",
            "        else:",
            *("            " + line for line in _reads(f"v{number}", kind, names)),
        ]
    values = "".join(f"v{number}, " for number in range(len(kinds)))
    lines += [
        "        if p != at: raise Unreadable('a row whose values do not add up to its length')",
        f"        add(({values}))",
    ]
    exec("\n".join(lines), names)  # made of the names above and numbers only
    read: Many = names["read"]
    return read


def _reads(target: str, kind: tuple[str, int], names: dict[str, Any]) -> list[str]:
    """Return the lines that read a value at ``p``; put what they use into ``names``."""
    name, decimals = kind
    if name in _INLINE:
        return [
            "q = p + 1 + data[p]",
            "p += 1",
            "if q - p >= 0xFB:",
            "    n, p = length(data, p - 1)",
            "    q = p + n",
            f"{target} = {_INLINE[name]}",
            "p = q",
        ]
    if name == "B":
        return [f"{target} = data[p]", "p += 1"]
    if name in _VALUES or name == "datetime":
        function = f"{name}{decimals}_"
        names[function] = _value(kind)
        lines = [f"{target}, p = {function}(data, p)"]
        if name != "datetime":
            return lines
        # Nearly all are of 7 bytes: these without a call.
        return [
            "if data[p] == 7:",
            f"    try: {target} = datetime(*second(data, p + 1))",
            f"    except ValueError: {target} = {function}(data, p)[0]",
            "    p += 8",
            "else:",
            f"    {lines[0]}",
        ]
    names[f"{name}_"] = struct.Struct("<" + name).unpack_from
    shown = _shown(kind)
    lines = [f"{target}, = {name}_(data, p)", f"p += {struct.calcsize('<' + name)}"]
    return [*lines, f"{target} = float({shown!r} % {target})"] if shown else lines
