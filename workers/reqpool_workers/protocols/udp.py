"""Kind ``udp``: one datagram out, the first datagram back. Payload and result are their contents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .addresses import numeric_address
from .datagram_protocol import DatagramProtocol, Then
from .worker_kinds import DatagramKind

IN_FLIGHT = 64
"""A server's receive buffer of default size (net.core.rmem_default 212,992) held 92 datagrams of 1,400 bytes,
or 256 short ones (measured), and the kernel releases the room of those that were read only by quarters of the
buffer (udp_rmem_release). What does not fit is dropped silently, and this kind sends nothing twice."""


class OneDatagram(DatagramProtocol):
    """One request on a connected socket of its own, so that no answer can be another request's."""

    __slots__ = ("_request",)

    def __init__(self) -> None:
        self._request: Any = None

    @property
    def open_requests(self) -> Sequence[Any]:
        return [] if self._request is None else [self._request]

    def ask(self, request: Any) -> bytes:
        self._request = request
        return self.again(request, 0)

    def again(self, request: Any, repeated: int) -> bytes:
        payload: bytes = request.payload
        return payload

    def feed(self, datagram: bytes) -> tuple[Any, Then | None] | None:
        request, self._request = self._request, None
        return None if request is None else (request, None)

    def forget(self, request: Any) -> None:
        self._request = None


WORKER_KIND = DatagramKind(
    name="udp",
    limit=IN_FLIGHT,
    address=numeric_address,
    protocol=lambda _origin, _now_s: OneDatagram(),
    requests_per_socket=1,
    # The upstream may not bear to be asked twice.
    repeats=False,
)
