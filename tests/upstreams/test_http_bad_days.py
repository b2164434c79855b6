"""HTTP through a whole cluster, against peers that close, reset, lie, drip and flood.

What is held in each: the right error, the connection closed, and never a wrong answer to the next caller.
"""

from __future__ import annotations

import gzip
import itertools
import json
import ssl
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import brotli  # type: ignore[import-untyped]
import pytest
import zstandard

import reqpool
from support.certificates import make
from support.cluster import Cluster, cluster
from support.dns_peer import closed_port
from support.http_peer import Asked, answer, path_of, requests, serves
from support.tcp_peer import Connection, Script, TcpPeer, answers, drips, never_answers, resets_after
from support.wait import wait_until

END = b"\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
ZEROS = bytes(1 << 16)


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    with cluster(workers=2) as started, started.no_fds_left():
        yield started


def closes_after(data: bytes) -> Script:
    return answers(data, request_ends=END)


def says(data: bytes) -> Script:
    """Send ``data`` and stay."""

    def script(connection: Connection) -> None:
        connection.read_until(END)
        connection.send(data)
        connection.wait_for_end()

    return script


def floods(begin: bytes, piece: bytes) -> Script:
    """Send ``begin``, and ``piece`` for ever."""

    def script(connection: Connection) -> None:
        connection.read_until(END)
        connection.send(begin)
        while True:
            connection.send(piece)

    return script


@pytest.mark.parametrize(
    ("script", "error", "text"),
    [
        (closes_after(b""), reqpool.ConnectionLost, "closed the connection"),
        (closes_after(b"HTTP/1.1 200 OK\r\nContent-"), reqpool.ConnectionLost, "closed the connection"),
        (closes_after(answer(b"hello", length=6)), reqpool.ConnectionLost, "closed the connection"),
        (closes_after(CHUNKED + b"5\r\nhello\r\n"), reqpool.ConnectionLost, "closed the connection"),
        (closes_after(answer(status="100 Continue")), reqpool.ConnectionLost, "closed the connection"),
        (resets_after(b"", request_ends=END), reqpool.ConnectionLost, "reset"),
        (resets_after(answer(b"hello", length=6), request_ends=END), reqpool.ConnectionLost, "reset"),
        (resets_after(b"HTTP/1.1 200 OK\r\n\r\nhello", request_ends=END), reqpool.ConnectionLost, "reset"),
        (says(b"SSH-2.0-OpenSSH_9.2\r\n"), reqpool.BadResponse, "does not speak HTTP/1"),
        (says(b"\x00\xff" * 100), reqpool.BadResponse, "does not speak HTTP/1"),
        (says(OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"), reqpool.BadResponse, "Length"),
        (says(OK + b"Content-Length : 1\r\n\r\na"), reqpool.BadResponse, "malformed"),
        (says(CHUNKED + b"xyz\r\n"), reqpool.BadResponse, "chunks are malformed"),
        (says(answer(length=1 << 40)), reqpool.BadResponse, "longer than 1048576 bytes"),
        (says(answer(status="101 Switching Protocols")), reqpool.BadResponse, "switch of protocols"),
        (says(answer(b"hello", length=6)), reqpool.RequestTimeout, "no answer within"),
        (says(answer(status="100 Continue")), reqpool.RequestTimeout, "no answer within"),
        (never_answers, reqpool.RequestTimeout, "no answer within"),
        (drips(answer(b"hello"), request_ends=END), reqpool.RequestTimeout, "no answer within"),
        (floods(OK, b"X: y\r\n" * 1_000), reqpool.BadResponse, "head of the answer is longer"),
        (floods(OK + b"X: ", b"y" * 10_000), reqpool.BadResponse, "head of the answer is longer"),
        (floods(b"", b"HTTP/1.1 103 Hints\r\n\r\n" * 99), reqpool.BadResponse, "65536 bytes"),
        (floods(OK + b"\r\n", ZEROS), reqpool.BadResponse, "longer than 1048576 bytes"),
        (floods(CHUNKED, b"10000\r\n" + ZEROS + b"\r\n"), reqpool.BadResponse, "longer than 1048576"),
        (floods(CHUNKED + b"0\r\n", b"X: y\r\n" * 999), reqpool.BadResponse, "chunk extensions or trailers"),
    ],
)  # fmt: skip
def test_a_bad_peer_is_the_right_error(
    pool: reqpool.Pool, script: Script, error: type[reqpool.PoolError], text: str
) -> None:
    with TcpPeer(script) as peer:
        future = pool.http("POST", f"http://{peer.address}/x", data=b"x", max_bytes=1 << 20, timeout=1.0)
        with pytest.raises(error, match=text) as caught:
            future.result(3)
        assert caught.value.origin == f"http://{peer.address}"
        assert caught.value.sent is True
        assert peer.accepted == 1, "what may have been acted on is not tried again"
        if isinstance(caught.value, reqpool.RequestTimeout):
            assert caught.value.phase == "read"
        for _ in range(100):
            peer.go.release()
        peer.wait_all_closed()


def test_a_peer_that_goes_on_dripping_does_not_outlast_the_timeout(pool: reqpool.Pool) -> None:
    with TcpPeer(drips(answer(b"x" * 100_000), request_ends=END)) as peer:
        future = pool.http("GET", f"http://{peer.address}/", timeout=1.0)
        while not future.done():
            peer.go.release()
            assert not threading.Event().wait(0.01)
        with pytest.raises(reqpool.RequestTimeout) as caught:
            future.result(0)
        assert caught.value.phase == "read"
        for _ in range(10):
            peer.go.release()
        peer.wait_all_closed()


def test_a_closed_port_was_sent_nothing(pool: reqpool.Pool) -> None:
    with pytest.raises(reqpool.ConnectFailed, match="refused") as caught:
        pool.http("POST", f"http://{closed_port()}/").result(5)
    assert caught.value.sent is False


# --- what is no framing of nginx's --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "content"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\nto the end", b"to the end"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"hello"), b"hello"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + answer(b"hello"), b"hello"),
        (CHUNKED + b"5;a=b\r\nhello\r\n0\r\nX-Trailer: y\r\n\r\n", b"hello"),
        (answer(b"hello", *(f"X-{number}: y" for number in range(4_000))), b"hello"),
    ],
    ids=["until close", "nothing until close", "100", "103", "trailers", "4000 headers"],
)
def test_odd_but_legal_answers_are_answers(pool: reqpool.Pool, data: bytes, content: bytes) -> None:
    with TcpPeer(closes_after(data)) as peer:
        response = pool.http("GET", f"http://{peer.address}/").result(5)
        assert (response.status, response.content) == (200, content)


@pytest.mark.parametrize(
    ("data", "connections"),
    [
        (OK + b"X: one,\r\n two\r\nContent-Length: 5\r\n\r\nhello", 1),
        (OK + b"X: \x01\r\nContent-Length: 5, 5\r\n\r\nhello", 1),
        (CHUNKED + b"5 \r\nhello\r\n0 \r\n\r\n", 1),
        (b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", 3),
        (OK + b"X : y\r\nContent-Length: 5\r\n\r\nhello", 3),
        (OK + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 3),
    ],
    ids=["fold", "lengths", "chunk size", "bare LF", "space", "length and chunks"],
)
def test_odd_answers_are_answers_and_doubtful_ones_end_the_connection(
    pool: reqpool.Pool, data: bytes, connections: int
) -> None:
    with TcpPeer(serves(lambda asked: data)) as peer:
        for _ in range(3):
            assert pool.http("GET", f"http://{peer.address}/").result(5).content == b"hello"
        assert peer.accepted == connections


@pytest.mark.parametrize(
    ("body", "connections"),
    [
        (b"Content-Length: 4\r\n\r\ngone", 1),
        (b"Content-Length: 4\r\nContent-Encoding: gzip\r\n\r\ngone", 1),
        (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 2),
        (b"Content-Length: 5000000\r\n\r\n" + bytes(100_000), 2),
        (b"\r\n", 2),
        (b"Content-Length: 9\r\n\r\nshort", 2),
        (b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", 2),
    ],
    ids=["whole", "no gzip", "no chunks", "too long", "until close", "cut short", "without an end"],
)
def test_a_redirect_is_followed_whatever_its_body_is(
    pool: reqpool.Pool, body: bytes, connections: int
) -> None:
    moved = b"HTTP/1.1 302 Found\r\nLocation: /there\r\n" + body
    with TcpPeer(serves(lambda asked: moved if asked.path == "/here" else path_of(asked))) as peer:
        response = pool.http("GET", f"http://{peer.address}/here", max_bytes=1_000_000).result(5)
        assert (response.text, len(response.history)) == ("/there", 1)
        assert peer.accepted == connections


@pytest.mark.parametrize(
    ("coding", "pack"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("br", brotli.compress),
        ("zstd", zstandard.compress),
    ],
)
def test_an_answer_comes_in_a_coding_that_was_offered(
    pool: reqpool.Pool, coding: str, pack: Callable[[bytes], bytes]
) -> None:
    with TcpPeer(says(answer(pack(b"hello" * 100), f"Content-Encoding: {coding}"))) as peer:
        assert pool.http("GET", f"http://{peer.address}/").result(5).text == "hello" * 100
        offered = next(line for line in peer.received.split(b"\r\n") if line.startswith(b"Accept-Encoding: "))
        assert coding.encode() in offered.partition(b": ")[2].split(b", ")


def test_files_go_up_as_a_form(pool: reqpool.Pool) -> None:
    with TcpPeer(serves(lambda asked: answer(asked.body, asked.field("Content-Type")))) as peer:
        response = pool.http(
            "POST", f"http://{peer.address}/", files={"a": ("b.bin", b"\x00" * 100_000)}, data={"c": "d"}
        ).result(5)
        boundary = response.headers["content-type"].partition("boundary=")[2]
        parts = response.content.split(f"--{boundary}".encode())
        assert [part.rpartition(b"\r\n\r\n")[2] for part in parts[1:3]] == [
            b"d\r\n",
            bytes(100_000) + b"\r\n",
        ]
        assert b'name="a"; filename="b.bin"' in parts[2]


def test_a_bomb_is_a_bad_response_when_it_is_looked_at(pool: reqpool.Pool) -> None:
    bomb = gzip.compress(bytes(64 << 20), 1)
    with TcpPeer(says(answer(bomb, "Content-Encoding: gzip"))) as peer:
        response = pool.http("GET", f"http://{peer.address}/", max_bytes=1 << 20).result(5)
        assert response.status == 200
        with pytest.raises(reqpool.BadResponse, match="gzip data is more than 1048576 bytes when decoded"):
            response.content  # noqa: B018


# --- stale connections -------------------------------------------------------------------------------


class Stale:
    """Answers one request on a connection; at the next one closes it, without or with a byte of an answer."""

    def __init__(self, last_words: bytes = b"") -> None:
        self._last_words = last_words
        self.asked: list[Asked] = []

    def __call__(self, connection: Connection) -> None:
        for number, asked in enumerate(requests(connection)):
            self.asked.append(asked)
            if number:
                connection.send(self._last_words)
                return
            connection.send(path_of(asked))


def test_a_stale_connection_is_tried_again_once_on_a_fresh_one(pool: reqpool.Pool) -> None:
    script = Stale()
    with TcpPeer(script) as peer:
        for path in ("/one", "/two"):
            assert pool.http("GET", f"http://{peer.address}{path}").result(5).text == path
        assert [asked.path for asked in script.asked] == ["/one", "/two", "/two"]
        assert peer.accepted == 2


def test_what_must_not_be_repeated_is_not_though_the_connection_was_stale(pool: reqpool.Pool) -> None:
    script = Stale()
    with TcpPeer(script) as peer:
        assert pool.http("GET", f"http://{peer.address}/one").result(5).text == "/one"
        with pytest.raises(reqpool.ConnectionLost) as caught:
            pool.http("POST", f"http://{peer.address}/two", data=b"x").result(5)
        assert caught.value.sent is True
        assert [asked.path for asked in script.asked] == ["/one", "/two"]
        assert pool.http("GET", f"http://{peer.address}/three").result(5).text == "/three"


def test_what_the_caller_says_may_be_repeated_is(pool: reqpool.Pool) -> None:
    script = Stale()
    with TcpPeer(script) as peer:
        assert pool.http("GET", f"http://{peer.address}/one").result(5).text == "/one"
        assert pool.http("POST", f"http://{peer.address}/two", idempotent=True).result(5).text == "/two"


def test_a_connection_that_the_peer_closed_while_idle_is_no_trouble(pool: reqpool.Pool) -> None:
    def script(connection: Connection) -> None:
        for asked in requests(connection):
            connection.send(path_of(asked))
            return

    with TcpPeer(script) as peer:
        for number in range(5):
            assert pool.http("POST", f"http://{peer.address}/{number}").result(5).text == f"/{number}"
            peer.wait_all_closed()


# --- never a wrong answer to the next caller ---------------------------------------------------------


@pytest.mark.parametrize("how", ["times out", "is cancelled"])
def test_the_late_answer_of_a_request_that_ended_reaches_nobody(pool: reqpool.Pool, how: str) -> None:
    came = threading.Event()

    def script(connection: Connection) -> None:
        for asked in requests(connection):
            if asked.path == "/late":
                came.set()
                if not connection.peer.wait_for_go():
                    return
            connection.send(path_of(asked))

    with TcpPeer(script) as peer:
        url = f"http://{peer.address}"
        assert pool.http("GET", f"{url}/before").result(5).text == "/before"
        late = pool.http("GET", f"{url}/late", timeout=1.0 if how == "times out" else 5.0)
        assert came.wait(5)
        if how == "is cancelled":
            assert late.cancel()
        with pytest.raises((reqpool.RequestTimeout, reqpool.Cancelled)):
            late.result(3)
        others = [pool.http("GET", f"{url}/{number}") for number in range(20)]
        peer.go.release()
        assert [future.result(5).text for future in others] == [f"/{number}" for number in range(20)]


@pytest.mark.parametrize("together", [True, False], ids=["in one packet", "later"])
@pytest.mark.parametrize("surplus", [answer(b"nobody's"), b"junk", b"\r\n\r\n"])
def test_what_a_peer_sends_beyond_its_answer_reaches_nobody(
    pool: reqpool.Pool, surplus: bytes, together: bool
) -> None:
    def script(connection: Connection) -> None:
        for asked in requests(connection):
            if together:
                connection.send(path_of(asked) + surplus)
            else:
                connection.send(path_of(asked))
                connection.send(surplus)

    with TcpPeer(script) as peer:
        for number in range(10):
            assert pool.http("GET", f"http://{peer.address}/{number}").result(5).text == f"/{number}"
            peer.wait_all_closed()
        assert peer.accepted == 10


def test_a_length_too_short_cuts_the_answer_and_spoils_no_other(pool: reqpool.Pool) -> None:
    with TcpPeer(serves(lambda asked: answer(asked.path.encode() + b"more", length=len(asked.path)))) as peer:
        for number in range(5):
            assert pool.http("GET", f"http://{peer.address}/{number}").result(5).text == f"/{number}"
            peer.wait_all_closed()


def test_an_answer_to_head_with_a_body_spoils_no_other(pool: reqpool.Pool) -> None:
    with TcpPeer(serves(path_of)) as peer:
        url = f"http://{peer.address}"
        assert pool.http("HEAD", f"{url}/head").result(5).content == b""
        peer.wait_all_closed()
        assert pool.http("GET", f"{url}/get").result(5).text == "/get"


def test_an_early_answer_ends_the_request_and_the_connection(pool: reqpool.Pool) -> None:
    def script(connection: Connection) -> None:
        head = connection.read_until(END)
        connection.send(answer(b"too much" if b"POST" in head else b"fine"))
        connection.wait_for_end()

    with TcpPeer(script) as peer:
        url = f"http://{peer.address}/"
        response = pool.http("POST", url, data=bytes(15 << 20), timeout=10.0).result(10)
        assert response.text == "too much"
        peer.wait_all_closed()
        assert pool.http("GET", url).result(5).text == "fine"


@pytest.mark.parametrize("said", [True, False], ids=["with close_notify", "without"])
def test_an_answer_that_ends_with_the_connection_is_whole_only_if_tls_says_so(
    pool: reqpool.Pool, tmp_path: Path, said: bool
) -> None:
    certificates = make(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates.server)

    def script(connection: Connection) -> None:
        with context.wrap_socket(connection.sock, server_side=True) as tls:
            tls.recv(65_536)
            tls.sendall(OK + b"\r\nhello")
            if said:
                tls.unwrap()

    with TcpPeer(script) as peer:
        future = pool.http("GET", f"https://{peer.address}/", tls=reqpool.Tls(ca=str(certificates.ca)))
        if said:
            assert future.result(5).content == b"hello"
        else:
            with pytest.raises(reqpool.ConnectionLost, match="close_notify"):
                future.result(5)


def test_two_users_never_share_a_connection(running: Cluster, tmp_path: Path) -> None:
    """Users of one server differ in a header only; upstreams with passwords differ in their connections."""
    seen: dict[bytes, set[int]] = {}
    count = itertools.count()

    def script(connection: Connection) -> None:
        number = next(count)
        for asked in requests(connection):
            lines = [line for line in asked.head.split(b"\r\n") if line.startswith(b"Authorization: ")]
            seen.setdefault(b"".join(lines), set()).add(number)
            connection.send(answer(json.dumps([number, asked.path]).encode()))

    with TcpPeer(script) as peer:
        for word in ("one", "two"):
            (tmp_path / word).write_text(f"{word}\n")
        config = tmp_path / "reqpool.toml"
        config.write_text(
            "".join(
                f'[upstreams.{word}]\nurl = "http://{user}{peer.address}"\npassword_file = "{word}"\n'
                for word, user in (("one", ""), ("two", "ann@"))
            )
        )
        with (
            cluster(workers=1, arguments=["--config", str(config)]) as configured,
            reqpool.Pool(configured.url, timeout=5.0) as pool,
        ):
            futures = [pool.http("GET", f"{word}/x?{n}") for n in range(20) for word in ("one", "two")]
            assert all(future.result(5).status == 200 for future in futures)
            wait_until(lambda: len(seen) == 2)
    assert set(seen) == {b"Authorization: Bearer one", b"Authorization: Basic YW5uOnR3bw=="}
    one, two = seen.values()
    assert not one & two


def test_a_user_whom_the_connection_stands_for_shares_it_with_nobody(pool: reqpool.Pool) -> None:
    """A server that takes Negotiate takes whatever else comes on that connection for the same user's."""

    def script(connection: Connection) -> None:
        user = "nobody"
        for asked in requests(connection):
            if b"Authorization: Negotiate" in asked.head:
                user = "ann"
            connection.send(answer(user.encode()))

    with TcpPeer(script) as peer:
        url = f"http://{peer.address}/"
        for _ in range(3):
            proof = {"Authorization": "Negotiate YII="}
            assert pool.http("GET", url, headers=proof).result(5).text == "ann"
            assert pool.http("GET", url).result(5).text == "nobody"
