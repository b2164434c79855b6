"""``reqpool up --config``: upstreams by name, and SIGHUP while the cluster runs."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import reqpool
from support.cluster import Cluster, cluster
from support.tcp_peer import Connection, TcpPeer, echo_until
from support.wait import wait_until

LINE = b"\n"


@pytest.fixture
def file() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rp-") as folder:
        yield Path(folder, "reqpool.toml")


def echo_table(name: str, peer: TcpPeer, more: str = "") -> str:
    return f'[upstreams.{name}]\nurl = "tcp://{peer.address}"\n{more}\n'


def reload(running: Cluster, said: str) -> None:
    """Send SIGHUP and wait until it was heard by whom it concerns."""
    before = len(running.log())
    running.supervisor.send_signal(signal.SIGHUP)
    wait_until(lambda: said in running.log()[before:], 5.0, said)


CHANGED = " broker INFO new configuration: "


def test_a_name_is_an_upstream(file: Path) -> None:
    with TcpPeer(echo_until(LINE)) as peer:
        file.write_text(echo_table("echo", peer))
        with (
            cluster(workers=1, arguments=("--config", str(file))) as running,
            reqpool.Pool(running.url) as pool,
        ):
            assert pool.tcp("echo", b"hello\n", until=LINE).result(10) == b"hello\n"
            with pytest.raises(
                reqpool.UsageError, match=r"no upstream 'ehco'; its upstreams of kind 'tcp': echo"
            ):
                pool.tcp("ehco", b"hello\n", until=LINE).result(10)
            with pytest.raises(reqpool.UsageError, match=r"upstream 'echo' .* is for tcp, not 'udp'"):
                pool.udp("echo", b"hello").result(10)


def test_a_reload_changes_what_changed_and_keeps_the_rest(file: Path) -> None:
    with TcpPeer(echo_until(LINE)) as one, TcpPeer(echo_until(LINE)) as two:
        file.write_text(echo_table("one", one))
        with (
            cluster(workers=1, arguments=("--config", str(file))) as running,
            reqpool.Pool(running.url) as pool,
        ):
            broker, workers = running.broker_pid, running.worker_pids
            assert pool.tcp("one", b"1\n", until=LINE).result(10) == b"1\n"
            file.write_text(echo_table("one", one) + echo_table("two", two))
            reload(running, f"{CHANGED}added: two")
            assert pool.tcp("two", b"2\n", until=LINE).result(10) == b"2\n"
            assert pool.tcp("one", b"3\n", until=LINE).result(10) == b"3\n"
            file.write_text(echo_table("two", two))
            reload(running, f"{CHANGED}removed: one")
            with pytest.raises(reqpool.UsageError, match="no upstream 'one'"):
                pool.tcp("one", b"4\n", until=LINE).result(10)
            assert pool.tcp(one.address, b"5\n", until=LINE).result(10) == b"5\n"
            reload(running, "SIGHUP: new configuration: nothing changed")
            assert (running.broker_pid, running.worker_pids) == (broker, workers)


def test_a_new_limit_holds_at_once(file: Path) -> None:
    def held(connection: Connection) -> None:
        connection.read_until(LINE)
        connection.peer.wait_for_go()
        connection.send(LINE)

    with TcpPeer(held) as peer:
        file.write_text(echo_table("slow", peer, "max_connections = 1"))
        with (
            cluster(workers=2, arguments=("--config", str(file))) as running,
            reqpool.Pool(running.url) as pool,
        ):
            futures = [pool.tcp("slow", LINE, until=LINE, timeout=30) for _ in range(6)]
            wait_until(lambda: peer.accepted == 1)
            file.write_text(echo_table("slow", peer, "max_connections = 3"))
            reload(running, f"{CHANGED}changed: slow")
            wait_until(lambda: peer.accepted == 3)
            (origin,) = running.report()["origins"].values()
            assert origin["limit"] == 3
            peer.go.release(6)
            assert [future.result(30) for future in futures] == [LINE] * 6


def test_a_wrong_file_is_said_and_changes_nothing(file: Path) -> None:
    with TcpPeer(echo_until(LINE)) as peer:
        file.write_text(echo_table("echo", peer))
        with (
            cluster(workers=1, arguments=("--config", str(file))) as running,
            reqpool.Pool(running.url) as pool,
        ):
            file.write_text(echo_table("echo", peer, "max_connections = 0"))
            said = f"{file}:3: upstreams.echo.max_connections: 0 is no whole number from 1 to 1000000"
            reload(running, said)
            assert "ERROR SIGHUP: the configuration stays as it was:" in running.log()
            assert pool.tcp("echo", b"hello\n", until=LINE).result(10) == b"hello\n"
            # Neither does a broker that takes the place of another read what is wrong.
            before = running.broker_pid
            os.kill(before, signal.SIGKILL)
            wait_until(lambda: "the broker is back" in running.log(), 10.0)
            assert pool.tcp("echo", b"again\n", until=LINE).result(10) == b"again\n"
            assert running.broker_pid != before


def test_a_reload_while_there_is_no_broker_reaches_the_next_one(file: Path) -> None:
    with TcpPeer(echo_until(LINE)) as peer:
        file.write_text("")
        with (
            cluster(workers=1, arguments=("--config", str(file))) as running,
            reqpool.Pool(running.url) as pool,
        ):
            file.write_text(echo_table("echo", peer))
            os.kill(running.broker_pid, signal.SIGKILL)
            reload(running, "SIGHUP: new configuration: added: echo")
            wait_until(lambda: "the broker is back" in running.log(), 10.0)
            assert pool.tcp("echo", b"hello\n", until=LINE).result(10) == b"hello\n"
