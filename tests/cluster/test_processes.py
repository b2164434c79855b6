"""The processes that use a pool: pre-forked web workers, forks, threads, asyncio, sudden ends."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import http.client
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import reqpool
from support.cluster import Cluster, cluster
from support.dns_peer import ADDRESS, DnsPeer, silent
from support.ends import Ends
from support.ports import free_port
from support.program import program
from support.tcp_peer import TcpPeer, never_answers
from support.wait import wait_until

TESTS = Path(__file__).parents[1]
WEB_WORKERS = 4
SOCKETS_PER_SERVER = 4
"""UDP sockets that one pool worker uses towards one name server."""


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    with cluster(workers=2) as started:
        yield started


@pytest.fixture
def pool(running: Cluster) -> Iterator[reqpool.Pool]:
    with reqpool.Pool(running.url, timeout=20.0) as opened:
        yield opened
    assert opened.stats().pending == 0
    running.wait_settled()


# --- pre-forked web workers --------------------------------------------------------------------------


class Web:
    """gunicorn with four synchronous workers."""

    def __init__(self, address: str, master: subprocess.Popen[bytes]) -> None:
        self.address = address
        self.master = master

    def get(self, name: str) -> tuple[int, str]:
        """GET /name; returns the worker's pid and what it found."""
        connection = http.client.HTTPConnection(self.address, timeout=20)
        with contextlib.closing(connection):
            connection.request("GET", f"/{name}")
            answer = connection.getresponse()
            assert answer.status == 200
            pid, _, found = answer.read().decode().partition(" ")
            return int(pid), found

    def workers(self) -> set[int]:
        """The pids of its workers."""
        found = set()
        for child in psutil.Process(self.master.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if "reqpool_ops" not in child.cmdline():
                    found.add(child.pid)
        return found


@contextlib.contextmanager
def web_app(log: Path, *options: str, **environment: str) -> Iterator[Web]:
    address = f"127.0.0.1:{free_port()}"
    command = [
        "gunicorn", "support.web_app:app", "--pythonpath", str(TESTS), "--bind", address,
        "--workers", str(WEB_WORKERS), *options,
    ]  # fmt: skip
    # Read from the folder it runs in; names that a version does not know are ignored.
    (log.parent / "gunicorn.conf.py").write_text('control_socket_disable = True\nloglevel = "warning"\n')
    with log.open("wb") as out:
        master = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=log.parent,
            env=os.environ | environment,
            stdout=out,
            stderr=out,
        )
    web = Web(address, master)
    try:

        def serves() -> bool:
            assert master.poll() is None, log.read_text()
            with contextlib.suppress(OSError, http.client.HTTPException):
                return bool(web.get(""))
            return False

        wait_until(serves, 20.0, "gunicorn serves")
        wait_until(lambda: len(web.workers()) == WEB_WORKERS)
        yield web
    finally:
        family = psutil.Process(master.pid).children(recursive=True)
        master.terminate()
        try:
            master.wait(20)
        except subprocess.TimeoutExpired:
            master.kill()
            master.wait()
        _, left = psutil.wait_procs(family, timeout=10)
        for process in left:
            process.kill()
        print(log.read_text())
    assert not left, f"left behind: {left}"
    assert "Traceback" not in log.read_text()


def browse(web: Web, count: int) -> Counter[int]:
    """GET so many pages from 8 threads at a time; returns how many each worker served."""
    with concurrent.futures.ThreadPoolExecutor(8) as browsers:
        pages = list(browsers.map(lambda number: web.get(f"n{number}.test"), range(count)))
    assert {found for _, found in pages} == {ADDRESS}
    return Counter(pid for pid, _ in pages)


def browse_with_all(web: Web) -> Counter[int]:
    """Browse until every worker has served something."""
    served: Counter[int] = Counter()

    def all_served() -> bool:
        served.update(browse(web, 100))
        return len(served) == WEB_WORKERS

    wait_until(all_served, 20.0, "every web worker has served")
    return served


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["app loaded after fork", "before fork"])
def test_prefork_web_workers_share_the_pools_connections(
    running: Cluster, tmp_path: Path, options: tuple[str, ...]
) -> None:
    with (
        DnsPeer() as peer,
        web_app(tmp_path / "log", *options, REQPOOL_URL=running.url, APP_DNS=peer.address) as web,
    ):
        served = browse_with_all(web)
        sessions = [session["pid"] for session in running.report()["sessions"]]
        assert sorted(sessions) == sorted(served), "one session for each process that asks"
        assert len(set(peer.senders)) <= SOCKETS_PER_SERVER, "connections do not multiply with processes"
    wait_until(lambda: not running.report()["sessions"], 10.0, "the web workers said goodbye")
    running.wait_settled()


def test_a_web_worker_killed_in_mid_request_disturbs_no_other(running: Cluster, tmp_path: Path) -> None:
    with (
        DnsPeer() as quick,
        DnsPeer(held=True) as slow,
        web_app(tmp_path / "log", "--preload", REQPOOL_URL=running.url, APP_DNS=slow.address) as web,
        concurrent.futures.ThreadPoolExecutor(WEB_WORKERS) as browsers,
        reqpool.Pool(running.url) as pool,
    ):
        pages = [browsers.submit(web.get, f"n{number}.test") for number in range(WEB_WORKERS)]
        wait_until(lambda: len(running.report()["sessions"]) == WEB_WORKERS)
        wait_until(lambda: running.report()["origins"][f"dns://{slow.address}"]["in_flight"] == WEB_WORKERS)
        victim = next(iter(web.workers()))
        os.kill(victim, signal.SIGKILL)
        assert pool.dns("n.test", server=quick.address).result(5).records[0].value == ADDRESS
        slow.release()
        errors = [page.exception(20) for page in pages]
        assert len([error for error in errors if error is None]) == WEB_WORKERS - 1
        assert {page.result()[1] for page in pages if page.exception() is None} == {ADDRESS}
        assert victim not in {page.result()[0] for page in pages if page.exception() is None}
        wait_until(lambda: len(web.workers() - {victim}) == WEB_WORKERS, 10.0, "gunicorn replaces it")
        assert len(browse_with_all(web)) == WEB_WORKERS
    running.wait_settled()


@pytest.mark.parametrize(
    ("options", "warm", "clusters"),
    [((), {}, WEB_WORKERS), (("--preload",), {"APP_WARM": "1"}, 1)],
    ids=["each its own", "one made before the fork"],
)
def test_prefork_web_workers_with_embedded_pools(
    tmp_path: Path, options: tuple[str, ...], warm: dict[str, str], clusters: int
) -> None:
    with DnsPeer() as peer, web_app(tmp_path / "log", *options, APP_DNS=peer.address, **warm) as web:
        browse_with_all(web)
        family = psutil.Process(web.master.pid).children(recursive=True)
        brokers = [process for process in family if "reqpool_broker" in process.cmdline()]
        assert len(brokers) == clusters
        victim = next(iter(web.workers()))
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(web.workers() - {victim}) == WEB_WORKERS, 10.0, "gunicorn replaces it")
        browse_with_all(web)


# --- fork --------------------------------------------------------------------------------------------

FORK = """
import multiprocessing, sys, warnings
import reqpool

warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork() in a process with threads
url, slow, quick = sys.argv[1:]
pool = reqpool.Pool(url, timeout=20)
held = [pool.dns(f"n{number}.test", server=slow) for number in range(50)]
pool.dns("n.test", server=quick).result()

def child(number):
    for future in held:
        error = future.exception(0)
        assert isinstance(error, reqpool.BrokerUnavailable) and "parent" in str(error), error
    names = [f"c{number}-{at}.test" for at in range(50)]
    return [len(done.result().records) for _, done in pool.map(pool.dns, names, server=quick)]

with multiprocessing.get_context("fork").Pool(3) as processes:
    assert processes.map(child, range(6), chunksize=1) == [[1] * 50] * 6
assert not any(future.done() for future in held)
print("forked", flush=True)
print(sum(len(future.result().records) for future in held), flush=True)
pool.close()
"""


def test_children_of_multiprocessing_have_sessions_of_their_own(running: Cluster) -> None:
    with (
        DnsPeer() as quick,
        DnsPeer(held=True) as slow,
        program(FORK, running.url, slow.address, quick.address) as parent,
    ):
        assert parent.line() == "forked"
        slow.release()
        assert parent.end() == (0, "50\n", "")
    running.wait_settled()


# --- the end of the process --------------------------------------------------------------------------

EXIT = """
import sys, reqpool
url, quick, silent = sys.argv[1:]
pool = reqpool.Pool(url or None, timeout=60, workers=None if url else 1)
pool.dns("n.test", server=quick).result()
futures = [pool.dns(f"n{number}.test", server=silent, callback=print) for number in range(1000)]
print("in flight", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("embedded", [False, True])
def test_exit_with_requests_in_flight_is_quick_and_says_what_is_lost(
    running: Cluster, embedded: bool
) -> None:
    url = "" if embedded else running.url
    with (
        DnsPeer() as quick,
        DnsPeer(held=True) as mute,
        program(EXIT, url, quick.address, mute.address) as leaver,
    ):
        assert leaver.line() == "in flight"
        mute.wait_for_queries(100)
        children = psutil.Process(leaver.pid).children(recursive=True)
        assert len(children) == (3 if embedded else 0)
        leaver.say()
        status, output, said = leaver.end(10.0)
        assert (status, output, said.count("\n")) == (0, "", 1)
        assert "requests pending: 1000" in said
        _, left = psutil.wait_procs(children, timeout=5)
        assert not left
        mute.release()
        running.wait_settled()


EMBEDDED = """
import reqpool, sys
pool = reqpool.Pool(workers=1, timeout=60)
pool.dns("n.test", server=sys.argv[1]).result()
futures = [pool.dns(f"n{number}.test", server=sys.argv[2]) for number in range(100)]
print(pool.stats().url, flush=True)
sys.stdin.readline()
"""


def test_an_embedded_cluster_goes_with_a_killed_process() -> None:
    with DnsPeer() as quick, DnsPeer(silent) as mute, program(EMBEDDED, quick.address, mute.address) as owner:
        folder = Path(owner.line().removeprefix("ipc://")).parent
        mute.wait_for_queries(100)
        children = psutil.Process(owner.pid).children(recursive=True)
        assert len(children) == 3
        assert folder.is_dir()
        owner.process.kill()
        _, left = psutil.wait_procs(children, timeout=10)
        assert not left
        assert not folder.exists()


def embedded_supervisor() -> psutil.Process:
    (supervisor,) = (child for child in psutil.Process().children() if "--embedded" in child.cmdline())
    return supervisor


def test_an_embedded_pool_survives_the_death_of_its_supervisor(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQPOOL_URL", raising=False)
    with (
        DnsPeer() as quick,
        TcpPeer(never_answers) as upstream,
        reqpool.Pool(workers=1, timeout=30.0) as pool,
    ):
        for life in (1, 2):
            pool.dns("n.test", server=quick.address).result()
            once = pool.tcp(upstream.address, b"once", until=b"\n")
            wait_until(lambda life=life: upstream.received.count(b"once") == life)
            supervisor = embedded_supervisor()
            children = supervisor.children()
            supervisor.kill()
            again = pool.dns("again.test", server=quick.address)
            assert isinstance(once.exception(), reqpool.OutcomeUnknown)
            assert len(again.result().records) == 1
            _, left = psutil.wait_procs(children, timeout=10)
            assert not left
            assert upstream.received.count(b"once") == life
    assert caplog.text.count("killed by SIGKILL; another has been started") == 2


# --- threads and loops -------------------------------------------------------------------------------


def test_many_threads_share_a_pool(pool: reqpool.Pool) -> None:
    ends = Ends()
    with DnsPeer() as peer, concurrent.futures.ThreadPoolExecutor(16) as threads:

        def ask(thread: int) -> list[reqpool.Future[reqpool.DnsAnswer]]:
            futures = []
            for number in range(50):
                future = pool.dns(f"t{thread}-{number}.test", server=peer.address, callback=ends)
                assert str(future.result().name) == f"t{thread}-{number}.test"
                futures.append(future)
            return futures

        futures = [future for done in threads.map(ask, range(16)) for future in done]
    ends.check(futures)
    assert len(futures) == 800


def test_asyncio_gathers_five_hundred(pool: reqpool.Pool) -> None:
    async def gather() -> list[reqpool.DnsAnswer]:
        return await asyncio.gather(
            *(pool.dns(f"n{number}.test", server=peer.address) for number in range(500))
        )

    with DnsPeer() as peer:
        answers = asyncio.run(gather())
    assert [answer.name for answer in answers] == [f"n{number}.test" for number in range(500)]


def test_wait_and_as_completed_take_our_futures_and_others_together(pool: reqpool.Pool) -> None:
    may_end = threading.Event()
    with DnsPeer() as quick, DnsPeer(held=True) as slow, concurrent.futures.ThreadPoolExecutor(1) as threads:
        first = pool.dns("first.test", server=quick.address)
        last = pool.dns("last.test", server=slow.address)
        other = threads.submit(may_end.wait, 10)
        futures: list[concurrent.futures.Future[Any]] = [first, last, other]
        done, _ = concurrent.futures.wait(futures, 10, concurrent.futures.FIRST_COMPLETED)
        assert done == {first}
        ended = concurrent.futures.as_completed(futures, 10)
        assert next(ended) is first
        may_end.set()
        assert next(ended) is other
        slow.release()
        assert next(ended) is last
