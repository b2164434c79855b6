"""``sent`` through a whole cluster: could the upstream have acted on the request, in any attempt at it?"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import reqpool
from support.cluster import Cluster, cluster
from support.http_peer import answer
from support.mariadb import MariadbServer
from support.redis_server import RedisServer
from support.tcp_peer import Connection, Script, TcpPeer

END = b"\r\n\r\n"


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    with cluster(workers=2) as started:
        yield started


def serves_then_is_gone(*answers: bytes) -> Script:
    """Give these answers on one connection, read one request more, and be gone, port and all."""

    def script(connection: Connection) -> None:
        for data in answers:
            connection.read_until(END)
            connection.send(data)
        connection.read_until(END)
        with contextlib.suppress(OSError):
            connection.peer._listener.shutdown(socket.SHUT_RDWR)
        connection.peer._listener.close()

    return script


@pytest.mark.parametrize(
    ("method", "options"),
    [("GET", {}), ("DELETE", {}), ("POST", {"idempotent": True, "data": b"x"})],
)
@pytest.mark.parametrize("answered_before", [0, 1], ids=["a fresh connection", "a kept connection"])
def test_an_attempt_that_is_refused_does_not_undo_the_one_that_was_read(
    pool: reqpool.Pool, method: str, options: dict[str, Any], answered_before: int
) -> None:
    with TcpPeer(serves_then_is_gone(*[answer(b"ok")] * answered_before)) as peer:
        for _ in range(answered_before):
            assert pool.http("GET", f"http://{peer.address}/", timeout=10).result().text == "ok"
        error = pool.http(method, f"http://{peer.address}/", timeout=10, **options).exception()
        assert isinstance(error, reqpool.ConnectFailed)
        assert error.sent is True


@pytest.mark.parametrize("status", ["303 See Other", "307 Temporary Redirect"])
def test_a_hop_that_is_refused_does_not_undo_the_one_that_redirected(pool: reqpool.Pool, status: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = taken.getsockname()[1]
    redirect = answer(b"", f"Location: http://127.0.0.1:{closed}/next", status=status)

    def script(connection: Connection) -> None:
        connection.read_until(END)
        connection.send(redirect)
        connection.wait_for_end()

    with TcpPeer(script) as peer:
        error = pool.http("POST", f"http://{peer.address}/pay", data=b"", timeout=10).exception()
    assert isinstance(error, reqpool.ConnectFailed)
    assert (error.sent, error.attempts) == (True, 2)


@pytest.mark.parametrize("location", ["ftp://h.test/", "http://127.0.0.1:0/", "http://[bad/"])
def test_a_hop_that_leads_nowhere_was_sent_before(pool: reqpool.Pool, location: str) -> None:
    with TcpPeer(serves_then_is_gone(answer(b"", f"Location: {location}", status="303 See Other"))) as peer:
        error = pool.http("POST", f"http://{peer.address}/pay", data=b"", timeout=10).exception()
    assert isinstance(error, reqpool.PoolError)
    assert (error.sent, error.attempts) == (True, 1)


def test_what_was_never_sent_says_so(pool: reqpool.Pool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = taken.getsockname()[1]
    error = pool.http("GET", f"http://127.0.0.1:{closed}/", timeout=10).exception()
    assert isinstance(error, reqpool.ConnectFailed)
    assert error.sent is False


# --- answers that are errors -------------------------------------------------------------------------


def knows_its_request(error: reqpool.PoolError, future: Any, origin: str) -> None:
    assert (error.sent, error.attempts) == (True, 1)
    assert error.request_id == future.request_id
    assert error.origin is not None
    assert error.origin.startswith(origin)
    assert error.elapsed_s is not None


def raised(call: Callable[[], Any]) -> reqpool.PoolError:
    with pytest.raises(reqpool.PoolError) as caught:
        call()
    return caught.value


def test_a_redis_error_knows_its_request(pool: reqpool.Pool, redis_server: RedisServer) -> None:
    future = pool.redis(redis_server.url, "GET")
    error = raised(future.result)
    assert isinstance(error, reqpool.RedisError)
    knows_its_request(error, future, "redis://")


def test_a_redis_error_within_an_answer_knows_its_request(
    pool: reqpool.Pool, redis_server: RedisServer
) -> None:
    future = pool.redis_multi(redis_server.url, [("SET", "sent:k", "v"), ("INCR", "sent:k")])
    _, error = future.result()
    assert isinstance(error, reqpool.RedisError)
    knows_its_request(error, future, "redis://")


def test_a_mysql_error_knows_its_request(pool: reqpool.Pool, mariadb: MariadbServer) -> None:
    future = pool.mysql(mariadb.url(), "SELECT nosuch")
    error = raised(future.result)
    assert isinstance(error, reqpool.MysqlError)
    knows_its_request(error, future, "mysql://")


def test_http_errors_know_their_request(pool: reqpool.Pool) -> None:
    with TcpPeer(serves_then_is_gone(answer(b"{", "Content-Encoding: gzip", status="503 Busy"))) as peer:
        future = pool.http("GET", f"http://{peer.address}/", timeout=10)
        response = future.result()
    for call in (response.raise_for_status, lambda: response.content, response.json):
        knows_its_request(raised(call), future, f"http://{peer.address}")


def test_an_answer_after_another_attempt_says_how_many_there_were(pool: reqpool.Pool) -> None:
    first = True

    def script(connection: Connection) -> None:
        nonlocal first
        connection.read_until(END)
        if first:
            first = False
            return
        connection.send(answer(b"no", status="500 No"))
        connection.wait_for_end()

    with TcpPeer(script) as peer:
        response = pool.http("GET", f"http://{peer.address}/", timeout=10).result()
        error = raised(response.raise_for_status)
    assert (error.sent, error.attempts) == (True, 2)
