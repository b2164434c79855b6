"""Parameters of a statement, escaped for the connection on which it is sent.

The payload is described in :mod:`reqpool_contract.payloads.mysql`.

Whether a backslash escapes depends on the connection (sql_mode NO_BACKSLASH_ESCAPES) and shows in its status
flags; a doubled quote means a quote either way. MariaDB (10.11) leaves that flag wrong after a trigger or a
routine that set sql_mode: the mode is restored at its end, the flag is not. So a flag that has changed is not
trusted, and a text with a backslash is written in hexadecimal digits, which mean the same in either mode.

Bytes can be replaced because in utf8mb4 the byte of a quote is never part of another character; in gbk or
sjis that of a backslash may be.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import msgpack

from reqpool_contract.errors import UsageError
from reqpool_contract.payloads.mysql import BYTES, DECIMAL, INTEGER, INTRODUCED, TEMPORAL

_ARRAY_OF_TWO, _BINS = 0x92, (0xC4, 0xC5, 0xC6)
"""First bytes of what msgpack writes."""

_TEMPORAL = re.compile(rb"[0-9:. -]+")
_NUMBER = re.compile(rb"-?[0-9]+(\.[0-9]+)?")


class TypedStatement(NamedTuple):
    """A statement with its parameters.

    Attributes:
        sql: in UTF-8, with ``%s`` and ``%%``.
        parameters: as msgpack has them, texts as bytes.
        backslashes: whether they must escape (True) or must not (False) on the connection; None: either.
        reads_binary: whether the client reads rows of the binary protocol.
    """

    sql: bytes
    parameters: list[Any]
    backslashes: bool | None
    reads_binary: bool


def read_typed(payload: bytes) -> TypedStatement:
    """Read a payload that begins with byte 0.

    Raises:
        UsageError: if it is malformed.
    """
    try:
        # raw: a str comes as its bytes in UTF-8.
        parts = msgpack.unpackb(memoryview(payload)[1:], raw=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise _malformed(str(error)) from error
    if type(parts) is not list or len(parts) not in (2, 3):
        raise _malformed("it has other parts")
    sql, parameters = parts[:2]
    if type(sql) is not bytes or type(parameters) is not list:
        raise _malformed("SQL is a str or a bin, parameters are an array")
    if len(parts) == 2:
        return TypedStatement(sql, parameters, None, payload[1] == _ARRAY_OF_TWO and payload[2] not in _BINS)
    if type(parts[2]) is not bool:
        raise _malformed("the third part is a bool")
    return TypedStatement(sql, parameters, parts[2], False)


def render(statement: TypedStatement, backslashes: bool | None) -> bytes:
    """Write a statement's SQL, in UTF-8.

    Args:
        statement: the statement.
        backslashes: whether a backslash escapes the next character in a string (not NO_BACKSLASH_ESCAPES);
            None: that is not known.

    Raises:
        UsageError: if its placeholders and parameters do not match, or a parameter cannot be written.
    """
    sql, parameters, wanted, _ = statement
    if wanted is not None and wanted is not backslashes:
        raise UsageError(
            "a placeholder of this SQL is inside quotes, because of how sql_mode (NO_BACKSLASH_ESCAPES) "
            "treats a backslash on this connection: pass texts with backslashes as parameters"
        )
    rest = sql.replace(b"%%", b"")
    if rest.count(b"%") != rest.count(b"%s"):  # "%9999999999s" would be gigabytes
        raise _malformed("placeholders are %s, percent signs %%")
    try:
        return sql % tuple([_literal(value, backslashes) for value in parameters])
    except (ValueError, TypeError) as error:  # a wrong number of parameters
        raise _malformed(str(error)) from error


def is_temporal(data: bytes) -> bool:
    """Return whether this can be the text of a date, a time, or both."""
    return _TEMPORAL.fullmatch(data) is not None


def is_number(data: bytes) -> bool:
    """Return whether these are the digits of a number."""
    return _NUMBER.fullmatch(data) is not None


def _malformed(why: str) -> UsageError:
    return UsageError(f"payload is not [sql, parameters]: {why}")


def _literal(value: Any, backslashes: bool | None) -> bytes:
    kind = type(value)
    if kind is bytes:
        return _string(value, backslashes, b"", b"_utf8mb4 ")
    if kind is int:
        return b"%d" % value
    if value is None:
        return b"NULL"
    if kind is bool:
        return b"1" if value else b"0"
    if kind is float:
        # With an exponent it is a DOUBLE; "1.1" would be a DECIMAL.
        text = repr(value).encode()
        return text if b"e" in text else text + b"e0"
    if kind is msgpack.ExtType:
        return _extension(value.code, value.data, backslashes)
    if kind is list and value and not any(type(item) is list for item in value):
        return b"(" + b",".join([_literal(item, backslashes) for item in value]) + b")"
    raise UsageError(f"MySQL takes no parameter of type {kind.__name__}")


def _string(data: bytes, backslashes: bool | None, introducer: bytes, of_digits: bytes) -> bytes:
    if b"\\" in data:
        if backslashes is None:
            return b"%bX'%b'" % (of_digits, data.hex().encode())
        if backslashes:
            data = data.replace(b"\\", b"\\\\")
    return b"%b'%b'" % (introducer, data.replace(b"'", b"''"))


def _extension(code: int, data: bytes, backslashes: bool | None) -> bytes:
    if code == BYTES:
        return _string(data, backslashes, b"_binary", b"_binary ")
    if code == INTRODUCED:
        return _string(data, backslashes, b"", b"")
    if code == TEMPORAL and is_temporal(data):
        return b"'" + data + b"'"
    if code in (DECIMAL, INTEGER) and is_number(data):
        return data
    raise UsageError(f"cannot read a parameter of extension type {code}")
