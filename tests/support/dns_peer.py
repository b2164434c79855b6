"""A DNS server that does what a test tells it: true answers, lies, silence.

A *script* takes a query and returns the datagrams to send back, none to many. Scripts compose:

    with DnsPeer(after(2, silent, right)) as peer:      # drops the first two
        ...
    with DnsPeer(truncated, tcp=right) as peer:         # TC over UDP, the answer over TCP

``peer.queries`` has all that came. Nothing sleeps: what is late (``held=True``) waits for the
:meth:`DnsPeer.release` of the test.
"""

from __future__ import annotations

import selectors
import socket
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dnslib

from .ports import HOST, udp_tcp_pair
from .wait import wait_until

Script = Callable[[bytes], list[bytes]]

ADDRESS = "192.0.2.53"
"""What :func:`right` answers to every A question."""


# --- scripts -------------------------------------------------------------------------------------


def right(query: bytes) -> list[bytes]:
    """Answer truly: every name has one record, A 192.0.2.53 or TXT "text"."""
    reply = dnslib.DNSRecord.parse(query).reply()
    question = reply.q
    if question.qtype == dnslib.QTYPE.TXT:
        rdata, rtype = dnslib.TXT("text"), dnslib.QTYPE.TXT
    else:
        rdata, rtype = dnslib.A(ADDRESS), dnslib.QTYPE.A
    reply.add_answer(dnslib.RR(question.qname, rtype, ttl=60, rdata=rdata))
    return [bytes(reply.pack())]


def silent(query: bytes) -> list[bytes]:
    """Say nothing."""
    return []


def wrong_id(query: bytes) -> list[bytes]:
    """Answer under another id."""
    (answer,) = right(query)
    return [struct.pack(">H", struct.unpack_from(">H", answer)[0] ^ 0x5555) + answer[2:]]


def other_question(query: bytes) -> list[bytes]:
    """Answer, under the right id, what nobody asked."""
    asked = dnslib.DNSRecord.parse(query)
    other = dnslib.DNSRecord.question("somebody.else.test")
    other.header.id = asked.header.id
    return right(bytes(other.pack()))


def other_case(query: bytes) -> list[bytes]:
    """Answer with the question's letters in the other case (RFC 1035 §2.3.3: names match in any case)."""
    (answer,) = right(query)
    end = answer.index(b"\x00", 12)  # length octets are below 64, so no letters
    return [answer[:12] + answer[12:end].swapcase() + answer[end:]]


def truncated(query: bytes) -> list[bytes]:
    """Set TC and leave the records out."""
    reply = dnslib.DNSRecord.parse(query).reply()
    reply.header.tc = 1
    return [bytes(reply.pack())]


def garbage(query: bytes) -> list[bytes]:
    """Send what is no DNS at all, in three sizes."""
    return [b"", b"\xff", b"\x5a" * 600]


def echo(query: bytes) -> list[bytes]:
    """Send the query itself back: right id, right question, and no answer."""
    return [query]


def cut(length: int) -> Script:
    """Answer truly, but only the first ``length`` bytes of it."""
    return lambda query: [answer[:length] for answer in right(query)]


def refuses(rcode: int) -> Script:
    """Answer with an rcode (5 is REFUSED, 2 SERVFAIL, 3 NXDOMAIN) and no record."""

    def script(query: bytes) -> list[bytes]:
        reply = dnslib.DNSRecord.parse(query).reply()
        reply.header.rcode = rcode
        return [bytes(reply.pack())]

    return script


def refuses_in_short(rcode: int) -> Script:
    """Answer with an rcode in a header alone, without the question, as Unbound does."""
    return lambda query: [query[:2] + bytes((0x81, 0x80 | rcode)) + bytes(8)]


def without_edns(rcode: int, script: Script = right) -> Script:
    """Refuse a query that has an OPT with an rcode, answer others."""
    return lambda query: (refuses(rcode) if query[11] else script)(query)


def drops_edns(script: Script = right) -> Script:
    """Say nothing to a query that has an OPT, answer others."""
    return lambda query: [] if query[11] else script(query)


def zone(records: Mapping[str, Sequence[tuple[str, str]]], *, ttl_s: int = 60) -> Script:
    """Answer from a zone: ``zone({"www.test": [("CNAME", "web.test")], "web.test": [("A", "192.0.2.1")]})``.

    Aliases are followed as a resolver does it; a name that is not there gets NXDOMAIN, and like a type that
    is not there an SOA that lets it be remembered for ``ttl_s``.
    """
    known = {name.lower(): [*own] for name, own in records.items()}

    def script(query: bytes) -> list[bytes]:
        reply = dnslib.DNSRecord.parse(query).reply()
        owner = str(reply.q.qname).rstrip(".").lower()
        asked = dnslib.QTYPE[reply.q.qtype]
        missing = owner not in known
        while True:
            own = known.get(owner, [])
            found = [one for one in own if one[0] == asked] or [one for one in own if one[0] == "CNAME"]
            for rtype, value in found:
                rdata = getattr(dnslib, rtype)(value)
                reply.add_answer(dnslib.RR(owner, getattr(dnslib.QTYPE, rtype), ttl=ttl_s, rdata=rdata))
            if not found or found[0][0] == asked:
                break
            owner = found[0][1].lower()
        if not found:
            reply.header.rcode = dnslib.RCODE.NXDOMAIN if missing else dnslib.RCODE.NOERROR
            soa = dnslib.SOA("ns.test", "hostmaster.test", (1, 3600, 600, 86400, ttl_s))
            reply.add_auth(dnslib.RR("test", dnslib.QTYPE.SOA, ttl=ttl_s, rdata=soa))
        return [bytes(reply.pack())]

    return script


def by_type(**scripts: Script) -> Script:
    """Treat each type of question in its own way: ``by_type(A=right, AAAA=silent)``."""
    return lambda query: scripts[dnslib.QTYPE[dnslib.DNSRecord.parse(query).q.qtype]](query)


def both(first: Script, second: Script) -> Script:
    """Send what the one says, then what the other says: ``both(garbage, right)``."""
    return lambda query: [*first(query), *second(query)]


def after(count: int, first: Script, then: Script) -> Script:
    """Treat the first ``count`` queries one way, all later ones another."""
    seen = 0

    def script(query: bytes) -> list[bytes]:
        nonlocal seen
        seen += 1
        return (first if seen <= count else then)(query)

    return script


# --- peers ---------------------------------------------------------------------------------------


class DnsPeer:
    """A thread with a UDP socket and a TCP socket on one port; a context manager.

    Args:
        udp: script for datagrams.
        tcp: script for queries by TCP; None lets nobody listen there, so a connection is refused.
        held: with True answers over UDP wait for :meth:`release`: a slow server.

    Attributes:
        address: ``"127.0.0.1:port"``.
        queries: all queries that came by UDP, in order.
        tcp_queries: by TCP.
        senders: (host, port) that each of ``queries`` came from.
    """

    def __init__(self, udp: Script = right, *, tcp: Script | None = None, held: bool = False) -> None:
        self._udp_script = udp
        self._tcp_script = tcp
        self._held = held
        self._waiting: list[tuple[bytes, Any]] = []
        self.queries: list[bytes] = []
        self.tcp_queries: list[bytes] = []
        self.senders: list[tuple[str, int]] = []
        self.address = ""

    def __enter__(self) -> DnsPeer:
        self._udp, self._tcp = udp_tcp_pair()
        self.address = f"{HOST}:{self._udp.getsockname()[1]}"
        if self._tcp_script is None:
            self._tcp.close()
        self._wake, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="dns-peer", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._waker.close()
        self._thread.join(5)
        assert not self._thread.is_alive(), "the DNS peer's thread did not end"

    def release(self) -> None:
        """Send all answers that were held, and hold none any more."""
        self._waker.send(b"!")

    def wait_for_queries(self, count: int, timeout_s: float = 10.0) -> None:
        """Wait until so many queries have come by UDP."""
        wait_until(lambda: len(self.queries) >= count, timeout_s, f"{count} DNS queries")

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector, self._udp, self._tcp, self._wake:
            selector.register(self._udp, selectors.EVENT_READ, self._on_datagram)
            selector.register(self._wake, selectors.EVENT_READ, None)
            if self._tcp_script is not None:
                selector.register(self._tcp, selectors.EVENT_READ, self._on_connection)
            while True:
                for key, _ in selector.select():
                    if key.data is not None:
                        key.data()
                    elif self._wake.recv(1):
                        self._held = False
                        waiting, self._waiting = self._waiting, []
                        for datagram, sender in waiting:
                            self._udp.sendto(datagram, sender)
                    else:  # the waker is closed: the end
                        return

    def _on_datagram(self) -> None:
        query, sender = self._udp.recvfrom(65_535)
        self.senders.append(sender)
        self.queries.append(query)
        for datagram in self._udp_script(query):
            if self._held:
                self._waiting.append((datagram, sender))
            else:
                self._udp.sendto(datagram, sender)

    def _on_connection(self) -> None:
        """Serve one connection to its end; one at a time is enough here."""
        connection, _ = self._tcp.accept()
        with connection, connection.makefile("rb") as stream:
            connection.settimeout(5)
            try:
                while len(prefix := stream.read(2)) == 2:
                    query = stream.read(struct.unpack(">H", prefix)[0])
                    self.tcp_queries.append(query)
                    for answer in self._tcp_script(query) if self._tcp_script else ():
                        connection.sendall(struct.pack(">H", len(answer)) + answer)
            except OSError:
                return  # the other side went away, or said nothing for 5 s


class UdpPeer(DnsPeer):
    """A UDP server of any protocol: the same thread, other scripts (:func:`echo`, say)."""


def closed_port() -> str:
    """Return an address that nobody listens on: a datagram to it comes back as ECONNREFUSED."""
    udp, tcp = udp_tcp_pair()
    with udp, tcp:
        return f"{HOST}:{udp.getsockname()[1]}"
