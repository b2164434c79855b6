"""Bytes out, bytes back until a delimiter, a length or the peer's close. One connection per request.

Payload: msgpack ``[data bin, until bin|nil, length uint|nil, max_bytes uint]``; ``until`` or ``length``, not
both; with neither the answer ends when the peer closes. The result holds the delimiter, and nothing after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reqpool_contract import checks, wire
from reqpool_contract.errors import BadResponse, Code, ProtocolError, UsageError

from .addresses import stream_address
from .stream_protocol import READY, Event, StreamProtocol
from .worker_kinds import StreamKind


class TcpExchange(StreamProtocol):
    """One request and its answer."""

    def __init__(self, origin: str, settings: bytes, max_bytes: int) -> None:
        self._origin = origin
        self._until: bytes | None = None
        self._length: int | None = None
        self._max_bytes = 0
        self._received = bytearray()
        self._asked = False

    def connected(self) -> Sequence[Event]:
        return [READY]

    def send(self, request: Any) -> bytes:
        try:
            data, until, length, max_bytes = wire.unpack(request.payload)
            checks.blob(data)
            self._until = checks.optional_blob(until)
            self._length = checks.optional_uint(length)
            self._max_bytes = checks.uint(max_bytes)
        except (ProtocolError, TypeError, ValueError) as error:
            raise UsageError(f"payload is not [data, until, length, max_bytes]: {error}") from error
        if self._until == b"" or self._length == 0 or (self._until is not None and self._length is not None):
            raise UsageError("give a non-empty delimiter or a length over 0, or neither")
        self._asked = True
        sent: bytes = data
        return sent

    def feed(self, data: bytes) -> Sequence[Event]:
        if not self._asked:
            raise BadResponse("data received before any request", origin=self._origin)
        received = self._received
        # A delimiter may have begun in what was there before.
        searched = max(0, len(received) - len(self._until or b"") + 1)
        received += data
        end = None
        if self._until is not None:
            found = received.find(self._until, searched)
            end = None if found < 0 else found + len(self._until)
        elif self._length is not None and len(received) >= self._length:
            end = self._length
        if (len(received) if end is None else end) > self._max_bytes:
            raise BadResponse(f"the answer is longer than {self._max_bytes} bytes", origin=self._origin)
        return [] if end is None else [(Code.OK, bytes(received[:end]))]

    def eof(self) -> Sequence[Event]:
        if self._asked and self._until is None and self._length is None:
            return [(Code.OK, bytes(self._received))]
        return []

    @property
    def reusable(self) -> bool:
        return False


WORKER_KIND = StreamKind(name="tcp", limit=64, address=stream_address, protocol=TcpExchange)
