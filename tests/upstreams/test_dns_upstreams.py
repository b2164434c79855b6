"""Look-ups through a whole cluster: a real knot, and scripted servers on their bad days."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import dnslib
import pytest

import reqpool
from support import dns_peer
from support.cluster import Cluster, cluster
from support.dns_peer import ADDRESS, DnsPeer, closed_port
from support.knot import BIG_TXT, KnotServer, host_address

GRACE_S = 0.2
"""What the client waits past a request's timeout for the cluster's word, docs/protocol.md#submitting."""
IN_FLIGHT_CAP = 256


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    with cluster(workers=3) as started, started.no_fds_left():
        yield started


def answered(future: reqpool.Future[reqpool.DnsAnswer]) -> list[Any]:
    return [record.value for record in future.result(10).records]


# --- a real server -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rtype", "values"),
    [
        ("www", "A", ["192.0.2.1"]),
        ("www", "AAAA", ["2001:db8::1"]),
        ("chain", "A", ["alias.example.test", "www.example.test", "192.0.2.1"]),
        ("@", "MX", [(10, "mail.example.test"), (20, "backup.mail.example.test")]),
        ("txt2", "TXT", ["two strings"]),
        ("_sip._tcp", "SRV", [(5, 10, 5060, "sip.example.test")]),
        ("big", "TXT", [BIG_TXT]),  # truncated by UDP, so asked for again by TCP
        ("bücher", "A", ["192.0.2.66"]),
        ("anything.wild", "A", ["192.0.2.42"]),
    ],
)
def test_records_of_a_real_server(
    pool: reqpool.Pool, knot: KnotServer, name: str, rtype: str, values: list[Any]
) -> None:
    full = "example.test" if name == "@" else f"{name}.example.test"
    answer = pool.dns(full, rtype, server=knot.address).result(10)
    assert answer.rcode == "NOERROR"
    assert sorted(record.value for record in answer.records) == sorted(values)


def test_a_name_that_does_not_exist_is_an_answer(pool: reqpool.Pool, knot: KnotServer) -> None:
    answer = pool.dns("nothing.example.test", server=knot.address).result(10)
    assert (answer.rcode, answer.records) == ("NXDOMAIN", ())
    assert pool.dns("www.else.where", server=knot.address).result(10).rcode == "REFUSED"


def test_five_thousand_names_lose_none(pool: reqpool.Pool, knot: KnotServer) -> None:
    names = {f"h{number}.example.test": host_address(number) for number in range(5000)}
    found = {
        name: answered(future)
        for name, future in pool.map(pool.dns, names, window=500, server=knot.address, timeout=20.0)
    }
    assert found == {name: [address] for name, address in names.items()}


def test_a_silent_server_gives_way_to_the_next(pool: reqpool.Pool, knot: KnotServer) -> None:
    with DnsPeer(dns_peer.silent) as mute:
        future = pool.dns("www.example.test", server=[mute.address, knot.address], timeout=2.0)
        assert answered(future) == ["192.0.2.1"]
        asked = len(mute.queries)
        assert asked
        # From now on it is tried last.
        began_s = time.monotonic()
        for number in range(20):
            future = pool.dns(f"h{number}.example.test", server=[mute.address, knot.address], timeout=2.0)
            assert answered(future) == [host_address(number)]
        assert time.monotonic() - began_s < 1.0
        assert len(mute.queries) == asked


def test_a_closed_port_gives_way_to_the_next_at_once(pool: reqpool.Pool, knot: KnotServer) -> None:
    began_s = time.monotonic()
    servers = [closed_port(), knot.address]
    assert answered(pool.dns("www.example.test", server=servers, timeout=10.0)) == ["192.0.2.1"]
    assert time.monotonic() - began_s < 2.0


def test_all_servers_refusing_is_an_error_that_says_so(pool: reqpool.Pool) -> None:
    with pytest.raises(reqpool.ConnectFailed, match="refused") as caught:
        pool.dns("www.example.test", server=[closed_port(), closed_port()], timeout=10.0).result(5)
    assert caught.value.attempts == 2
    assert caught.value.phase == "connect"


# --- scripted servers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [dns_peer.silent, dns_peer.wrong_id, dns_peer.other_question, dns_peer.garbage, dns_peer.echo],
    ids=lambda script: script.__name__,
)
def test_what_is_no_answer_is_a_timeout(pool: reqpool.Pool, script: dns_peer.Script) -> None:
    with DnsPeer(script) as peer:
        began_s = time.monotonic()
        with pytest.raises(reqpool.RequestTimeout) as caught:
            pool.dns("n.test", server=peer.address, timeout=0.6).result(5)
        assert 0.6 <= time.monotonic() - began_s < 0.6 + GRACE_S + 0.3  # and some for a busy machine
        assert peer.queries
    error = caught.value
    assert (error.phase, error.sent, error.attempts) == ("read", True, 1)
    assert error.origin == f"dns://{peer.address}"


@pytest.mark.parametrize(
    "script",
    [
        dns_peer.both(dns_peer.wrong_id, dns_peer.right),
        dns_peer.both(dns_peer.other_question, dns_peer.right),
        dns_peer.both(dns_peer.garbage, dns_peer.right),
        dns_peer.after(1, dns_peer.silent, dns_peer.right),
        dns_peer.other_case,
    ],
    ids=["wrong id first", "other question first", "garbage first", "first datagram lost", "other case"],
)
def test_the_right_answer_is_found(pool: reqpool.Pool, script: dns_peer.Script) -> None:
    with DnsPeer(script) as peer:
        assert answered(pool.dns("n.test", server=peer.address)) == [ADDRESS]


def test_a_refusal_is_an_answer(pool: reqpool.Pool) -> None:
    with DnsPeer(dns_peer.refuses(5)) as peer:
        assert pool.dns("n.test", server=peer.address).result(5).rcode == "REFUSED"


@pytest.mark.parametrize(("rcode", "name"), [(1, "FORMERR"), (2, "SERVFAIL"), (4, "NOTIMP"), (5, "REFUSED")])
def test_a_refusal_is_heard_at_once_though_it_is_a_header_alone(
    pool: reqpool.Pool, rcode: int, name: str
) -> None:
    with DnsPeer(dns_peer.refuses_in_short(rcode)) as peer:
        assert pool.dns("n.test", server=peer.address, timeout=30.0).result(10).rcode == name


@pytest.mark.parametrize("refuses", [dns_peer.refuses, dns_peer.refuses_in_short])
@pytest.mark.parametrize("rcode", [1, 2, 4, 5])
def test_a_server_that_refuses_gives_way_to_the_next(
    pool: reqpool.Pool, rcode: int, refuses: Callable[[int], dns_peer.Script]
) -> None:
    with DnsPeer(refuses(rcode)) as bad, DnsPeer(refuses(5)) as worse, DnsPeer() as good:
        servers = [bad.address, worse.address, good.address]
        for number in range(3):
            assert answered(pool.dns(f"n{number}.test", server=servers, timeout=30.0)) == [ADDRESS]
        # It may know the next name, so it is still asked first.
        assert len({query[12:15] for query in bad.queries}) == 3


def test_a_server_that_refuses_by_tcp_gives_way_to_the_next(pool: reqpool.Pool) -> None:
    with DnsPeer(dns_peer.truncated, tcp=dns_peer.refuses(5)) as bad, DnsPeer() as good:
        servers = [bad.address, good.address]
        assert answered(pool.dns("n.test", server=servers, timeout=30.0)) == [ADDRESS]


def test_a_lie_by_tcp_gives_way_to_the_next(pool: reqpool.Pool) -> None:
    with DnsPeer(dns_peer.truncated, tcp=dns_peer.other_question) as bad, DnsPeer() as good:
        servers = [bad.address, good.address]
        assert answered(pool.dns("n.test", server=servers, timeout=30.0)) == [ADDRESS]


def test_a_name_that_does_not_exist_is_asked_for_once(pool: reqpool.Pool) -> None:
    with DnsPeer(dns_peer.refuses(3)) as first, DnsPeer() as second:
        servers = [first.address, second.address]
        assert pool.dns("n.test", server=servers, timeout=30.0).result(10).rcode == "NXDOMAIN"
        assert second.queries == []


@pytest.mark.parametrize("last", [dns_peer.refuses(2), dns_peer.refuses_in_short(2)])
def test_a_refusal_of_all_servers_is_the_answer(pool: reqpool.Pool, last: dns_peer.Script) -> None:
    with DnsPeer(dns_peer.refuses(5)) as first, DnsPeer(last) as second:
        servers = [first.address, second.address]
        assert pool.dns("n.test", server=servers, timeout=30.0).result(10).rcode == "SERVFAIL"


def test_a_refusal_is_the_answer_where_no_other_server_has_one(pool: reqpool.Pool) -> None:
    with DnsPeer(dns_peer.refuses(5)) as first, DnsPeer(dns_peer.silent) as mute:
        servers = [first.address, mute.address]
        assert pool.dns("n.test", server=servers, timeout=1.0).result(10).rcode == "REFUSED"
        assert mute.queries
        servers = [first.address, closed_port()]
        assert pool.dns("n.test", server=servers, timeout=30.0).result(10).rcode == "REFUSED"


@pytest.mark.parametrize("rcode", [1, 2, 4])
def test_a_server_without_edns_is_asked_without(pool: reqpool.Pool, rcode: int) -> None:
    with DnsPeer(dns_peer.without_edns(rcode)) as peer:
        for number in range(20):
            assert answered(pool.dns(f"n{number}.test", server=peer.address)) == [ADDRESS]
        # Each of its four sockets finds out by itself at most.
        assert sum(query[11] for query in peer.queries) <= 4 * 3


def test_a_server_without_edns_is_asked_without_by_tcp_too(pool: reqpool.Pool) -> None:
    script = dns_peer.without_edns(1, dns_peer.truncated)
    with DnsPeer(script, tcp=dns_peer.without_edns(1)) as peer:
        assert answered(pool.dns("n.test", server=peer.address)) == [ADDRESS]
        assert [query[11] for query in peer.tcp_queries] == [0]


def test_a_server_that_drops_what_has_an_opt_is_asked_without(pool: reqpool.Pool) -> None:
    with DnsPeer(dns_peer.drops_edns()) as peer:
        assert answered(pool.dns("n.test", server=peer.address, timeout=30.0)) == [ADDRESS]


def test_an_answer_cut_short_is_asked_for_by_tcp(pool: reqpool.Pool) -> None:
    with DnsPeer(dns_peer.truncated, tcp=dns_peer.right) as peer:
        futures = [pool.dns(f"n{number}.test", server=peer.address) for number in range(50)]
        assert [answered(future) for future in futures] == [[ADDRESS]] * 50
        assert len(peer.tcp_queries) == 50


def test_an_answer_cut_short_and_tcp_refused_is_an_error(pool: reqpool.Pool) -> None:
    with DnsPeer(dns_peer.truncated) as peer, pytest.raises(reqpool.ConnectFailed, match="refused"):
        pool.dns("n.test", server=peer.address).result(5)


def test_an_answer_cut_short_and_a_lie_by_tcp_is_an_error(pool: reqpool.Pool) -> None:
    with (
        DnsPeer(dns_peer.truncated, tcp=dns_peer.other_question) as peer,
        pytest.raises(reqpool.BadResponse),
    ):
        pool.dns("n.test", server=peer.address).result(5)


def test_an_answer_that_ends_early_is_an_error_of_the_tree(pool: reqpool.Pool) -> None:
    with DnsPeer(dns_peer.cut(50)) as peer, pytest.raises(reqpool.BadResponse):
        _ = pool.dns("a-name-of-some-length.test", server=peer.address).result(5).records


def test_one_cap_holds_for_all_producers_and_workers(running: Cluster, pool: reqpool.Pool) -> None:
    def asked() -> set[str]:
        return {str(dnslib.DNSRecord.parse(query).q.qname) for query in list(peer.queries)}

    with DnsPeer(held=True) as peer, reqpool.Pool(running.url) as other:
        options: dict[str, Any] = {"server": peer.address, "timeout": 30.0}
        futures = [
            producer.dns(f"p{number}-{at}.test", **options)
            for at in range(1000)
            for number, producer in enumerate((pool, other))
        ]
        # Time enough for more, if there were more: what is unanswered is sent again.
        peer.wait_for_queries(3 * IN_FLIGHT_CAP)
        assert len(asked()) == IN_FLIGHT_CAP
        origin = running.report()["origins"][f"dns://{peer.address}"]
        assert (origin["in_flight"], origin["queued"]) == (IN_FLIGHT_CAP, 2000 - IN_FLIGHT_CAP)
        peer.release()
        assert all(answered(future) == [ADDRESS] for future in futures)
        assert len(asked()) == 2000
