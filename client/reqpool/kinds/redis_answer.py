"""Answers of kind ``redis``: what the worker half hands on, as Python values and errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reqpool_contract.errors import BadResponse, RedisError
from reqpool_contract.payloads.redis_reply import BULK, COUNT, value_of

from .route import Asked

_AGGREGATES = frozenset((list, dict, set))


def decode(data: bytes, request: Asked | None = None) -> Any:
    """Make a Python value of what the worker half handed on.

    Args:
        data: as said.
        request: whose reply it is, for errors inside it: those that are raised are filled in elsewhere.

    Returns:
        As :func:`value_of`; an error inside an array is a RedisError there.

    Raises:
        RedisError: the reply is an error.
        BadResponse: it is not a reply.
    """
    if data[:1] == BULK:
        return data[1:]
    texts = _list_of_strings(data)
    if texts is not None:
        return texts
    value = value_of(data)
    if isinstance(value, RedisError):
        raise value
    if request is not None and type(value) in _AGGREGATES:
        _complete_errors(value, request)
    return value


def refusal_of(data: bytes, names: Sequence[str]) -> RedisError:
    """Make the error of a transaction that was not executed; it says which command was refused.

    Args:
        data: as the worker half handed it on, :data:`NOT_QUEUED` and so on.
        names: the commands' names.

    Raises:
        BadResponse: it is not that.
    """
    position = int.from_bytes(data[1:5], "big")
    error = value_of(data[5:])
    if not isinstance(error, RedisError) or not 0 < position <= len(names):
        raise BadResponse(f"not the refusal of a command in a transaction: {data[:40]!r}")
    return RedisError(
        f"command {position} of the transaction, {names[position - 1]}, was refused: {error.text}",
        reply_code=error.reply_code,
    )


def _complete_errors(value: Any, request: Asked) -> None:
    """Have errors that stand inside a reply say what they are of, as those do that are raised."""
    if isinstance(value, RedisError):
        request.facts.told_by(value)
    elif isinstance(value, list | tuple | set):
        for item in value:
            _complete_errors(item, request)
    elif isinstance(value, dict):
        _complete_errors([*value, *value.values()], request)


def _list_of_strings(data: bytes) -> list[bytes] | None:
    """Read the commonest long reply, four times as fast; None if it is another, or has line ends in it."""
    line = COUNT.match(data) if data[:1] == b"*" else None
    if line is None:
        return None
    parts = data[line.end() :].split(b"\r\n")
    texts = parts[1::2]
    if len(parts) == 2 * int(line[2]) + 1 and parts[::2] == [*(b"$%d" % len(text) for text in texts), b""]:
        return texts
    return None
