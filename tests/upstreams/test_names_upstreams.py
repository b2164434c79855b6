"""Hosts as real inputs have them, through a whole cluster: other scripts, final dots, scoped addresses."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import reqpool
from support.cluster import Cluster, cluster
from support.dns_peer import DnsPeer, zone
from support.http_peer import answer as http_answer
from support.http_peer import serves
from support.tcp_peer import Connection, TcpPeer


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the resolv.conf and hosts that the workers read."""
    return tmp_path_factory.mktemp("names")


@pytest.fixture(scope="module")
def running(files: Path) -> Iterator[Cluster]:
    (files / "hosts").write_text("127.0.0.1 xn--strae-oqa.test -a-.test\n127.0.0.2 strasse.test\n")
    (files / "resolv.conf").write_text("nameserver [127.0.0.1]:9\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REQPOOL_HOSTS", str(files / "hosts"))
        patch.setenv("REQPOOL_RESOLV_CONF", str(files / "resolv.conf"))
        with cluster(workers=1) as started, started.no_fds_left():
            yield started


def host_of(connection: Connection) -> None:
    """A script: answer with the Host field."""
    serves(lambda asked: http_answer(asked.field("Host").encode()))(connection)


@pytest.mark.parametrize(
    ("host", "canonical"),
    [("straße.test", "xn--strae-oqa.test"), ("-a-.test", "-a-.test"), ("-A-.test.", "-a-.test")],
)
def test_the_host_that_browsers_mean_is_asked(pool: reqpool.Pool, host: str, canonical: str) -> None:
    with TcpPeer(host_of) as peer:
        port = peer.address.split(":")[1]
        assert pool.http("GET", f"http://{host}:{port}/").result().text == f"Host: {canonical}:{port}"


def test_a_dns_question_is_mapped_like_a_host(pool: reqpool.Pool) -> None:
    with DnsPeer(zone({"xn--strae-oqa.test": [("A", "192.0.2.1")]})) as peer:
        assert pool.dns("straße.test", server=peer.address).result().rcode == "NOERROR"


def link_local() -> tuple[str, str] | None:
    """Return an address of this machine and its interface."""
    with contextlib.suppress(OSError), open("/proc/net/if_inet6") as file:
        for digits, _, _, scope, _, interface in map(str.split, file):
            if scope == "20":  # IPV6_ADDR_LINKLOCAL (linux/ipv6.h)
                return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits)), interface
    return None


LINK_LOCAL = link_local()
needs_link_local = pytest.mark.skipif(LINK_LOCAL is None, reason="no link-local address here")


@contextlib.contextmanager
def scoped(type: socket.SocketKind, answer: Callable[[bytes], bytes], sign: str) -> Iterator[str]:
    """A server at a link-local address that answers one message; yields ``[address%zone]:port``."""
    assert LINK_LOCAL is not None
    address, interface = LINK_LOCAL
    with socket.socket(socket.AF_INET6, type) as server:
        server.bind((address, 0, 0, socket.if_nametoindex(interface)))
        if type == socket.SOCK_STREAM:
            server.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                if type == socket.SOCK_DGRAM:
                    data, peer = server.recvfrom(1000)
                    server.sendto(answer(data), peer)
                else:
                    with server.accept()[0] as made:
                        made.sendall(answer(made.recv(1000)))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"[{address}{sign}{interface}]:{server.getsockname()[1]}"
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def twice(data: bytes) -> bytes:
    return data * 2


def host_field(data: bytes) -> bytes:
    (line,) = [line for line in data.split(b"\r\n") if line.startswith(b"Host: ")]
    return http_answer(line, "Connection: close")


@needs_link_local
@pytest.mark.parametrize("sign", ["%", "%25"])
def test_a_scoped_address_is_reached(pool: reqpool.Pool, sign: str) -> None:
    with scoped(socket.SOCK_DGRAM, twice, sign) as address:
        assert pool.udp(address, b"x").result() == b"xx"
    with scoped(socket.SOCK_STREAM, twice, sign) as address:
        assert pool.tcp(address, b"x").result() == b"xx"
    with scoped(socket.SOCK_DGRAM, lambda query: query[:2] + b"\x81\x83" + query[4:], sign) as address:
        assert pool.dns("a.test", server=address).result().rcode == "NXDOMAIN"


@needs_link_local
@pytest.mark.parametrize("sign", ["%", "%25"])
def test_the_zone_is_not_for_the_server(pool: reqpool.Pool, sign: str) -> None:
    assert LINK_LOCAL is not None
    with scoped(socket.SOCK_STREAM, host_field, sign) as address:
        said = pool.http("GET", f"http://{address}/").result().text
        assert said == f"Host: [{LINK_LOCAL[0]}]:{address.rpartition(':')[2]}"
