"""The worker halves of dns, udp and tcp, fed whole and byte by byte."""

from __future__ import annotations

import socket
from typing import Any

import dnslib
import msgpack
import pytest

from reqpool_contract.errors import BadResponse, Code, UsageError
from reqpool_workers.protocols import (
    READY,
    Ask,
    StreamProtocol,
    Then,
    load,
    numeric_address,
    served_host,
    stream_address,
)
from reqpool_workers.protocols.dns import DnsDatagrams, DnsStream
from reqpool_workers.protocols.dns_messages import question_end
from reqpool_workers.protocols.tcp import TcpExchange
from reqpool_workers.protocols.udp import OneDatagram
from support import dns_peer


def ask(payload: bytes) -> Ask:
    request = Ask()
    request.payload = payload
    return request


def query(name: str = "example.com", qtype: str = "A") -> bytes:
    packed = dnslib.DNSRecord.question(name, qtype)
    packed.add_ar(dnslib.EDNS0(udp_len=1232))
    return b"\0\0" + bytes(packed.pack())[2:]


# --- dns over datagrams ----------------------------------------------------------------------------


def test_a_query_goes_out_under_an_id_of_its_own() -> None:
    protocol = DnsDatagrams()
    requests = [ask(query()) for _ in range(2_000)]
    datagrams = [protocol.ask(request) for request in requests]
    assert len({datagram[:2] for datagram in datagrams}) == 2_000
    assert {datagram[2:] for datagram in datagrams} == {query()[2:]}
    assert protocol.again(requests[7], 0) == datagrams[7]


def test_an_answer_finds_its_request_once() -> None:
    protocol = DnsDatagrams()
    request = ask(query())
    (answer,) = dns_peer.right(protocol.ask(request))
    assert protocol.feed(answer) == (request, None)
    assert protocol.feed(answer) is None
    assert not protocol.open_requests


def test_letters_of_the_other_case_are_the_same_question() -> None:
    protocol = DnsDatagrams()
    request = ask(query())
    (answer,) = dns_peer.other_case(protocol.ask(request))
    assert protocol.feed(answer) == (request, None)


@pytest.mark.parametrize(
    "script",
    [
        dns_peer.wrong_id,
        dns_peer.other_question,
        dns_peer.echo,
        dns_peer.garbage,
        *(dns_peer.cut(length) for length in range(29)),
    ],
)
def test_what_is_no_answer_is_ignored_and_the_request_stays_open(script: dns_peer.Script) -> None:
    protocol = DnsDatagrams()
    request = ask(query())
    sent = protocol.ask(request)
    for datagram in script(sent):
        assert protocol.feed(datagram) is None
    assert list(protocol.open_requests) == [request]
    assert protocol.feed(dns_peer.right(sent)[0]) == (request, None)


def test_another_type_is_another_question_though_it_looks_like_the_other_case() -> None:
    protocol = DnsDatagrams()
    request = ask(query("example.com", "HTTPS"))  # type 65, "A"
    sent = protocol.ask(request)
    end = request.note
    assert sent[end - 3] == 65
    lie = bytearray(sent)
    lie[2] |= 0x80
    lie[end - 3] = 97  # "a"
    assert protocol.feed(bytes(lie)) is None


def test_an_answer_cut_short_asks_for_a_stream() -> None:
    protocol = DnsDatagrams()
    request = ask(query())
    assert protocol.feed(dns_peer.truncated(protocol.ask(request))[0]) == (request, Then.STREAM)


def test_a_late_answer_to_a_forgotten_request_matches_nothing() -> None:
    protocol = DnsDatagrams()
    request = ask(query())
    (answer,) = dns_peer.right(protocol.ask(request))
    protocol.forget(request)
    assert protocol.feed(answer) is None


@pytest.mark.parametrize("length", range(29))
def test_half_a_query_is_a_usage_error_and_leaves_nothing(length: int) -> None:
    protocol = DnsDatagrams()
    with pytest.raises(UsageError):
        protocol.ask(ask(query()[: min(length, question_end(query()) - 1)]))
    assert not protocol.open_requests


# --- streams ---------------------------------------------------------------------------------------


def fed(protocol: StreamProtocol, data: bytes, step: int, *, close: bool) -> list[Any]:
    events: list[Any] = []
    for at in range(0, len(data), step):
        events += protocol.feed(data[at : at + step])
    return events + list(protocol.eof()) if close else events


@pytest.mark.parametrize("step", [1, 2, 1_000])
def test_dns_over_tcp_is_framed_by_its_length(step: int) -> None:
    protocol = DnsStream("dns://127.0.0.1:53")
    assert protocol.connected() == [READY]
    sent = protocol.send(ask(query()))
    assert int.from_bytes(sent[:2], "big") == len(sent) - 2
    (answer,) = dns_peer.right(sent[2:])
    framed = len(answer).to_bytes(2, "big") + answer
    assert fed(protocol, framed, step, close=False) == [(Code.OK, answer)]
    assert not protocol.reusable


@pytest.mark.parametrize("script", [dns_peer.wrong_id, dns_peer.other_question, dns_peer.echo])
def test_a_lie_over_tcp_is_a_bad_response(script: dns_peer.Script) -> None:
    protocol = DnsStream("dns://127.0.0.1:53")
    sent = protocol.send(ask(query()))
    (answer,) = script(sent[2:])
    with pytest.raises(BadResponse):
        protocol.feed(len(answer).to_bytes(2, "big") + answer)


def exchange(until: bytes | None = None, length: int | None = None, max_bytes: int = 100) -> TcpExchange:
    protocol = TcpExchange("tcp://127.0.0.1:7", b"", 1 << 24)
    assert protocol.send(ask(msgpack.packb([b"hello", until, length, max_bytes]))) == b"hello"
    return protocol


@pytest.mark.parametrize("step", [1, 2, 3, 1_000])
def test_tcp_reads_to_the_delimiter_and_gives_nothing_behind_it(step: int) -> None:
    events = fed(exchange(until=b"\r\n"), b"one\r\r\n"[:6], step, close=False)
    assert events == [(Code.OK, b"one\r\r\n")]


def test_tcp_leaves_out_what_comes_behind_the_delimiter() -> None:
    assert exchange(until=b"\n").feed(b"one\ntwo") == [(Code.OK, b"one\n")]


@pytest.mark.parametrize("step", [1, 1_000])
def test_tcp_reads_a_length(step: int) -> None:
    assert fed(exchange(length=4), b"four", step, close=False) == [(Code.OK, b"four")]


@pytest.mark.parametrize("step", [1, 1_000])
def test_tcp_reads_until_close(step: int) -> None:
    assert fed(exchange(), b"all of it", step, close=True) == [(Code.OK, b"all of it")]


def test_tcp_answer_that_ends_early_is_no_answer() -> None:
    assert fed(exchange(until=b"\n"), b"half", 1, close=True) == []
    assert fed(exchange(length=5), b"half", 1, close=True) == []


@pytest.mark.parametrize("protocol", [exchange(max_bytes=8), exchange(until=b"\n", max_bytes=8)])
def test_tcp_answer_over_the_limit_is_a_bad_response(protocol: TcpExchange) -> None:
    assert protocol.feed(b"12345678") == []
    with pytest.raises(BadResponse, match="longer than 8 bytes"):
        protocol.feed(b"9")


def test_tcp_bytes_nobody_asked_for_are_a_bad_response() -> None:
    with pytest.raises(BadResponse):
        TcpExchange("tcp://127.0.0.1:7", b"", 1 << 24).feed(b"hi")


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xc1", msgpack.packb(b"x"), msgpack.packb([b"x"]), msgpack.packb(["x", None, None, 1]),
     msgpack.packb([b"x", b"", None, 1]), msgpack.packb([b"x", b"y", 1, 1]),
     msgpack.packb([b"x", None, 0, 1]), msgpack.packb([b"x", None, -1, 1]),
     msgpack.packb([b"x", None, None, None])],
)  # fmt: skip
def test_a_malformed_tcp_payload_is_a_usage_error(payload: bytes) -> None:
    with pytest.raises(UsageError):
        TcpExchange("tcp://127.0.0.1:7", b"", 1 << 24).send(ask(payload))


# --- udp, addresses, registry ----------------------------------------------------------------------


def test_udp_takes_the_first_datagram_even_an_empty_one() -> None:
    protocol = OneDatagram()
    request = ask(b"hello")
    assert protocol.ask(request) == b"hello"
    assert protocol.feed(b"") == (request, None)
    assert protocol.feed(b"again") is None


@pytest.mark.parametrize(
    ("origin", "sockaddr"),
    [
        ("dns://127.0.0.1:53", ("127.0.0.1", 53)),
        ("dns://[::1]:5300", ("::1", 5300, 0, 0)),
        ("tcp://localhost:7", ("127.0.0.1", 7)),
        ("udp://[fe80::1%lo]:7", ("fe80::1", 7, 0, socket.if_nametoindex("lo"))),
        ("udp://[fe80::1%4711]:7", ("fe80::1", 7, 0, 4711)),
    ],
)
def test_numeric_origins_are_read(origin: str, sockaddr: object) -> None:
    assert numeric_address(origin).sockaddr == sockaddr
    assert stream_address(origin.replace("localhost", "127.0.0.1")) == numeric_address(origin)


@pytest.mark.parametrize("read", [numeric_address, stream_address])
def test_a_zone_that_is_no_interface_here_is_a_usage_error(read: Any) -> None:
    with pytest.raises(UsageError, match="'nowhere0' is not a network interface of this machine"):
        read("tcp://[fe80::1%nowhere0]:7")
    with pytest.raises(UsageError, match="'4294967297' is not a network interface"):
        read("tcp://[fe80::1%4294967297]:7")  # not number 1, as connect(2) would have it


@pytest.mark.parametrize(
    "origin", ["tcp://evil.test[::1]:7", "tcp://[::1]evil.test:7", "tcp://[::1", "tcp://h:070"]
)
def test_an_origin_that_readers_could_take_in_two_ways_is_a_usage_error(origin: str) -> None:
    with pytest.raises(UsageError, match="host and a port"):
        stream_address(origin)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://h.test.:443#00", "h.test"),
        ("https://[fe80::1%eth0]:443", "fe80::1"),
        ("rediss://app@h.test:6379/0", "h.test"),
        ("mysql://app@/db?socket=/run/mysql.sock", ""),
    ],
)
def test_a_server_is_called_by_its_name_without_zone_and_final_dot(origin: str, host: str) -> None:
    assert served_host(origin) == host


@pytest.mark.parametrize(
    "origin", ["dns://example.com:53", "dns://127.0.0.1", "dns://:53", "x", "dns://127.0.0.1:x", "dns://[::1"]
)
def test_other_origins_are_a_usage_error(origin: str) -> None:
    with pytest.raises(UsageError):
        numeric_address(origin)


def test_the_kinds_are_found_through_their_entry_points() -> None:
    kinds = load()
    assert {tuple(kinds[name].info) for name in ("dns", "udp", "tcp")} == {
        ("dns", False, 256, 1, False, ""),
        ("udp", False, 64, 1, False, ""),
        ("tcp", True, 64, 1, False, ""),
    }
