"""``reqpool up --config``: upstreams by name, and SIGHUP while the cluster runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import reqpool
from support.cluster import Cluster, cluster
from support.redis_server import RedisServer
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


def knows(pool: reqpool.Pool, name: str) -> bool:
    try:
        return bool(pool.tcp(name, b"hello\n", until=LINE).result(10) == b"hello\n")
    except reqpool.UsageError:
        return False


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
            said = f"{file}:3: upstreams.echo.max_connections: 0 is not a whole number from 1 to 1000000"
            reload(running, said)
            assert "ERROR SIGHUP: the configuration stays as it was:" in running.log()
            assert pool.tcp("echo", b"hello\n", until=LINE).result(10) == b"hello\n"
            # Neither does a broker that takes the place of another read what is wrong.
            before = running.broker_pid
            os.kill(before, signal.SIGKILL)
            wait_until(lambda: "the broker is back" in running.log(), 10.0)
            assert pool.tcp("echo", b"again\n", until=LINE).result(10) == b"again\n"
            assert running.broker_pid != before


def test_reloads_while_a_broker_comes_up_reach_it(file: Path) -> None:
    with TcpPeer(echo_until(LINE)) as peer:
        file.write_text("")
        with (
            cluster(workers=1, arguments=("--config", str(file))) as running,
            reqpool.Pool(running.url) as pool,
        ):
            os.kill(running.broker_pid, signal.SIGKILL)
            last = 0
            while "the broker is back" not in running.log():
                last += 1
                file.write_text(echo_table(f"echo-{last}", peer))
                reload(running, f"SIGHUP: new configuration: added: echo-{last}")
            assert last > 1
            wait_until(lambda: knows(pool, f"echo-{last}"), 5.0)


@pytest.mark.usefixtures("redis_server")  # which says so where there is none
def test_a_password_comes_from_its_file_and_may_change(file: Path) -> None:
    secret = file.with_name("secret")
    with RedisServer("user app on >hunter2 ~* +@all") as redis:
        url = f"redis://app@{redis.address}/0"
        cache = f'[upstreams.cache]\nurl = "{url}"\npassword_file = "secret"\n'
        file.write_text(cache)
        secret.write_text("hunter2\n")
        with (
            cluster(workers=1, arguments=("--config", str(file))) as running,
            reqpool.Pool(running.url) as pool,
        ):
            assert pool.redis("cache", "SET", "k", "v").result(10) == b"OK"
            # Who knows the URL need not know the password, and shares the connection.
            assert pool.redis(url, "GET", "k").result(10) == b"v"
            (connection,) = redis.clients()
            file.write_text(f"{cache}[upstreams.names]\nurl = 'dns://127.0.0.1:53'\n")
            reload(running, f"{CHANGED}added: names")
            assert pool.redis("cache", "GET", "k").result(10) == b"v"
            assert [client["id"] for client in redis.clients()] == [connection["id"]]

            redis.command("ACL", "SETUSER", "app", "resetpass", ">hunter3")
            secret.write_text("hunter3\n")
            reload(running, f"{CHANGED}changed: cache")
            assert pool.redis("cache", "GET", "k").result(10) == b"v"
            others = {client["id"] for client in redis.clients()} - {connection["id"]}
            assert others  # the old one is not for those who have the new password
            with pytest.raises(reqpool.ConnectFailed, match="WRONGPASS"):
                pool.redis(url.replace("app@", "app:hunter1@"), "GET", "k").result(10)
            assert "hunter" not in running.log()


def test_a_broker_of_its_own_reads_its_file_at_start_and_at_sighup(file: Path) -> None:
    log = file.with_name("log")
    command = [
        sys.executable,
        "-m",
        "reqpool_ops.lone_broker",
        "--bind",
        f"ipc://{file.parent}/b",
        "--config",
        str(file),
    ]
    file.write_text("[upstreams.names]\n")
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert done.stderr.endswith(f"{file}:1: upstreams.names: has no url\n")
    file.write_text("[upstreams.names]\nurl = 'dns://127.0.0.1:53'\n")
    with (
        log.open("wb") as opened,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=opened, text=True) as broker,
    ):
        assert broker.stdout is not None
        assert '"epoch"' in broker.stdout.readline()
        file.write_text("")
        broker.send_signal(signal.SIGHUP)
        wait_until(lambda: "new configuration: removed: names" in log.read_text())
        file.write_text("[upstreams.names]\n")
        broker.send_signal(signal.SIGHUP)
        wait_until(lambda: f"{file}:1: upstreams.names: has no url" in log.read_text())
        broker.send_signal(signal.SIGTERM)
    assert broker.returncode == 0
