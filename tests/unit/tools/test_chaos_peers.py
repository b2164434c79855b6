"""What the fault run has of its own beside the cluster: the relay, and the upstream that counts."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from chaos import upstreams
from chaos.relay import Relay, Relays
from chaos.upstreams import CountingServer, Executions, Upstreams
from support.ports import HOST
from support.server import Server
from support.wait import wait_until


@pytest.fixture(scope="module")
def counting() -> Iterator[CountingServer]:
    with CountingServer() as server:
        yield server


@pytest.fixture
def relay(counting: CountingServer) -> Iterator[Relay]:
    with Relays() as relays:
        yield relays.to(counting.tcp)


def dial(port: int | str) -> socket.socket:
    assert isinstance(port, int)
    return socket.create_connection((HOST, port), 5)


def ask(sock: socket.socket, number: str) -> bytes:
    sock.sendall(number.encode() + b" 0.0\n")
    return sock.recv(100)


def is_reset(sock: socket.socket) -> bool:
    with contextlib.suppress(ConnectionResetError):
        return sock.recv(100) == b""
    return True


def is_refused(relay: Relay) -> bool:
    try:
        dial(relay.place).close()
    except ConnectionRefusedError:
        return True
    return False


def counted(server: CountingServer) -> Executions:
    servers = Upstreams()
    servers.servers["counting"] = server
    return servers.executions()


def test_a_relay_passes_on_what_is_said(relay: Relay) -> None:
    with dial(relay.place) as sock:
        assert ask(sock, "r-1") == b"r-1\n"


def test_a_cut_resets_what_is_open_and_takes_new_connections(relay: Relay) -> None:
    with dial(relay.place) as before:
        assert ask(before, "r-2") == b"r-2\n"
        relay.cut()
        assert is_reset(before)
    with dial(relay.place) as after:
        assert ask(after, "r-3") == b"r-3\n"


def test_a_relay_refuses_until_it_accepts_again(relay: Relay) -> None:
    with dial(relay.place) as before:
        assert ask(before, "r-4") == b"r-4\n"
        relay.refuse()
        assert is_reset(before)
    wait_until(lambda: is_refused(relay))
    relay.accept()
    with dial(relay.place) as after:
        assert ask(after, "r-5") == b"r-5\n"


def test_a_relay_to_nobody_closes_what_comes() -> None:
    with Relays() as relays, dial(relays.to("/nowhere/nobody.sock").place) as sock:
        assert is_reset(sock)


def test_every_way_of_asking_is_counted_and_answered_with_its_number(counting: CountingServer) -> None:
    with dial(counting.tcp) as sock:
        assert ask(sock, "line") == b"line\n"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.sendto(b"datagram 0.001", (HOST, counting.udp))
        assert sock.recv(100) == b"datagram"
    with dial(counting.http) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\npost 0.0")
        assert sock.recv(1000).endswith(b"\r\n\r\npost")
    counts = counted(counting).counts
    assert [counts[number] for number in ("line", "datagram", "post")] == [1, 1, 1]


def test_what_was_counted_survives_a_kill_and_a_second_time_is_seen(counting: CountingServer) -> None:
    with dial(counting.tcp) as sock:
        assert ask(sock, "again") == b"again\n"
        counting.kill()
        assert is_reset(sock)
    counting.start_again()
    wait_until(counting.answers)
    with dial(counting.tcp) as sock:
        assert ask(sock, "again") == b"again\n"
    assert counted(counting).counts["again"] == 2


def test_a_server_that_is_not_installed_is_named_and_its_requests_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Server, "find", classmethod(lambda cls: None))
    with upstreams.running() as (servers, missing):
        assert [line.split()[0] for line in missing] == ["knotd", "nginx", "redis-server", "mariadbd"]
        assert "apt-get install knot" in missing[0]
        assert set(servers.targets) == {"posts", "tcp", "udp"}
