"""DNS over UDP, and over TCP where an answer was cut short. RFC 1035; source ports and ids RFC 5452.

The payload is a whole query with id 0: header, one question, OPT. The result is the answer as it came.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from struct import Struct
from typing import Any

from reqpool.errors import BadResponse, Code, UsageError

from . import READY, DatagramKind, DatagramProtocol, Event, StreamProtocol, numeric_address

HEADER_BYTES = 12
QR = 0x80
"""Bit of byte 2: this is a response."""
TC = 0x02
"""Bit of byte 2: cut short, ask over TCP."""
LENGTH = Struct("!H")
RANDOM_BYTES = 4096


def question_end(query: bytes) -> int:
    """Return the offset just after the one question of a query.

    Raises:
        UsageError: if it is not a query with a question.
    """
    end = HEADER_BYTES
    try:
        while length := query[end]:
            end += length + 1
    except IndexError:
        end = len(query)
    end += 5  # the root label, type and class
    if end > len(query) or len(query) > 0xFFFF:
        raise UsageError("payload is not a DNS query")
    return end


def same_question(answer: bytes, query: bytes, end: int) -> bool:
    """Is the question of ``answer`` that of ``query``, which ends at ``end``? Case of letters aside."""
    if answer.startswith(query[HEADER_BYTES:end], HEADER_BYTES):
        return True
    # Length bytes are under 64, so lower() leaves them alone; type and class it would not.
    return (
        answer[HEADER_BYTES : end - 4].lower() == query[HEADER_BYTES : end - 4].lower()
        and answer[end - 4 : end] == query[end - 4 : end]
    )


class DnsDatagrams(DatagramProtocol):
    """Queries over one connected UDP socket, told apart by random ids.

    ``key`` of a request is its id (2 bytes), ``note`` the offset at which its question ends.
    """

    __slots__ = ("_ids", "_table")

    def __init__(self) -> None:
        self._table: dict[bytes, Any] = {}
        self._ids: list[bytes] = []

    @property
    def open_requests(self) -> Sequence[Any]:
        return list(self._table.values())

    def ask(self, request: Any) -> bytes:
        payload: bytes = request.payload
        request.note = question_end(payload)
        while True:
            if not self._ids:
                random = os.urandom(RANDOM_BYTES)
                self._ids = [random[at : at + 2] for at in range(0, RANDOM_BYTES, 2)]
            identity = self._ids.pop()
            if identity not in self._table:
                break
        self._table[identity] = request
        request.key = identity
        return identity + payload[2:]

    def again(self, request: Any) -> bytes:
        datagram: bytes = request.key + request.payload[2:]
        return datagram

    def feed(self, datagram: bytes) -> tuple[Any, bool] | None:
        identity = datagram[:2]
        request = self._table.get(identity)
        if request is None or not same_question(datagram, request.payload, request.note):
            return None
        flags = datagram[2]
        if not flags & QR:
            return None
        del self._table[identity]
        return request, bool(flags & TC)

    def forget(self, request: Any) -> None:
        del self._table[request.key]


class DnsStream(StreamProtocol):
    """One query over TCP: a length of 2 bytes before each message (RFC 1035, 4.2.2)."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._query = b""
        self._end = 0
        self._received = bytearray()

    def connected(self) -> Sequence[Event]:
        return [READY]

    def send(self, request: Any) -> bytes:
        payload: bytes = request.payload
        self._end = question_end(payload)
        self._query = os.urandom(2) + payload[2:]
        return LENGTH.pack(len(self._query)) + self._query

    def feed(self, data: bytes) -> Sequence[Event]:
        received = self._received
        received += data
        if len(received) < LENGTH.size:
            return []
        end = LENGTH.size + LENGTH.unpack_from(received)[0]
        if len(received) < end:
            return []
        answer = bytes(received[LENGTH.size : end])
        if (
            len(answer) < HEADER_BYTES
            or answer[:2] != self._query[:2]
            or not answer[2] & QR
            or not same_question(answer, self._query, self._end)
        ):
            raise BadResponse("the answer over TCP is to another question", origin=self._origin)
        return [(Code.OK, answer)]

    def eof(self) -> Sequence[Event]:
        return []

    @property
    def reusable(self) -> bool:
        return False


WORKER_KIND = DatagramKind(
    name="dns",
    # 1,000 queries at once overflow a server's default socket buffer (0.4 % lost, measured); 256 do not.
    limit=256,
    address=numeric_address,
    protocol=DnsDatagrams,
    requests_per_socket=10_000,
    repeats=True,
    stream=DnsStream,
)
