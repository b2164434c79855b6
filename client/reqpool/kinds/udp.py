"""Kind ``udp``: send one datagram, get the datagram that comes back."""

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
"""Most that one UDP datagram carries over IPv4: 65,535 less 20 (IP) and 8 (UDP) bytes of header."""


class UdpKind(Kind):
    """Client half of ``udp``: the payload travels as it is, both ways."""

    name: ClassVar[str] = "udp"
    schemes: ClassVar[tuple[str, ...]] = ("udp",)
    connectionless: ClassVar[bool] = True

    def encode(self, target: str, payload: bytes | bytearray | memoryview) -> tuple[Route, bytes, None]:
        """Check a datagram and its address.

        Not idempotent: what a datagram does to its receiver is not known here.

        Args:
            target: ``"127.0.0.1:5555"``, ``"[::1]:5555"``, or a name of ``reqpool.toml``.
            payload: 0 to 65,507 bytes.

        Raises:
            UsageError: for a bad address, a str, or a datagram that is too long.
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
        UsageError: if it is not bytes-like; a str's text says to encode it.
    """
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    way_out = "; write text.encode()" if isinstance(data, str) else ""
    raise UsageError(f"data to send must be bytes, not {type(data).__name__}{way_out}")


@lru_cache(maxsize=1024)
def _route(target: str) -> Route:
    return Route(KIND, (target_origin("udp", target),), False)


KIND = UdpKind()
