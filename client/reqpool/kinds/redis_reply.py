"""Replies of Redis: how one is written (RESP, https://redis.io/docs/latest/develop/reference/protocol-spec/).

The worker half finds where replies end, the client half reads them, both by the expressions in here.

What travels between the two is a reply as it came, but for the commonest one: a bulk string is a :data:`BULK`
and its bytes, without length and end.
"""

from __future__ import annotations

import re
from typing import Any

from ..errors import BadResponse, RedisError

BULK = b'"'
"""Begins a bulk string's bytes; no reply of Redis begins with it."""

MAX_DEPTH = 128
"""Arrays in arrays. Redis itself makes a handful; a script of a user's may make a hundred."""

_SCALAR2 = rb"[+-][^\r\n]*|:[+-]?[0-9]{1,20}|[$*]-1"
_SCALAR3 = (
    _SCALAR2
    + rb"|_|#[tf]|,(?:[+-]?(?:[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|inf)|-?nan)|\([+-]?[0-9]{1,4300}"
)
# 4300: what int() takes (sys.int_info.default_max_str_digits).

SCALAR = {2: re.compile(rb"(?:%b)\r\n" % _SCALAR2), 3: re.compile(rb"(?:%b)\r\n" % _SCALAR3)}
"""By protocol: replies of one line."""
LENGTH = {2: re.compile(rb"\$([0-9]{1,10})\r\n"), 3: re.compile(rb"[$=!]([0-9]{1,10})\r\n")}
"""By protocol: first line of replies with so many bytes, and an end of line."""
COUNT = {2: re.compile(rb"(\*)([0-9]{1,10})\r\n"), 3: re.compile(rb"([*~%>|])([0-9]{1,10})\r\n")}
"""By protocol: first line of replies with so many elements: type, count."""
FIRST = {2: frozenset(b"+-:$*"), 3: frozenset(b"+-:$*_#,(=!~%>|")}
"""By protocol: what a reply may begin with."""


def elements(kind: bytes, count: int) -> int:
    """Return how many replies follow the first line of an aggregate.

    Args:
        kind: its type, ``*~%>|``. A map has keys and values; attributes (``|``) are a map in front of the
            reply that they are about, here taken as one with it.
        count: what its first line says.
    """
    if kind == b"%":
        return 2 * count
    return 2 * count + 1 if kind == b"|" else count


def decode(data: bytes) -> Any:
    """Make a Python value of what the worker half handed on.

    Returns:
        bytes (bulk strings, simple strings and verbatim ones), int, None, lists of these; RESP3 also float,
        bool, dict and set. A map in which a key occurs twice or is no simple value is a list of (key, value),
        a set with such elements a list: nothing is lost. An error inside an array is a RedisError there.

    Raises:
        RedisError: the reply is an error.
        BadResponse: it is no reply.
    """
    if data[:1] == BULK:
        return data[1:]
    texts = _list_of_strings(data)
    if texts is not None:
        return texts
    try:
        value, end = _read(data, 0, 0)
    except (IndexError, ValueError) as error:
        raise BadResponse(f"not a reply of Redis: {data[:40]!r}") from error
    if end != len(data):
        raise BadResponse(f"more than one reply of Redis: {data[:40]!r}")
    if isinstance(value, RedisError):
        raise value
    return value


def error_of(text: bytes) -> RedisError:
    """Make the error of an error reply's text, e.g. ``b"WRONGTYPE Operation against a key …"``."""
    said = text.decode("utf-8", "backslashreplace")
    return RedisError(said, reply_code=said.partition(" ")[0] or "ERR")


def _list_of_strings(data: bytes) -> list[bytes] | None:
    """Read the commonest long reply, four times as fast; None if it is another, or has line ends in it."""
    line = _count(data) if data[:1] == b"*" else None
    if line is None:
        return None
    parts = data[line.end() :].split(b"\r\n")
    texts = parts[1::2]
    if len(parts) == 2 * int(line[2]) + 1 and parts[::2] == [*(b"$%d" % len(text) for text in texts), b""]:
        return texts
    return None


_scalar = SCALAR[3].match
_length = LENGTH[3].match
_count = COUNT[3].match


def _read(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    """Read the reply at ``at``; return it and where it ends."""
    line = _length(data, at)
    if line is not None:
        begin = line.end()
        end = begin + int(line[1])
        if data[end : end + 2] != b"\r\n":
            raise ValueError("a string is not as long as it says")
        first = data[at]
        text = data[begin:end]
        if first == 33:  # !
            return error_of(text), end + 2
        if first == 61:  # =, "txt:" or "mkd:" before the text
            text = text[4:]
        return text, end + 2
    line = _scalar(data, at)
    if line is not None:
        return _line(data[at], data[at + 1 : line.end() - 2]), line.end()
    line = _count(data, at)
    if line is None or depth == MAX_DEPTH:
        raise ValueError("no reply, or one too deep")
    at = line.end()
    items = []
    for _ in range(elements(line[1], int(line[2]))):
        item, at = _read(data, at, depth + 1)
        items.append(item)
    return _aggregate(line[1], items), at


def _line(first: int, text: bytes) -> Any:
    match first:
        case 43:  # +
            return text
        case 45:  # -
            return error_of(text)
        case 58 | 40:  # : (
            return int(text)
        case 44:  # ,
            return float(text)
        case 35:  # #
            return text == b"t"
        case _:  # _, and -1 as a length
            return None


def _aggregate(kind: bytes, items: list[Any]) -> Any:
    match kind:
        case b"|":
            return items[-1]
        case b"%":
            pairs = list(zip(items[::2], items[1::2], strict=True))
            try:
                mapping = dict(pairs)
            except TypeError:  # a key that is a list
                return pairs
            return mapping if len(mapping) == len(pairs) else pairs
        case b"~":
            try:
                members = set(items)
            except TypeError:
                return items
            return members if len(members) == len(items) else items
        case _:
            return items
