"""A whole worker and upstreams that are called by name: scripted name servers, broker and peers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest

from reqpool_contract.errors import Code
from reqpool_contract.wire import Verb
from support.dns_peer import DnsPeer, Script, refuses, silent, zone
from support.fake_worker_broker import FakeBroker
from support.leaks import no_leak
from support.tcp_peer import TcpPeer, echo_until
from support.wait import wait_until


class World:
    """A broker that the test plays, and the files that its workers look names up by."""

    def __init__(self, folder: Path) -> None:
        self.resolv_conf = folder / "resolv.conf"
        self.hosts = folder / "hosts"
        self.resolv_conf.write_text("nameserver [127.0.0.1]:9\n")
        self.hosts.write_text("")
        self.broker = FakeBroker()

    def server(self, peer: DnsPeer, options: str = "") -> None:
        host, port = peer.address.split(":")
        self.resolv_conf.write_text(f"nameserver [{host}]:{port}\noptions {options}\n")

    def ask(self, origin: str, *seqs: int) -> None:
        self.broker.say(Verb.GRANT, origin, 1, 2, {})
        self.broker.lease("tcp", origin, dict.fromkeys(seqs, msgpack.packb([b"x\n", b"\n", None, 100])))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with no_leak():
        world = World(tmp_path)
        monkeypatch.setenv("REQPOOL_RESOLV_CONF", str(world.resolv_conf))
        monkeypatch.setenv("REQPOOL_HOSTS", str(world.hosts))
        with world.broker:
            yield world


def origin_of(peer: TcpPeer, host: str = "service.test") -> str:
    return f"tcp://{host}:{peer.address.split(':')[1]}"


def test_an_upstream_is_found_by_its_name(world: World) -> None:
    with DnsPeer(zone({"service.test": [("A", "127.0.0.1")]})) as names, TcpPeer(echo_until(b"\n")) as peer:
        world.server(names)
        with world.broker.worker():
            world.broker.welcome()
            world.ask(origin_of(peer), *range(20))
            assert world.broker.results(20) == dict.fromkeys(range(20), (0, b"x\n"))
        assert len(names.queries) == 2


def test_an_upstream_is_found_in_the_hosts_file(world: World) -> None:
    world.hosts.write_text("127.0.0.1 service.test\n")
    with TcpPeer(echo_until(b"\n")) as peer, world.broker.worker():
        world.broker.welcome()
        world.ask(origin_of(peer), 1)
        assert world.broker.results(1) == {1: (0, b"x\n")}


def test_a_dead_address_is_followed_by_the_next(world: World) -> None:
    # Nobody listens on ::1 and 127.0.0.2, where the peer's port is.
    records = [("A", "127.0.0.2"), ("A", "127.0.0.1"), ("AAAA", "::1")]
    with DnsPeer(zone({"service.test": records})) as names, TcpPeer(echo_until(b"\n")) as peer:
        world.server(names)
        with world.broker.worker():
            world.broker.welcome()
            world.ask(origin_of(peer), 1)
            assert world.broker.results(1) == {1: (0, b"x\n")}


@pytest.mark.parametrize(
    ("script", "text"),
    [
        (zone({}), b"no such host: service.test"),
        (zone({"service.test": [("TXT", "no address")]}), b"service.test has no address"),
        (refuses(2), b"service.test could not be looked up (127.0.0.1"),
    ],
)
def test_what_is_wrong_with_the_name_is_said(world: World, script: Script, text: bytes) -> None:
    with DnsPeer(script) as names, TcpPeer(echo_until(b"\n")) as peer:
        world.server(names)
        with world.broker.worker():
            world.broker.welcome()
            world.ask(origin_of(peer), 1)
            failed = world.broker.failure()
            assert failed.code == Code.CONNECT_FAILED
            assert not failed.sent
            assert text in failed.details


def test_a_silent_name_server_holds_up_nobody_else(world: World) -> None:
    with DnsPeer(silent) as names, TcpPeer(echo_until(b"\n")) as peer:
        world.server(names, "timeout:30")
        with world.broker.worker() as worker:
            world.broker.welcome()
            world.ask(origin_of(peer, "nowhere.test"), 1)
            names.wait_for_queries(2)
            world.ask(f"tcp://{peer.address}", 2)
            world.ask(origin_of(peer, "localhost"), 3)
            assert world.broker.results(2) == {2: (0, b"x\n"), 3: (0, b"x\n")}
        wait_until(lambda: not worker.loop.fds or worker.loop.fds < 0)
