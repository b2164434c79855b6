"""Redis commands in RESP: https://redis.io/docs/latest/develop/reference/protocol-spec/."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import UsageError

ALONE_VARIANT = "alone"
"""Variant of origins whose connections have one command at a time, none of which waits."""
MULTI = b"M"
"""First byte of the payload of a MULTI/EXEC."""


_ARRAYS = tuple([f"*{count}" for count in range(32)])
_BULKS = tuple([f"\r\n${size}\r\n" for size in range(512)])
"""First lines of arrays and of bulk strings, each with the end of the line before: to write a number takes
longer."""


def pack(command: Sequence[Any]) -> bytes:
    """Write a command as an array of bulk strings.

    Args:
        command: name and arguments: str (sent as UTF-8), bytes, int or float (in its shortest exact form).

    Raises:
        UsageError: one of them has another type; the text contains it.
    """
    if type(command) is not tuple and type(command) is not list:
        raise UsageError(f'a command must be a tuple like ("GET", "key"), not {type(command).__name__}')
    # Nearly all commands are short ASCII text, and one str is built faster than many bytes objects.
    count = len(command)
    text = _ARRAYS[count] if count < 32 else f"*{count}"
    for argument in command:
        if type(argument) is not str:
            break
        size = len(argument)
        text = f"{text}{_BULKS[size]}{argument}" if size < 512 else f"{text}\r\n${size}\r\n{argument}"
    else:
        if text.isascii() and command:
            return f"{text}\r\n".encode()
    if not command:
        raise UsageError('a command must have at least a name: ("PING",)')
    parts = [b"*%d" % count]
    for position, argument in enumerate(command):
        write = _WRITE.get(type(argument))
        try:
            data = write(argument) if write is not None else _bytes_of(argument)
        except ValueError as error:  # from str.encode: UnicodeEncodeError
            what = f"argument {position} of a command" if position else "a command's name"
            raise UsageError(f"{what} is of type {type(argument).__name__}: {error}") from error
        parts += (b"\r\n$%d\r\n" % len(data), data)
    parts.append(b"\r\n")
    return b"".join(parts)


def _bytes_of(argument: object) -> bytes:
    """Write an argument of an unusual type; a ValueError says what is wrong with it."""
    match argument:
        case bool() | None:
            raise ValueError("Redis has no such value: give 0, 1 or a string")
        # By methods of the base type: those of a subclass (IntEnum, numpy's float) may not write a number.
        case str():
            return str.encode(argument)
        case int():
            return int.__repr__(argument).encode()
        case float():
            return float.__repr__(argument).encode()
        case bytes() | bytearray() | memoryview():
            return bytes(argument)
    raise ValueError("give str, bytes, int or float")


_WRITE: dict[type, Callable[[Any], bytes]] = {
    str: str.encode,
    bytes: bytes,
    int: b"%d".__mod__,
    float: lambda number: repr(number).encode(),
}
"""Functions that write arguments, by type."""
