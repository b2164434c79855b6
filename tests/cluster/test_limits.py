"""``max_connections`` of ``reqpool.toml``, counted at the upstream while processes die and freeze."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import hiredis
import pytest

import reqpool
from support.cluster import Cluster, cluster
from support.line_server import LineServer
from support.program import wait_stopped
from support.redis_server import RedisServer
from support.wait import wait_until

LIMIT = 5
WORKERS = 4


class Load:
    """Requests that may be repeated, from several threads with a session each, until told to stop."""

    def __init__(
        self, url: str, *asks: Callable[[reqpool.Pool], Callable[[int], reqpool.Future[Any]]]
    ) -> None:
        self._url = url
        self._asks = asks
        self._stop = threading.Event()
        self.answered = [0] * len(asks)
        self.errors: list[BaseException] = []

    def __enter__(self) -> Load:
        self._threads = [
            threading.Thread(target=self._run, args=(place, ask)) for place, ask in enumerate(self._asks)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def wait_for_more(self, count: int = 50, timeout_s: float = 30.0) -> None:
        """Wait until each thread has had so many answers more."""
        before = list(self.answered)

        def more() -> bool:
            assert not self.errors, self.errors
            return all(now >= then + count for now, then in zip(self.answered, before, strict=True))

        wait_until(more, timeout_s, "the load goes on")

    def _run(self, place: int, ask: Callable[[reqpool.Pool], Callable[[int], reqpool.Future[Any]]]) -> None:
        def numbers() -> Iterator[int]:
            number = 0
            while not self._stop.is_set():
                number += 1
                yield number

        try:
            with reqpool.Pool(self._url, timeout=60.0) as pool:
                request = ask(pool)

                def method(number: int, **options: Any) -> reqpool.Future[Any]:
                    future = request(number)
                    future.add_done_callback(options["callback"])
                    return future

                for _, future in pool.map(method, numbers(), window=20):
                    future.result()
                    self.answered[place] += 1
        except BaseException as error:
            self.errors.append(error)


# --- a connection for each request ------------------------------------------------------------------


@contextlib.contextmanager
def limited() -> Iterator[tuple[Cluster, LineServer, Load]]:
    """A cluster under load, whose upstream must never see more than LIMIT connections."""

    def by_name(pool: reqpool.Pool) -> Callable[[int], reqpool.Future[bytes]]:
        return lambda number: pool.tcp("line", b"%d\n" % number, until=b"\n", idempotent=True)

    def by_address(pool: reqpool.Pool) -> Callable[[int], reqpool.Future[bytes]]:
        return lambda number: pool.tcp(server.address, b"%d\n" % number, until=b"\n", idempotent=True)

    with LineServer() as server:
        config = f'[upstreams.line]\nurl = "tcp://{server.address}"\nmax_connections = {LIMIT}\n'
        with cluster(workers=WORKERS, config=config) as running:
            with Load(running.url, by_name, by_address, by_address) as load:
                load.wait_for_more()
                wait_until(lambda: server.most == LIMIT, 10, "all connections in use")
                yield running, server, load
                load.wait_for_more()
                assert server.most <= LIMIT
            running.wait_settled()
        assert server.most == LIMIT


def holders(running: Cluster) -> list[int]:
    """Pids of the workers with requests in flight, the busiest first; at least one."""

    def busy() -> list[dict[str, Any]]:
        return [worker for worker in running.live_workers() if worker["in_flight"]]

    found = wait_until(busy, 10, "somebody is at work")
    return [worker["pid"] for worker in sorted(found, key=lambda worker: -worker["in_flight"])]


def test_killed_workers_connections_are_granted_to_others() -> None:
    with limited() as (running, _, load):
        for _ in range(3):
            killed = holders(running)[0]
            os.kill(killed, signal.SIGKILL)
            load.wait_for_more()
            wait_until(lambda killed=killed: killed not in running.worker_pids)  # type: ignore[misc]
        wait_until(lambda: len(running.worker_pids) == WORKERS, 20, "all replaced")


def test_frozen_workers_connections_are_granted_to_others_once_it_has_been_killed() -> None:
    with limited() as (running, _, load):
        frozen = holders(running)[0]
        os.kill(frozen, signal.SIGSTOP)
        load.wait_for_more(1_000)  # the supervisor sees that it stands in others' way
        wait_until(lambda: frozen not in running.worker_pids, 10, "it is gone")


def test_a_cluster_that_is_scaled_keeps_to_the_limit() -> None:
    with limited() as (running, _, load):
        for number in (
            signal.SIGUSR2,
            signal.SIGUSR2,
            signal.SIGUSR1,
            signal.SIGUSR2,
            signal.SIGUSR1,
            signal.SIGUSR1,
        ):
            running.supervisor.send_signal(number)
            load.wait_for_more()
        wait_until(lambda: len(running.worker_pids) == WORKERS, 20, "as many as before")


def test_a_new_broker_keeps_to_the_limit() -> None:
    with limited() as (running, _, load):
        for times in (1, 2, 3):
            os.kill(running.broker_pid, signal.SIGKILL)
            wait_until(lambda times=times: running.log().count("the broker is back") == times)  # type: ignore[misc]
            load.wait_for_more()


def test_a_new_broker_waits_for_a_worker_that_is_frozen() -> None:
    with limited() as (running, _, load):
        frozen = holders(running)[0]
        os.kill(frozen, signal.SIGSTOP)
        wait_stopped(frozen)
        os.kill(running.broker_pid, signal.SIGKILL)
        wait_until(lambda: "the broker is back" in running.log(), 10)
        wait_until(lambda: len(running.worker_pids) == WORKERS - 1, 10, "the others are back")
        # Nobody but the frozen one knows how many connections it has.
        with reqpool.Pool(running.url) as newcomer, pytest.raises(reqpool.RequestTimeout) as caught:
            newcomer.tcp("line", b"x\n", until=b"\n", timeout=0.5).result()
        assert caught.value.phase == "queue"
        os.kill(frozen, signal.SIGCONT)
        load.wait_for_more()


# --- connections that are kept, shared and held -----------------------------------------------------


class Watch:
    """Counts the pool's connections at a Redis, again and again."""

    def __init__(self, redis: RedisServer) -> None:
        self._redis = redis
        self._stop = threading.Event()
        self.most = 0
        self.looks = 0

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join(10)
        assert self.looks > 10

    def _run(self) -> None:
        # One connection for all looks: what is asked for is all that matters, not what it is called.
        with self._redis.connect() as sock:
            reader = hiredis.Reader(notEnoughData=Ellipsis)
            while not self._stop.is_set():
                sock.sendall(b"CLIENT LIST\r\n")
                while (reply := reader.gets()) is Ellipsis:
                    reader.feed(sock.recv(65_536))
                count = reply.count(b" addr=127.0.0.1:")
                self.most = max(self.most, count)
                self.looks += 1
                self._stop.wait(0.002)


@pytest.mark.usefixtures("redis_server")  # which says so where there is none
def test_shared_blocking_and_held_connections_together_keep_to_the_limit() -> None:
    def gets(database: int) -> Callable[[reqpool.Pool], Callable[[int], reqpool.Future[Any]]]:
        def ask(pool: reqpool.Pool) -> Callable[[int], reqpool.Future[Any]]:
            return lambda number: pool.redis(f"redis://{redis.address}/{database}", "GET", f"k{number}")

        return ask

    def blocks(pool: reqpool.Pool) -> Callable[[int], reqpool.Future[Any]]:
        return lambda number: pool.redis(f"redis://{redis.address}/0", "BLPOP", "nothing", "0.01")

    def sessions(stop: threading.Event, done: list[int], url: str) -> None:
        with reqpool.Pool(url, timeout=60.0) as pool:
            while not stop.is_set():
                try:
                    with pool.redis_session("cache") as session:
                        session.command("WATCH", "k").result()
                        session.command("MULTI").result()
                        session.command("INCR", "k").result()
                        session.command("EXEC").result()
                    done.append(1)
                except (reqpool.ConnectionLost, reqpool.OutcomeUnknown):
                    pass  # with the worker or the broker that were killed

    with RedisServer() as redis, Watch(redis) as watch:
        config = f'[upstreams.cache]\nurl = "redis://{redis.address}/0"\nmax_connections = {LIMIT}\n'
        with cluster(workers=3, config=config) as running:
            stop, done = threading.Event(), []
            thread = threading.Thread(target=sessions, args=(stop, done, running.url))
            thread.start()
            try:
                with Load(running.url, gets(0), gets(1), gets(2)) as load:
                    load.wait_for_more(500)
                    wait_until(lambda: len(done) >= 5, 30, "sessions have their turn")
                    os.kill(holders(running)[0], signal.SIGKILL)
                    load.wait_for_more(500)
                    sessions_before = len(done)
                    os.kill(running.broker_pid, signal.SIGKILL)
                    load.wait_for_more(500)
                    wait_until(lambda: len(done) >= sessions_before + 5, 30, "sessions go on")
            finally:
                stop.set()
                thread.join(60)
            assert not thread.is_alive()
            running.wait_settled()
        assert 3 <= watch.most <= LIMIT
