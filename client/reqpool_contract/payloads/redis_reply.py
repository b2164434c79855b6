"""Redis replies in RESP: https://redis.io/docs/latest/develop/reference/protocol-spec/.

The worker half finds the ends of replies, and the client half reads them, both with these expressions.

An answer is a reply as received, except for the most common one: a bulk string is :data:`BULK` and its bytes,
without length and end.
"""

from __future__ import annotations

import re
from typing import Any

from ..errors import BadResponse, RedisError

BULK = b'"'
"""Precedes the bytes of a bulk string; no reply of Redis begins with it."""

NOT_QUEUED = b"M"
"""Begins the answer to a transaction that was not executed, followed by the position of the refused command,
from 1 (uint32, big-endian), and the error reply to it."""

MAX_DEPTH = 128
"""Depth of arrays in arrays. Redis itself uses a handful of levels; a user's script may use a hundred."""

LINES = frozenset(b"+-:_#,(")
"""First bytes of replies of one line: their end is known even if they cannot be read."""

SCALAR = re.compile(
    rb"(?:"
    # A lone CR or LF does not end a line, and an error may quote one.
    rb"[+-][^\r]*+(?:\r(?!\n)[^\r]*+)*"
    # 4300 digits: the limit of int() (sys.int_info.default_max_str_digits).
    rb"|[:(][+-]?[0-9]{1,4300}"
    rb"|_|#[tf]|[$*=~%]-1"
    # Before Redis 7.2 infinity and NaN come as the C library writes them, nan(n-char-sequence) included
    # (RESP3 specification 1.4); 5,000 digits: MAX_LONG_DOUBLE_CHARS of Redis' util.h is 5 * 1024.
    rb"|,[+-]?(?:(?:[0-9]{1,5000}(?:\.[0-9]{0,5000})?|\.[0-9]{1,5000})(?:[eE][+-]?[0-9]{1,9})?"
    rb"|(?i:inf(?:inity)?|nan(?:\([0-9a-z_]{0,64}\))?))"
    rb")\r\n"
)
"""Valid replies of one line."""
LENGTH = re.compile(rb"[$=!]([0-9]{1,10})\r\n")
"""First line of a reply that has this many bytes and an end of line."""
PART = re.compile(rb";([0-9]{1,10})\r\n")
"""First line of a part of a streamed string; an empty part is the end."""
COUNT = re.compile(rb"([*~%>|])([0-9]{1,10})\r\n")
"""First line of an aggregate: type, number of elements."""
STREAMED = re.compile(rb"([$*~%])\?\r\n")
"""First line of streamed replies: the parts of a string, or elements and then :data:`END`."""
END = b".\r\n"


def elements(kind: bytes, count: int) -> int:
    """Return how many replies follow the first line of an aggregate.

    Args:
        kind: its type, ``*~%>|``. A map has keys and values. Attributes (``|``) are a map before the reply
            that they describe, and count as one with it here.
        count: the number in its first line.
    """
    if kind == b"%":
        return 2 * count
    return 2 * count + 1 if kind == b"|" else count


def value_of(data: bytes) -> Any:
    """Make a Python value from one whole reply that is not a :data:`BULK`.

    Returns:
        bytes (for bulk, simple and verbatim strings), int, None, lists of these; in RESP3 also float, bool,
        dict and set. So that nothing is lost, a map with repeated keys, or keys that are not simple values,
        is a list of (key, value), and a set with such elements a list. An error is a RedisError, at any
        depth.

    Raises:
        BadResponse: it is not exactly one reply of Redis.
    """
    try:
        value, end = _read(data, 0, 0)
    except (IndexError, ValueError) as error:
        raise BadResponse(f"not a Redis reply: {data[:40]!r}") from error
    if end != len(data):
        raise BadResponse(f"more than one Redis reply: {data[:40]!r}")
    return value


def error_of(text: bytes) -> RedisError:
    """Make the error for the text of an error reply, e.g. ``b"WRONGTYPE Operation against a key …"``."""
    said = text.decode("utf-8", "backslashreplace")
    return RedisError(said, reply_code=said.partition(" ")[0] or "ERR")


_scalar = SCALAR.match
_length = LENGTH.match
_count = COUNT.match
_streamed = STREAMED.match
_part = PART.match


def _read(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    """Read the reply at ``at``; return it and the index of its end."""
    line = _length(data, at)
    if line is not None:
        text, end = _text(data, line)
        first = data[at]
        if first == 33:  # !
            return error_of(text), end
        if first == 61 and text[3:4] == b":":  # =, "txt:" or "mkd:" before the text
            text = text[4:]
        return text, end
    line = _scalar(data, at)
    if line is not None:
        return _line(data[at], data[at + 1 : line.end() - 2]), line.end()
    line = _count(data, at)
    if line is None:
        return _read_streamed(data, at, depth)
    if depth == MAX_DEPTH:
        raise ValueError("too deep")
    at = line.end()
    items = []
    for _ in range(elements(line[1], int(line[2]))):
        item, at = _read(data, at, depth + 1)
        items.append(item)
    return _aggregate(line[1], items), at


def _text(data: bytes, line: re.Match[bytes]) -> tuple[bytes, int]:
    """Return the bytes after a length, and the index of their line's end."""
    begin = line.end()
    end = begin + int(line[1])
    if data[end : end + 2] != b"\r\n":
        raise ValueError("a string does not have the length it declares")
    return data[begin:end], end + 2


def _read_streamed(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    line = _streamed(data, at)
    if line is None:
        raise ValueError("not a reply")
    at = line.end()
    items: list[Any] = []
    if line[1] == b"$":
        while (part := _part(data, at)) is not None:
            if not int(part[1]):
                return b"".join(items), part.end()
            text, at = _text(data, part)
            items.append(text)
        raise ValueError("not a part of a streamed string")
    if depth == MAX_DEPTH:
        raise ValueError("too deep")
    while not data.startswith(END, at):
        item, at = _read(data, at, depth + 1)
        items.append(item)
    return _aggregate(line[1], items), at + len(END)


def _line(first: int, text: bytes) -> Any:
    match first:
        case 43:  # +
            return text
        case 45:  # -
            return error_of(text)
        case 58 | 40:  # : (
            return int(text)
        case 44:  # ,
            return float(text.partition(b"(")[0])
        case 35:  # #
            return text == b"t"
        case _:  # _, and -1 as a length
            return None


def _aggregate(kind: bytes, items: list[Any]) -> Any:
    match kind:
        case b"|":
            return items[-1]
        case b"%" if len(items) % 2:  # a streamed one may end anywhere
            return items
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
