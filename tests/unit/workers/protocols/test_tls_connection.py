"""A whole worker over TLS: real sockets, a broker played by the test, scripted servers behind OpenSSL."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from reqpool_contract.errors import Code
from reqpool_contract.wire import Verb
from reqpool_workers.protocols import READY, Event, StreamKind, StreamProtocol, WorkerKind, numeric_address
from reqpool_workers.protocols.tls_engine import TlsEngine
from reqpool_workers.protocols.tls_stream import wrap
from support import certificates as certs
from support.certificates import Certificates, Pair
from support.fake_worker_broker import FakeBroker
from support.leaks import no_leak
from support.tcp_peer import Connection, TcpPeer

LARGE = b"x" * (3 << 20) + b"\n"


class Lines(StreamProtocol):
    """Lines out, lines back; what has no end of line is an answer when the peer closes."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def connected(self) -> Sequence[Event]:
        return [READY]

    def send(self, request: Any) -> bytes:
        payload: bytes = request.payload
        return payload

    def feed(self, data: bytes) -> Sequence[Event]:
        self._pieces.append(data)
        if not data.endswith(b"\n"):
            return []
        lines, self._pieces = b"".join(self._pieces).splitlines(), []
        return [(0, b"%d" % len(line)) for line in lines]

    def eof(self) -> Sequence[Event]:
        return [(0, b"".join(self._pieces))] if self._pieces else []

    @property
    def reusable(self) -> bool:
        return True

    @property
    def begun(self) -> bool:
        return bool(self._pieces)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certs.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    with no_leak(), FakeBroker() as broker:
        yield broker


Talk = Callable[[ssl.SSLSocket], None]


def behind_tls(pair: Pair, talk: Talk, client_ca: Path | None = None) -> Callable[[Connection], None]:
    """A script that talks over TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)

    def script(connection: Connection) -> None:
        with context.wrap_socket(connection.sock, server_side=True, suppress_ragged_eofs=False) as sock:
            talk(sock)

    return script


def echo(sock: ssl.SSLSocket) -> None:
    with contextlib.suppress(ssl.SSLEOFError):
        while data := sock.recv(1 << 16):
            sock.sendall(data)


def kinds(made: Certificates, **settings: str) -> dict[str, WorkerKind]:
    def protocol(_origin: str, _settings: bytes, _max_bytes: int) -> StreamProtocol:
        return wrap(Lines(), {"ca": made.ca.read_text(), **settings}, "localhost")

    return {"lines": StreamKind("lines", 8, numeric_address, protocol, depth=4)}


def begin(broker: FakeBroker, peer: TcpPeer) -> str:
    broker.welcome()
    origin = f"lines://{peer.address}"
    broker.say(Verb.GRANT, origin, 1, 1, {})
    return origin


def test_requests_are_pipelined_over_tls(broker: FakeBroker, made: Certificates) -> None:
    with TcpPeer(behind_tls(made.server, echo)) as peer, broker.worker(kinds(made)):
        origin = begin(broker, peer)
        broker.lease("lines", origin, {seq: b"x" * seq + b"\n" for seq in range(500)})
        assert broker.results(500) == {seq: (0, b"%d" % seq) for seq in range(500)}
        assert peer.accepted == 1


def test_megabytes_pass_both_ways(broker: FakeBroker, made: Certificates) -> None:
    with TcpPeer(behind_tls(made.server, echo)) as peer, broker.worker(kinds(made)):
        broker.lease("lines", begin(broker, peer), {1: LARGE})
        assert broker.results(1) == {1: (0, b"%d" % (len(LARGE) - 1))}


def test_a_bad_certificate_is_named(broker: FakeBroker, made: Certificates) -> None:
    def handshake_only(_sock: ssl.SSLSocket) -> None:
        raise AssertionError("the handshake was accepted")

    with TcpPeer(behind_tls(made.expired, handshake_only)) as peer, broker.worker(kinds(made)):
        broker.lease("lines", begin(broker, peer), {1: b"x\n"})
        failed = broker.failure()
        assert failed.code == Code.CONNECT_FAILED
        assert not failed.sent
        assert b"the server's certificate has expired" in failed.details


def test_a_missing_client_certificate_is_named(broker: FakeBroker, made: Certificates) -> None:
    with TcpPeer(behind_tls(made.server, echo, made.ca)) as peer, broker.worker(kinds(made)):
        broker.lease("lines", begin(broker, peer), {1: b"x\n"})
        failed = broker.failure()
        assert failed.code == Code.CONNECT_FAILED
        assert b"the server demands a client certificate" in failed.details


def test_a_client_certificate_lets_in(broker: FakeBroker, made: Certificates) -> None:
    own = {"cert": made.client.cert.read_text(), "key": made.client.key.read_text()}
    with TcpPeer(behind_tls(made.server, echo, made.ca)) as peer, broker.worker(kinds(made, **own)):
        broker.lease("lines", begin(broker, peer), {1: b"x\n"})
        assert broker.results(1) == {1: (0, b"1")}


@pytest.mark.parametrize("notified", [True, False])
def test_only_close_notify_makes_an_answer_without_length_complete(
    broker: FakeBroker, made: Certificates, notified: bool
) -> None:
    def talk(sock: ssl.SSLSocket) -> None:
        sock.recv(100)
        sock.sendall(b"all there is")
        if notified:
            sock.unwrap()

    with TcpPeer(behind_tls(made.server, talk)) as peer, broker.worker(kinds(made)):
        broker.lease("lines", begin(broker, peer), {1: b"x\n"})
        if notified:
            assert broker.results(1) == {1: (0, b"all there is")}
        else:
            failed = broker.failure()
            assert failed.code == Code.CONNECTION_LOST
            assert b"close_notify" in failed.details


def test_a_server_that_does_not_speak_tls_is_named(broker: FakeBroker, made: Certificates) -> None:
    def script(connection: Connection) -> None:
        connection.read()
        connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with TcpPeer(script) as peer, broker.worker(kinds(made)):
        broker.lease("lines", begin(broker, peer), {1: b"x\n"})
        assert b"does not speak TLS" in broker.failure().details


# --- what only a real server does -----------------------------------------------------------------


class OpensslServer:
    """``openssl s_server``, which takes commands on its standard input, and a client of it.

    Commands and text are told apart by the first letter of what one read gives, so each has to be taken
    before the next is written.
    """

    def __init__(self, made: Certificates, *options: str) -> None:
        command = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", str(made.server.cert)]
        command += ["-key", str(made.server.key), *options]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
        )
        self.printed = b""
        self.received = b""
        self.pieces = 0
        self._sock: socket.socket | None = None
        self.tls = TlsEngine({"ca": made.ca.read_text()}, "localhost")

    def __enter__(self) -> OpensslServer:
        self.run_until(lambda: b"ACCEPT" in self.printed and self.printed.endswith(b"\n"))
        port = int(self.printed.split(b"ACCEPT")[1].split(b":")[1])
        self._sock = socket.create_connection(("127.0.0.1", port))
        self.send(self.tls.start())
        self.run_until(lambda: self.tls.established)
        return self

    def __exit__(self, *_: Any) -> None:
        if self._sock is not None:
            self._sock.close()
        self._process.kill()
        self._process.communicate()

    def write(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())

    def command(self, command: str) -> None:
        """Give a command, and see that something comes of it."""
        pieces = self.pieces
        self.write(f"{command}\n")
        self.run_until(lambda: self.pieces > pieces)

    def wait_printed(self, text: str) -> None:
        self.run_until(lambda: text.encode() in self.printed)

    def wait_received(self, text: str) -> None:
        self.run_until(lambda: text.encode() in self.received)

    def send(self, data: bytes) -> None:
        assert self._sock is not None
        self._sock.sendall(data)

    def run_until(self, condition: Callable[[], Any]) -> None:
        """Take what comes from the server, on the connection and on its output."""
        assert self._process.stdout is not None
        while not condition():
            sources: list[Any] = [self._process.stdout, *([self._sock] if self._sock else [])]
            ready, _, _ = select.select(sources, [], [], 10)
            assert ready, f"nothing comes; printed was {self.printed!r}"
            if self._process.stdout in ready:
                more = self._process.stdout.read(1 << 16)
                assert more, "the server ended"
                self.printed += more
            if self._sock is not None and self._sock in ready:
                plaintext, output = self.tls.feed(self._sock.recv(1 << 16))
                self.received += plaintext
                self.pieces += 1
                self.send(output)


@pytest.mark.parametrize(
    ("options", "commands"),
    [
        (["-tls1_3", "-num_tickets", "0"], ["k", "K"]),  # new keys, RFC 8446 §4.6.3; K: and you too
        (["-tls1_2"], ["r"]),  # another handshake, RFC 5246 §7.4.1.1
    ],
    ids=["key update", "renegotiation"],
)
def test_the_server_may_change_its_keys(made: Certificates, options: list[str], commands: list[str]) -> None:
    with OpensslServer(made, *options) as server:
        for command in commands:
            server.command(command)
            # In the middle of a renegotiation this is held back until the server has said its part.
            server.send(server.tls.encrypt(f"after {command}\n".encode()))
            server.wait_printed(f"after {command}\n")
            server.write(f"and after {command}\n")
            server.wait_received(f"and after {command}\n")
