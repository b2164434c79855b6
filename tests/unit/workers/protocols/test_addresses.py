"""A host with several addresses: which is tried when, in a whole worker between scripted peers."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from reqpool_contract import wire
from reqpool_contract.errors import Code
from reqpool_contract.wire import Verb
from reqpool_workers import happy_eyeballs
from reqpool_workers.protocols import stream_address
from support.fake_worker_broker import FakeBroker
from support.leaks import no_leak
from support.lines import lines
from support.tcp_peer import Connection, TcpPeer, echo_until
from support.wait import wait_until

KINDS = lines(address=stream_address)


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the worker finds ``service.test``."""
    path = tmp_path / "hosts"
    (tmp_path / "resolv.conf").write_text("nameserver [127.0.0.1]:9\n")
    monkeypatch.setenv("REQPOOL_RESOLV_CONF", str(tmp_path / "resolv.conf"))
    monkeypatch.setenv("REQPOOL_HOSTS", str(path))
    return path


@pytest.fixture
def broker(hosts: Path) -> Iterator[FakeBroker]:
    with no_leak(), FakeBroker() as broker:
        yield broker


def origin_of(peer: TcpPeer) -> str:
    return f"lines://service.test:{peer.address.split(':')[1]}"


def write(hosts: Path, *addresses: str) -> None:
    hosts.write_text("".join(f"{address} service.test\n" for address in addresses))


@contextlib.contextmanager
def silence(host: str, peer: TcpPeer) -> Iterator[None]:
    """Have the peer's port at another address take no connection and refuse none.

    A listener whose backlog is full does not answer a SYN (listen(2), tcp_abort_on_overflow).
    """
    port = int(peer.address.split(":")[1])
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((host, port))
        yield


@pytest.mark.parametrize("dead", ["::1", "127.0.0.2"], ids=["IPv6", "IPv4"])
def test_a_refused_address_is_followed_by_the_next_at_once(
    broker: FakeBroker, hosts: Path, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(happy_eyeballs, "NEXT_ADDRESS_S", 60.0)
    write(hosts, dead, "127.0.0.1")
    with TcpPeer(echo_until(b"\n")) as peer, broker.worker(KINDS):
        broker.welcome()
        broker.say(Verb.GRANT, origin_of(peer), 1, 2, {})
        broker.lease("lines", origin_of(peer), {1: b"one\n", 2: b"two\n"})
        assert broker.results(2) == {1: (0, b"one"), 2: (0, b"two")}


def test_a_silent_address_does_not_keep_the_next_from_being_tried(
    broker: FakeBroker, hosts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(happy_eyeballs, "NEXT_ADDRESS_S", 0.05)
    write(hosts, "127.0.0.2", "127.0.0.1")
    with TcpPeer(echo_until(b"\n")) as peer, silence("127.0.0.2", peer), broker.worker(KINDS):
        broker.welcome()
        broker.say(Verb.GRANT, origin_of(peer), 1, 1, {})
        broker.lease("lines", origin_of(peer), {1: b"one\n"})
        assert broker.results(1) == {1: (0, b"one")}
    assert peer.accepted == 1


def test_attempts_that_lose_are_closed(
    broker: FakeBroker, hosts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(happy_eyeballs, "NEXT_ADDRESS_S", 0.01)
    write(hosts, "127.0.0.2", "127.0.0.3", "127.0.0.1")
    with contextlib.ExitStack() as stack:
        peer = stack.enter_context(TcpPeer(echo_until(b"\n")))
        stack.enter_context(silence("127.0.0.2", peer))
        stack.enter_context(silence("127.0.0.3", peer))
        worker = stack.enter_context(broker.worker(KINDS))
        broker.welcome()
        before = worker.loop.fds
        broker.say(Verb.GRANT, origin_of(peer), 1, 1, {})
        assert broker.next(Verb.GRANTED)[3:] == [1, 0]
        broker.lease("lines", origin_of(peer), {1: b"one\n"})
        assert broker.results(1) == {1: (0, b"one")}
        assert worker.loop.fds == before + 1
        broker.say(Verb.GRANT, origin_of(peer), 2, 0, {})
        assert broker.next(Verb.GRANTED)[2:] == [origin_of(peer), 2, 0]
        wait_until(lambda: worker.loop.fds == before)
    assert peer.accepted == 1


def test_an_address_that_breaks_off_its_handshake_comes_last(broker: FakeBroker, hosts: Path) -> None:
    write(hosts, "127.0.0.2", "127.0.0.1")
    with TcpPeer(echo_until(b"\n")) as peer, broker.worker(KINDS):
        origin = f"{origin_of(peer)}/greet"
        with socket.create_server(("127.0.0.2", int(peer.address.split(":")[1]))) as bad:
            broker.welcome()
            broker.say(Verb.GRANT, origin, 1, 1, {})
            broker.lease("lines", origin, {1: b"one\n"})
            bad.accept()[0].close()
            assert broker.results(1) == {1: (0, b"one")}


def test_a_zone_in_the_hosts_file_that_is_no_interface_here_fails_the_connection(
    broker: FakeBroker, hosts: Path
) -> None:
    write(hosts, "fe80::1%nowhere0")
    with TcpPeer(echo_until(b"\n")) as peer, broker.worker(KINDS):
        broker.welcome()
        broker.say(Verb.GRANT, origin_of(peer), 1, 1, {})
        broker.lease("lines", origin_of(peer), {1: b"one\n"})
        failed = broker.failure()
        assert (failed.code, failed.sent) == (Code.CONNECT_FAILED, False)
        assert "'nowhere0' is not a network interface" in wire.decode_error(failed.details)["text"]


def test_of_several_addresses_one_on_another_machine_s_network_is_left_out(
    broker: FakeBroker, hosts: Path
) -> None:
    write(hosts, "fe80::1%nowhere0", "127.0.0.1")
    with TcpPeer(echo_until(b"\n")) as peer, broker.worker(KINDS):
        broker.welcome()
        broker.say(Verb.GRANT, origin_of(peer), 1, 1, {})
        broker.lease("lines", origin_of(peer), {1: b"one\n"})
        assert broker.results(1) == {1: (0, b"one")}


def test_all_addresses_have_all_the_time_there_is(
    broker: FakeBroker, hosts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(happy_eyeballs, "NEXT_ADDRESS_S", 0.01)
    write(hosts, "127.0.0.3", "127.0.0.2")
    with TcpPeer(echo_until(b"\n")) as peer, silence("127.0.0.2", peer), broker.worker(KINDS):
        broker.welcome()
        broker.say(Verb.GRANT, origin_of(peer), 1, 1, {"connect_ms": 150})
        broker.lease("lines", origin_of(peer), {1: b"one\n"})
        failed = broker.failure()
        assert (failed.code, failed.sent) == (Code.CONNECT_FAILED, False)
        assert wire.decode_error(failed.details)["text"] == "no connection within 0.15 s"


def test_when_all_are_refused_each_ones_reason_is_given(broker: FakeBroker, hosts: Path) -> None:
    write(hosts, "127.0.0.3", "::1")
    with TcpPeer(echo_until(b"\n")) as peer, broker.worker(KINDS):
        broker.welcome()
        broker.say(Verb.GRANT, origin_of(peer), 1, 1, {})
        broker.lease("lines", origin_of(peer), {1: b"one\n"})
        failed = broker.failure()
        assert failed.code == Code.CONNECT_FAILED
        port = peer.address.split(":")[1]
        text = wire.decode_error(failed.details)["text"]
        assert text.startswith("cannot connect: ")
        assert f"127.0.0.3:{port}: Connection refused" in text
        assert f"[::1]:{port}: Connection refused" in text


def test_the_address_that_took_the_last_connection_comes_first(broker: FakeBroker, hosts: Path) -> None:
    def once(peer_side: Connection) -> None:
        peer_side.send(peer_side.read_until(b"\n"))

    write(hosts, "127.0.0.2", "127.0.0.1")
    with TcpPeer(once) as peer, broker.worker(KINDS) as worker:
        broker.welcome()
        origin = origin_of(peer)
        broker.say(Verb.GRANT, origin, 1, 1, {})
        unconnected = worker.loop.fds
        broker.lease("lines", origin, {1: b"one\n"})
        assert broker.results(1) == {1: (0, b"one")}
        with socket.create_server(("127.0.0.2", int(peer.address.split(":")[1]))) as late:
            late.setblocking(False)
            for seq in (2, 3):
                wait_until(lambda: worker.loop.fds == unconnected)  # the peer closes after each answer
                broker.lease("lines", origin, {seq: b"more\n"})
                assert broker.results(1) == {seq: (0, b"more")}
            with pytest.raises(BlockingIOError):
                late.accept()
        assert worker.ledger.empty
    assert peer.accepted == 3
