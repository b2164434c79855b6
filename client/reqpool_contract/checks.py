"""Checks of decoded values from a peer, used by the tables of :mod:`reqpool_contract.wire`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .errors import ProtocolError

ID_BYTES = 16
"""Size of the id of a session or of a worker."""
WATERMARK_BYTES = 16

Check = Callable[[Any], Any]
"""Returns a decoded value (perhaps as a NamedTuple), or raises ProtocolError."""


def uint(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ProtocolError(f"expected an unsigned integer, got {type(value).__name__}")
    return value


def optional_uint(value: Any) -> int | None:
    return None if value is None else uint(value)


def boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise ProtocolError(f"expected a boolean, got {type(value).__name__}")
    return value


def text(value: Any) -> str:
    if type(value) is not str:
        raise ProtocolError(f"expected a string, got {type(value).__name__}")
    return value


def blob(value: Any) -> bytes:
    if type(value) is not bytes:
        raise ProtocolError(f"expected bytes, got {type(value).__name__}")
    return value


def optional_blob(value: Any) -> bytes | None:
    return None if value is None else blob(value)


def identity(value: Any) -> bytes:
    if type(value) is not bytes or len(value) != ID_BYTES:
        raise ProtocolError("expected an id of 16 bytes")
    return value


def watermark(value: Any) -> bytes:
    if type(value) is not bytes or len(value) not in (0, WATERMARK_BYTES):
        raise ProtocolError(f"expected a watermark of {WATERMARK_BYTES} bytes, or nil")
    return value


def fields(value: Any) -> dict[str, Any]:
    if type(value) is not dict or not set(map(type, value)) <= {str}:
        raise ProtocolError("expected a map with string keys")
    return value


def array(check: Check) -> Check:
    def checked(value: Any) -> list[Any]:
        if type(value) is not tuple:
            raise ProtocolError(f"expected an array, got {type(value).__name__}")
        return [check(item) for item in value]

    return checked


def bounded(most: int) -> Check:
    """Return a check for an unsigned integer from 1 to ``most``."""

    def checked(value: Any) -> int:
        if not 0 < uint(value) <= most:
            raise ProtocolError(f"expected a number from 1 to {most}")
        return int(value)

    return checked


def record(make: Callable[..., Any], *checks: Check) -> Check:
    """Return a check for an array with one element per check; later versions' further ones are ignored."""

    def checked(value: Any) -> Any:
        if type(value) is not tuple or len(value) < len(checks):
            raise ProtocolError(f"expected an array of {len(checks)} elements")
        return make(*[check(item) for check, item in zip(checks, value, strict=False)])

    return checked


seq_ranges = array(record(lambda first, last: (first, last), uint, uint))
"""Ranges of sequence numbers, both ends included."""
