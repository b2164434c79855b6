"""What name servers say instead of an answer: refusals without a question, no EDNS, and whom to ask then."""

from __future__ import annotations

import struct
from typing import Any

import dnslib
import pytest

from reqpool_contract.errors import BadResponse, Code
from reqpool_workers.protocols import Ask, Then
from reqpool_workers.protocols.dns import (
    MAX_WITHOUT_EDNS,
    WITHOUT_EDNS_S,
    DnsDatagrams,
    DnsStream,
    WithoutEdns,
)
from reqpool_workers.protocols.dns_messages import unhelpful
from support import dns_peer

FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 1, 2, 3, 4, 5
OPT = b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"


def query(name: str = "example.com") -> bytes:
    packed = dnslib.DNSRecord.question(name)
    packed.add_ar(dnslib.EDNS0(udp_len=1232))
    return b"\0\0" + bytes(packed.pack())[2:]


def ask(payload: bytes | None = None) -> Any:
    request = Ask()
    request.payload = query() if payload is None else payload
    return request


def protocol(known: WithoutEdns | None = None, now_s: float = 0.0) -> DnsDatagrams:
    return DnsDatagrams("dns://192.0.2.1:53", now_s, WithoutEdns() if known is None else known)


def header(sent: bytes, rcode: int, *, flags: int = 0x81, counts: bytes = bytes(8)) -> bytes:
    return sent[:2] + bytes((flags, 0x80 | rcode)) + counts


def says(sent: bytes, rcode: int, *, opt: bytes = b"", ra: bool = True) -> bytes:
    """Repeat the question, without records."""
    end = sent.index(b"\0", 12) + 5
    flags = bytes((0x81, rcode | (0x80 if ra else 0)))
    return sent[:2] + flags + struct.pack(">HHHH", 1, 0, 0, bool(opt)) + sent[12:end] + opt


def has_opt(sent: bytes) -> bool:
    return sent[-len(OPT) : -8] == OPT[:3] and sent[11] == 1


# --- a refusal without a question ------------------------------------------------------------------


@pytest.mark.parametrize("counts", [bytes(8), b"\0\1\0\0\0\0\0\1"], ids=["zero", "those of the query"])
@pytest.mark.parametrize("rcode", [FORMERR, SERVFAIL, NOTIMP, REFUSED])
def test_a_refusal_that_is_a_header_alone_is_heard(rcode: int, counts: bytes) -> None:
    one = protocol()
    request = ask()
    sent = one.ask(request)
    found = one.feed(header(sent, rcode, counts=counts))
    if found == (request, Then.AGAIN):  # without EDNS; it refuses that, too
        found = one.feed(header(one.again(request, 0), rcode, counts=counts))
    assert found == (request, Then.ELSEWHERE)
    assert not one.open_requests


@pytest.mark.parametrize("rcode", [FORMERR, SERVFAIL, NOTIMP, REFUSED])
def test_a_refusal_may_have_an_opt_instead_of_a_question(rcode: int) -> None:
    one = protocol()
    request = ask(query()[: -len(OPT)])
    sent = one.ask(request)
    assert one.feed(header(sent, rcode, counts=b"\0\0\0\0\0\0\0\1") + OPT) == (request, Then.ELSEWHERE)


def forged(sent: bytes) -> list[bytes]:
    """What must not be believed of a message without the question."""
    record = b"\0" + struct.pack(">HHIH", 1, 1, 60, 4) + b"\xc0\0\2\1"
    other_id = struct.pack(">H", struct.unpack_from(">H", sent)[0] ^ 1)
    return [
        *(header(sent, rcode) for rcode in range(16) if rcode not in (FORMERR, SERVFAIL, NOTIMP, REFUSED)),
        other_id + header(sent, REFUSED)[2:],
        header(sent, REFUSED, flags=0x01),  # a query
        header(sent, REFUSED, flags=0xA9),  # an answer to an update
        *(header(sent, REFUSED)[:size] for size in range(12)),
        header(sent, REFUSED, counts=b"\0\0\0\1\0\0\0\0") + record,
        header(sent, REFUSED, counts=b"\0\0\0\0\0\1\0\0") + record,
        header(sent, REFUSED, counts=b"\0\1\0\0\0\0\0\0") + b"\x05other\x04test\0\0\1\0\1",
    ]


def test_nothing_else_is_believed_without_the_question() -> None:
    one = protocol()
    request = ask()
    sent = one.ask(request)
    for datagram in forged(sent):
        assert one.feed(datagram) is None, datagram
    assert list(one.open_requests) == [request]
    assert one.feed(dns_peer.right(sent)[0]) == (request, None)


@pytest.mark.parametrize("opcode", [1, 2, 4, 5, 15])
def test_an_answer_to_another_kind_of_query_is_ignored(opcode: int) -> None:
    one = protocol()
    request = ask()
    (answer,) = dns_peer.right(one.ask(request))
    assert one.feed(answer[:2] + bytes((answer[2] | opcode << 3,)) + answer[3:]) is None
    assert one.feed(answer) == (request, None)


@pytest.mark.parametrize("size", [1, 1000], ids=["byte by byte", "whole"])
@pytest.mark.parametrize("rcode", [FORMERR, SERVFAIL, NOTIMP, REFUSED])
def test_a_header_alone_is_heard_over_tcp(rcode: int, size: int) -> None:
    stream = DnsStream("dns://192.0.2.1:53")
    sent = stream.send(ask(query()[: -len(OPT)]))[2:]
    assert feed_all(stream, header(sent, rcode), size) == [(Code.OK, header(sent, rcode))]


def test_nothing_else_is_believed_over_tcp() -> None:
    for at in range(len(forged(query()))):
        stream = DnsStream("dns://192.0.2.1:53")
        sent = stream.send(ask())[2:]
        with pytest.raises(BadResponse):
            feed_all(stream, forged(sent)[at], 1000)


def feed_all(stream: DnsStream, message: bytes, size: int) -> list[Any]:
    framed = struct.pack(">H", len(message)) + message
    return [event for at in range(0, len(framed), size) for event in stream.feed(framed[at : at + size])]


# --- without EDNS ----------------------------------------------------------------------------------

BADVERS = b"\x00\x00\x29\x04\xd0\x01\x00\x00\x00\x00\x00"


@pytest.mark.parametrize(
    ("rcode", "opt"),
    [(FORMERR, b""), (FORMERR, OPT), (NOTIMP, b""), (NOTIMP, OPT), (SERVFAIL, b""), (0, BADVERS)],
    ids=["FORMERR", "FORMERR with OPT", "NOTIMP", "NOTIMP with OPT", "SERVFAIL", "BADVERS"],
)
def test_a_server_without_edns_is_asked_again_without_opt(rcode: int, opt: bytes) -> None:
    """RFC 6891 §7, c-ares 244 and 911."""
    one = protocol()
    request = ask()
    first = one.ask(request)
    assert has_opt(first)
    assert one.feed(says(first, rcode, opt=opt)) == (request, Then.AGAIN)
    assert list(one.open_requests) == [request]
    second = one.again(request, 0)
    assert second[2:] == query()[2:11] + b"\0" + query()[12 : -len(OPT)]
    assert second[:2] != first[:2]
    assert one.feed(says(first, rcode, opt=opt)) is None  # a late copy
    assert one.feed(dns_peer.right(second)[0]) == (request, None)
    assert not one.open_requests


@pytest.mark.parametrize("rcode", [FORMERR, SERVFAIL, NOTIMP])
def test_it_is_asked_once_more_and_not_for_ever(rcode: int) -> None:
    one = protocol()
    request = ask()
    assert one.feed(says(one.ask(request), rcode)) == (request, Then.AGAIN)
    assert one.feed(says(one.again(request, 0), rcode)) == (request, Then.ELSEWHERE)
    assert not one.open_requests


@pytest.mark.parametrize(("rcode", "opt"), [(SERVFAIL, OPT), (REFUSED, b""), (REFUSED, OPT)])
def test_what_has_nothing_to_do_with_edns_is_not_asked_again(rcode: int, opt: bytes) -> None:
    one = protocol()
    request = ask()
    assert one.feed(says(one.ask(request), rcode, opt=opt)) == (request, Then.ELSEWHERE)


def test_a_request_that_is_asked_again_can_be_forgotten() -> None:
    one = protocol()
    request = ask()
    one.feed(says(one.ask(request), FORMERR))
    one.forget(request)
    assert not one.open_requests


def test_a_server_without_edns_is_remembered_for_a_while() -> None:
    known = WithoutEdns()
    one = protocol(known)
    request = ask()
    one.feed(says(one.ask(request), FORMERR))
    assert has_opt(one.ask(ask()))  # it has not shown yet that it does better without
    one.feed(dns_peer.right(one.again(request, 0))[0])
    assert not has_opt(one.ask(ask()))
    assert not has_opt(protocol(known, WITHOUT_EDNS_S - 1).ask(ask()))
    assert has_opt(protocol(known, WITHOUT_EDNS_S + 1).ask(ask()))
    assert has_opt(DnsDatagrams("dns://192.0.2.2:53", 0.0, known).ask(ask()))


def test_a_server_that_refuses_either_way_is_not_taken_for_one_without_edns() -> None:
    known = WithoutEdns()
    one = protocol(known)
    request = ask()
    one.feed(says(one.ask(request), NOTIMP))
    one.feed(says(one.again(request, 0), NOTIMP))
    assert has_opt(protocol(known).ask(ask()))


def test_the_memory_of_servers_without_edns_is_bounded() -> None:
    known = WithoutEdns()
    for number in range(MAX_WITHOUT_EDNS + 1):
        known.add(f"dns://{number}", 0.0)
    assert not known.has("dns://0", 1.0)
    assert known.has("dns://1", 1.0)
    assert known.has(f"dns://{MAX_WITHOUT_EDNS}", 1.0)


def test_an_answer_cut_short_by_a_server_without_edns_is_asked_for_without_over_tcp() -> None:
    one = protocol()
    request = ask()
    one.feed(says(one.ask(request), FORMERR))
    assert one.feed(dns_peer.truncated(one.again(request, 0))[0]) == (request, Then.STREAM)
    assert not has_opt(DnsStream("").send(request)[2:])


def test_what_stays_unanswered_is_sent_without_opt_in_the_end() -> None:
    """Some servers and firewalls drop what has one."""
    one = protocol()
    request = ask()
    first = one.ask(request)
    assert one.again(request, 0) == first
    assert one.again(request, 1) == first[:11] + b"\0" + first[12 : -len(OPT)]
    assert one.again(request, 2) == one.again(request, 1)
    assert one.feed(dns_peer.right(first)[0]) == (request, None)


@pytest.mark.parametrize("rcode", [FORMERR, NOTIMP, SERVFAIL])
def test_a_slow_server_without_edns_refuses_what_was_sent_with_opt(rcode: int) -> None:
    """Its refusal comes when the query has been sent without OPT, too; the answer to that is yet to come."""
    one = protocol()
    request = ask()
    first = one.ask(request)
    one.again(request, 1)
    assert one.feed(says(first, rcode)) == (request, Then.AGAIN)
    second = one.again(request, 0)
    assert not has_opt(second)
    assert one.feed(dns_peer.right(second)[0]) == (request, None)


def test_what_got_through_without_opt_is_asked_for_without_over_tcp() -> None:
    one = protocol()
    request = ask()
    one.ask(request)
    assert one.feed(dns_peer.truncated(one.again(request, 1))[0]) == (request, Then.STREAM)
    assert not has_opt(DnsStream("").send(request)[2:])


@pytest.mark.parametrize("size", [1, 1000], ids=["byte by byte", "whole"])
@pytest.mark.parametrize("rcode", [FORMERR, NOTIMP, SERVFAIL])
def test_without_edns_over_tcp(rcode: int, size: int) -> None:
    stream = DnsStream("")
    sent = stream.send(ask())[2:]
    assert has_opt(sent)
    (again,) = feed_all(stream, says(sent, rcode), size)
    assert not has_opt(again[2:])
    (answer,) = dns_peer.right(again[2:])
    assert feed_all(stream, answer, size) == [(Code.OK, answer)]


# --- whether another server may know better --------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (says(query(), SERVFAIL), True),
        (says(query(), REFUSED), True),
        (says(query(), NOTIMP), True),
        (says(query(), FORMERR), True),
        (says(query(), NXDOMAIN), False),
        (says(query(), 0), False),  # no such record
        (says(query(), 0, ra=False), True),  # refers to others
        (says(query(), NXDOMAIN, ra=False), False),
        (dns_peer.right(query())[0], False),
    ],
)
def test_which_answers_another_server_may_better(answer: bytes, expected: bool) -> None:
    assert unhelpful(answer) is expected
