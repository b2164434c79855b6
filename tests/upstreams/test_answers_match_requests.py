"""Impatient callers, many at a time: whatever is late or cancelled, every answer is its own request's.

The peers answer with what they were asked, some at once, some late, some in two pieces. Requests have a
millisecond or a few, and one in five is cancelled.
"""

from __future__ import annotations

import contextlib
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import reqpool
from support.certificates import make
from support.cluster import Cluster, cluster
from support.http_peer import answer, requests
from support.redis_peer import bulk, commands
from support.tcp_peer import Connection, TcpPeer

SPAN_S = 2.0
THREADS = 8
TIMEOUTS_S = (0.001, 0.003, 0.01, 0.03, 1.0)
LATE_S = 0.03

Ask = Callable[[reqpool.Pool, str, float], Any]
"""Asks a pool for a word, with a timeout; returns the future."""


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    with cluster(workers=2) as started, started.no_fds_left():
        yield started


def send_somehow(connection: Connection, data: bytes) -> None:
    """Send at once, late, or the half of it late."""
    how = random.random()
    if how < 0.1:
        time.sleep(random.random() * LATE_S)
    elif how < 0.2:
        half = random.randrange(1, len(data))
        connection.send(data[:half])
        time.sleep(random.random() * LATE_S)
        data = data[half:]
    connection.send(data)


def serves_http(connection: Connection) -> None:
    for asked in requests(connection):
        word = asked.path[1:].encode()
        if random.random() < 0.5:
            send_somehow(connection, answer(word))
            continue
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
        send_somehow(connection, chunked % (len(word), word))


def serves_redis(connection: Connection) -> None:
    queued: list[bytes] | None = None
    for words in commands(connection):
        if words == [b"MULTI"]:
            queued = []
            connection.send(b"+OK\r\n")
        elif words == [b"EXEC"]:
            assert queued is not None
            send_somehow(connection, b"*%d\r\n" % len(queued) + b"".join(map(bulk, queued)))
            queued = None
        elif queued is not None:
            queued.append(words[-1])
            connection.send(b"+QUEUED\r\n")
        else:
            send_somehow(connection, bulk(words[-1]))


@contextlib.contextmanager
def http(folder: Path) -> Iterator[Ask]:
    with TcpPeer(serves_http) as peer:
        yield lambda pool, word, timeout_s: pool.http(
            "GET", f"http://{peer.address}/{word}", timeout=timeout_s
        )


@contextlib.contextmanager
def https(folder: Path) -> Iterator[Ask]:
    certificates = make(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates.server)
    tls = reqpool.Tls(ca=certificates.ca)

    def script(connection: Connection) -> None:
        # Of a copy: what wraps a socket takes it, and the peer could not end it any more.
        with context.wrap_socket(connection.sock.dup(), server_side=True) as connection.sock:
            serves_http(connection)

    with TcpPeer(script) as peer:
        url = f"https://{peer.address}"
        # A handshake takes longer than most here have: one in four has a second.
        yield lambda pool, word, timeout_s: pool.http(
            "GET", f"{url}/{word}", tls=tls, timeout=timeout_s if timeout_s > 0.01 else 0.1
        )


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[Ask]:
    with TcpPeer(serves_redis) as peer:
        yield lambda pool, word, timeout_s: pool.redis(
            f"redis://{peer.address}", "GET", word, timeout=timeout_s
        )


@contextlib.contextmanager
def redis_multi(folder: Path) -> Iterator[Ask]:
    with TcpPeer(serves_redis) as peer:
        url = f"redis://{peer.address}"
        yield lambda pool, word, timeout_s: pool.redis_multi(
            url, [("GET", f"{word}.{at}") for at in range(3)], timeout=timeout_s
        )


def said(value: Any) -> str:
    """What a value says that it answers."""
    if isinstance(value, list):
        words = [part.decode().rpartition(".") for part in value]
        assert [at for _, _, at in words] == ["0", "1", "2"]
        assert len({word for word, _, _ in words}) == 1
        word: str = words[0][0]
        return word
    text: str = value.text if isinstance(value, reqpool.HttpResponse) else value.decode()
    return text


@pytest.mark.parametrize("kind", [http, https, redis, redis_multi])
def test_every_answer_is_its_own_requests(
    running: Cluster,
    tmp_path: Path,
    kind: Callable[[Path], contextlib.AbstractContextManager[Ask]],
) -> None:
    answers = [0] * THREADS
    wrong: list[tuple[str, str]] = []
    end_s = time.monotonic() + SPAN_S

    def ask_on(number: int, pool: reqpool.Pool) -> None:
        chance = random.Random(number)
        count = 0
        while time.monotonic() < end_s:
            asked = []
            for _ in range(chance.randrange(1, 9)):
                count += 1
                word = f"{number}-{count}"
                asked.append((word, ask(pool, word, chance.choice(TIMEOUTS_S))))
                if chance.random() < 0.2:
                    asked[-1][1].cancel()
            for word, future in asked:
                with contextlib.suppress(reqpool.RequestTimeout, reqpool.Cancelled, reqpool.ConnectionLost):
                    found = said(future.result(10))
                    answers[number] += 1
                    if found != word:
                        wrong.append((word, found))

    with reqpool.Pool(running.url) as one, reqpool.Pool(running.url) as other, kind(tmp_path) as ask:
        threads = [
            threading.Thread(target=ask_on, args=(number, one if number % 2 else other))
            for number in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        running.wait_settled()
    assert not wrong
    assert all(answers)
