"""Invariant: a well-formed answer reads as dnslib reads it; any other is a BadResponse and nothing else."""

from __future__ import annotations

import contextlib
import ipaddress
from functools import partial
from typing import Any

import dnslib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reqpool.kinds.dns import KIND
from reqpool_contract.errors import BadResponse
from reqpool_contract.payloads.dns_answer import DnsAnswer, DnsRecord
from support.plain import ASKED
from support.work import assert_lines_grow_linearly

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


def test_a_message_of_as_many_pointers_as_names_may_have_is_read_in_linear_time() -> None:
    assert len(KIND.decode(pointing(1 << 12, 126), ASKED).records) > 200
    assert_lines_grow_linearly(lambda size: partial(look_or_bad_response, pointing(size, 126)), 1 << 12)


def test_a_message_whose_names_have_ever_more_pointers_is_read_in_linear_time() -> None:
    assert_lines_grow_linearly(lambda size: partial(look_or_bad_response, pointing(size, size // 8)), 1 << 14)


def pointing(size: int, pointers: int) -> bytes:
    """Make a message of about that size, with records whose owners lead through so many pointers."""
    fixed = b"\x00\x01\x00\x00\x00\x00"  # class and lifetime
    begin = 12 + 11  # behind the header, and before the data of a first record, which the pointers are
    names = b"\x00" + b"".join(
        (0xC000 | begin + max(0, 2 * at - 1)).to_bytes(2, "big") for at in range(pointers)
    )
    first = b"\x00\xff\x00" + fixed + len(names).to_bytes(2, "big") + names
    owner = (0xC000 | begin + len(names) - 2).to_bytes(2, "big")
    other = owner + b"\x00\x01" + fixed + b"\x00\x04\x7f\x00\x00\x01"
    count = (size - 12 - len(first)) // len(other)
    header = b"\x00\x00\x80\x00\x00\x00" + (1 + count).to_bytes(2, "big") + bytes(4)
    return header + first + other * count
