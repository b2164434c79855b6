"""What a caller may do wrong is said at the call, or within seconds, by a whole cluster and its commands."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import reqpool
from support.cluster import Cluster, cluster
from support.dns_peer import UdpPeer, echo
from support.ports import free_port
from support.program import program
from support.tcp_peer import TcpPeer, echo_until

SAID_WITHIN_S = 2.5
MAX_PAYLOAD_BYTES = 16 << 20


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    with cluster(workers=1) as started:
        yield started


@pytest.fixture(scope="module")
def pool(running: Cluster) -> Iterator[reqpool.Pool]:
    with reqpool.Pool(running.url) as opened:
        yield opened


@pytest.mark.parametrize(
    ("method", "arguments", "said"),
    [
        ("dns", ("a" * 64 + ".test",), "63"),
        ("dns", (".".join(["a" * 63] * 4) + ".test",), "255"),
        ("dns", ("a..test",), "label"),
        ("dns", ("a.test", "NONSENSE"), "NONSENSE"),
        ("dns", (None,), "None"),
        ("udp", ("127.0.0.1", b"x"), "port"),
        ("udp", ("name.test:53", b"x"), "numeric"),
        ("udp", ("127.0.0.1:9", "text"), "encode"),
        ("udp", ("127.0.0.1:9", bytes(65_508)), "65507"),
        ("tcp", ("127.0.0.1:9", bytes(MAX_PAYLOAD_BYTES + 1)), str(MAX_PAYLOAD_BYTES)),
        ("submit", ("gopher", "127.0.0.1:70", b"x"), "gopher"),
    ],
)
def test_a_wrong_request_is_refused_at_the_call(
    pool: reqpool.Pool, method: str, arguments: tuple[Any, ...], said: str
) -> None:
    before = pool.stats().submitted
    with pytest.raises(reqpool.UsageError, match=said):
        getattr(pool, method)(*arguments)
    assert pool.stats().submitted == before


def test_the_largest_payload_passes(pool: reqpool.Pool) -> None:
    data = bytes(MAX_PAYLOAD_BYTES - 100) + b"\n"
    with TcpPeer(echo_until(b"\n")) as peer:
        assert pool.tcp(peer.address, data, until=b"\n", timeout=20.0).result(30) == data


def test_a_closed_pool_refuses(running: Cluster) -> None:
    with UdpPeer(echo) as peer:
        with reqpool.Pool(running.url) as pool:
            future = pool.udp(peer.address, b"hello")
        assert future.result(0) == b"hello"
        with pytest.raises(reqpool.UsageError, match="closed"):
            pool.udp(peer.address, b"hello")


@pytest.fixture(params=["no port", "no socket", "stale socket", "not a broker"])
def dead_url(request: pytest.FixtureRequest) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="rp-") as folder, socket.create_server(("127.0.0.1", 0)) as mute:
        match request.param:
            case "no port":
                yield f"tcp://127.0.0.1:{free_port()}"
            case "no socket":
                yield f"ipc://{folder}/nobody.sock"
            case "stale socket":
                with socket.socket(socket.AF_UNIX) as dead:
                    dead.bind(f"{folder}/dead.sock")
                yield f"ipc://{folder}/dead.sock"
            case _:
                yield f"tcp://127.0.0.1:{mute.getsockname()[1]}"


def test_a_url_where_nobody_answers_is_waited_for_until_the_timeout_and_named(dead_url: str) -> None:
    with reqpool.Pool(dead_url, timeout=1.0) as pool:
        with pytest.raises(reqpool.RequestTimeout, match="is `reqpool up` running there") as caught:
            pool.udp("127.0.0.1:9", b"x").result(10)
        assert dead_url in str(caught.value)
        assert (caught.value.phase, caught.value.sent) == ("cluster", False)


LATER = """
import sys
from reqpool_contract import wire
wire.LOWEST_VERSION = wire.VERSION = 7
import reqpool
with reqpool.Pool(sys.argv[1], timeout=30) as pool:
    try:
        pool.udp("127.0.0.1:9", b"x").result(5)
    except reqpool.BrokerUnavailable as error:
        print(error)
"""


def test_a_client_of_another_version_is_told_both(running: Cluster) -> None:
    began_s = time.monotonic()
    with program(LATER, running.url) as client:
        status, said, errors = client.end()
    assert (status, errors) == (0, "")
    assert "1 to 1" in said
    assert "7 to 7" in said
    assert time.monotonic() - began_s < SAID_WITHIN_S


def up(bind: str, runtime_dir: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "reqpool_ops", "up", "--bind", bind],
        capture_output=True,
        text=True,
        timeout=20,
        env=os.environ | {"XDG_RUNTIME_DIR": runtime_dir},
    )


def test_a_second_cluster_on_the_same_socket_is_refused_and_the_first_goes_on(
    running: Cluster, pool: reqpool.Pool
) -> None:
    second = up(running.url, running.runtime_dir)
    assert second.returncode == 1
    assert second.stderr.count("\n") == 1
    assert str(running.supervisor.pid) in second.stderr
    with UdpPeer(echo) as peer:
        assert pool.udp(peer.address, b"hello").result(5) == b"hello"


def test_a_cluster_takes_the_place_of_one_that_was_killed() -> None:
    with tempfile.TemporaryDirectory(prefix="rp-") as folder:
        bind = f"ipc://{folder}/pool.sock"
        first = Cluster(Path(folder), bind, 1, ())
        first.wait_ready()
        processes = first.children()
        for process in processes:  # so that nobody can clean up
            process.send_signal(signal.SIGKILL)
        first.kill()
        psutil.wait_procs(processes, timeout=5)
        assert Path(folder, "pool.sock").is_socket()
        with (
            UdpPeer(echo) as peer,
            cluster(Path(folder), workers=1, bind=bind) as second,
            reqpool.Pool(second.url) as pool,
        ):
            assert pool.udp(peer.address, b"hello").result(5) == b"hello"
        assert not Path(folder, "pool.sock").exists()
