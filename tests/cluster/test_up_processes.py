"""``reqpool up`` with real processes: what dies or hangs is replaced, and nothing is left at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import reqpool
from support.cluster import Cluster, cluster
from support.dns_peer import UdpPeer, echo, silent
from support.ports import three_free_ports
from support.redis_peer import commands
from support.tcp_peer import Connection, TcpPeer, echo_until
from support.wait import wait_until


def reqpool_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "reqpool_ops", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env=os.environ | environment,
    )


@pytest.fixture
def running() -> Iterator[Cluster]:
    with cluster(workers=2) as started:
        yield started


def test_a_killed_worker_is_replaced_and_requests_go_on(running: Cluster) -> None:
    before = running.worker_pids
    with UdpPeer(echo) as peer, reqpool.Pool(running.url) as pool:
        assert pool.udp(peer.address, b"one").result(10) == b"one"
        os.kill(before[0], signal.SIGKILL)
        assert pool.udp(peer.address, b"two", idempotent=True).result(10) == b"two"
        wait_until(lambda: before[0] not in running.worker_pids, 15.0)
        after = wait_until(lambda: len(pids := running.worker_pids) == 2 and pids, 15.0)
        assert before[1] in after
        assert pool.udp(peer.address, b"three").result(10) == b"three"
    assert f"worker-1 (pid {before[0]}) was killed by SIGKILL" in running.log()


def test_a_hung_worker_is_killed_and_replaced(running: Cluster) -> None:
    frozen = running.worker_pids[0]
    os.kill(frozen, signal.SIGSTOP)
    wait_until(lambda: not psutil.pid_exists(frozen), 20.0, "the frozen worker is gone")
    wait_until(lambda: len(running.live_workers()) == 2, 15.0)
    assert frozen not in running.worker_pids


def test_status_names_what_is_not_well_while_a_worker_hangs(running: Cluster) -> None:
    assert reqpool_command("status", "--url", running.url).returncode == 0
    frozen = running.worker_pids[0]
    os.kill(frozen, signal.SIGSTOP)
    ill = wait_until(
        lambda: (done := reqpool_command("status", "--url", running.url)).returncode == 1 and done, 15.0
    )
    assert ill.stdout.startswith("Not well: ")
    assert "worker-1" in ill.stdout.splitlines()[0] or "1 of 2 workers" in ill.stdout.splitlines()[0]
    os.kill(frozen, signal.SIGCONT)


def test_a_killed_broker_is_replaced_at_the_same_url(running: Cluster) -> None:
    broker, workers = running.broker_pid, running.worker_pids
    with UdpPeer(echo) as peer, reqpool.Pool(running.url) as pool:
        assert pool.udp(peer.address, b"one").result(10) == b"one"
        os.kill(broker, signal.SIGKILL)
        two = pool.udp(peer.address, b"two", timeout=20, idempotent=True)
        assert two.result(25) == b"two"
    wait_until(lambda: len(running.live_workers()) == 2, 15.0)
    assert running.broker_pid != broker
    assert running.worker_pids == workers  # they came back by themselves


def test_a_frozen_broker_is_replaced(running: Cluster) -> None:
    frozen = running.broker_pid
    os.kill(frozen, signal.SIGSTOP)
    wait_until(lambda: not psutil.pid_exists(frozen), 25.0, "the frozen broker is gone")
    wait_until(lambda: len(running.live_workers()) == 2, 15.0)


def test_nothing_outlives_a_killed_supervisor() -> None:
    with tempfile.TemporaryDirectory(prefix="rp-") as folder:
        started = Cluster(Path(folder), f"ipc://{folder}/pool.sock", 2, ())
        started.wait_ready()
        children = started.children()
        started.kill()
        _, left = psutil.wait_procs(children, timeout=10)
        assert not left


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_everything_in_order(number: signal.Signals) -> None:
    with cluster(workers=1) as started:
        started.supervisor.send_signal(number)
        assert started.supervisor.wait(20) == 0
        assert f"{number.name}: stopping" in started.log()


def test_a_stop_lets_requests_finish() -> None:
    with UdpPeer(echo, held=True) as peer, cluster(workers=1) as started, reqpool.Pool(started.url) as pool:
        future = pool.udp(peer.address, b"slow", timeout=10)
        wait_until(lambda: sum(worker["in_flight"] for worker in started.live_workers()) == 1)
        started.supervisor.send_signal(signal.SIGTERM)
        wait_until(lambda: "SIGTERM: stopping" in started.log())
        peer.release()
        assert future.result(10) == b"slow"


def test_a_stop_serves_others_while_a_slow_request_ends() -> None:
    with (
        UdpPeer(echo, held=True) as slow_peer,
        TcpPeer(echo_until(b"\n")) as peer,
        cluster(workers=1) as started,
        reqpool.Pool(started.url) as slow_pool,
        reqpool.Pool(started.url) as pool,
    ):
        slow = slow_pool.udp(slow_peer.address, b"slow", timeout=20)
        slow_peer.wait_for_queries(1)
        started.supervisor.send_signal(signal.SIGTERM)
        wait_until(lambda: "SIGTERM: stopping" in started.log())
        quick = pool.tcp(peer.address, b"quick\n", until=b"\n", timeout=5)
        assert quick.result() == b"quick\n"
        assert not slow.done()
        slow_peer.release()
        assert slow.result() == b"slow"
        assert started.supervisor.wait(20) == 0
        assert "WARNING" not in started.log()


def says_ok(connection: Connection) -> None:
    for _ in commands(connection):
        connection.send(b"+OK\r\n")


def test_a_stop_serves_others_while_a_client_holds_a_connection() -> None:
    with (
        TcpPeer(says_ok) as redis,
        UdpPeer(echo) as peer,
        cluster(workers=1) as started,
        reqpool.Pool(started.url) as pool,
    ):
        with pool.redis_session(f"redis://{redis.address}") as session:
            session.command("WATCH", "k").result(10)
            started.supervisor.send_signal(signal.SIGTERM)
            wait_until(lambda: "SIGTERM: stopping" in started.log())
            (worker,) = started.live_workers()
            later_s = worker["oldest_s"] + 1.0
            wait_until(lambda: [w["oldest_s"] > later_s for w in started.live_workers()] == [True])
            assert pool.udp(peer.address, b"quick", timeout=5).result() == b"quick"
            session.command("UNWATCH").result(10)
        assert started.supervisor.wait(20) == 0
        assert "WARNING" not in started.log()


def test_a_cluster_on_a_tcp_port_works_and_is_there_once() -> None:
    with cluster(workers=1, bind=f"tcp://127.0.0.1:{three_free_ports()}") as started, UdpPeer(echo) as peer:
        with reqpool.Pool(started.url) as pool:
            assert pool.udp(peer.address, b"hello").result(10) == b"hello"
        second = reqpool_command("up", "--bind", started.url, XDG_RUNTIME_DIR=started.runtime_dir)
        assert second.returncode == 1
        assert f"already running at {started.url} (pid " in second.stderr


class Load:
    """Requests that must not be repeated, one after the other, until it is told to stop."""

    def __init__(self, pool: reqpool.Pool, address: str) -> None:
        self._pool = pool
        self._address = address
        self._ending = threading.Event()
        self.futures: list[reqpool.Future[bytes]] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ending.wait(0.005):
            number = len(self.futures)
            self.futures.append(self._pool.tcp(self._address, b"n%d\n" % number, until=b"\n", timeout=30))

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def check(self, peer: TcpPeer) -> None:
        """Each has ended well and was executed once."""
        errors = [error for future in self.futures if (error := future.exception()) is not None]
        assert errors == []
        lines = peer.received.split(b"\n")[:-1]
        assert sorted(lines) == sorted(b"n%d" % number for number in range(len(self.futures)))


def test_a_restart_under_load_fails_nothing_and_executes_nothing_twice(running: Cluster) -> None:
    before = [child.pid for child in running.children()]
    with (
        TcpPeer(echo_until(b"\n")) as peer,
        reqpool.Pool(running.url) as pool,
        Load(pool, peer.address) as load,
    ):
        wait_until(lambda: any(future.done() for future in load.futures))
        done = reqpool_command("restart", "--url", running.url)
        assert (done.returncode, done.stderr) == (0, "")
        asked = len(load.futures)
        wait_until(lambda: len(load.futures) > asked and load.futures[asked].done(), 20.0)
        load.__exit__()
        load.check(peer)
    assert not set(before) & {child.pid for child in running.children()}
    assert len(running.live_workers()) == 2


def test_a_stop_and_a_new_start_under_load_fail_nothing_and_execute_nothing_twice() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="rp-") as folder,
        TcpPeer(echo_until(b"\n")) as peer,
        cluster(workers=2, bind=f"ipc://{folder}/pool.sock") as first,
        reqpool.Pool(first.url) as pool,
        Load(pool, peer.address) as load,
    ):
        wait_until(lambda: any(future.done() for future in load.futures))
        assert first.stop() == 0
        with cluster(workers=2, bind=first.url):
            asked = len(load.futures)
            wait_until(lambda: len(load.futures) > asked and load.futures[asked].done(), 20.0)
            load.__exit__()
            load.check(peer)


def test_a_broker_killed_while_workers_drain_is_replaced_and_their_results_arrive() -> None:
    with UdpPeer(echo, held=True) as peer, cluster(workers=1) as started, reqpool.Pool(started.url) as pool:
        future = pool.udp(peer.address, b"slow", timeout=20)
        peer.wait_for_queries(1)
        broker = started.broker_pid
        started.supervisor.send_signal(signal.SIGTERM)
        wait_until(lambda: "SIGTERM: stopping" in started.log())
        os.kill(broker, signal.SIGKILL)
        wait_until(lambda: "the broker is back" in started.log())
        peer.release()
        assert future.result() == b"slow"


def test_an_embedded_cluster_goes_when_its_parent_is_killed() -> None:
    with tempfile.TemporaryDirectory(prefix="rp-") as outer:
        folder = Path(outer, "own")
        folder.mkdir(mode=0o700)
        parent = subprocess.Popen(["sleep", "60"])
        embedded = subprocess.Popen(
            [
                sys.executable, "-m", "reqpool_ops", "up", "--embedded", "--parent-pid", str(parent.pid),
                "--bind", f"ipc://{folder}/intake", "--workers", "1",
            ]
        )  # fmt: skip
        wait_until(lambda: len(psutil.Process(embedded.pid).children()) == 2)
        children = psutil.Process(embedded.pid).children()
        parent.kill()
        parent.wait()
        embedded.wait(10)
        assert not any(child.is_running() for child in children)
        assert not folder.exists()


def test_an_embedded_pool_closes_promptly_and_silently_over_a_silent_upstream() -> None:
    program = """
import sys, time, reqpool
pool = reqpool.Pool()
future = pool.udp(sys.argv[1], b"hello", timeout=20)
sys.stdin.readline()
began_s = time.monotonic()
pool.close(timeout=0.5)
print(time.monotonic() - began_s, future.done())
"""
    with (
        UdpPeer(silent) as peer,
        subprocess.Popen(
            [sys.executable, "-c", program, peer.address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as app,
    ):
        peer.wait_for_queries(1)
        said, complaints = app.communicate("\n", timeout=30)
    elapsed_s, done = said.split()
    assert (app.returncode, complaints, done) == (0, "", "True")
    assert float(elapsed_s) < 2.0


def test_two_clusters_share_a_folder_with_files_of_the_user() -> None:
    with tempfile.TemporaryDirectory(prefix="rp-") as folder, UdpPeer(echo) as peer:
        for name in ("results", "workers"):
            Path(folder, name).write_text("precious")
        with (
            cluster(workers=1, bind=f"ipc://{folder}/one.sock") as one,
            cluster(workers=1, bind=f"ipc://{folder}/two.sock") as two,
        ):
            for started in (one, two):
                with reqpool.Pool(started.url) as pool:
                    assert pool.udp(peer.address, b"hello").result(10) == b"hello"
            os.kill(one.broker_pid, signal.SIGKILL)  # its successor takes its own places again
            with reqpool.Pool(two.url) as pool:
                assert pool.udp(peer.address, b"hello").result(10) == b"hello"
            with reqpool.Pool(one.url) as pool:
                assert pool.udp(peer.address, b"hello").result(10) == b"hello"
        left = sorted(path.name for path in Path(folder).iterdir())
        assert left == ["one.sock.lock", "results", "two.sock.lock", "workers"]
        assert Path(folder, "results").read_text() == Path(folder, "workers").read_text() == "precious"


def test_what_stands_in_the_way_of_any_of_the_three_sockets_is_left_alone() -> None:
    with tempfile.TemporaryDirectory(prefix="rp-") as folder:
        Path(folder, "one.sock.workers").write_text("precious")
        done = reqpool_command("up", "--bind", f"ipc://{folder}/one.sock")
        assert done.returncode == 1
        said = f"{folder}/one.sock.workers exists and is not a socket; remove it or bind elsewhere"
        assert done.stderr == f"reqpool: {said}\n"
        assert Path(folder, "one.sock.workers").read_text() == "precious"


def test_an_explicit_path_in_an_open_folder_is_refused() -> None:
    with tempfile.TemporaryDirectory(prefix="rp-") as folder:
        Path(folder).chmod(0o711)
        done = reqpool_command("up", "--bind", f"ipc://{folder}/one.sock")
        assert (done.returncode, done.stderr) == (
            1,
            f"reqpool: {folder} is open to others (mode 0711); "
            "chmod 700 it, or use another (XDG_RUNTIME_DIR, --bind)\n",
        )  # fmt: skip
