"""Client half of kind ``tcp``: send bytes, and get bytes back until a delimiter, a length, or close."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

import msgpack

from reqpool_contract import wire
from reqpool_contract.errors import UsageError
from reqpool_contract.origin_names import Endpoint
from reqpool_contract.tls_settings import Tls

from .address_target import address_endpoint, target_origin
from .kind import Kind
from .route import Asked, Route
from .udp import plain_bytes

MAX_ANSWER_BYTES = wire.MAX_PAYLOAD_BYTES
"""Upper limit of ``max_bytes``."""


class TcpKind(Kind):
    """Client half of ``tcp``. The payload is msgpack: ``[data, until, length, max_bytes]``."""

    name: ClassVar[str] = "tcp"
    schemes: ClassVar[tuple[str, ...]] = ("tcp",)

    def encode(
        self,
        target: str,
        payload: bytes | bytearray | memoryview,
        *,
        until: bytes | None = None,
        length: int | None = None,
        max_bytes: int = MAX_ANSWER_BYTES,
    ) -> tuple[Route, bytes, None]:
        """Check and encode one exchange of bytes.

        Without ``until`` and ``length``, the answer is everything until the upstream closes the connection.
        Not idempotent, since the effect of the bytes is unknown.

        Args:
            target: ``"127.0.0.1:7"``, ``"[::1]:7"``, or a name from ``reqpool.toml``.
            payload: bytes to send; may be empty.
            until: the answer ends with these bytes and includes them.
            length: the answer is exactly this many bytes, at least 1.
            max_bytes: a longer answer is a BadResponse; 1 to 16 MiB.

        Raises:
            UsageError: an argument is wrong; the text says which.
        """
        data = plain_bytes(payload)
        if until is not None and length is not None:
            raise UsageError("give until= or length=, not both: each alone determines where the answer ends")
        _check_count("max_bytes", max_bytes, MAX_ANSWER_BYTES)
        if until is not None:
            until = plain_bytes(until)
            if not 0 < len(until) <= max_bytes:
                raise UsageError(f"until= is {len(until)} bytes; it needs 1 to max_bytes ({max_bytes})")
        if length is not None:
            _check_count("length", length, max_bytes)
        try:
            route = _route(target)
        except TypeError:  # from lru_cache: the target cannot be hashed
            raise UsageError(f"an address must be a string, not {type(target).__name__}") from None
        packed: bytes = msgpack.packb((data, until, length, max_bytes))
        return route, packed, None

    def decode(self, data: bytes, request: Asked) -> bytes:
        """Return the answer, including the delimiter if one was given."""
        return data

    def endpoint(self, url: str, *, password: str | None = None, tls: Tls | None = None) -> Endpoint:
        """Read a URL like ``tcp://127.0.0.1:7``; see :meth:`Kind.endpoint`."""
        return address_endpoint(self.name, url, None, password, tls, names=True)


def _check_count(name: str, value: object, highest: int) -> None:
    if type(value) is not int or not 1 <= value <= highest:
        raise UsageError(f"{name}={value!r} is not a whole number of bytes from 1 to {highest}")


@lru_cache(maxsize=1024)
def _route(target: str) -> Route:
    return Route(KIND, (target_origin("tcp", target, names=True),), False)


KIND = TcpKind()
