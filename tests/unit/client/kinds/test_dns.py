from __future__ import annotations

import pickle
import struct
import sys
from pathlib import Path
from typing import Any

import dns.rdatatype
import dnslib
import pytest

from reqpool.kinds.dns import KIND, DnsKind
from reqpool_contract.errors import BadResponse, UsageError
from reqpool_contract.payloads import dns_query
from reqpool_contract.payloads.dns_answer import DnsAnswer, DnsRecord
from reqpool_contract.payloads.dns_name import read_name
from reqpool_contract.payloads.dns_types import NUMBERS
from support.knot import BIG_TXT, HOSTS, KnotServer, host_address
from support.plain import ASKED

SERVER = "127.0.0.1:5300"


def question(name: str, rtype: Any = "A") -> dnslib.DNSRecord:
    return dnslib.DNSRecord.parse(KIND.encode(SERVER, name, rtype=rtype)[1])


def labels(name: str) -> tuple[bytes, ...]:
    found: tuple[bytes, ...] = question(name).q.qname.label
    return found


def answer(*zone_lines: str, name: str = "www.example.test", rtype: str = "A", rcode: int = 0) -> DnsAnswer:
    """Make an answer as a server would, names compressed, with OPT."""
    message = dnslib.DNSRecord.question(name, rtype).reply()
    for line in zone_lines:
        message.add_answer(*dnslib.RR.fromZone(line))
    message.add_ar(dnslib.EDNS0(udp_len=1232))
    message.header.rcode = rcode
    return KIND.decode(bytes(message.pack()), ASKED)


# --- questions -----------------------------------------------------------------------------------


def test_a_query_is_complete_but_for_its_id() -> None:
    query = question("www.example.test")
    assert (query.header.id, query.header.qr, query.header.rd, query.header.opcode) == (0, 0, 1, 0)
    assert (len(query.questions), len(query.rr), len(query.auth), len(query.ar)) == (1, 0, 0, 1)
    assert (str(query.q.qname), query.q.qtype, query.q.qclass) == ("www.example.test.", 1, 1)
    opt = query.ar[0]
    assert (opt.rtype, opt.edns_len, opt.edns_ver, opt.edns_do, opt.rdata) == (41, 1232, 0, 0, [])


def test_dns_is_idempotent() -> None:
    assert KIND.encode(SERVER, "a")[0].idempotent


@pytest.mark.parametrize(
    ("rtype", "number"),
    [
        ("A", 1), ("a", 1), ("Aaaa", 28), ("HTTPS", 65), ("caa", 257), ("ANY", 255), ("TYPE65280", 65280),
        (1, 1), (64, 64), (65535, 65535),
    ],
)  # fmt: skip
def test_types_go_by_name_in_any_case_or_by_number(rtype: Any, number: int) -> None:
    assert question("a", rtype).q.qtype == number


@pytest.mark.parametrize("name", sorted(NUMBERS.keys() - {"OPT", "TSIG", "IXFR", "AXFR"}))
def test_every_type_can_be_asked_for_by_its_name_and_is_shown_by_it(name: str) -> None:
    query = KIND.encode(SERVER, "a", rtype=name.lower())[1]
    assert int.from_bytes(query[-15:-13], "big") == NUMBERS[name]
    assert DnsAnswer(query[:2] + b"\x80" + query[3:]).rtype == name


@pytest.mark.parametrize(
    ("number", "name"), [(53, "SMIMEA"), (55, "HIP"), (23, "NSAP-PTR"), (54, "TYPE54"), (65280, "TYPE65280")]
)
def test_types_have_their_iana_names(number: int, name: str) -> None:
    """dnslib calls 53 HIP."""
    assert [record.type for record in DnsAnswer(HEADER + record(number, 1, b"\x00")).records] in (
        [name],
        [f"TYPE{number}"],  # one octet is not what a SMIMEA has
    )
    query = KIND.encode(SERVER, "a", rtype=name)[1]
    assert int.from_bytes(query[-15:-13], "big") == number


def test_the_types_names_are_those_of_the_other_library() -> None:
    theirs = {one.name.replace("_", "-"): int(one) for one in dns.rdatatype.RdataType if one}
    assert NUMBERS | theirs == NUMBERS


@pytest.mark.parametrize(
    "rtype", ["", "AA", "TYPE", "TYPE0", "TYPE65536", "TYPE-1", 0, -1, 65536, None, 1.5, b"A"]
)
def test_an_unknown_type_is_refused(rtype: Any) -> None:
    with pytest.raises(UsageError, match="unknown DNS record type"):
        KIND.encode(SERVER, "a", rtype=rtype)


@pytest.mark.parametrize("rtype", ["AXFR", "ixfr", "TSIG", "OPT", 252])
def test_what_is_no_look_up_is_refused(rtype: Any) -> None:
    with pytest.raises(UsageError, match="cannot be looked up"):
        KIND.encode(SERVER, "a", rtype=rtype)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("example.com", (b"example", b"com")),
        ("example.com.", (b"example", b"com")),
        (".", ()),
        ("_sip._tcp.Example.COM", (b"_sip", b"_tcp", b"Example", b"COM")),
        ("a b!*'$.x", (b"a b!*'$", b"x")),
        (r"a\.b.c", (b"a.b", b"c")),
        (r"a\046b.c", (b"a.b", b"c")),
        (r"back\\slash\.", (b"back\\slash.",)),
        ("bücher.example", (b"xn--bcher-kva", b"example")),
        ("_x.BÜCHER。example．", (b"_x", b"xn--bcher-kva", b"example")),
        ("a" * 63 + ".b", (b"a" * 63, b"b")),
    ],
)
def test_names_become_labels(name: str, expected: tuple[bytes, ...]) -> None:
    assert labels(name) == expected


def test_the_longest_name_is_255_octets() -> None:
    longest = ".".join(["a" * 63] * 3 + ["b" * 61])
    assert sum(map(len, labels(longest))) + 4 + 1 == 255
    assert labels(longest + ".") == labels(longest)
    escaped = ".".join([r"\097" * 63] * 3 + [r"\098" * 61])
    assert labels(escaped) == labels(longest)
    with pytest.raises(UsageError, match="takes 256 octets; the limit is 255"):
        KIND.encode(SERVER, longest + "b")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "is empty"),
        ("..", "empty label"),
        (".a", "empty label"),
        ("a..b", "empty label"),
        ("a..", "empty label"),
        ("bü..b", "empty label"),
        ("a" * 64, "a label of 64 octets; the limit is 63"),
        ("ü" * 60 + ".de", "a label of [0-9]+ octets; the limit is 63"),
        ("\ud800.de", "cannot be encoded as ASCII"),
        ("a." * 3000, "6000 characters"),
        ("ü" * 100_000, "100000 characters"),
        ("a\\", "lone backslash"),
        (r"a\256", "not an octet"),
        (r"a\.b.bücher.de", "backslash and non-ASCII characters; write those as xn--"),
        (r"b\252cher.ü.de", "backslash and"),
        ("a\uff3c.b", "backslash and"),  # which UTS 46 makes one
        (b"example.com", r"not bytes.*write name\.decode\(\)"),
        (None, "not NoneType"),
        (7, "not int"),
        (["a"], "as strings"),
    ],
)
def test_what_is_no_name_is_refused_at_the_call(name: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        KIND.encode(SERVER, name)


# --- servers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "origins"),
    [
        ("1.2.3.4", ("dns://1.2.3.4:53",)),
        ("1.2.3.4:5300", ("dns://1.2.3.4:5300",)),
        ("::1", ("dns://[::1]:53",)),
        ("[::1]:5300", ("dns://[::1]:5300",)),
        (["1.2.3.4", "::1"], ("dns://1.2.3.4:53", "dns://[::1]:53")),
        (("1.2.3.4",), ("dns://1.2.3.4:53",)),
    ],
)
def test_servers_become_origins_and_keep_their_route(server: Any, origins: tuple[str, ...]) -> None:
    route, _, _ = KIND.encode(server, "a")
    assert (route.kind, route.origins) == (KIND, origins)
    assert KIND.encode(server, "b", rtype="MX")[0] is route


@pytest.mark.parametrize(
    "server", ["", "dns.example", "1.2.3.4:x", [], ["1.1.1.1"] * 9, ("1.1.1.1", 53), 53, [["a"]], {}]
)
def test_what_is_no_server_is_refused_at_the_call(server: Any) -> None:
    with pytest.raises(UsageError):
        KIND.encode(server, "a")


def test_without_a_server_those_of_the_system_are_asked(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 10.0.0.1\nnameserver ::1\n")
    kind = DnsKind(str(path))
    route, _, _ = kind.encode(None, "a")
    assert route.origins == ("dns://10.0.0.1:53", "dns://[::1]:53")
    assert kind.encode(None, "b")[0] is route


def test_without_a_list_of_servers_it_is_the_local_machine(tmp_path: Path) -> None:
    assert DnsKind(str(tmp_path / "none")).encode(None, "a")[0].origins == ("dns://127.0.0.1:53",)


def test_many_names_keep_memory_bounded() -> None:
    for number in range(10_000):
        KIND.encode(SERVER, f"h{number}.example.test")
    assert dns_query.query.cache_info().currsize <= 4096


# --- answers -------------------------------------------------------------------------------------


def test_plain_answers_need_no_dnslib(monkeypatch: pytest.MonkeyPatch) -> None:
    found = answer(
        "www.example.test. 60 CNAME web.example.test.",
        "web.example.test. 61 A 192.0.2.1",
        "web.example.test. 62 AAAA 2001:db8::1",
    )
    monkeypatch.setitem(sys.modules, "dnslib", None)
    assert found.records == (
        DnsRecord("www.example.test", "CNAME", 60, "web.example.test"),
        DnsRecord("web.example.test", "A", 61, "192.0.2.1"),
        DnsRecord("web.example.test", "AAAA", 62, "2001:db8::1"),
    )
    assert (found.rcode, found.name, found.rtype) == ("NOERROR", "www.example.test", "A")


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("x. 1 NS ns.x.", "ns.x"),
        ("x. 1 PTR .", "."),
        ("x. 1 MX 10 mail.x.", (10, "mail.x")),
        ("x. 1 SRV 5 10 5060 sip.x.", (5, 10, 5060, "sip.x")),
        ("x. 1 SOA ns.x. me.x. 7 1 2 3 4", ("ns.x", "me.x", 7, 1, 2, 3, 4)),
        ('x. 1 TXT "two " "strings"', "two strings"),
        ('x. 1 CAA 0 issue "ca.x"', '0 issue "ca.x"'),
        ("x. 1 SSHFP 1 1 ABCD", "1 1 ABCD"),
    ],
)
def test_values_by_type(line: str, value: Any) -> None:
    (record,) = answer(line).records
    assert (record.name, record.type, record.value) == ("x", line.split()[2], value)


def test_a_txt_that_is_no_utf8_stays_readable() -> None:
    message = dnslib.DNSRecord.question("x", "TXT").reply()
    message.add_answer(dnslib.RR("x", 16, rdata=dnslib.TXT([b"\xff\x00", "ü".encode()])))
    assert KIND.decode(bytes(message.pack()), ASKED).records[0].value == "\\xff\x00ü"


def test_refusals_are_answers() -> None:
    found = answer(rcode=3)
    assert (found.rcode, found.rcode_number, found.records) == ("NXDOMAIN", 3, ())
    assert answer(rcode=12).rcode == "RCODE12"


def test_the_rcode_has_edns_upper_bits() -> None:
    message = dnslib.DNSRecord.question("x").reply()
    message.add_ar(dnslib.EDNS0(ext_rcode=1))
    assert KIND.decode(bytes(message.pack()), ASKED).rcode == "BADVERS"


def test_sections_are_told_apart_and_opt_is_no_record() -> None:
    message = dnslib.DNSRecord.question("a.x").reply()
    message.add_auth(*dnslib.RR.fromZone("x. 5 NS ns.x."))
    message.add_ar(*dnslib.RR.fromZone("ns.x. 6 A 192.0.2.1"))
    message.add_ar(dnslib.EDNS0())
    found = KIND.decode(bytes(message.pack()), ASKED)
    assert found.records == ()
    assert found.authority == (DnsRecord("x", "NS", 5, "ns.x"),)
    assert found.additional == (DnsRecord("ns.x", "A", 6, "192.0.2.1"),)
    assert [rr.rtype for rr in found.message.ar] == [1, 41]


def test_flags_are_told() -> None:
    message = dnslib.DNSRecord.question("x").reply(aa=1)
    assert (KIND.decode(bytes(message.pack()), ASKED).authoritative, message.header.tc) == (True, 0)
    message.header.aa, message.header.tc = 0, 1
    found = KIND.decode(bytes(message.pack()), ASKED)
    assert (found.authoritative, found.truncated) == (False, True)


def test_odd_octets_in_names_are_escaped_and_can_be_asked_for_again() -> None:
    message = dnslib.DNSRecord.question("x").reply()
    odd = dnslib.DNSLabel([b"a.b\\c d\x00", b"x"])
    message.add_answer(dnslib.RR("x", 5, rdata=dnslib.CNAME(odd)))
    (record,) = KIND.decode(bytes(message.pack()), ASKED).records
    assert record.value == r"a\.b\\c\032d\000.x"
    assert labels(record.value) == odd.label


def test_an_answer_without_its_question_is_readable() -> None:
    found = KIND.decode(bytes(dnslib.DNSRecord(dnslib.DNSHeader(qr=1, rcode=1)).pack()), ASKED)
    assert (found.name, found.rtype, found.rcode, found.records) == ("", "", "FORMERR", ())


def test_an_answer_pickles_and_shows_itself() -> None:
    found = answer("www.example.test. 60 A 192.0.2.1")
    twin = pickle.loads(pickle.dumps(found))
    assert (twin.raw, twin.records) == (found.raw, found.records)
    assert repr(found) == f"<DnsAnswer www.example.test A NOERROR, 1 records, {len(found.raw)} bytes>"
    assert "malformed" in repr(DnsAnswer(found.raw[:40]))


@pytest.mark.parametrize("data", [b"", b"\x00" * 11, KIND.encode(SERVER, "a")[1]])
def test_what_is_no_answer_is_refused_by_decode(data: bytes) -> None:
    with pytest.raises(BadResponse, match="not a DNS answer"):
        KIND.decode(data, ASKED)


HEADER = b"\x00\x00\x80\x00\x00\x01\x00\x01\x00\x00\x00\x00"
QUESTION = b"\x01x\x00\x00\x01\x00\x01"


def record(rtype: int, size: int, data: bytes) -> bytes:
    """Make a question and one record of it, with a length that may be a lie."""
    return QUESTION + b"\xc0\x0c" + struct.pack(">HHIH", rtype, 1, 0, size) + data


@pytest.mark.parametrize(
    ("after_header", "says"),
    [
        (b"\xc0\x0c\x00\x01\x00\x01", "pointer"),  # at itself
        (b"\xc0\x20\x00\x01\x00\x01", "pointer"),  # forwards
        (b"\x01a\xc0\x0c\x00\x01\x00\x01", "255 octets"),  # round in circles
        (b"\x40a\x00\x00\x01\x00\x01", "unknown kind 0x40"),
        (b"\x01", "within its question"),
        (QUESTION, "within a section of 1 records"),
        (record(1, 4, b"\x01\x02\x03"), "within a record of x"),
        (record(16, 2, b"y"), "within a record of x"),
    ],
)  # fmt: skip
def test_malformed_records_are_bad_responses(after_header: bytes, says: str) -> None:
    found = KIND.decode(HEADER + after_header, ASKED)
    with pytest.raises(BadResponse, match=says):
        _ = found.records


def test_a_chain_of_pointers_ends() -> None:
    chain = b"".join((0xC000 | 12 + 3 + 2 * at).to_bytes(2, "big") for at in range(200))
    message = HEADER[:5] + b"\x00" + HEADER[6:] + b"\x01x\x00" + (0xC00C).to_bytes(2, "big") + chain
    assert read_name(message, 12 + 3 + 2 * 100)[0] == "x"
    with pytest.raises(BadResponse, match="pointer"):
        read_name(message, 12 + 3 + 2 * 200)


# --- against a real server -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [f"h{HOSTS - 1}", "www", "six", "three", "chain", "away", "x.wild", "none", "bücher"]
)
@pytest.mark.parametrize("rtype", ["A", "AAAA", "MX", "TXT"])
def test_answers_of_a_real_server_read_as_dnslib_reads_them(knot: KnotServer, name: str, rtype: str) -> None:
    _, query, _ = KIND.encode(knot.address, f"{name}.example.test", rtype=rtype)
    found = KIND.decode(knot.exchange(query), ASKED)
    theirs = found.message
    assert found.rcode == dnslib.RCODE[theirs.header.rcode]
    assert found.authoritative
    assert [(r.name + ".", r.type, r.ttl) for r in found.records] == [
        (str(rr.rname), dnslib.QTYPE[rr.rtype], rr.ttl) for rr in theirs.rr
    ]
    assert [r.value for r in found.records if r.type == "A"] == [
        str(rr.rdata) for rr in theirs.rr if rr.rtype == 1
    ]


def test_the_zone_answers_what_its_helpers_say(knot: KnotServer) -> None:
    _, query, _ = KIND.encode(knot.address, "h258.example.test")
    assert KIND.decode(knot.exchange(query), ASKED).records == (
        DnsRecord("h258.example.test", "A", 0, host_address(258)),
    )


def test_the_large_txt_is_truncated_over_udp_and_whole_over_tcp(knot: KnotServer) -> None:
    _, query, _ = KIND.encode(knot.address, "big.example.test", rtype="TXT")
    assert KIND.decode(knot.exchange(query), ASKED).truncated
    whole = KIND.decode(knot.exchange(query, tcp=True), ASKED)
    assert not whole.truncated
    assert whole.records[0].value == BIG_TXT
