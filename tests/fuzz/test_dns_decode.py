"""Invariant: a well-formed answer reads as dnslib reads it; any other is a BadResponse and nothing else."""

from __future__ import annotations

import contextlib
import ipaddress
import random
from time import monotonic
from typing import Any

import dnslib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reqpool.kinds.dns import KIND
from reqpool_contract.errors import BadResponse
from reqpool_contract.payloads.dns_answer import DnsAnswer, DnsRecord
from support.plain import ASKED

LABELS = st.text(st.characters(max_codepoint=127), min_size=1, max_size=6).map(str.encode) | st.sampled_from(
    [b"www", b"example", b"a"]
)
NAMES = st.lists(LABELS, max_size=5).map(dnslib.DNSLabel)
SPECIAL = b'."();@$\\'
COUNTS = st.integers(0, 0xFFFF)
SERIALS = st.integers(0, 2**32 - 1)

RDATA = st.one_of(
    st.builds(lambda ip: ("A", dnslib.A(tuple(ip))), st.binary(min_size=4, max_size=4)),
    st.builds(lambda ip: ("AAAA", dnslib.AAAA(tuple(ip))), st.binary(min_size=16, max_size=16)),
    st.builds(lambda name: ("CNAME", dnslib.CNAME(name)), NAMES),
    st.builds(lambda name: ("NS", dnslib.NS(name)), NAMES),
    st.builds(lambda name: ("PTR", dnslib.PTR(name)), NAMES),
    st.builds(lambda n, name: ("MX", dnslib.MX(name, n)), COUNTS, NAMES),
    st.builds(lambda a, b, c, name: ("SRV", dnslib.SRV(a, b, c, name)), COUNTS, COUNTS, COUNTS, NAMES),
    st.builds(
        lambda mname, rname, times: ("SOA", dnslib.SOA(mname, rname, times)),
        NAMES, NAMES, st.tuples(SERIALS, SERIALS, SERIALS, SERIALS, SERIALS),
    ),
    st.builds(
        lambda texts: ("TXT", dnslib.TXT(texts)),
        st.lists(st.binary(max_size=60), min_size=1, max_size=3),
    ),
    st.builds(lambda data: ("TYPE65280", dnslib.RD(data)), st.binary(min_size=1, max_size=40)),
)  # fmt: skip
RECORDS = st.lists(st.tuples(NAMES, st.integers(0, 2**31 - 1), RDATA), max_size=4)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Well-formed answers, names compressed by dnslib."""
    header = dnslib.DNSHeader(id=draw(COUNTS), qr=1, rcode=draw(st.integers(0, 10)))
    message = dnslib.DNSRecord(header, q=dnslib.DNSQuestion(draw(NAMES)))
    for add in (message.add_answer, message.add_auth, message.add_ar):
        for name, ttl, (rtype, rdata) in draw(RECORDS):
            add(dnslib.RR(name, getattr(dnslib.QTYPE, rtype), ttl=ttl, rdata=rdata))
    if draw(st.booleans()):
        message.add_ar(dnslib.EDNS0(udp_len=1232))
    return bytes(message.pack())


def text(label: dnslib.DNSLabel) -> str:
    """Write a name as our reader does: dnslib's text cannot tell a dot in a label from one between two."""
    return (
        ".".join(
            "".join(
                f"\\{code:03d}" if not 33 <= code < 127 else f"\\{code:c}" if code in SPECIAL else chr(code)
                for code in part
            )
            for part in label.label
        )
        or "."
    )


def as_ours(rr: dnslib.RR) -> DnsRecord:
    """Translate one of dnslib's records."""
    rd: Any = rr.rdata
    rtype = dnslib.QTYPE[rr.rtype]
    value: Any
    match rtype:
        case "A" | "AAAA":
            value = ipaddress.ip_address(str(rd))
        case "CNAME" | "NS" | "PTR":
            value = text(rd.label)
        case "MX":
            value = (rd.preference, text(rd.label))
        case "SRV":
            value = (rd.priority, rd.weight, rd.port, text(rd.target))
        case "SOA":
            value = (text(rd.mname), text(rd.rname), *rd.times)
        case "TXT":
            value = b"".join(rd.data).decode("utf-8", "backslashreplace")
        case _:
            value = str(rd)
    return DnsRecord(text(rr.rname), rtype, rr.ttl, value)


def comparable(record: DnsRecord) -> DnsRecord:
    if record.type in ("A", "AAAA"):
        return record._replace(value=ipaddress.ip_address(record.value))
    return record


def look_at_everything(answer: DnsAnswer) -> None:
    _ = (answer.records, answer.authority, answer.additional, answer.rcode, answer.name, answer.rtype)


@given(messages())
def test_our_reader_says_what_dnslib_says(raw: bytes) -> None:
    ours, theirs = KIND.decode(raw, ASKED), dnslib.DNSRecord.parse(raw)
    assert ours.name == text(theirs.q.qname)
    assert ours.rcode_number == theirs.header.rcode
    for mine, its in ((ours.records, theirs.rr), (ours.authority, theirs.auth), (ours.additional, theirs.ar)):
        assert [comparable(record) for record in mine] == [as_ours(rr) for rr in its if rr.rtype != 41]


@given(messages())
def test_a_message_cut_anywhere_is_a_bad_response_and_nothing_else(raw: bytes) -> None:
    for length in range(len(raw)):
        if length == 12 and raw[3] & 15:
            continue  # a header alone is how some servers refuse
        with pytest.raises(BadResponse):
            look_at_everything(KIND.decode(raw[:length], ASKED))


@given(messages(), st.data())
def test_a_message_with_wrong_bytes_is_read_or_a_bad_response(raw: bytes, data: st.DataObject) -> None:
    mutated = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 6))):
        mutated[data.draw(st.integers(4, len(raw) - 1))] = data.draw(st.integers(0, 255))
    look_or_bad_response(bytes(mutated))


@given(st.binary(max_size=300))
def test_garbage_behind_a_header_is_read_or_a_bad_response(garbage: bytes) -> None:
    look_or_bad_response(b"\x00\x00\x80\x00\x00\x01\x00\x05\x00\x05\x00\x05" + garbage)


def look_or_bad_response(raw: bytes) -> None:
    try:
        answer = KIND.decode(raw, ASKED)
    except BadResponse:
        return
    assert repr(answer)
    for look in (lambda: look_at_everything(answer), lambda: answer.message):
        with contextlib.suppress(BadResponse):
            look()


@pytest.mark.parametrize("seed", range(3))
def test_a_message_made_to_be_slow_is_read_in_linear_time(seed: int) -> None:
    """64 KiB of records whose owners lead through as many pointers as there can be."""
    chance = random.Random(seed)
    header = b"\x00\x00\x80\x00\x00\x00\xff\xff\x00\x00\x00\x00"
    target = 12
    body = bytearray(b"\x00")
    while len(body) + 12 < 0x3FFF:  # as far as a pointer reaches
        here = 12 + len(body)
        body += (0xC000 | target).to_bytes(2, "big")
        target = here if chance.random() < 0.99 else 12
    records = (0xC000 | target).to_bytes(
        2, "big"
    ) + b"\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04\x7f\x00\x00\x01"
    body += records * ((65_535 - 12 - len(body)) // len(records))
    started_s = monotonic()
    look_or_bad_response(header + bytes(body))
    assert monotonic() - started_s < 2.0
