"""DNS over UDP, and over TCP where an answer was cut short. RFC 1035; source ports and ids RFC 5452.

The payload is a whole query with id 0: header, one question, OPT. The result is the answer as it came.

Servers without EDNS are asked again without OPT, see :func:`.dns_messages.lacks_edns`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from struct import Struct
from typing import Any

from reqpool_contract.errors import BadResponse, Code

from .addresses import numeric_address
from .datagram_protocol import DatagramProtocol, Then
from .dns_messages import (
    HEADER_BYTES,
    NOERROR,
    NXDOMAIN,
    OPCODE,
    QR,
    RCODE,
    TC,
    answers,
    lacks_edns,
    question_end,
    same_question,
    unhelpful,
    without_edns,
)  # fmt: skip
from .stream_protocol import READY, Event, StreamProtocol
from .worker_kinds import DatagramKind

LENGTH = Struct("!H")
RANDOM_BYTES = 4096
WITHOUT_EDNS_S = 600.0
"""How long a server is asked without OPT once it has turned out to answer only that way."""
MAX_WITHOUT_EDNS = 1024


class WithoutEdns:
    """Servers known to answer only queries without OPT; bounded, and forgotten after a while."""

    def __init__(self) -> None:
        self._until_s: dict[str, float] = {}

    def add(self, server: str, now_s: float) -> None:
        """Remember one."""
        self._until_s.pop(server, None)
        self._until_s[server] = now_s + WITHOUT_EDNS_S
        if len(self._until_s) > MAX_WITHOUT_EDNS:
            del self._until_s[next(iter(self._until_s))]

    def has(self, server: str, now_s: float) -> bool:
        """Return whether it is one of them."""
        return self._until_s.get(server, now_s) > now_s


WITHOUT_EDNS = WithoutEdns()
"""Of this process, since sockets and their protocols are replaced."""


class DnsDatagrams(DatagramProtocol):
    """Queries over one connected UDP socket, told apart by random ids.

    ``key`` of a request is its id (2 bytes), ``note`` the offset at which its question ends.

    Args:
        server: the origin.
        now_s: the time.
        known: servers known to have no EDNS.
    """

    __slots__ = ("_ids", "_known", "_now_s", "_plain", "_server", "_table", "_without_edns")

    def __init__(self, server: str = "", now_s: float = 0.0, known: WithoutEdns = WITHOUT_EDNS) -> None:
        self._server = server
        self._now_s = now_s
        self._known = known
        self._plain = known.has(server, now_s)
        self._table: dict[bytes, Any] = {}
        self._without_edns: dict[bytes, Any] = {}
        """Requests that were asked again without OPT; apart, so that the others are not slowed down."""
        self._ids: list[bytes] = []

    @property
    def open_requests(self) -> Sequence[Any]:
        return [*self._table.values(), *self._without_edns.values()]

    def ask(self, request: Any) -> bytes:
        payload: bytes = request.payload
        # question_end, written out, as each question takes this way; it says what is wrong with others.
        end = HEADER_BYTES
        try:
            while length := payload[end]:
                end += length + 1
        except IndexError:
            end = len(payload)
        end += 5
        if end > len(payload) or len(payload) > 0xFFFF:
            end = question_end(payload)
        request.note = end
        if self._plain:
            payload = request.payload = without_edns(payload, end)
        ids, table = self._ids, self._table
        while True:
            if not ids:
                random = os.urandom(RANDOM_BYTES)
                ids += [random[at : at + 2] for at in range(0, RANDOM_BYTES, 2)]
            identity = ids.pop()
            if identity not in table and identity not in self._without_edns:
                break
        table[identity] = request
        request.key = identity
        return identity + payload[2:]

    def again(self, request: Any, repeated: int) -> bytes:
        payload: bytes = request.payload
        if repeated:
            # Some servers and firewalls drop queries with an OPT. The request's payload keeps it, since the
            # answer may yet be one to an earlier datagram, which had it.
            payload = without_edns(payload, request.note)
        identity: bytes = request.key
        return identity + payload[2:]

    def feed(self, datagram: bytes) -> tuple[Any, Then | None] | None:
        identity = datagram[:2]
        request = self._table.get(identity)
        # The question to the letter first, without a call: nearly all servers repeat it so.
        if (
            request is None
            or not (
                datagram.startswith(request.payload[HEADER_BYTES : request.note], HEADER_BYTES)
                or same_question(datagram, request.payload, request.note)
            )
            or datagram[2] & (QR | OPCODE | TC) != QR
            or datagram[3] & RCODE
            or not datagram[7]  # no answer, or 256 of them
        ):
            return self._feed_unusual(datagram)
        del self._table[identity]
        return request, None

    def _feed_unusual(self, datagram: bytes) -> tuple[Any, Then | None] | None:
        """Match a datagram that is not a plain answer with records to a first query."""
        identity = datagram[:2]
        table = self._table if identity in self._table else self._without_edns
        request = table.get(identity)
        if request is None or not answers(datagram, request.payload, request.note):
            return None
        del table[identity]
        if lacks_edns(datagram, request.payload, request.note):
            request.payload = without_edns(request.payload, request.note)
            self.ask(request)  # under another id
            self._without_edns[request.key] = self._table.pop(request.key)
            return request, Then.AGAIN
        if table is self._without_edns and datagram[3] & RCODE in (NOERROR, NXDOMAIN):
            # It refused the query with an OPT, and answers it without.
            self._plain = True
            self._known.add(self._server, self._now_s)
        if datagram[2] & TC:
            if not any(datagram[10:12]):
                # There is no OPT, so the server has no EDNS, or does not get queries with an OPT.
                request.payload = without_edns(request.payload, request.note)
            return request, Then.STREAM
        return request, Then.ELSEWHERE if unhelpful(datagram) else None

    def forget(self, request: Any) -> None:
        table = self._table if request.key in self._table else self._without_edns
        del table[request.key]


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
        return self._ask(payload)

    def _ask(self, payload: bytes) -> bytes:
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
        if answer[:2] != self._query[:2] or not answers(answer, self._query, self._end):
            raise BadResponse("the answer over TCP is for another question", origin=self._origin)
        if lacks_edns(answer, self._query, self._end):
            received.clear()
            return [self._ask(without_edns(self._query, self._end))]
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
    declines=unhelpful,
)
