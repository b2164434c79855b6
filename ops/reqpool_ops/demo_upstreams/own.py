"""Built-in upstreams: DNS, HTTP, a UDP echo, a TCP echo."""

from __future__ import annotations

import asyncio

from dnslib import QTYPE, RR, DNSRecord
from dnslib.label import DNSLabel

from .zone import zone_records


class DnsResponder(asyncio.DatagramProtocol):
    """Answers from the zone; the answer to a question is built once and then only given the question's id."""

    def __init__(self) -> None:
        self._records: dict[DNSLabel, list[RR]] = {}
        for record in zone_records():
            self._records.setdefault(record.rname, []).append(record)
        self._built: dict[bytes, bytes] = {}

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        """Keep the transport."""
        self._transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        """Answer a question."""
        built = self._built.get(data[2:])
        if built is None:
            question = DNSRecord.parse(data)
            reply = question.reply()
            found = self._records.get(question.q.qname, [])
            for record in found:
                if record.rtype in (question.q.qtype, QTYPE.CNAME):
                    reply.add_answer(record)
            reply.header.rcode = 0 if found else 3
            built = self._built[data[2:]] = bytes(reply.pack())[2:]
        self._transport.sendto(data[:2] + built, address)


class UdpEcho(asyncio.DatagramProtocol):
    """Sends every datagram back."""

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        """Keep the transport."""
        self._transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        """Send it back."""
        self._transport.sendto(data, address)


class TcpEcho(asyncio.Protocol):
    """Sends all bytes back."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Keep the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Send them back."""
        self._transport.write(data)


class HttpResponder(asyncio.Protocol):
    """Answers every request, which must not have a body, with its path and a line feed."""

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Keep the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer the complete requests."""
        *heads, self._received = (self._received + data).split(b"\r\n\r\n")
        paths = [head.partition(b"\r\n")[0].split(b" ")[1] for head in heads]
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b\n"
        self._transport.write(b"".join([answer % (len(path) + 1, path) for path in paths]))
