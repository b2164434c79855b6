"""Client half of kind ``udp``: send a datagram, and get the datagram that comes back."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

from reqpool_contract.errors import UsageError
from reqpool_contract.origin_names import Endpoint
from reqpool_contract.tls_settings import Tls

from .address_target import address_endpoint, target_origin
from .kind import Kind
from .route import Asked, Route

MAX_DATAGRAM_BYTES = 65_507
"""Largest payload of a UDP datagram over IPv4: 65,535 less headers of 20 (IP) and 8 bytes (UDP)."""


class UdpKind(Kind):
    """Client half of ``udp``: payload and answer are the datagrams, unchanged."""

    name: ClassVar[str] = "udp"
    schemes: ClassVar[tuple[str, ...]] = ("udp",)
    connectionless: ClassVar[bool] = True

    def encode(self, target: str, payload: bytes | bytearray | memoryview) -> tuple[Route, bytes, None]:
        """Check a datagram and its address.

        Not idempotent, since the effect of the datagram is unknown.

        Args:
            target: ``"127.0.0.1:5555"``, ``"[::1]:5555"``, or a name from ``reqpool.toml``.
            payload: 0 to 65,507 bytes.

        Raises:
            UsageError: the address is wrong, or the datagram is a str or too long.
        """
        if type(payload) is not bytes:
            payload = plain_bytes(payload)
        if len(payload) > MAX_DATAGRAM_BYTES:
            raise UsageError(
                f"a datagram of {len(payload)} bytes exceeds the {MAX_DATAGRAM_BYTES} bytes that UDP carries"
            )
        try:
            return _route(target), payload, None
        except TypeError:  # from lru_cache: the target cannot be hashed
            raise UsageError(f"an address must be a string, not {type(target).__name__}") from None

    def decode(self, data: bytes, request: Asked) -> bytes:
        """Return the datagram that came back."""
        return data

    def endpoint(self, url: str, *, password: str | None = None, tls: Tls | None = None) -> Endpoint:
        """Read a URL like ``udp://127.0.0.1:7``; see :meth:`Kind.endpoint`."""
        return address_endpoint(self.name, url, None, password, tls)


def plain_bytes(data: object) -> bytes:
    """Return bytes-like data as bytes.

    Raises:
        UsageError: it is not bytes-like; for a str, the text says how to encode it.
    """
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    advice = "; write text.encode()" if isinstance(data, str) else ""
    raise UsageError(f"data to send must be bytes, not {type(data).__name__}{advice}")


@lru_cache(maxsize=1024)
def _route(target: str) -> Route:
    return Route(KIND, (target_origin("udp", target),), False)


KIND = UdpKind()
