"""DNS over UDP, and over TCP where an answer was cut short. RFC 1035; source ports and ids RFC 5452.

The payload is a whole query with id 0: header, one question, OPT. The result is the answer as it came.

Servers without EDNS are asked again without OPT, see :func:`lacks_edns`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from struct import Struct
from typing import Any

from reqpool_contract.errors import BadResponse, Code, UsageError

from .addresses import numeric_address
from .datagram_protocol import DatagramProtocol, Then
from .stream_protocol import READY, Event, StreamProtocol
from .worker_kinds import DatagramKind

HEADER_BYTES = 12
QR = 0x80
"""Bit of byte 2: this is a response."""
OPCODE = 0x78
"""Bits of byte 2; 0 is a look-up."""
AA = 0x04
"""Bit of byte 2: the server answers for its own zone."""
TC = 0x02
"""Bit of byte 2: cut short, ask over TCP."""
RA = 0x80
"""Bit of byte 3: the server looks up what it does not know."""
RCODE = 0x0F
"""Bits of byte 3."""
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
REFUSALS = frozenset((FORMERR, SERVFAIL, NOTIMP, REFUSED))
"""They say something of the server, not of the name: another one may know better."""
OPT = b"\x00\x00\x29"
"""Owner (the root) and type of OPT."""
LENGTH = Struct("!H")
RANDOM_BYTES = 4096
WITHOUT_EDNS_S = 600.0
"""How long a server is asked without OPT once it has shown that it answers that way only."""
MAX_WITHOUT_EDNS = 1024


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


def answers(message: bytes, query: bytes, end: int) -> bool:
    """Is this message, which has the id of ``query``, a response to it?

    A server that refuses need not repeat the question: Unbound sends a bare header. Such a message is heard
    only if it says no and nothing else: with one of the rcodes that do so, and no record. Whoever could forge
    it could forge the question as well. dnspython has the same rule.
    """
    if len(message) < HEADER_BYTES or message[2] & (QR | OPCODE) != QR:
        return False
    if message[3] & RCODE in REFUSALS and (len(message) == HEADER_BYTES or not any(message[4:10])):
        return True
    return same_question(message, query, end)


def lacks_edns(answer: bytes, query: bytes, end: int) -> bool:
    """Does ``answer`` look as if the server did not understand the OPT in ``query``?

    FORMERR is what RFC 6891 §7 asks for, NOTIMP is what others say; some repeat the OPT with it (c-ares 911).
    SERVFAIL counts only if the answer has no OPT, which a server that has EDNS must send. BADVERS is refused
    by the OPT of the answer, where the upper bits of the rcode are.
    """
    if len(query) == end:
        return False
    rcode = answer[3] & RCODE
    if rcode in (FORMERR, NOTIMP):
        return True
    if rcode == SERVFAIL:
        return not any(answer[10:12])
    return (
        rcode == NOERROR and answer[6:8] == b"\0\0" and answer[end : end + 3] == OPT and answer[end + 5] == 1
    )


def without_edns(query: bytes, end: int) -> bytes:
    """Return a query without its OPT."""
    return query[:10] + b"\0\0" + query[HEADER_BYTES:end]


def lame(answer: bytes) -> bool:
    """Has this server neither an answer nor the means to find one, and refers to others?"""
    flags, more = answer[2], answer[3]
    return not more & RCODE and not any(answer[6:8]) and not flags & AA and not more & RA


def unhelpful(answer: bytes) -> bool:
    """May another server have a better answer? NXDOMAIN is one that all would give."""
    return answer[3] & RCODE in REFUSALS or lame(answer)


class WithoutEdns:
    """Servers that have shown to answer only queries without OPT; bounded, and forgotten after a while."""

    def __init__(self) -> None:
        self._until_s: dict[str, float] = {}

    def add(self, server: str, now_s: float) -> None:
        """Remember one."""
        self._until_s.pop(server, None)
        self._until_s[server] = now_s + WITHOUT_EDNS_S
        if len(self._until_s) > MAX_WITHOUT_EDNS:
            del self._until_s[next(iter(self._until_s))]

    def has(self, server: str, now_s: float) -> bool:
        """Is it one of them?"""
        return self._until_s.get(server, now_s) > now_s


WITHOUT_EDNS = WithoutEdns()
"""Of this process: sockets, and with them their protocols, come and go."""


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
        """What was asked again without OPT, apart from the others so that these are not slowed down."""
        self._ids: list[bytes] = []

    @property
    def open_requests(self) -> Sequence[Any]:
        return [*self._table.values(), *self._without_edns.values()]

    def ask(self, request: Any) -> bytes:
        payload: bytes = request.payload
        request.note = end = question_end(payload)
        if self._plain:
            payload = request.payload = without_edns(payload, end)
        while True:
            if not self._ids:
                random = os.urandom(RANDOM_BYTES)
                self._ids = [random[at : at + 2] for at in range(0, RANDOM_BYTES, 2)]
            identity = self._ids.pop()
            if identity not in self._table and identity not in self._without_edns:
                break
        self._table[identity] = request
        request.key = identity
        return identity + payload[2:]

    def again(self, request: Any, repeated: int) -> bytes:
        payload: bytes = request.payload
        if repeated:
            # Some servers and firewalls drop whatever has an OPT. The payload keeps it: what comes may yet
            # be the answer to an earlier datagram, which had one.
            payload = without_edns(payload, request.note)
        identity: bytes = request.key
        return identity + payload[2:]

    def feed(self, datagram: bytes) -> tuple[Any, Then | None] | None:
        identity = datagram[:2]
        request = self._table.get(identity)
        if (
            request is None
            or not same_question(datagram, request.payload, request.note)
            or datagram[2] & (QR | OPCODE | TC) != QR
            or datagram[3] & RCODE
            or not datagram[7]  # no answer, or 256 of them
        ):
            return self._feed_unusual(datagram)
        del self._table[identity]
        return request, None

    def _feed_unusual(self, datagram: bytes) -> tuple[Any, Then | None] | None:
        """Match what is not a plain answer with records to a first query."""
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
            # What it had refused with an OPT it answers without one.
            self._plain = True
            self._known.add(self._server, self._now_s)
        if datagram[2] & TC:
            if not any(datagram[10:12]):
                # Without an OPT, so it has no EDNS, or does not get what has an OPT.
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
