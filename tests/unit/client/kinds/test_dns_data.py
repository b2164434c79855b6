"""A record's text is what a zone file has: another library reads the same data from it."""

from __future__ import annotations

import pickle
import struct
from typing import Any

import dns.rdata
import dns.rdataclass
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reqpool_contract.payloads.dns_answer import DnsAnswer, DnsRecord, DnsText
from reqpool_contract.payloads.dns_types import NUMBERS, type_name

TYPES_WITH_A_READER = [
    number
    for name, number in NUMBERS.items()
    if name not in ("OPT", "TKEY", "TSIG")
    and dns.rdata.get_rdata_class(dns.rdataclass.IN, dns.rdatatype.RdataType(number))  # type: ignore[no-untyped-call]
    is not dns.rdata.GenericRdata
]


def answer(
    *records: bytes, additional: tuple[bytes, ...] = (), name: bytes = b"\x01x\x04test\x00"
) -> DnsAnswer:
    """Make an answer to ``x.test``; records are whole, see :func:`record`."""
    counts = struct.pack(">HHHH", 1, len(records), 0, len(additional))
    head = b"\x00\x00\x81\x80" + counts + name + b"\x00\x01\x00\x01"
    return DnsAnswer(head + b"".join(records) + b"".join(additional))


def record(rtype: int, data: bytes, *, rclass: int = 1, ttl: int = 60) -> bytes:
    return b"\xc0\x0c" + struct.pack(">HHIH", rtype, rclass, ttl, len(data)) + data


def one(rtype: int, data: bytes) -> DnsRecord:
    (found,) = answer(record(rtype, data)).records
    return found


def read_back(found: DnsRecord) -> bytes:
    """Read a record's line as a zone file's."""
    rtype = dns.rdatatype.from_text(found.type.replace("-", "_"))
    rdata = dns.rdata.from_text(dns.rdataclass.IN, rtype, found.text, relativize=False)
    return rdata.to_wire() or b""


LINES = {
    "A": ["192.0.2.1"],
    "NS": ["ns.x.", "."],
    "CNAME": [r"a\.b\;\"\(\)\@\$c\\\000\255.x."],
    "SOA": [r"ns.x. a\.b.x. 4294967295 1 2 3 4"],
    "PTR": ["p.x."],
    "HINFO": [r'"a \"b\"" "\195\188"'],
    "MX": ["0 .", "10 m.x."],
    "TXT": [r'"one" "two;three" "" "\"\\ \000\255"'],
    "RP": ["m.x. t.x."],
    "AFSDB": ["1 a.x."],
    "X25": ['"311061700956"'],
    "ISDN": ['"150862028003217"', '"150862028003217" "004"'],
    "RT": ["2 r.x."],
    "NSAP": ["0x47000580ffff000000321099991111222233334444"],
    "NSAP-PTR": ["n.x."],
    "PX": ["50 a.x. b.x."],
    "GPOS": ['"-22.6882" "116.8652" "250.0"'],
    "AAAA": ["2001:db8::1", "::ffff:192.0.2.1"],
    "LOC": [
        "42 21 54.123 N 71 6 18.000 W -24.05m 30.00m 10000.00m 10.00m",
        "90 0 0.000 S 180 0 0.000 E 42849672.95m 90000000.00m 0.00m 0.01m",
        "0 0 0.001 S 0 0 0.000 E -100000.00m 0.00m 0.00m 0.00m",
    ],
    "SRV": ["0 65535 443 s.x.", "0 0 0 ."],
    "NAPTR": [r'10 20 "u" "E2U+sip" "!^.*$!sip:a\\1@b.c!" .', '1 2 "" "" "" n.x.'],
    "KX": ["1 k.x."],
    "CERT": ["1 65534 5 AAECAw=="],
    "DNAME": ["d.x."],
    "APL": ["1:192.0.2.0/24 !2:2001:db8::/32"],
    "DS": ["12345 13 2 " + "ab" * 32],
    "SSHFP": ["4 2 " + "cd" * 32],
    "IPSECKEY": ["10 1 2 192.0.2.38 AQNRU3mG7TVTO2BkR47usntb102uFJtugbo6BSGvgqt4AQ=="],
    "RRSIG": ["TYPE65280 13 2 300 20380119031408 20260101000000 1 x. AAECAw=="],
    "NSEC": [". A MX RRSIG NSEC TYPE1234 CAA", "a.x."],
    "DNSKEY": ["257 3 13 AAECAw=="],
    "DHCID": ["AAIBY2/AuCccgoJbsaxcQc9TUapptP69lOjxfNuVAA2kjEA="],
    "NSEC3": [
        "1 1 12 AABBCCDD 2VPTU5TIMAMQTTGL4LUU9KG21E0AOR3S A RRSIG",
        "1 0 0 - 2VPTU5TIMAMQTTGL4LUU9KG21E0AOR3S",
    ],
    "NSEC3PARAM": ["1 0 0 -", "1 0 12 AABB"],
    "TLSA": ["3 1 1 " + "ab" * 32],
    "SMIMEA": ["3 0 0 " + "ab" * 40],
    "HIP": ["2 200100107B1A74DF365639CC39F1D578 AwEAAQ== r.x."],
    "NINFO": ['"a" "b"'],
    "CDS": ["0 0 0 00"],
    "CDNSKEY": ["0 3 0 AA=="],
    "OPENPGPKEY": ["AAECAw=="],
    "CSYNC": ["66 3 A NS AAAA"],
    "ZONEMD": ["2018031500 1 1 " + "ab" * 48],
    "SVCB": [
        "0 a.x.",
        r'16 a.x. mandatory=alpn,ipv4hint alpn="f\\\\oo\\,bar,h2" no-default-alpn port=53 '
        r'ipv4hint=192.0.2.1,192.0.2.2 ech=AAT+DQAA ipv6hint=2001:db8::1 key667="he\"llo\210"',
    ],
    "HTTPS": ['1 . alpn="h2,h3"', "1 . key65333", "1 . key7=/q{?dns}"],
    "DSYNC": ["CDS 1 5359 s.x."],
    "SPF": ['"v=spf1" "-all"'],
    "NID": ["10 0014:4fff:ff20:ee64"],
    "L32": ["10 10.1.2.0"],
    "L64": ["10 2001:0db8:1140:1000"],
    "LP": ["10 l.x."],
    "EUI48": ["00-00-5e-00-53-2a"],
    "EUI64": ["00-00-5e-ef-10-00-00-2a"],
    "URI": [r'10 1 "ftp://x/\"a b\""'],
    "CAA": ['0 issue "ca.x; a=b"', '128 tbs ""'],
    "AVC": ['"a"'],
    "AMTRELAY": ["10 1 3 r.x."],
    "RESINFO": ['"qnamemin" "x=1"'],
    "WALLET": ['"BTC" "abc"'],
    "DLV": ["1 5 2 " + "ab" * 32],
    "TYPE65280": [r"\# 3 010203", r"\# 0"],
}  # fmt: skip


def wire(rtype: str, line: str) -> bytes:
    number = dns.rdatatype.from_text(rtype.replace("-", "_"))
    return dns.rdata.from_text(dns.rdataclass.IN, number, line).to_wire() or b""


@pytest.mark.parametrize(
    ("rtype", "line"), [(rtype, line) for rtype, lines in LINES.items() for line in lines]
)
def test_a_records_text_reads_back_as_the_same_data(rtype: str, line: str) -> None:
    data = wire(rtype, line)
    found = one(dns.rdatatype.from_text(rtype.replace("-", "_")), data)
    assert found.type == rtype
    assert read_back(found) == data
    assert str(found) == f"x.test.\t60\tIN\t{rtype}\t{found.text}"


@pytest.mark.parametrize(
    ("rtype", "data", "text"),
    [
        (29, bytes.fromhex("00121613 89175af0 70be15f0 00988d20"), "42 22 "),
        (65, b"\x00\x01\x00\x00\x01\x00\x03\x02h2\x00\x04\x00\x04\x7f\x00\x00\x01",
         '1 . alpn="h2" ipv4hint=127.0.0.1'),
        (25, b"\x01\x00\x03\x05\x01\x02", "256 3 5 AQI="),
        (30, b"\x01n\x00\x40\x00\x00\x08", "n. A AAAA"),
        (14, b"\x01a\x00\xc0\x0c", "a. x.test."),
        (7, b"\xc0\x0c", "x.test."),
        (22, b"\x47\x00", "0x4700"),
        (11, b"\x7f\x00\x00\x01\x06\x01", r"\# 6 7F0000010601"),
        (10, b"", r"\# 0"),
    ],
)  # fmt: skip
def test_texts_of_types(rtype: int, data: bytes, text: str) -> None:
    found = one(rtype, data)
    assert (found.type, found.value[: len(text)]) == (type_name(rtype), text)


@given(st.sampled_from(TYPES_WITH_A_READER), st.binary(max_size=60))
def test_whatever_the_data_its_text_reads_back(rtype: int, data: bytes) -> None:
    found = one(rtype, data)
    if found.type == type_name(rtype):
        try:
            theirs = dns.rdata.from_wire(
                dns.rdataclass.IN, dns.rdatatype.RdataType(rtype), data, 0, len(data)
            )
        except Exception:
            return  # some data this reader takes and the other does not
        assert read_back(found) == theirs.to_wire()
    else:
        assert found.value.startswith(rf"\# {len(data)}")


# --- compressed names ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rtype", "data", "text"),
    [
        ("NAPTR", b"\x00\x01\x00\x02\x01S\x07SIP+D2U\x00\xc0\x0c", '1 2 "S" "SIP+D2U" "" x.test.'),
        ("RP", b"\xc0\x0c\xc0\x0c", "x.test. x.test."),
        ("AFSDB", b"\x00\x01\xc0\x0c", "1 x.test."),
        ("RT", b"\x00\x01\xc0\x0c", "1 x.test."),
        ("KX", b"\x00\x01\xc0\x0c", "1 x.test."),
        ("PX", b"\x00\x01\xc0\x0c\x01a\xc0\x0e", "1 x.test. a.test."),
        ("MINFO", b"\xc0\x0c\xc0\x0c", "x.test. x.test."),
        ("MB", b"\xc0\x0c", "x.test."),
        ("MG", b"\xc0\x0c", "x.test."),
        ("MR", b"\xc0\x0c", "x.test."),
        ("MD", b"\xc0\x0c", "x.test."),
        ("NSAP-PTR", b"\xc0\x0c", "x.test."),
        ("NXT", b"\xc0\x0c\x40", "x.test. A"),
        ("SIG", b"\x00\x01\x05\x02" + bytes(14) + b"\xc0\x0c\x01",
         "A 5 2 0 19700101000000 19700101000000 0 x.test. AQ=="),
        ("SRV", b"\x00\x01\x00\x02\x00\x03\xc0\x0c", "1 2 3 x.test."),
        ("DNAME", b"\xc0\x0e", "test."),
        ("LP", b"\x00\x01\xc0\x0c", "1 x.test."),
        ("NSEC", b"\xc0\x0c\x00\x01\x40", "x.test. A"),
        ("HTTPS", b"\x00\x01\xc0\x0c", "1 x.test."),
    ],
)  # fmt: skip
def test_names_in_data_are_decompressed(rtype: str, data: bytes, text: str) -> None:
    """RFC 3597 §4."""
    found = one(NUMBERS[rtype], data)
    assert (found.type, found.text) == (rtype, text)


@pytest.mark.parametrize(
    "rtype", ["CNAME", "MX", "SRV", "SOA", "NAPTR", "RP", "MINFO", "AFSDB", "SIG", "NSEC"]
)
@pytest.mark.parametrize("ahead", [0, 2, 0x2000], ids=["itself", "forward", "beyond"])
def test_a_pointer_that_leads_nowhere_spoils_its_own_record_only(rtype: str, ahead: int) -> None:
    number = NUMBERS[rtype]
    before = b"\x00\x01" if rtype in ("MX", "AFSDB") else b""
    here = 12 + len(b"\x01x\x04test\x00") + 4 + 12 + len(before)
    odd = record(number, before + struct.pack(">H", 0xC000 | here + ahead))
    found = answer(odd, record(1, b"\xc0\x00\x02\x01")).records
    assert [(one.type, one.value) for one in found[1:]] == [("A", "192.0.2.1")]
    assert found[0].type == f"TYPE{number}"


# --- odd records -----------------------------------------------------------------------------------

GOOD = record(1, b"\xc0\x00\x02\x01")


@pytest.mark.parametrize(
    ("rtype", "data"),
    [
        (1, b""), (1, b"\x01\x02\x03"), (1, b"\x01\x02\x03\x04\x05"), (28, b"\x01\x02\x03\x04"),
        (5, b""), (5, b"\x01y\x00\x00"), (5, b"\x01y"), (15, b"\x00"), (33, b"\x00\x00"), (6, b"\x00\x00"),
        (16, b"\x05ab"), (257, b"\x00"), (257, b"\x00\x00"), (257, b"\x00\x01-x"),
        (35, b"\x00\x01\x00\x02\x01"),
        (13, b"\x01a"), (43, b"\x00"), (43, b"\x00\x01\x05\x02"), (47, b"\x00\x00\x21" + bytes(33)),
        (47, b"\x00\x01"), (47, b"\x00\x00\x01\x80"),
        (50, b"\x01\x00\x00\x00\x00\x00"), (29, b"\x01" + bytes(15)), (29, b"\x00\xff" + bytes(14)),
        (29, bytes(4) + b"\xff\xff\xff\xff" + bytes(8)), (64, b"\x00\x01\x00\x00\x03\x00\x01\x00"),
        (65, b"\x00\x01\x00\x00\x02\x00\x01\x00"), (65, b"\x00\x01\x00\x00\x04\x00\x03\x01\x02\x03"),
        (65, b"\x00\x01\x00\x00\x04\x00\x04\x01\x02\x03\x04\x00\x03\x00\x02\x00\x50"),
        (65, b"\x00\x01\x00\x00\x01\x00\x01\x00"), (108, bytes(5)), (109, bytes(9)), (44, b"\x01"),
    ],
)  # fmt: skip
def test_an_odd_record_is_shown_as_it_came_and_hides_no_other(rtype: int, data: bytes) -> None:
    """RFC 3597 §5."""
    found = answer(GOOD, record(rtype, data), GOOD).records
    assert [(one.type, one.value) for one in (found[0], found[2])] == [("A", "192.0.2.1")] * 2
    assert (found[1].type, found[1].value) == (
        f"TYPE{rtype}",
        f"\\# {len(data)} {data.hex().upper()}".strip(),
    )


def test_a_txt_without_a_string_is_an_empty_one() -> None:
    """RFC 6763 §6.1."""
    assert [(one.type, one.value, one.text) for one in answer(record(16, b"")).records] == [("TXT", "", '""')]


def test_the_strings_of_a_txt_are_told_apart() -> None:
    split, joined = answer(record(16, b"\x02ab\x01c\x00\x01\xff"), record(16, b"\x03abc")).records
    assert (split.value, joined.value) == ("abc\\xff", "abc")
    assert split.value.strings == (b"ab", b"c", b"", b"\xff")
    assert joined.value.strings == (b"abc",)
    assert split.text == r'"ab" "c" "" "\255"'
    twin = pickle.loads(pickle.dumps(split))
    assert (twin, type(twin.value), twin.value.strings) == (split, DnsText, split.value.strings)


@pytest.mark.parametrize("rclass", [3, 4, 254, 255, 0, 0x8001])
@pytest.mark.parametrize(
    ("rtype", "data"), [(1, b"\xc0\x00\x02\x42"), (28, bytes(16)), (5, b"\x01y\x00"), (16, b"\x01y")]
)
def test_records_of_another_class_answer_nothing(rclass: int, rtype: int, data: bytes) -> None:
    """RFC 1035 §3.7: the class is part of what was asked."""
    other = record(rtype, data, rclass=rclass)
    found = answer(other, GOOD, additional=(other, GOOD))
    assert [one.value for one in (*found.records, *found.additional)] == ["192.0.2.1"] * 2


@pytest.mark.parametrize(
    ("ttl", "shown"), [(0, 0), (60, 60), (2**31 - 1, 2**31 - 1), (2**31, 0), (2**32 - 1, 0)]
)
@pytest.mark.parametrize(
    ("rtype", "data"), [(1, b"\xc0\x00\x02\x01"), (5, b"\x01y\x00"), (65280, b"\x01"), (28, b"")]
)
def test_ttls_over_31_bits_are_zero(ttl: int, shown: int, rtype: int, data: bytes) -> None:
    """RFC 2181 §8."""
    assert [one.ttl for one in answer(record(rtype, data, ttl=ttl)).records] == [shown]


def opt(ttl: int = 0, data: bytes = b"", owner: bytes = b"\x00") -> bytes:
    return owner + struct.pack(">HHIH", 41, 1232, ttl, len(data)) + data


@pytest.mark.parametrize("odd", [opt(data=b"\xff\xff\xff"), opt(owner=b"\x01y\x00"), opt() + b"", opt(2**31)])
def test_an_odd_opt_hides_nothing(odd: bytes) -> None:
    found = answer(GOOD, additional=(odd, GOOD))
    assert [one.type for one in (*found.records, *found.additional)] == ["A", "A"]


def test_the_ttl_of_opt_is_none_but_the_upper_bits_of_the_rcode() -> None:
    assert answer(GOOD, additional=(opt(0xFF000000),)).rcode_number == 0xFF0
    assert answer(GOOD, additional=(opt(0x01000000),)).rcode == "BADVERS"


def test_a_message_that_ends_in_its_additional_section_shows_the_others() -> None:
    whole = answer(GOOD, additional=(opt(), GOOD))
    cut = DnsAnswer(whole.raw[:-3])
    assert ([one.value for one in cut.records], cut.authority, cut.rcode) == (["192.0.2.1"], (), "NOERROR")
    with pytest.raises(Exception, match="ends within"):
        _ = cut.additional


@pytest.mark.parametrize("counts", [bytes(8), b"\x00\x01\x00\x00\x00\x00\x00\x01"])
@pytest.mark.parametrize(("rcode", "name"), [(1, "FORMERR"), (2, "SERVFAIL"), (4, "NOTIMP"), (5, "REFUSED")])
def test_a_refusal_may_be_a_header_alone(counts: bytes, rcode: int, name: str) -> None:
    found = DnsAnswer(b"\x00\x00\x81" + bytes((0x80 | rcode,)) + counts)
    shown: Any = (found.rcode, found.name, found.rtype, found.records, found.authority, found.additional)
    assert shown == (name, "", "", (), (), ())
