"""The resolver on a real loop, with scripted name servers on loopback. No test waits for a clock."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dnslib
import pytest

from reqpool_contract.errors import ConnectFailed, PoolError, UsageError
from reqpool_workers import event_loop as loop_module
from reqpool_workers import resolver as resolver_module
from reqpool_workers.event_loop import EventLoop
from reqpool_workers.expiry import Expiry
from reqpool_workers.owed_ports import OwedPorts
from reqpool_workers.resolver import Resolver, has_ipv6_route
from support import dns_peer
from support.dns_peer import ADDRESS, DnsPeer, after, both, by_type, closed_port, right, silent, zone
from support.knot import ZONE, KnotServer
from support.leaks import no_leak
from support.wait import wait_until

GIVE_UP_S = 20.0


class World:
    """A loop whose clock can be moved on, a resolver, and its two files.

    Attributes:
        outcomes: what look-ups ended with, in order.
    """

    def __init__(self, folder: Path) -> None:
        self.skipped_s = 0.0
        self.loop = EventLoop()
        self.resolv_conf = folder / "resolv.conf"
        self.hosts = folder / "hosts"
        self.resolver = Resolver(
            self.loop, OwedPorts(), resolv_conf=str(self.resolv_conf), hosts=str(self.hosts)
        )
        self.outcomes: list[list[str] | PoolError] = []
        Expiry(self.loop.at, (self.resolver,), lambda: None).begin(self.loop.now_s)

    def servers(self, *addresses: str, options: str = "") -> None:
        """Write resolv.conf."""
        lines = ["nameserver [{}]:{}".format(*address.split(":")) for address in addresses]
        self.resolv_conf.write_text("\n".join([*lines, options]))

    def monotonic(self) -> float:
        return time.monotonic() + self.skipped_s

    def skip(self, span_s: float) -> None:
        """Let time pass."""
        self.skipped_s += span_s
        self.loop.now_s = self.monotonic()

    def look_up(self, host: str) -> None:
        self.resolver.look_up(host, self.outcomes.append)

    def found(self, host: str) -> list[str] | PoolError:
        """Look a host up to the end."""
        count = len(self.outcomes)
        self.look_up(host)
        self.run_until(lambda: len(self.outcomes) > count)
        return self.outcomes[-1]

    def failure(self, host: str) -> str:
        outcome = self.found(host)
        assert isinstance(outcome, ConnectFailed)
        return outcome.text

    def run_until(self, condition: Callable[[], Any]) -> None:
        """Run the loop until something is true."""
        give_up_s = time.monotonic() + GIVE_UP_S
        self.loop.at(self.loop.now_s, lambda now_s: now_s + 0.005)  # a turn every few milliseconds

        def end_turn() -> bool:
            assert time.monotonic() < give_up_s, "not in time"
            if condition():
                self.loop.stop()
            return False

        self.loop.run(end_turn)

    def close(self) -> None:
        self.resolver.close("the test is over")
        self.loop.close()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    def no_blocking(*_arguments: Any, **_options: Any) -> Any:
        raise AssertionError("the system's resolver was asked, and it blocks")

    with no_leak():
        world = World(tmp_path)
        monkeypatch.setattr(loop_module, "time", SimpleNamespace(monotonic=world.monotonic))
        getaddrinfo = socket.getaddrinfo
        monkeypatch.setattr(
            socket,
            "getaddrinfo",
            lambda *given, **options: (
                getaddrinfo(*given, **options)
                if options.get("flags", 0) & socket.AI_NUMERICHOST
                else no_blocking()
            ),
        )
        for name in ("gethostbyname", "gethostbyname_ex", "getfqdn"):
            monkeypatch.setattr(socket, name, no_blocking)
        yield world
        world.close()


def names_asked(peer: DnsPeer) -> list[tuple[str, str]]:
    questions = [dnslib.DNSRecord.parse(query).q for query in peer.queries]
    return [(str(question.qname), dnslib.QTYPE[question.qtype]) for question in questions]


# --- at once --------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7", "::1"])
def test_an_address_is_its_own_answer(world: World, host: str) -> None:
    world.look_up(host)
    assert world.outcomes == [[host]]


@pytest.mark.parametrize("host", ["localhost", "LocalHost.", "app.localhost"])
def test_localhost_is_the_loopback_whatever_servers_say(world: World, host: str) -> None:
    world.look_up(host)
    assert sorted(world.outcomes[0]) == ["127.0.0.1", "::1"]  # type: ignore[arg-type]


def test_names_of_the_hosts_file_are_not_asked_for(world: World) -> None:
    world.hosts.write_text("192.0.2.1 db db.internal\n")
    world.look_up("DB.internal")
    assert world.outcomes == [["192.0.2.1"]]
    world.hosts.write_text("192.0.2.2 db db.internal\n")
    os.utime(world.hosts, ns=(1, 1))
    world.skip(1.1)
    world.look_up("db")
    assert world.outcomes[1:] == [["192.0.2.2"]]


@pytest.mark.parametrize("host", ["", "a b", "x" * 64 + ".test", "a..test", "127.1", "300.1.1.1"])
def test_what_is_no_name_is_refused(world: World, host: str) -> None:
    world.look_up(host)
    assert isinstance(world.outcomes[0], UsageError)


def test_a_scoped_address_is_found_by_itself(world: World) -> None:
    for host in ("fe80::1%lo", "fe80::1%25lo", "FE80:0::1%lo"):
        world.look_up(host)
    assert world.outcomes == [["fe80::1%lo"]] * 3


# --- by asking ------------------------------------------------------------------------------------


def test_both_families_are_asked_for_together(world: World) -> None:
    records = {"db.test": [("A", "10.0.0.1"), ("A", "10.0.0.2"), ("AAAA", "2001:db8::1")]}
    with DnsPeer(zone(records)) as peer:
        world.servers(peer.address)
        found = world.found("db.test")
        assert sorted(names_asked(peer)) == [("db.test.", "A"), ("db.test.", "AAAA")]
    assert isinstance(found, list)
    assert sorted(found) == ["10.0.0.1", "10.0.0.2", "2001:db8::1"]


@pytest.mark.parametrize(
    ("route", "order"),
    [
        (True, ["2001:db8::1", "10.0.0.1", "10.0.0.2"]),
        (False, ["10.0.0.1", "2001:db8::1", "10.0.0.2"]),
    ],
)
def test_ipv6_comes_first_where_there_is_a_route(
    world: World, monkeypatch: pytest.MonkeyPatch, route: bool, order: list[str]
) -> None:
    monkeypatch.setattr(resolver_module, "has_ipv6_route", lambda: route)
    records = {"db.test": [("A", "10.0.0.1"), ("A", "10.0.0.2"), ("AAAA", "2001:db8::1")]}
    with DnsPeer(zone(records)) as peer:
        world.servers(peer.address)
        assert world.found("db.test") == order


def test_the_route_is_looked_at_without_asking_anybody() -> None:
    assert has_ipv6_route() in (True, False)


def test_look_ups_of_one_name_share_the_question(world: World) -> None:
    with DnsPeer(held=True) as peer:
        world.servers(peer.address)
        for host in ("db.test", "DB.test", "db.test"):
            world.look_up(host)
        world.run_until(lambda: len(peer.queries) == 2)
        peer.release()
        world.run_until(lambda: len(world.outcomes) == 3)
        assert world.outcomes == [[ADDRESS]] * 3
        assert len(peer.queries) == 2


def test_an_answer_is_remembered_for_its_time(world: World) -> None:
    with DnsPeer(after(2, zone({"db.test": [("A", "10.0.0.1")]}, ttl_s=30), right)) as peer:
        world.servers(peer.address)
        assert world.found("db.test") == ["10.0.0.1"]
        world.skip(29)
        world.look_up("db.test")
        assert world.outcomes[1] == ["10.0.0.1"]
        assert len(peer.queries) == 2
        world.skip(2)
        assert world.found("db.test") == [ADDRESS]


def test_what_is_remembered_goes_when_resolv_conf_changes(world: World) -> None:
    with DnsPeer(zone({"db.test": [("A", "10.0.0.1")]})) as one, DnsPeer() as other:
        world.servers(one.address)
        assert world.found("db.test") == ["10.0.0.1"]
        world.servers(other.address)
        os.utime(world.resolv_conf, ns=(1, 1))
        world.skip(1.1)
        assert world.found("db.test") == [ADDRESS]


def test_a_name_with_a_final_dot_is_not_completed(world: World) -> None:
    records = {"db": [("A", "10.0.0.1")], "db.one.test": [("A", "10.0.0.2")]}
    with DnsPeer(zone(records)) as peer:
        world.servers(peer.address, options="search one.test")
        assert world.found("db") == ["10.0.0.2"]
        assert world.found("db.") == ["10.0.0.1"]
        assert world.found("db") == ["10.0.0.2"]  # they are two names in the memory, too


def test_a_missing_name_with_a_final_dot_is_asked_for_once(world: World) -> None:
    with DnsPeer(zone({"db.one.test": [("A", "10.0.0.2")]})) as peer:
        world.servers(peer.address, options="search one.test")
        assert "no such host: db." in world.failure("db.")
        assert len(peer.queries) == 2


def test_a_search_domain_in_another_script_is_found(world: World) -> None:
    with DnsPeer(zone({"db.xn--strae-oqa.test": [("A", "10.0.0.1")]})) as peer:
        world.servers(peer.address, options="search stra\u00dfe.test")
        assert world.found("db") == ["10.0.0.1"]


def test_a_name_is_completed_by_search_domains(world: World) -> None:
    with DnsPeer(zone({"db.two.test": [("A", "10.0.0.2")]})) as peer:
        world.servers(peer.address, options="search one.test two.test")
        assert world.found("db") == ["10.0.0.2"]
        assert world.failure("db.") == "no such host: db."


def test_a_truncated_answer_is_asked_for_over_tcp(world: World) -> None:
    with DnsPeer(dns_peer.truncated, tcp=zone({"db.test": [("A", "10.0.0.1")]})) as peer:
        world.servers(peer.address)
        assert world.found("db.test") == ["10.0.0.1"]
        assert len(peer.tcp_queries) == 2


def test_lies_are_ignored(world: World) -> None:
    lies = both(both(dns_peer.wrong_id, dns_peer.other_question), both(dns_peer.garbage, dns_peer.echo))
    with DnsPeer(both(lies, zone({"db.test": [("A", "10.0.0.1")]}))) as peer:
        world.servers(peer.address)
        assert world.found("db.test") == ["10.0.0.1"]


def test_a_query_that_is_lost_is_sent_again(world: World) -> None:
    with DnsPeer(after(2, silent, right)) as peer:
        world.servers(peer.address)
        world.look_up("db.test")
        world.run_until(lambda: len(peer.queries) == 2)
        world.skip(0.5)
        world.run_until(lambda: world.outcomes)
        assert world.outcomes == [[ADDRESS]]


def test_a_real_server_answers(world: World, knot: KnotServer) -> None:
    world.servers(knot.address)
    found = world.found(f"chain.{ZONE}")
    assert isinstance(found, list)
    assert sorted(found) == ["192.0.2.1", "2001:db8::1"]
    assert world.found(f"six.{ZONE}") == ["2001:db8::6"]
    assert world.failure(f"nobody.{ZONE}") == f"no such host: nobody.{ZONE}"
    assert world.failure(f"txt.{ZONE}") == f"txt.{ZONE} has no address"


# --- bad days -------------------------------------------------------------------------------------


def test_there_is_no_such_host(world: World) -> None:
    with DnsPeer(zone({}, ttl_s=60)) as peer:
        world.servers(peer.address)
        assert world.failure("gone.test") == "no such host: gone.test"
        world.look_up("gone.test")
        assert len(world.outcomes) == 2
        assert len(peer.queries) == 2
        world.skip(5.1)
        world.failure("gone.test")
        assert len(peer.queries) == 4


def test_a_silent_server_is_followed_by_the_next(world: World) -> None:
    with DnsPeer(silent) as mute, DnsPeer() as peer:
        world.servers(mute.address, peer.address)
        world.look_up("db.test")
        world.run_until(lambda: len(mute.queries) >= 2)
        assert world.outcomes == []
        world.skip(1.0)
        world.run_until(lambda: world.outcomes)
        assert world.outcomes == [[ADDRESS]]
        # And the next name does not wait for it again.
        asked = len(mute.queries)
        assert world.found("other.test") == [ADDRESS]
        assert len(mute.queries) == asked


def test_a_server_that_refuses_or_fails_is_followed_by_the_next(world: World) -> None:
    with DnsPeer(dns_peer.refuses(2)) as failing, DnsPeer() as peer:
        world.servers(closed_port(), failing.address, peer.address)
        assert world.found("db.test") == [ADDRESS]
        # An answer without OPT may come from a server that does not know it, so each is asked without, too.
        assert [query[11] for query in failing.queries] == [1, 1, 0, 0]


@pytest.mark.parametrize("rcode", [1, 2, 4, 5])
def test_a_server_that_refuses_in_short_is_followed_by_the_next(world: World, rcode: int) -> None:
    with DnsPeer(dns_peer.refuses_in_short(rcode)) as failing, DnsPeer() as peer:
        world.servers(failing.address, peer.address)
        assert world.found("db.test") == [ADDRESS]
        # It was heard, so it does not count as silent, and is asked first again.
        asked = len(failing.queries)
        assert world.found("other.test") == [ADDRESS]
        assert len(failing.queries) == 2 * asked


@pytest.mark.parametrize("rcode", [1, 2, 4])
def test_a_server_without_edns_is_asked_without(world: World, rcode: int) -> None:
    with DnsPeer(dns_peer.without_edns(rcode)) as peer:
        world.servers(peer.address)
        assert world.found("db.test") == [ADDRESS]


def test_no_server_answers(world: World) -> None:
    with DnsPeer(silent) as mute:
        world.servers(mute.address, options="options attempts:1")
        world.look_up("db.test")
        world.run_until(lambda: mute.queries)
        world.skip(1.0)
        world.run_until(lambda: world.outcomes)
        outcome = world.outcomes[0]
        assert isinstance(outcome, ConnectFailed)
        assert outcome.text == f"db.test could not be looked up: no name server answers ({mute.address})"


def test_a_server_on_no_network_of_this_machine_is_passed_over(world: World) -> None:
    with DnsPeer() as peer:
        world.servers(peer.address)
        world.resolv_conf.write_text("nameserver fe80::1%nowhere\n" + world.resolv_conf.read_text())
        assert world.found("db.test") == [ADDRESS]


def test_no_server_is_there(world: World) -> None:
    address = closed_port()
    world.servers(address)
    text = f"db.test could not be looked up: no name server answers ({address}: connection refused)"
    assert world.failure("db.test") == text


def test_one_family_is_not_waited_for_when_the_other_is_known(world: World) -> None:
    with DnsPeer(by_type(A=right, AAAA=silent)) as peer:
        world.servers(peer.address)
        assert world.found("db.test") == [ADDRESS]  # after 50 ms, not after the server's time


def test_stale_addresses_serve_while_no_server_answers(world: World) -> None:
    with DnsPeer(after(2, zone({"db.test": [("A", "10.0.0.1")]}, ttl_s=1), silent)) as peer:
        world.servers(peer.address)
        assert world.found("db.test") == ["10.0.0.1"]
        world.skip(10)
        world.look_up("db.test")
        world.run_until(lambda: len(peer.queries) >= 4)
        assert len(world.outcomes) == 1
        world.skip(1.8)
        world.run_until(lambda: len(world.outcomes) == 2)
        world.look_up("db.test")  # while the look-up goes on
        assert world.outcomes[1:] == [["10.0.0.1"]] * 2
        world.skip(60)
        world.run_until(lambda: not world.resolver._running)
        world.look_up("db.test")  # when it has failed
        assert world.outcomes[3:] == [["10.0.0.1"]]


def test_sockets_go_when_nothing_is_asked(world: World) -> None:
    with DnsPeer() as peer:
        world.servers(peer.address)
        world.found("db.test")
        assert world.loop.fds > 0
        world.skip(5)
        world.run_until(lambda: world.loop.fds == 0)
        world.skip(61)
        assert world.found("db.test") == [ADDRESS]


def test_closing_ends_what_is_under_way(world: World) -> None:
    with DnsPeer(silent) as mute:
        world.servers(mute.address)
        world.look_up("db.test")
        world.run_until(lambda: mute.queries)
        world.resolver.close("the worker stops")
        assert world.loop.fds == 0
        world.skip(60)
        world.run_until(lambda: True)
        assert world.outcomes == []


def test_the_loop_goes_on_while_a_server_is_silent(world: World) -> None:
    with DnsPeer(silent) as mute:
        world.servers(mute.address)
        for number in range(100):
            world.look_up(f"h{number}.test")
        wait_until(lambda: len(mute.queries) >= 200)  # all was sent, though the loop has not even run
        assert world.outcomes == []
