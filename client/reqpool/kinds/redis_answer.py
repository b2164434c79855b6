"""Answers of kind ``redis``: from the worker half's form to Python values and errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reqpool_contract.errors import BadResponse, RedisError
from reqpool_contract.payloads.redis_reply import BULK, COUNT, value_of

from .route import Asked

_AGGREGATES = frozenset((list, dict, set))


def decode(data: bytes, request: Asked | None = None) -> Any:
    """Make a Python value from a reply.

    Args:
        data: the reply as the worker half passed it on.
        request: the request of this reply, for the details of errors inside it; those of a raised error are
            filled in by the caller.

    Returns:
        As :func:`value_of`; an error inside an array is a RedisError.

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
    """Make the error for a transaction that was not executed, which names the refused command.

    Args:
        data: the answer as the worker half passed it on; begins with :data:`NOT_QUEUED`.
        names: the commands' names.

    Raises:
        BadResponse: it is not such an answer.
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
    """Fill in the request's details in errors inside a reply, as is done for errors that are raised."""
    if isinstance(value, RedisError):
        request.facts.fill_in(value)
    elif isinstance(value, list | tuple | set):
        for item in value:
            _complete_errors(item, request)
    elif isinstance(value, dict):
        _complete_errors([*value, *value.values()], request)


def _list_of_strings(data: bytes) -> list[bytes] | None:
    """Read an array of strings, the most common long reply, four times as fast; None if it is not one.

    None as well if a string has line ends in it.
    """
    line = COUNT.match(data) if data[:1] == b"*" else None
    if line is None:
        return None
    parts = data[line.end() :].split(b"\r\n")
    texts = parts[1::2]
    if len(parts) == 2 * int(line[2]) + 1 and parts[::2] == [*(b"$%d" % len(text) for text in texts), b""]:
        return texts
    return None
