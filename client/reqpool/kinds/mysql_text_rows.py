"""Reads rows of MySQL's text protocol.

Values come out as PyMySQL's are, with its converters. For each layout of columns a function is written that
reads its rows, since looking up per value what to do with it costs more than doing it: 1,000 rows of 5
columns take 1.3 ms instead of the 5 ms that PyMySQL takes (CPython 3.11).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple

from pymysql.constants import FIELD_TYPE
from pymysql.converters import convert_datetime, convert_timedelta

from reqpool_contract.errors import BadResponse

BINARY = 63
"""Collation of what is not text."""
MOST_COLUMNS_WRITTEN_OUT = 512
"""Of a function that reads rows; to compile one for 4,096 columns takes half a second."""

Row = tuple[Any, ...]
Many = Callable[[bytes, int, Callable[[Row], object]], int]

_word = struct.Struct("<I").unpack_from


class RowReader(NamedTuple):
    """What reads rows of one layout.

    Attributes:
        many: reads ordinary rows from an offset on, passes each on, and returns where the first other packet
            is; None if the layout has too many columns. Raises UnicodeDecodeError for a text not in UTF-8.
        one: reads any row, from its packets' payload.
    """

    many: Many | None
    one: Callable[[bytes], Row]


class ColumnType(NamedTuple):
    """What of a column's definition decides how its values are read.

    Attributes:
        number: FIELD_TYPE.
        collation: number of the collation; :data:`BINARY` is bytes.
        unsigned: are there no negative numbers?
        decimals: digits after the point; 31 if their number varies.
    """

    number: int
    collation: int
    unsigned: bool
    decimals: int

    @property
    def converts(self) -> str:
        """The name of what makes a value of its text: see PyMySQL's MySQLResult._get_descriptions."""
        found = _BY_TYPE.get(self.number)
        if found is not None:
            return found
        return "raw" if self.collation == BINARY else "text"


def text_reader(types: Sequence[ColumnType]) -> RowReader:
    """Make what reads rows of columns of these types."""
    converts = tuple(column.converts for column in types)
    converters = tuple(CONVERTERS[name] for name in converts)

    def one(payload: bytes) -> Row:
        return _row(payload, converters)

    return RowReader(_written(converts) if len(types) <= MOST_COLUMNS_WRITTEN_OUT else None, one)


def read_length(data: bytes, at: int) -> tuple[int, int]:
    """Read a length-encoded number; return it and where it ends.

    Raises:
        BadResponse: if it is malformed.
    """
    first = data[at]
    if first < 0xFB:
        return first, at + 1
    size = _SIZES.get(first)
    if size is None:
        raise BadResponse(f"a length that begins with byte {first}")
    if at + 1 + size > len(data):
        raise BadResponse("a length that is cut short")
    return int.from_bytes(data[at + 1 : at + 1 + size], "little"), at + 1 + size


_SIZES = {0xFC: 2, 0xFD: 3, 0xFE: 8}


def _row(payload: bytes, converters: tuple[Callable[[bytes], Any], ...]) -> Row:
    """Read any row: of many columns, of texts that are not UTF-8, of 16 MB or more.

    It costs three times what the functions that are written for a layout do.
    """
    here = 0
    row: list[Any] = []
    for convert in converters:
        if payload[here] == 0xFB:
            row.append(None)
            here += 1
            continue
        size, here = read_length(payload, here)
        if here + size > len(payload):
            raise BadResponse("a value that is longer than its row")
        row.append(convert(payload[here : here + size]))
        here += size
    if here != len(payload):
        raise BadResponse("a row with more values than columns")
    return tuple(row)


# --- values -------------------------------------------------------------------------------------------


def _date(data: bytes) -> Any:
    text = data.decode("ascii")
    try:
        return date.fromisoformat(text)
    except ValueError:  # a zero in it: a string, as PyMySQL has it
        return text


def text_datetime(data: bytes) -> Any:
    """Read a DATETIME; one that Python does not have, with a zero in its date, stays a text."""
    text = data.decode("ascii")
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return convert_datetime(text)


def _time(data: bytes) -> Any:
    return convert_timedelta(data.decode("ascii"))


def _decimal(data: bytes) -> Decimal:
    return Decimal(data.decode("ascii"))


def _raw(data: bytes) -> bytes:
    return data


def read_text(data: bytes) -> str:
    """Read a text, whatever its bytes are."""
    return data.decode("utf-8", "surrogateescape")


CONVERTERS: dict[str, Callable[[bytes], Any]] = {
    "int": int, "float": float, "decimal": _decimal, "date": _date, "datetime": text_datetime, "time": _time,
    "raw": _raw, "text": read_text,
}  # fmt: skip
_INLINE = {"raw": "data[p:q]", "text": "data[p:q].decode()", "decimal": "Decimal(data[p:q].decode())"}
_BY_TYPE: dict[int, str] = {
    FIELD_TYPE.TINY: "int", FIELD_TYPE.SHORT: "int", FIELD_TYPE.LONG: "int", FIELD_TYPE.LONGLONG: "int",
    FIELD_TYPE.INT24: "int", FIELD_TYPE.YEAR: "int", FIELD_TYPE.FLOAT: "float", FIELD_TYPE.DOUBLE: "float",
    FIELD_TYPE.TIMESTAMP: "datetime", FIELD_TYPE.DATETIME: "datetime", FIELD_TYPE.TIME: "time",
    FIELD_TYPE.DATE: "date", FIELD_TYPE.NEWDATE: "date", FIELD_TYPE.DECIMAL: "decimal",
    FIELD_TYPE.NEWDECIMAL: "decimal", FIELD_TYPE.JSON: "text",
}  # fmt: skip


@lru_cache(256)
def _written(converts: tuple[str, ...]) -> Many:
    """Write the function that reads rows of columns that convert like this."""
    lines = [
        "def read(data, at, add):",
        "    while True:",
        "        size = word(data, at)[0] & 0xFFFFFF",
        "        p = at + 4",
        "        if data[p] == 0xFE or size == 0xFFFFFF: return at",
        "        at = p + size",
    ]
    for number, convert in enumerate(converts):
        value = _INLINE.get(convert, f"{convert}_(data[p:q])")
        lines += [
            "        n = data[p]",
            "        p += 1",
            "        if n < 0xFB:",
            "            q = p + n",
            f"            v{number} = {value}",
            "            p = q",
            f"        elif n == 0xFB: v{number} = None",
            "        else:",
            "            n, p = length(data, p - 1)",
            "            q = p + n",
            f"            v{number} = {value}",
            "            p = q",
        ]
    values = "".join(f"v{number}, " for number in range(len(converts)))
    lines += [
        "        if p != at: raise Unreadable('a row whose values do not add up to its length')",
        f"        add(({values}))",
    ]
    names: dict[str, Any] = {
        "word": _word,
        "length": read_length,
        "Unreadable": BadResponse,
        "Decimal": Decimal,
    }
    names |= {f"{name}_": convert for name, convert in CONVERTERS.items()}
    exec("\n".join(lines), names)  # made of the names above and numbers only
    read: Many = names["read"]
    return read
