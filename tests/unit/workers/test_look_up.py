"""The look-up of one name: whom to ask, what to believe, what to remember. No socket, no clock."""

from __future__ import annotations

import struct
from collections.abc import Callable

import dnslib
import pytest

from reqpool_workers import look_up
from reqpool_workers.look_up import Found, LookUp, LookupFailure, Outcome, Step, in_order
from reqpool_workers.resolv_conf import ResolvConf
from support.dns_peer import Script, cut, refuses, zone

ONE, TWO = "192.0.2.1:53", "192.0.2.2:53"
TWO_SERVERS = ResolvConf((ONE, TWO))
BOTH_FAMILIES = zone({"db.test": [("A", "10.0.0.1"), ("A", "10.0.0.2"), ("AAAA", "2001:db8::1")]})


def lame(query: bytes) -> list[bytes]:
    """Know nothing and refer to others."""
    reply = dnslib.DNSRecord.parse(query).reply(ra=0, aa=0)
    reply.add_auth(*dnslib.RR.fromZone("test. 60 NS ns.test."))
    return [bytes(reply.pack())]


World = dict[str, Script | str]
"""Server to what it answers, or why it does not; "" is silence."""


def ask(script: Script, name: str, rtype: str) -> bytes:
    return script(bytes(dnslib.DNSRecord.question(name, rtype).pack()))[0]


def run(host: str, world: World, conf: ResolvConf = TWO_SERVERS) -> tuple[Outcome, list[Step], LookUp]:
    """Look a host up in a world; return the outcome and the steps on the way."""
    one = LookUp(host, conf, conf.servers)
    steps = []
    while isinstance(step := one.advance(), Step):
        steps.append(step)
        script = world[step.server]
        for rtype in look_up.RTYPES:
            if callable(script):
                one.take(rtype, ask(script, step.name, rtype))
            elif script:
                one.take(rtype, script)
        assert one.settled == bool(script)
    return step, steps, one


def asked(steps: list[Step]) -> list[tuple[str, str]]:
    return [(step.server, step.name) for step in steps]


# --- one server that answers ----------------------------------------------------------------------


def test_both_families_are_found() -> None:
    outcome, steps, one = run("db.test", {ONE: BOTH_FAMILIES})
    assert outcome == Found(("10.0.0.1", "10.0.0.2", "2001:db8::1"), 60.0)
    assert steps == [Step(ONE, "db.test", 1.0)]
    assert one.silent == set()


def test_a_chain_of_aliases_is_followed_within_the_answer() -> None:
    script = zone(
        {
            "www.test": [("CNAME", "Web.test")],
            "web.test": [("CNAME", "host.test")],
            "host.test": [("A", "10.0.0.1")],
        }
    )
    outcome, _, _ = run("www.test", {ONE: script})
    assert outcome == Found(("10.0.0.1",), 60.0)


def test_an_alias_that_leads_to_itself_ends() -> None:
    reply = dnslib.DNSRecord.question("loop.test", "A").reply()
    reply.add_answer(dnslib.RR("loop.test", dnslib.QTYPE.CNAME, ttl=60, rdata=dnslib.CNAME("loop.test")))
    outcome, _, _ = run("loop.test", {ONE: lambda _query: [bytes(reply.pack())]})
    assert outcome == LookupFailure("loop.test has no address", 5.0, known=True)


def test_records_of_other_names_are_not_believed() -> None:
    reply = dnslib.DNSRecord.question("db.test", "A").reply()
    reply.add_answer(dnslib.RR("other.test", dnslib.QTYPE.A, ttl=60, rdata=dnslib.A("10.6.6.6")))
    outcome, _, _ = run("db.test", {ONE: lambda _query: [bytes(reply.pack())]})
    assert outcome == LookupFailure("db.test has no address", 5.0, known=True)


@pytest.mark.parametrize(("ttl_s", "kept_s"), [(0, 1.0), (1, 1.0), (60, 60.0), (86_400, 300.0)])
def test_an_answers_time_is_kept_within_bounds(ttl_s: int, kept_s: float) -> None:
    script = zone({"db.test": [("A", "10.0.0.1"), ("AAAA", "2001:db8::1")]}, ttl_s=ttl_s)
    outcome, _, _ = run("db.test", {ONE: script})
    assert outcome.ttl_s == kept_s


@pytest.mark.parametrize(("ttl_s", "kept_s"), [(0, 1.0), (3, 3.0), (3600, 5.0)])
def test_that_there_is_no_such_host_is_kept_for_seconds(ttl_s: int, kept_s: float) -> None:
    outcome, steps, _ = run("gone.test", {ONE: zone({}, ttl_s=ttl_s)})
    assert outcome == LookupFailure("no such host: gone.test", kept_s, known=True)
    assert asked(steps) == [(ONE, "gone.test")]  # another server would say the same


def test_a_name_without_addresses_is_told_apart() -> None:
    outcome, _, _ = run("mail.test", {ONE: zone({"mail.test": [("MX", "x.test")]})})
    assert outcome == LookupFailure("mail.test has no address", 5.0, known=True)


def record(rtype: int, data: bytes, *, rclass: int = 1, ttl_s: int = 60) -> bytes:
    return b"\xc0\x0c" + struct.pack(">HHIH", rtype, rclass, ttl_s, len(data)) + data


def says(*records: bytes) -> Script:
    """Answer any question with these records."""
    return lambda query: [
        query[:2]
        + b"\x81\x80\0\1"
        + len(records).to_bytes(2, "big")
        + bytes(4)
        + query[12:]
        + b"".join(records)
    ]


@pytest.mark.parametrize(
    "odd",
    [
        record(1, b"\x0a\x06\x06\x06", rclass=3),
        record(1, b"\x0a\x06\x06\x06", rclass=255),
        record(1, b"\x0a\x06\x06"),
        record(1, b"\x0a\x06\x06\x06\x06"),
        record(28, b"\x0a\x06\x06\x06"),
        record(28, bytes(16), rclass=4),
        record(5, b"\x05other\x04test\x00", rclass=3),
        record(5, b"\xc0\xff"),
        record(16, b""),
        record(46, b"\x00"),
    ],
    ids=[
        "A of class CH", "A of class ANY", "A of 3 octets", "A of 5 octets", "AAAA of 4 octets",
        "AAAA of class HS",
        "CNAME of class CH", "CNAME that leads nowhere", "TXT without a string", "RRSIG cut short",
    ],
)  # fmt: skip
def test_what_is_no_address_is_not_dialled_and_does_not_hide_one(odd: bytes) -> None:
    outcome, _, _ = run("db.test", {ONE: says(odd, record(1, b"\x0a\x00\x00\x01"), odd)})
    assert isinstance(outcome, Found)
    assert outcome.addresses == ("10.0.0.1",)
    outcome, _, _ = run("db.test", {ONE: says(odd)})
    assert outcome == LookupFailure("db.test has no address", 5.0, known=True)


def test_a_time_of_over_31_bits_is_none() -> None:
    """RFC 2181 §8."""
    outcome, _, _ = run("db.test", {ONE: says(record(1, b"\x0a\x00\x00\x01", ttl_s=2**31))})
    assert outcome == Found(("10.0.0.1",), 1.0)


# --- servers that do not --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "silent"),
    [
        ("", {ONE}),
        ("connection refused", {ONE}),
        (refuses(2), set()),
        (refuses(5), set()),
        (refuses(4), set()),
        (refuses(1), set()),
        (lame, set()),
        (cut(13), set()),
    ],
)
def test_the_next_server_is_asked(bad: Script | str, silent: set[str]) -> None:
    outcome, steps, one = run("db.test", {ONE: bad, TWO: BOTH_FAMILIES})
    assert isinstance(outcome, Found)
    assert asked(steps) == [(ONE, "db.test"), (TWO, "db.test")]
    assert one.silent == silent


def test_silent_servers_are_asked_again_and_named() -> None:
    outcome, steps, one = run("db.test", {ONE: "", TWO: "connection refused"})
    assert outcome == LookupFailure(
        f"db.test could not be looked up: no name server answers ({ONE}, {TWO}: connection refused)",
        1.0,
        known=False,
    )
    assert [(step.server, step.span_s) for step in steps] == [(ONE, 1.0), (TWO, 1.0), (ONE, 2.0), (TWO, 2.0)]
    assert one.silent == {ONE, TWO}


def test_servers_that_fail_are_named() -> None:
    outcome, _, _ = run("db.test", {ONE: refuses(2), TWO: refuses(5)})
    assert outcome == LookupFailure(
        f"db.test could not be looked up ({ONE}: SERVFAIL; {TWO}: REFUSED)", 1.0, known=False
    )


def test_timeout_and_attempts_are_the_files() -> None:
    conf = ResolvConf((ONE,), timeout_s=3.0, attempts=3)
    _, steps, _ = run("db.test", {ONE: ""}, conf)
    assert [step.span_s for step in steps] == [3.0, 6.0, 12.0]


def test_one_family_is_enough_when_the_other_is_not_answered() -> None:
    one = LookUp("db.test", TWO_SERVERS, TWO_SERVERS.servers)
    one.advance()
    one.take("A", ask(BOTH_FAMILIES, "db.test", "A"))
    assert one.has_addresses
    assert not one.settled
    # Not for long: the other may be there the next time.
    assert one.advance() == Found(("10.0.0.1", "10.0.0.2"), 5.0)


def test_no_address_of_one_family_says_nothing_about_the_other() -> None:
    one = LookUp("db.test", ResolvConf((ONE,), attempts=1), (ONE,))
    one.advance()
    one.take("AAAA", ask(zone({"db.test": [("A", "10.0.0.1")]}), "db.test", "AAAA"))
    assert not one.has_addresses
    assert one.advance() == LookupFailure(
        f"db.test could not be looked up ({ONE}: no answer for A)", 1.0, known=False
    )


# --- names to complete ----------------------------------------------------------------------------


def test_search_domains_are_tried_in_turn() -> None:
    conf = ResolvConf((ONE,), ("one.test", "two.test"))
    outcome, steps, _ = run("db", {ONE: zone({"db.two.test": [("A", "10.0.0.2")]})}, conf)
    assert outcome == Found(("10.0.0.2",), 60.0)
    assert [step.name for step in steps] == ["db.one.test", "db.two.test"]


def test_a_host_in_no_domain_is_reported_under_its_own_name() -> None:
    conf = ResolvConf((ONE,), ("one.test", "two.test"))
    outcome, steps, _ = run("db", {ONE: zone({})}, conf)
    assert outcome == LookupFailure("no such host: db", 5.0, known=True)
    assert [step.name for step in steps] == ["db.one.test", "db.two.test", "db"]


def test_other_names_are_not_tried_when_nobody_answers() -> None:
    conf = ResolvConf((ONE,), ("one.test", "two.test"), attempts=1)
    _, steps, _ = run("db", {ONE: ""}, conf)
    assert [step.name for step in steps] == ["db.one.test"]


def test_a_failure_on_the_way_is_not_taken_for_absence() -> None:
    def script(query: bytes) -> list[bytes]:
        name = str(dnslib.DNSRecord.parse(query).q.qname)
        rule: Callable[[bytes], list[bytes]] = refuses(2) if name == "db.one.test." else zone({})
        return rule(query)

    conf = ResolvConf((ONE,), ("one.test",), attempts=1)
    outcome, steps, _ = run("db", {ONE: script}, conf)
    assert outcome == LookupFailure(f"db could not be looked up ({ONE}: SERVFAIL)", 1.0, known=False)
    assert [step.name for step in steps] == ["db.one.test", "db"]


# --- order ----------------------------------------------------------------------------------------


def test_families_take_turns() -> None:
    addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "2001:db8::1", "2001:db8::2", "10.0.0.1"]
    assert in_order(addresses, ipv6_first=True) == [
        "2001:db8::1", "10.0.0.1", "2001:db8::2", "10.0.0.2", "10.0.0.3",
    ]  # fmt: skip
    assert in_order(addresses, ipv6_first=False) == [
        "10.0.0.1", "2001:db8::1", "10.0.0.2", "2001:db8::2", "10.0.0.3",
    ]  # fmt: skip
    assert in_order(["2001:db8::1", "2001:db8::2"], ipv6_first=False) == ["2001:db8::1", "2001:db8::2"]
