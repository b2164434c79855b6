"""The loss of a connection is known at once, and so is a URL where something else than a broker listens."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
import zmq

import reqpool
from reqpool.broker_sockets import (
    MESSAGES_PER_TURN,
    PATIENT_DIALS,
    RECONNECT_MS,
    TURNED_AWAY,
    BrokerSockets,
)
from reqpool.listener_probe import ListenerProbe, Loss
from reqpool_contract.socket_monitor import Monitor
from reqpool_contract.wire import Flag, Verb
from support.fake_broker import FakeBroker, echo, silence
from support.leaks import no_leak
from support.nginx import NginxServer
from support.plain import ask
from support.redis_server import RedisServer
from support.tcp_peer import Connection, Script, TcpPeer
from support.wait import wait_until

LIVENESS_MS = 600_000
"""So long that nothing in these tests is due to silence."""
GREETING = b"\xff" + bytes(8) + b"\x7f\3"
"""How a ZeroMQ socket begins: rfc.zeromq.org/spec/23."""


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    with FakeBroker() as broker:
        broker.liveness_ms = LIVENESS_MS
        yield broker


def test_a_broker_that_was_killed_is_dialled_anew_at_once(broker: FakeBroker, pool: reqpool.Pool) -> None:
    assert ask(pool).result(10) == b"hello"
    broker.restart()
    wait_until(lambda: pool.stats().reconnects == 1)
    assert ask(pool).result(10) == b"hello"


def test_what_is_asked_for_after_the_loss_was_never_sent(broker: FakeBroker, pool: reqpool.Pool) -> None:
    broker.answer = silence
    before = ask(pool, timeout=60)
    wait_until(lambda: before.seq in broker.submitted)
    broker.vanish()
    wait_until(lambda: pool.stats().state == "greeting")
    after = [ask(pool, timeout=60) for _ in range(3)]
    broker.answer = echo
    broker.restart()
    assert [future.result(20) for future in (before, *after)] == [b"hello"] * 4
    assert broker.submitted[before.seq] == [Flag.IDEMPOTENT, Flag.IDEMPOTENT | Flag.RESUBMITTED]
    assert [broker.submitted[future.seq] for future in after] == [[Flag.IDEMPOTENT]] * 3


def test_the_loss_is_seen_while_there_is_always_more_to_send(broker: FakeBroker, pool: reqpool.Pool) -> None:
    broker.answer = silence
    ask(pool, timeout=60)
    wait_until(lambda: pool.stats().state == "open")
    flood = Thread(target=lambda: [ask(pool, bytes(9_000), timeout=60) for _ in range(5_000)])
    flood.start()
    broker.restart()
    flood.join()
    wait_until(lambda: pool.stats().reconnects == 1)


def test_what_came_before_the_loss_is_read_before_it_is_told() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    results = context.socket(zmq.XPUB)
    results.setsockopt(zmq.SNDHWM, 0)
    port = results.bind_to_random_port("tcp://127.0.0.1")
    link = BrokerSockets(context, b"topic")
    link.subscribe(f"tcp://127.0.0.1:{port}")
    assert results.recv() == b"\1topic"
    for number in range(5 * MESSAGES_PER_TURN):
        results.send_multipart([b"topic", b"%d" % number])
    results.close(linger=10_000)
    received: list[bytes] = []

    def is_lost() -> bool:
        received.extend(frames[1] for frames in turn(link))
        return link.loss is not None

    wait_until(is_lost)
    assert received == [b"%d" % number for number in range(5 * MESSAGES_PER_TURN)]
    link.close(0)
    context.term()


def test_what_came_before_its_connection_was_known_to_stand_is_read_once_it_is(
    context: zmq.Context[zmq.Socket[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = context.socket(zmq.XPUB)
    link = BrokerSockets(context, b"topic")
    suspected: list[Any] = []
    link.subscribe(f"tcp://127.0.0.1:{results.bind_to_random_port('tcp://127.0.0.1')}")
    with monkeypatch.context() as patch:
        patch.setattr(Monitor, "read", lambda self: self.reach)  # libzmq's thread has not reported it yet
        patch.setattr(ListenerProbe, "suspect", lambda self: suspected.append(self))
        assert results.recv() == b"\1topic"
        results.send_multipart([b"topic", b"early"])
        wait_until(lambda: bool(turn(link) or suspected))
    received: list[bytes] = []
    wait_until(lambda: bool(received.extend(frames[1] for frames in turn(link)) or received))
    assert received == [b"early"]
    link.close(0)
    results.close(0)


def test_nothing_is_sent_while_what_came_before_a_loss_is_read(
    context: zmq.Context[zmq.Socket[bytes]],
) -> None:
    broker = context.socket(zmq.ROUTER)
    broker.setsockopt(zmq.SNDHWM, 0)
    url = f"tcp://127.0.0.1:{broker.bind_to_random_port('tcp://127.0.0.1')}"
    link = BrokerSockets(context, b"topic")
    link.dial(url, b"hello")
    route, _ = broker.recv_multipart()
    assert link.has_room()
    for _ in range(3 * MESSAGES_PER_TURN):
        broker.send_multipart([route, b"word"])
    broker.close(linger=10_000)
    wait_until(lambda: bool(turn(link)) and not link.has_room())
    assert link.loss is None, "not all has been read"
    link.close(0)


def test_a_message_that_finds_no_room_goes_out_before_the_next(
    context: zmq.Context[zmq.Socket[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reqpool.broker_sockets.SEND_QUEUE_MESSAGES", 2)
    broker = context.socket(zmq.ROUTER)
    broker.setsockopt(zmq.RCVHWM, 2)
    link = BrokerSockets(context, b"topic")
    link.dial(f"tcp://127.0.0.1:{broker.bind_to_random_port('tcp://127.0.0.1')}", b"hello")
    sent, received = [b"hello"], []
    while link.has_room():
        sent.append(b"%d" % len(sent))
        assert link.send(sent[-1], bytes(1 << 20))
    assert link.blocked
    if link.send(b"late"):  # there is room by now
        sent.append(b"late")

    def all_have_come() -> bool:
        while broker.poll(0):
            received.append(broker.recv_multipart()[1])
        turn(link)
        return len(received) >= len(sent)

    wait_until(all_have_come)
    assert received == sent
    assert link.has_room()
    link.close(0)
    broker.close(0)


def test_a_word_of_the_broker_is_found_though_sending_took_away_the_note_of_it(
    context: zmq.Context[zmq.Socket[bytes]],
) -> None:
    router, results = context.socket(zmq.ROUTER), context.socket(zmq.XPUB)
    link = BrokerSockets(context, b"topic")
    link.dial(f"tcp://127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}", b"hello")
    link.subscribe(f"tcp://127.0.0.1:{results.bind_to_random_port('tcp://127.0.0.1')}")
    route, _ = router.recv_multipart()
    assert results.recv() == b"\1topic"
    for _ in range(3):
        assert turn(link) == []
    router.send_multipart([route, b"word"])
    assert link._intake is not None
    assert link._intake.poll(10_000)  # takes the note away, as sending may
    link.send(b"heartbeat")
    wait_until(lambda: turn(link) == [[b"word"]])
    link.close(0)
    router.close(0)
    results.close(0)


def turn(link: BrokerSockets) -> list[list[bytes]]:
    """Sleep if there is nothing to be read, and read."""
    if not link.has_messages():
        link.sleep(0.05)
    return [frames for _, frames in link.messages()]


def test_connections_one_after_the_other_cost_no_fd(broker: FakeBroker) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    link = BrokerSockets(context, os.urandom(16))
    link.dial(broker.url, b"hello")
    link.hang_up()
    for _ in range(40):
        with no_leak():  # ZeroMQ closes them by and by
            for number in range(50):
                link.dial(broker.url, b"hello")
                link.subscribe(broker.url)
                if number % 5 == 0:
                    turn(link)
                link.hang_up()
    link.close(0)
    context.term()


# --- something else listens there ----------------------------------------------------------------------


def says(greeting: bytes) -> Script:
    """Speak first, as MySQL, SSH and SMTP servers do."""

    def script(connection: Connection) -> None:
        connection.send(greeting)
        connection.wait_for_end()

    return script


def closes(connection: Connection) -> None:
    """Close what was accepted, as a port forwarder does whose target is not there yet."""


def turns_away(connection: Connection) -> None:
    """Greet and close, as a broker does that has as many connections as it may."""
    connection.send(GREETING)
    connection.sock.shutdown(socket.SHUT_WR)
    connection.wait_for_end()


@contextmanager
def http_server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"tcp://127.0.0.1:{server.server_port}"
        server.shutdown()


def refused(url: str) -> str:
    """Ask at the URL with a long timeout; return what the refusal says."""
    with reqpool.Pool(url, timeout=600) as pool:
        with pytest.raises(reqpool.BrokerUnavailable) as caught:
            ask(pool).result(10)
        pool.close(drain=False)
    return str(caught.value)


def test_an_http_server_that_waits_for_a_line_is_told_apart() -> None:
    with http_server() as url:
        text = refused(url)
    assert url in text
    assert "not a reqpool broker; it sent b'" in text


def test_a_web_server_is_told_apart(nginx: NginxServer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert "not a reqpool broker; it sent b'HTTP/1.1 400" in refused(f"tcp://{nginx.address}")
    assert len(caplog.records) < 10


def test_a_redis_server_is_told_apart(redis_server: RedisServer) -> None:
    assert "not a reqpool broker; it sent b'+PONG" in refused(f"tcp://{redis_server.address}")


@pytest.mark.parametrize(
    "greeting", [b"J\0\0\0\n10.11.6-MariaDB\0", b"SSH-2.0-OpenSSH_9.2\r\n", b"\x15\x03\1\0\2"]
)
def test_a_server_that_speaks_first_is_told_apart(greeting: bytes) -> None:
    with TcpPeer(says(greeting)) as peer:
        assert f"not a reqpool broker; it sent {greeting!r}" in refused(f"tcp://{peer.address}")


@contextmanager
def zeromq_socket(kind: int, *, asks: bool = False) -> Iterator[str]:
    with zmq.Context() as context, context.socket(kind) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.PLAIN_SERVER, asks)
        yield f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"


@pytest.mark.parametrize("kind", [zmq.XPUB, zmq.PULL])
def test_another_zeromq_socket_is_told_apart(kind: int) -> None:
    with zeromq_socket(kind) as url:
        assert "is not the expected socket" in refused(url)


def test_a_zeromq_socket_that_asks_for_a_password_is_told_apart() -> None:
    with zeromq_socket(zmq.ROUTER, asks=True) as url:
        assert "is not the expected socket" in refused(url)


def test_who_closes_connections_is_dialled_more_and_more_rarely() -> None:
    with TcpPeer(closes) as peer, reqpool.Pool(f"tcp://{peer.address}", timeout=600) as pool:
        begun_s = time.monotonic()
        ask(pool)
        peer.wait_accepted(20)
        assert time.monotonic() - begun_s > 1.0  # at 50 a second it would be 0.4
        pool.close(drain=False)


def test_a_broker_that_turns_clients_away_is_dialled_more_and_more_rarely() -> None:
    with TcpPeer(turns_away) as peer, reqpool.Pool(f"tcp://{peer.address}") as pool:
        with pytest.raises(reqpool.RequestTimeout, match=TURNED_AWAY):
            ask(pool, timeout=3).result(20)
        assert peer.accepted < 24  # every 0.1 s, and as often to look who listens, it would be 60


class KeepingContext(zmq.Context[zmq.Socket[bytes]]):
    """Shows what sockets were made."""

    made: list[zmq.Socket[bytes]]

    def socket(self, kind: int, **options: object) -> zmq.Socket[bytes]:
        self.made.append(super().socket(kind, **options))
        return self.made[-1]


@pytest.fixture
def context() -> Iterator[KeepingContext]:
    context = KeepingContext()
    context.made = []
    yield context
    context.destroy(0)


def test_who_turned_clients_away_is_looked_for_often_while_nobody_listens(context: KeepingContext) -> None:
    link = BrokerSockets(context, b"topic")
    with TcpPeer(turns_away) as peer:
        for _ in range(PATIENT_DIALS + 1):
            link.dial(f"tcp://{peer.address}", b"hello")
            wait_until(lambda: turn(link) == [] and link.loss is not None)
            assert link.loss == Loss(TURNED_AWAY)
            link.hang_up()
    link.dial(f"tcp://{peer.address}", b"hello")
    dealer = next(socket for socket in reversed(context.made) if socket.type == zmq.DEALER)
    assert dealer.getsockopt(zmq.RECONNECT_IVL_MAX) == RECONNECT_MS
    link.close(0)


def test_a_connection_that_breaks_as_a_broker_ends_is_made_again_without_a_pause(
    context: KeepingContext,
) -> None:
    link = BrokerSockets(context, b"topic")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        link.dial(url, b"hello")
        connection, _ = listener.accept()
    connection.sendall(GREETING)
    connection.close()
    wait_until(lambda: turn(link) == [] and any(made.type == zmq.STREAM for made in context.made))
    with context.socket(zmq.ROUTER) as successor:
        successor.bind(url)
        wait_until(lambda: turn(link) == [] and (successor.poll(0) or link.loss))
        assert link.loss is None
    link.close(0)


def test_a_broker_that_takes_a_wrong_ones_place_is_found() -> None:
    with TcpPeer(says(b"220 mail.test\r\n")) as peer:
        port = int(peer.address.rpartition(":")[2])
        pool = reqpool.Pool(f"tcp://{peer.address}", timeout=600)
        with pytest.raises(reqpool.BrokerUnavailable, match="220 mail"):
            ask(pool).result(10)
    with FakeBroker(port=port) as broker, pool:
        wait_until(lambda: broker.count(Verb.HELLO))
        wait_until(lambda: pool.stats().state == "open")
        assert ask(pool).result(10) == b"hello"
