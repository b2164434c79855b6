"""Raw UDP and TCP through a whole cluster, against scripted peers that behave and that do not."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import reqpool
from support.cluster import Cluster, cluster
from support.dns_peer import UdpPeer, closed_port, echo
from support.ports import HOST
from support.tcp_peer import (
    Connection,
    Script,
    TcpPeer,
    answers,
    drips,
    echo_until,
    floods,
    never_answers,
    resets_after,
)
from support.wait import wait_until

CONNECTION_CAP = 64


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    with cluster(workers=3) as started, started.no_fds_left():
        yield started


# --- udp ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"hello", b"", bytes(51_200)], ids=["hello", "empty", "large"])
def test_a_datagram_comes_back(pool: reqpool.Pool, data: bytes) -> None:
    with UdpPeer(echo) as peer:
        assert pool.udp(peer.address, data).result(5) == data
        assert peer.queries == [data]


def test_a_datagram_is_not_sent_again(pool: reqpool.Pool) -> None:
    with UdpPeer(echo, held=True) as peer:
        with pytest.raises(reqpool.RequestTimeout) as caught:
            pool.udp(peer.address, b"hello", timeout=1.0).result(5)
        assert (caught.value.phase, caught.value.sent) == ("read", True)
        assert peer.queries == [b"hello"]
        peer.release()  # the port is kept until then


def test_a_server_of_default_size_that_is_busy_for_a_moment_loses_no_datagram(
    running: Cluster, pool: reqpool.Pool
) -> None:
    def about() -> dict[str, Any]:
        about: dict[str, Any] = running.report()["origins"].get(f"udp://{address}", {})
        return about

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((HOST, 0))
        server.settimeout(5.0)
        address = f"{HOST}:{server.getsockname()[1]}"
        payloads = [b"%1400d" % number for number in range(1000)]
        futures = [pool.udp(address, payload) for payload in payloads]
        wait_until(lambda: about() and about()["in_flight"] + about()["queued"] == len(payloads))
        for _ in payloads:
            server.sendto(*server.recvfrom(2000))
        assert [future.result(5) for future in futures] == payloads


def test_a_datagram_to_a_closed_port_is_connect_failed(pool: reqpool.Pool) -> None:
    with pytest.raises(reqpool.ConnectFailed, match="refused"):
        pool.udp(closed_port(), b"hello").result(5)


# --- tcp ---------------------------------------------------------------------------------------------


def test_an_answer_ends_at_its_delimiter_its_length_or_the_close(pool: reqpool.Pool) -> None:
    with TcpPeer(echo_until(b"\n")) as peer:
        assert pool.tcp(peer.address, b"hello\n", until=b"\n").result(5) == b"hello\n"
        assert pool.tcp(peer.address, b"hello\n", length=3).result(5) == b"hel"
    with TcpPeer(answers(b"all of it")) as peer:
        assert pool.tcp(peer.address, b"?\n").result(5) == b"all of it"


def test_megabytes_go_both_ways(pool: reqpool.Pool) -> None:
    data = os.urandom(12 << 20).replace(b"\n", b"\r") + b"\n"
    with TcpPeer(echo_until(b"\n")) as peer:
        assert pool.tcp(peer.address, data, until=b"\n", timeout=20.0).result(20) == data


@pytest.mark.parametrize(
    ("script", "error", "sent"),
    [
        (answers(b"half"), reqpool.ConnectionLost, True),
        (resets_after(b"half"), reqpool.ConnectionLost, True),
        (resets_after(b""), reqpool.ConnectionLost, True),
        (answers(b""), reqpool.ConnectionLost, True),
        (floods, reqpool.BadResponse, True),
        (never_answers, reqpool.RequestTimeout, True),
        (drips(b"half of it"), reqpool.RequestTimeout, True),
    ],
    ids=["closes in mid answer", "resets in mid answer", "resets", "closes", "floods", "is silent", "drips"],
)
def test_a_bad_peer_is_the_right_error(
    pool: reqpool.Pool, script: Script, error: type[reqpool.PoolError], sent: bool
) -> None:
    with TcpPeer(script) as peer:
        with pytest.raises(error) as caught:
            pool.tcp(peer.address, b"?\n", until=b"\n", max_bytes=1 << 20, timeout=1.0).result(3)
        assert caught.value.sent is sent
        assert caught.value.origin == f"tcp://{peer.address}"
        assert peer.accepted == 1, "what may have been acted on is not tried again"
        if isinstance(caught.value, reqpool.RequestTimeout):
            assert caught.value.phase == "read"
        for _ in range(10):
            peer.go.release()
        peer.wait_all_closed()


def test_a_peer_that_goes_on_dripping_does_not_outlast_the_timeout(pool: reqpool.Pool) -> None:
    with TcpPeer(drips(b"x" * 1000)) as peer:
        began_s = time.monotonic()
        future = pool.tcp(peer.address, b"?\n", timeout=1.0)
        while not future.done():
            peer.go.release()
            assert not threading.Event().wait(0.01)
            assert time.monotonic() - began_s < 2.0
        with pytest.raises(reqpool.RequestTimeout):
            future.result(0)


def test_a_closed_tcp_port_was_sent_nothing(pool: reqpool.Pool) -> None:
    with pytest.raises(reqpool.ConnectFailed, match="refused") as caught:
        pool.tcp(closed_port(), b"?\n").result(5)
    assert caught.value.sent is False


class Counting:
    """A script that counts open connections on the peer's side: from before its answer, it is one less."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self.most = 0
        self.may_answer = threading.Event()

    def __call__(self, connection: Connection) -> None:
        with self._lock:
            self._open += 1
            self.most = max(self.most, self._open)
        try:
            connection.read_until(b"\n")
            assert self.may_answer.wait(20)
        finally:
            with self._lock:
                self._open -= 1
        connection.send(b"ok")


@pytest.mark.parametrize("stop_a_worker", [False, True], ids=["", "while a worker stops"])
def test_no_upstream_ever_sees_more_than_its_connections(stop_a_worker: bool) -> None:
    counting = Counting()
    with (
        cluster(workers=3) as running,
        reqpool.Pool(running.url, timeout=20.0) as pool,
        reqpool.Pool(running.url, timeout=20.0) as other,
        TcpPeer(counting) as peer,
    ):
        futures = []
        for number in range(250):
            futures += [producer.tcp(peer.address, b"%d\n" % number) for producer in (pool, other)]
        wait_until(lambda: counting.most == CONNECTION_CAP)
        if stop_a_worker:
            stopped = running.holder()
            os.kill(stopped, signal.SIGTERM)
            wait_until(lambda: stopped not in running.worker_pids, 10.0, "it drains")
        counting.may_answer.set()
        assert [future.result(30) for future in futures] == [b"ok"] * 500
        assert counting.most == CONNECTION_CAP
        assert peer.accepted == 500
        running.wait_settled()


# --- kinds -------------------------------------------------------------------------------------------

MEMO = """
from reqpool.kinds import Kind, Route

class Memo(Kind):
    name = "memo"

    def encode(self, target, payload):
        return Route(self, (f"memo://{target}",), False), payload, None

    def decode(self, data, request):
        return data

KIND = Memo()
"""


def test_a_kind_that_the_workers_do_not_have_is_said(
    pool: reqpool.Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memo_kind.py").write_text(MEMO)
    about = tmp_path / "memo_kind-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: memo-kind\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[reqpool.kinds]\nmemo = memo_kind:KIND\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    future = pool.submit("memo", "127.0.0.1:11211", b"get k")
    with pytest.raises(
        reqpool.UsageError, match=r"no worker serves kind 'memo'; served: .*dns.*tcp, udp"
    ) as caught:
        future.result(5)
    assert caught.value.sent is False
    with pytest.raises(reqpool.UsageError, match=r"unknown kind 'gopher'; installed kinds: dns, .*memo"):
        pool.submit("gopher", "127.0.0.1:70", b"")


def test_large_answers_of_many_arrive_whole_and_small_ones_among_them(running: Cluster) -> None:
    def answers_as_asked(connection: Connection) -> None:
        size, number = map(int, connection.read_until(b"\n").split())
        connection.send(b"%d " % number * size)

    sizes = [300_000, 40_000, 1, 900_000, 60_000, 2]  # times the length of the number, and a space
    with (
        TcpPeer(answers_as_asked) as peer,
        reqpool.Pool(running.url) as one,
        reqpool.Pool(running.url) as other,
    ):
        asked = {}
        for number in range(100, 172):
            size = sizes[number % len(sizes)]
            pool = one if number % 2 else other
            asked[number, size] = pool.tcp(peer.address, b"%d %d\n" % (size, number))
        for (number, size), future in asked.items():
            assert future.result(60) == b"%d " % number * size
        running.wait_settled()
