"""Parameters in the binary protocol: the payload of COM_STMT_EXECUTE.

Each parameter has the type that its literal would have, see :mod:`.mysql_literals`: a number of up to 64 bits
is a BIGINT, a temporal value the text from which MySQL reads it.

Source: https://mariadb.com/kb/en/com_stmt_execute/
"""

from __future__ import annotations

import struct
from math import isfinite
from typing import Any

import msgpack

from reqpool_contract.payloads.mysql import BYTES, DECIMAL, INTEGER, TEMPORAL

from .mysql_literals import is_number, is_temporal
from .mysql_packets import COM_STMT_EXECUTE, length_encoded

_NO_CURSOR_ONCE = b"\0\x01\0\0\0"
_WITH_TYPES = b"\x01"
_SIGNED, _UNSIGNED, _DOUBLE, _NULL = b"\x08\0", b"\x08\x80", b"\x05\0", b"\x06\0"
_TEXT, _BLOB, _DECIMAL = b"\xfd\0", b"\xfc\0", b"\xf6\0"

_int64 = struct.Struct("<q").pack
_uint64 = struct.Struct("<Q").pack
_double = struct.Struct("<d").pack


def execute(number: bytes, parameters: list[Any]) -> bytes | None:
    """Return the payload that executes a statement.

    Args:
        number: the statement's id.
        parameters: as msgpack has them, texts as bytes; at least one.

    Returns:
        None if one of them can only be written as part of the statement's text (a list, a value after an
        introducer), or not at all.
    """
    nulls = 0
    types: list[bytes] = []
    values: list[bytes] = []
    for at, value in enumerate(parameters):
        kind = type(value)
        if kind is int:
            if value < 1 << 63:
                types.append(_SIGNED)
                values.append(_int64(value))
            else:
                types.append(_UNSIGNED)
                values.append(_uint64(value))
        elif kind is bytes:
            types.append(_TEXT)
            values.append(length_encoded(value))
        elif value is None:
            types.append(_NULL)
            nulls |= 1 << at
        elif kind is bool:
            types.append(_SIGNED)
            values.append(_int64(value))
        elif kind is float and isfinite(value):
            types.append(_DOUBLE)
            values.append(_double(value))
        else:
            written = _extension(value)
            if written is None:
                return None
            types.append(written[0])
            values.append(length_encoded(written[1]))
    bitmap = nulls.to_bytes((len(parameters) + 7) // 8, "little")
    return b"".join((COM_STMT_EXECUTE, number, _NO_CURSOR_ONCE, bitmap, _WITH_TYPES, *types, *values))


def _extension(value: Any) -> tuple[bytes, bytes] | None:
    """Return type and bytes of a parameter that is an extension of msgpack's."""
    if type(value) is not msgpack.ExtType:
        return None
    code, data = value
    if code == BYTES:
        return _BLOB, data
    if code == TEMPORAL and is_temporal(data):
        return _TEXT, data
    if code in (DECIMAL, INTEGER) and is_number(data):
        return _DECIMAL, data
    return None
