"""Reads the packets of an answer: columns, rows, and the packet at the end.

:mod:`.mysql_text_rows` and :mod:`.mysql_binary_rows` read rows of the two protocols and give the same values.

A text whose bytes are not UTF-8 (others' statements in SHOW PROCESSLIST, error texts, names from another
character set) does not make the rows unreadable: each such byte becomes a lone surrogate, as in Python's file
names, and ``text.encode("utf-8", "surrogateescape")`` gives the bytes back. No text from the server has
surrogates otherwise, and none of them can be sent as a parameter.

The worker half has counted the packets and knows that the last one ends the answer, but has not read their
contents. Anything wrong there is a BadResponse.
"""

from __future__ import annotations

import struct
from decimal import DecimalException
from functools import lru_cache
from typing import NamedTuple

from pymysql.constants import FIELD_TYPE

from reqpool_contract.errors import BadResponse
from reqpool_contract.payloads.mysql import BINARY_ROWS, EOF, ERR, MAX_PACKET_BYTES, OK

from .mysql_binary_rows import binary_reader
from .mysql_text_rows import ColumnType, Row, RowReader, read_length, read_text, text_reader

_MORE_RESULTS, _STATE_CHANGED = 8, 0x4000
_CUT_SHORT = "a MySQL answer that is cut short"

_new = tuple.__new__

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
        length: the most bytes that a value can have.
        decimals: digits after the decimal point.
        collation: number of the character set and collation; 63 is bytes.
        nullable: whether it may contain NULL.
        unsigned: whether its numbers are never negative.
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


Layout = tuple[tuple[MysqlColumn, ...], RowReader]

_begun: tuple[dict[bytes, tuple[bytes, Layout]], ...] = {}, {}
"""How results of the text and of the binary protocol began, by their first bytes: comparing some hundred
bytes costs less than walking through."""
_KEY_BYTES = 64
_MOST_KEPT = 256
_LARGEST_KEPT_BYTES = 64 << 10
"""Column definitions that are longer, as those of some hundred columns, are read each time."""


def read(data: bytes) -> list[ResultSet]:
    """Read an answer's packets.

    Raises:
        BadResponse: if they are not an answer of MySQL.
    """
    found = []
    is_binary = data.startswith(BINARY_ROWS)
    at, more = len(BINARY_ROWS) if is_binary else 0, True
    try:
        while more:
            result, at, more = _result(data, at, is_binary)
            found.append(result)
    # IndexError and struct.error at the end of the data; ValueError, UnicodeDecodeError and DecimalException
    # from a value that does not have its type.
    except (IndexError, ValueError, DecimalException, struct.error) as error:
        raise BadResponse(f"a MySQL answer that cannot be read: {error!r}") from error
    if at != len(data):
        raise BadResponse("bytes after the answer")
    return found


def _result(data: bytes, at: int, is_binary: bool) -> tuple[ResultSet, int, bool]:
    """Read one result; return it, where the next begins, and whether there is one."""
    known = _begun[is_binary]
    begun = known.get(data[at : at + _KEY_BYTES])
    if begun is not None and data.startswith(begun[0], at):
        layout = begun[1]
        at += len(begun[0])
    else:
        first = data[at + 4]
        if first == OK:
            return _end(data, at, (), [])
        begin = at
        layout, at = _columns(data, at, is_binary)
        if at - begin <= _LARGEST_KEPT_BYTES:
            if len(known) >= _MOST_KEPT:
                known.clear()
            known[data[begin : begin + _KEY_BYTES]] = data[begin:at], layout
    columns, reader = layout
    if data[at] == 5 and data[at + 4] == EOF and data[at + 1] == data[at + 2] == 0:
        at += 9  # the server does not support CLIENT_DEPRECATE_EOF
    rows: list[Row] = []
    after = -1
    if reader.many is not None:
        try:
            after = reader.many(data, at, rows.append)
        except UnicodeDecodeError:
            after = -1
    # Else some row is larger than a packet, or not UTF-8, and all are read with more care.
    if after < 0 or data[after + 4] != EOF or _word(data, after)[0] & MAX_PACKET_BYTES == MAX_PACKET_BYTES:
        rows, after = _rows(data, at, reader)
    return _end(data, after, columns, rows)


def _rows(data: bytes, begin: int, reader: RowReader) -> tuple[list[Row], int]:
    """Read rows; return them, and where the first packet begins that is not a row."""
    rows: list[Row] = []
    at = begin
    try:
        while True:
            if reader.many is not None:
                at = reader.many(data, at, rows.append)
            if data[at + 4] == EOF and _word(data, at)[0] & MAX_PACKET_BYTES < MAX_PACKET_BYTES:
                return rows, at
            payload, at = _payload(data, at)
            rows.append(reader.one(payload))
    except UnicodeDecodeError:
        if reader.many is None:
            raise
        return _rows(data, begin, RowReader(None, reader.one))


def _payload(data: bytes, at: int) -> tuple[bytes, int]:
    """Read one packet, or several if it is one of 16 MB or more; return what is in it and where it ends."""
    pieces = []
    length = MAX_PACKET_BYTES
    while length == MAX_PACKET_BYTES:
        length = _word(data, at)[0] & MAX_PACKET_BYTES
        after = _after(data, at)
        pieces.append(memoryview(data)[at + 4 : after])
        at = after
    return b"".join(pieces), at


def _columns(data: bytes, begin: int, is_binary: bool) -> tuple[Layout, int]:
    """Read the columns of a result; return its layout, and where its rows begin."""
    count, at = read_length(data, begin + 4)
    if data[begin + 4] >= ERR or count == 0 or at != _after(data, begin):
        raise BadResponse("a MySQL answer that begins with neither OK nor a number of columns")
    first = at
    for _ in range(count):
        at += 4 + (_word(data, at)[0] & MAX_PACKET_BYTES)
    make = _layout if at - first <= _LARGEST_KEPT_BYTES else _layout.__wrapped__
    return make(data[first:at], count, is_binary), at


def _end(
    data: bytes, at: int, columns: tuple[MysqlColumn, ...], rows: list[Row]
) -> tuple[ResultSet, int, bool]:
    """Read the OK (or EOF) packet that ends a result."""
    after: int = at + 4 + (_word(data, at)[0] & MAX_PACKET_BYTES)
    if after > len(data):
        raise BadResponse(_CUT_SHORT)
    if data[at + 4] not in (OK, EOF):
        raise BadResponse("a MySQL answer that ends in an error")
    info = ""
    if after - at == 11 and not data[at + 5] and not data[at + 6]:
        status, warnings = _halves(data, at + 7)
        affected = last_id = 0
    elif after - at == 9:
        warnings, status = _halves(data, at + 5)
        affected = last_id = 0
    else:
        affected, here = read_length(data, at + 5)
        last_id, here = read_length(data, here)
        status, warnings = _halves(data, here)
        here += 4
        if here > after:
            raise BadResponse("an OK packet that is cut short")
        info = _remark(data[here:after], bool(status & _STATE_CHANGED))
    result: ResultSet = _new(ResultSet, (columns, rows, affected, last_id, warnings, info))
    return result, after, bool(status & _MORE_RESULTS)


def _remark(rest: bytes, state_changed: bool) -> str:
    """Read what follows the warnings in an OK packet: a remark, and session-track information, which is for
    the worker half.

    The remark has its length before it; without CLIENT_SESSION_TRACK it may be the packet's rest instead, see
    ``read_ok`` of the worker half.
    """
    if not rest:
        return ""
    try:
        size, begin = read_length(rest, 0)
    except BadResponse:  # a text that begins with such a byte: no reason to refuse the rows
        size, begin = -1, 0
    if begin + size == len(rest) or (state_changed and 0 <= size < len(rest) - begin):
        rest = rest[begin : begin + size]
    return rest.decode("utf-8", "replace")


def _after(data: bytes, at: int) -> int:
    """Return where the packet ends that begins there."""
    after: int = at + 4 + (_word(data, at)[0] & MAX_PACKET_BYTES)
    if after > len(data):
        raise BadResponse(_CUT_SHORT)
    return after


# --- columns ------------------------------------------------------------------------------------------


@lru_cache(256)
def _layout(definitions: bytes, count: int, is_binary: bool) -> Layout:
    """Read column definitions (packets with headers), and make what reads such rows."""
    columns, types = [], []
    at = 0
    for _ in range(count):
        after = _after(definitions, at)
        texts = []
        here = at + 4
        for _ in range(6):  # catalog, database, table, its true name, name, its true name
            size, here = read_length(definitions, here)
            texts.append(definitions[here : here + size])
            here += size
        collation, length, number, flags, decimals = _numbers(definitions, here + 1)
        if here + 11 > after:
            raise BadResponse("a column definition that is cut short")
        at = after
        name = _NAMES.get(number, f"type {number}")
        columns.append(
            MysqlColumn(
                name=read_text(texts[4]),
                type="enum" if flags & _ENUM_FLAG else "set" if flags & _SET_FLAG else name,
                table=read_text(texts[2]),
                database=read_text(texts[1]),
                length=length,
                decimals=decimals,
                collation=collation,
                nullable=not flags & _NOT_NULL,
                unsigned=bool(flags & _UNSIGNED),
            )
        )
        types.append(ColumnType(number, collation, bool(flags & _UNSIGNED), decimals))
    return tuple(columns), binary_reader(types) if is_binary else text_reader(types)


__all__ = ["MysqlColumn", "ResultSet", "Row", "read"]
