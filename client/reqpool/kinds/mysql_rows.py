"""Reads the packets of MySQL's text protocol: columns, rows, and what the server says at the end.

Values come out as PyMySQL's are, with its converters. For each layout of columns a function is written that
reads its rows, since looking up per value what to do with it costs more than doing it: 1,000 rows of 5
columns take 1.3 ms in place of the 5 ms that PyMySQL takes (CPython 3.11).

A text whose bytes are not UTF-8 (others' statements in SHOW PROCESSLIST, error texts, names from another
character set) does not make the rows unreadable: each such byte becomes a lone surrogate, as in Python's file
names, and ``text.encode("utf-8", "surrogateescape")`` gives the bytes back. No text from the server has
surrogates otherwise, and none of them can be sent as a parameter.

The worker half has counted packets off and knows that they end where the answer ends; what they hold it has
not looked at. Whatever else is wrong with them is a BadResponse.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal, DecimalException
from functools import lru_cache
from typing import Any, NamedTuple

from pymysql.constants import FIELD_TYPE
from pymysql.converters import convert_datetime, convert_timedelta

from reqpool_contract.errors import BadResponse

MAX_PACKET_BYTES = 0xFFFFFF
_MORE_RESULTS, _STATE_CHANGED = 8, 0x4000
_BINARY = 63
"""Collation of what is not text."""
_OK, _EOF, _ERR = 0x00, 0xFE, 0xFF

Row = tuple[Any, ...]
Reader = Callable[[bytes, int, Callable[[Row], object]], int]
"""Reads ordinary rows from an offset on, hands each on, and returns where the first other packet is.

It raises UnicodeDecodeError for a text that is not UTF-8."""

_word = struct.Struct("<I").unpack_from
_halves = struct.Struct("<HH").unpack_from
_numbers = struct.Struct("<HIBHB").unpack_from  # collation, length, type, flags, decimals

_NAMES: dict[int, str] = {
    FIELD_TYPE.DECIMAL: "decimal", FIELD_TYPE.TINY: "tinyint", FIELD_TYPE.SHORT: "smallint",
    FIELD_TYPE.LONG: "int", FIELD_TYPE.FLOAT: "float", FIELD_TYPE.DOUBLE: "double", FIELD_TYPE.NULL: "null",
    FIELD_TYPE.TIMESTAMP: "timestamp", FIELD_TYPE.LONGLONG: "bigint", FIELD_TYPE.INT24: "mediumint",
    FIELD_TYPE.DATE: "date", FIELD_TYPE.TIME: "time", FIELD_TYPE.DATETIME: "datetime",
    FIELD_TYPE.YEAR: "year", FIELD_TYPE.NEWDATE: "date", FIELD_TYPE.VARCHAR: "varchar",
    FIELD_TYPE.BIT: "bit", FIELD_TYPE.JSON: "json",
    FIELD_TYPE.NEWDECIMAL: "decimal", FIELD_TYPE.ENUM: "enum", FIELD_TYPE.SET: "set",
    FIELD_TYPE.TINY_BLOB: "tinyblob", FIELD_TYPE.MEDIUM_BLOB: "mediumblob", FIELD_TYPE.LONG_BLOB: "longblob",
    FIELD_TYPE.BLOB: "blob", FIELD_TYPE.VAR_STRING: "varchar", FIELD_TYPE.STRING: "char",
    FIELD_TYPE.GEOMETRY: "geometry",
}  # fmt: skip
_ENUM_FLAG, _SET_FLAG, _NOT_NULL, _UNSIGNED = 256, 2048, 1, 32


class MysqlColumn(NamedTuple):
    """A column of a result.

    Attributes:
        name: its name or alias.
        type: in lower case, as in CREATE TABLE; ``text`` and the like come as ``blob`` with a collation of
            text.
        table: alias of the table it is from; empty for an expression.
        database: of that table.
        length: most bytes that a value can have.
        decimals: digits behind the point.
        collation: number of the character set and collation; 63 is bytes.
        nullable: may there be NULL in it?
        unsigned: no negative numbers.
    """

    name: str
    type: str
    table: str
    database: str
    length: int
    decimals: int
    collation: int
    nullable: bool
    unsigned: bool


class ResultSet(NamedTuple):
    """One of an answer's results; see :class:`reqpool.MysqlResult`."""

    columns: tuple[MysqlColumn, ...]
    rows: list[Row]
    affected: int
    last_id: int
    warnings: int
    info: str


Layout = tuple[tuple[MysqlColumn, ...], Reader | None, tuple[Callable[[bytes], Any], ...]]
"""Columns, what reads ordinary rows of them (None: nothing does), and what converts each value of others."""

_begun: dict[bytes, tuple[bytes, Layout]] = {}
"""How results began, by their first bytes: comparing some hundred bytes costs less than walking through."""
_KEY_BYTES = 64
_MOST_KEPT = 256
_MOST_COLUMNS_WRITTEN_OUT = 512
"""Of a function that reads rows; to compile one for 4,096 columns takes half a second."""
_LARGEST_KEPT_BYTES = 64 << 10
"""Column definitions that are longer, as those of some hundred columns, are read each time."""


def read(data: bytes) -> list[ResultSet]:
    """Read an answer's packets.

    Raises:
        BadResponse: if they are not an answer of MySQL.
    """
    found = []
    at, more = 0, True
    try:
        while more:
            result, at, more = _result(data, at)
            found.append(result)
    # IndexError and struct.error at the end of the data; ValueError, UnicodeDecodeError and DecimalException
    # from a value that is none of its type.
    except (IndexError, ValueError, DecimalException, struct.error) as error:
        raise BadResponse(f"a MySQL answer that cannot be read: {error!r}") from error
    if at != len(data):
        raise BadResponse("bytes after the answer")
    return found


def _result(data: bytes, at: int) -> tuple[ResultSet, int, bool]:
    """Read one result; return it, where the next begins, and whether there is one."""
    begun = _begun.get(data[at : at + _KEY_BYTES])
    if begun is not None and data.startswith(begun[0], at):
        layout = begun[1]
        at += len(begun[0])
    else:
        first = data[at + 4]
        if first == _OK:
            return _end(data, at, (), [])
        begin = at
        layout, at = _columns(data, at)
        if at - begin <= _LARGEST_KEPT_BYTES:
            if len(_begun) >= _MOST_KEPT:
                _begun.clear()
            _begun[data[begin : begin + _KEY_BYTES]] = data[begin:at], layout
    columns, reader, converters = layout
    if data[at] == 5 and data[at + 4] == _EOF and data[at + 1] == data[at + 2] == 0:
        at += 9  # servers that were not told to leave it away
    rows, at = _rows(data, at, reader, converters)
    return _end(data, at, columns, rows)


def _rows(
    data: bytes, begin: int, reader: Reader | None, converters: tuple[Callable[[bytes], Any], ...]
) -> tuple[list[Row], int]:
    """Read rows; return them, and where the first packet begins that is not a row."""
    rows: list[Row] = []
    at = begin
    try:
        while True:
            if reader is not None:
                at = reader(data, at, rows.append)
            if data[at + 4] == _EOF and _word(data, at)[0] & MAX_PACKET_BYTES < MAX_PACKET_BYTES:
                return rows, at
            row, at = _row(data, at, converters)
            rows.append(row)
    except UnicodeDecodeError:
        if reader is None:
            raise
        return _rows(data, begin, None, converters)


def _columns(data: bytes, begin: int) -> tuple[Layout, int]:
    """Read the columns of a result; return its layout, and where its rows begin."""
    count, at = _length(data, begin + 4)
    if data[begin + 4] >= _ERR or count == 0 or at != _after(data, begin):
        raise BadResponse("a MySQL answer that begins with neither OK nor a number of columns")
    first = at
    for _ in range(count):
        at += 4 + (_word(data, at)[0] & MAX_PACKET_BYTES)
    make = _layout if at - first <= _LARGEST_KEPT_BYTES else _layout.__wrapped__
    return make(data[first:at], count), at


def _end(
    data: bytes, at: int, columns: tuple[MysqlColumn, ...], rows: list[Row]
) -> tuple[ResultSet, int, bool]:
    """Read the OK (or EOF) packet that ends a result."""
    after = _after(data, at)
    if data[at + 4] not in (_OK, _EOF):
        raise BadResponse("a MySQL answer that ends in an error")
    info = ""
    if after - at == 11 and not data[at + 5] and not data[at + 6]:
        status, warnings = _halves(data, at + 7)
        affected = last_id = 0
    elif after - at == 9:
        warnings, status = _halves(data, at + 5)
        affected = last_id = 0
    else:
        affected, here = _length(data, at + 5)
        last_id, here = _length(data, here)
        status, warnings = _halves(data, here)
        here += 4
        if here > after:
            raise BadResponse("an OK packet that is cut short")
        info = _remark(data[here:after], bool(status & _STATE_CHANGED))
    return ResultSet(columns, rows, affected, last_id, warnings, info), after, bool(status & _MORE_RESULTS)


def _remark(rest: bytes, state_changed: bool) -> str:
    """Read what an OK packet has behind its warnings: a remark, and what was changed, which is for the
    worker half.

    The remark has its length before it; without CLIENT_SESSION_TRACK it may be the packet's rest instead, see
    ``read_ok`` of the worker half.
    """
    if not rest:
        return ""
    try:
        size, begin = _length(rest, 0)
    except BadResponse:  # a text that begins with such a byte: no reason to refuse the rows
        size, begin = -1, 0
    if begin + size == len(rest) or (state_changed and 0 <= size < len(rest) - begin):
        rest = rest[begin : begin + size]
    return rest.decode("utf-8", "replace")


def _after(data: bytes, at: int) -> int:
    """Return where the packet ends that begins there."""
    after: int = at + 4 + (_word(data, at)[0] & MAX_PACKET_BYTES)
    if after > len(data):
        raise BadResponse("a MySQL answer that is cut short")
    return after


def _length(data: bytes, at: int) -> tuple[int, int]:
    """Read a length-encoded number; return it and where it ends."""
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


def _row(data: bytes, at: int, converters: tuple[Callable[[bytes], Any], ...]) -> tuple[Row, int]:
    """Read any row: of many columns, of texts that are not UTF-8, of 16 MB or more, which is several packets.

    It costs three times what the functions that are written for a layout do.
    """
    pieces = []
    length = MAX_PACKET_BYTES
    while length == MAX_PACKET_BYTES:
        length = _word(data, at)[0] & MAX_PACKET_BYTES
        after = _after(data, at)
        pieces.append(memoryview(data)[at + 4 : after])
        at = after
    payload = b"".join(pieces)
    here = 0
    row: list[Any] = []
    for convert in converters:
        if payload[here] == 0xFB:
            row.append(None)
            here += 1
            continue
        size, here = _length(payload, here)
        if here + size > len(payload):
            raise BadResponse("a value that is longer than its row")
        row.append(convert(payload[here : here + size]))
        here += size
    if here != len(payload):
        raise BadResponse("a row with more values than columns")
    return tuple(row), at


# --- columns ------------------------------------------------------------------------------------------


@lru_cache(256)
def _layout(definitions: bytes, count: int) -> Layout:
    """Read column definitions (packets with headers), and make what reads such rows."""
    columns, types = [], []
    at = 0
    for _ in range(count):
        after = _after(definitions, at)
        texts = []
        here = at + 4
        for _ in range(6):  # catalog, database, table, its true name, name, its true name
            size, here = _length(definitions, here)
            texts.append(definitions[here : here + size])
            here += size
        collation, length, number, flags, decimals = _numbers(definitions, here + 1)
        if here + 11 > after:
            raise BadResponse("a column definition that is cut short")
        at = after
        name = _NAMES.get(number, f"type {number}")
        columns.append(
            MysqlColumn(
                name=_text(texts[4]),
                type="enum" if flags & _ENUM_FLAG else "set" if flags & _SET_FLAG else name,
                table=_text(texts[2]),
                database=_text(texts[1]),
                length=length,
                decimals=decimals,
                collation=collation,
                nullable=not flags & _NOT_NULL,
                unsigned=bool(flags & _UNSIGNED),
            )
        )
        types.append(_convert_of(number, collation))
    names = tuple(types)
    converters = tuple(_CONVERTERS[name] for name in names)
    reader = _reader(names) if count <= _MOST_COLUMNS_WRITTEN_OUT else None
    return tuple(columns), reader, converters


def _convert_of(number: int, collation: int) -> str:
    """Return the name of what makes a value of a column: see PyMySQL's MySQLResult._get_descriptions."""
    found = _BY_TYPE.get(number)
    if found is not None:
        return found
    return "raw" if collation == _BINARY else "text"


def _date(data: bytes) -> Any:
    text = data.decode("ascii")
    try:
        return date.fromisoformat(text)
    except ValueError:  # a zero in it: a string, as PyMySQL has it
        return text


def _datetime(data: bytes) -> Any:
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


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


_CONVERTERS: dict[str, Callable[[bytes], Any]] = {
    "int": int, "float": float, "decimal": _decimal, "date": _date, "datetime": _datetime, "time": _time,
    "raw": _raw, "text": _text,
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
def _reader(converts: tuple[str, ...]) -> Reader:
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
    names: dict[str, Any] = {"word": _word, "length": _length, "Unreadable": BadResponse, "Decimal": Decimal}
    names |= {f"{name}_": convert for name, convert in _CONVERTERS.items()}
    exec("\n".join(lines), names)  # made of the names above and numbers only
    read: Reader = names["read"]
    return read


__all__ = ["MysqlColumn", "ResultSet", "Row", "read"]
