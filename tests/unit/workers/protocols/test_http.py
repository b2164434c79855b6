"""The worker half of http: framing, fed whole and byte by byte."""

from __future__ import annotations

import base64
from typing import Any

import msgpack
import pytest

from reqpool_contract.errors import BadResponse, Code, UsageError
from reqpool_contract.payloads.http import CLOSE, FOLLOW, HEAD, HEADER, NAMED, NO_CREDENTIALS, NO_HOST
from reqpool_workers.protocols import READY, Ask
from reqpool_workers.protocols.http import MAX_HEAD_BYTES, WORKER_KIND, Http11, protocol
from reqpool_workers.protocols.http_body import MAX_QUIET_BYTES

GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
STEPS = [1, 2, 3, 7, 1 << 30]
LIMIT = 1_000
OK = int(Code.OK)


def asked(*, flags: int = 0, max_bytes: int = LIMIT, http: Http11 | None = None) -> Http11:
    """A connection with one request sent."""
    http = http or Http11("http://h:80", "h", "", 1 << 20)
    assert send(http, flags=flags, max_bytes=max_bytes) == GET
    return http


def send(http: Any, request: bytes = GET, *, flags: int = 0, max_bytes: int = LIMIT) -> bytes:
    ask = Ask()
    ask.payload = HEADER.pack(flags, max_bytes) + request
    sent: bytes = http.send(ask)
    return sent


def fed(http: Http11, data: bytes, step: int = 1 << 30, *, close: bool = False) -> list[Any]:
    """Feed data in pieces; the rest is left out once there is an answer."""
    events: list[Any] = []
    for at in range(0, len(data), step):
        events += http.feed(data[at : at + step])
        if events:
            return events
    return events + (list(http.eof()) if close else [])


def head(*fields: str, status: str = "200 OK", version: str = "1.1") -> bytes:
    return "\r\n".join([f"HTTP/{version} {status}", *fields, "", ""]).encode("latin-1")


def chunks(*contents: bytes, trailers: bytes = b"") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in contents) + b"0\r\n" + trailers + b"\r\n"


LENGTH_5 = head("Content-Length: 5")
CHUNKED = head("Transfer-Encoding: chunked")


# --- every framing -------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("data", "content", "reusable"),
    [
        (LENGTH_5 + b"hello", b"hello", True),
        (head("Content-Length: 0"), b"", True),
        (head("content-LENGTH:5  ") + b"hello", b"hello", True),
        (CHUNKED + chunks(b"hello", b" ", b"world"), b"hello world", True),
        (CHUNKED + chunks(), b"", True),
        (CHUNKED + chunks(b"hello", trailers=b"X-Sum: 1\r\nX-More: 2\r\n"), b"hello", True),
        (CHUNKED + b'5;a=b;c="d"\r\nhello\r\n0;x\r\n\r\n', b"hello", True),
        (CHUNKED + b"0005\r\nhello\r\n000\r\n\r\n", b"hello", True),
        (head("Transfer-Encoding: Chunked ") + chunks(b"hello"), b"hello", True),
        (head(status="204 No Content"), b"", True),
        (head("Content-Length: 5", status="304 Not Modified"), b"", True),
        (head("Transfer-Encoding: chunked", status="304 Not Modified"), b"", True),
        (head("Content-Length: 5", "Connection: close") + b"hello", b"hello", False),
        (head("Content-Length: 5", "Connection: x, Close") + b"hello", b"hello", False),
        (head("Content-Length: 1", "Connection: close", "Connection: keep-alive") + b"a", b"a", False),
        (head("Content-Length: 5", version="1.0") + b"hello", b"hello", False),
        (head("Content-Length: 5", "Connection: keep-alive", version="1.0") + b"hello", b"hello", True),
        (head("Connection: keep-alive", "Transfer-Encoding: chunked", version="1.0") + chunks(), b"", False),
        (head("Connection: Upgrade", "Upgrade: h2c", "Transfer-Encoding: chunked") + chunks(), b"", True),
        (head("Content-Length: 5", status="200") + b"hello", b"hello", True),
        (head("Content-Length: 5", status="999 \xe9") + b"hello", b"hello", True),
        (head("Content-Length: 5", status="200 \x01\x1b[0mOK") + b"hello", b"hello", True),
        (CHUNKED + b"5  \t\r\nhello\r\n0 \r\n\r\n", b"hello", True),
        (CHUNKED + b"5 ;a=b\r\nhello\r\n0\r\n\r\n", b"hello", True),
    ],
)  # fmt: skip
def test_an_answer_ends_where_its_framing_says(
    data: bytes, content: bytes, reusable: bool, step: int
) -> None:
    http = asked()
    first, _, _ = data.partition(b"\r\n\r\n")
    assert fed(http, data, step) == [(OK, first + b"\r\n\r\n" + content)]
    assert http.reusable is reusable
    assert not http.eof()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("content", [b"", b"hello", b"hello\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"])
def test_without_a_length_the_answer_ends_with_the_connection(
    content: bytes, version: str, step: int
) -> None:
    http = asked()
    data = head("Server: s", "Connection: keep-alive", version=version) + content
    assert fed(http, data, step, close=True) == [(OK, data)]
    assert not http.reusable


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("fields", [["Content-Length: 5"], ["Transfer-Encoding: chunked"], []])
def test_an_answer_to_head_has_no_body_and_does_not_swallow_the_next_one(
    fields: list[str], step: int
) -> None:
    http = asked(flags=HEAD)
    data = head(*fields)
    assert fed(http, data, step) == [(OK, data)]
    assert http.reusable
    send(http)
    assert fed(http, LENGTH_5 + b"hello", step) == [(OK, LENGTH_5 + b"hello")]


@pytest.mark.parametrize("step", STEPS)
def test_interim_answers_are_skipped(step: int) -> None:
    http = asked()
    interim = head(status="100 Continue") + head("Link: </style.css>", status="103 Early Hints") * 2
    answer = CHUNKED + chunks(b"hello")
    assert fed(http, interim + answer, step) == [(OK, CHUNKED + b"hello")]
    assert http.reusable


def test_many_interim_answers_in_one_piece_are_skipped() -> None:
    http = asked()
    assert fed(http, head(status="100 Continue") * 2_000 + LENGTH_5 + b"hello") == [(OK, LENGTH_5 + b"hello")]


@pytest.mark.parametrize("interim", [head(status="100 Continue"), head("X: " + "y" * 60_000, status="102 P")])
def test_endless_interim_answers_are_a_bad_response(interim: bytes) -> None:
    http = asked()
    with pytest.raises(BadResponse, match="65536 bytes"):
        fed(http, interim * (1 + MAX_HEAD_BYTES // len(interim)), len(interim))


def test_answers_follow_each_other_on_one_connection_whatever_their_framing() -> None:
    http = asked()
    answers = [
        (LENGTH_5 + b"hello", LENGTH_5 + b"hello"),
        (LENGTH_5 + b"again", LENGTH_5 + b"again"),
        (CHUNKED + chunks(b"a"), CHUNKED + b"a"),
        (CHUNKED + chunks(b"b", b"c"), CHUNKED + b"bc"),
        (head(status="204 No Content"), head(status="204 No Content")),
        (head("Content-Length: 2") + b"ok", head("Content-Length: 2") + b"ok"),
    ]
    for data, answer in answers * 2:
        assert fed(http, data) == [(OK, answer)]
        assert http.reusable
        send(http)


def test_a_head_that_repeats_is_framed_by_the_request_at_hand() -> None:
    http = asked()
    assert fed(http, LENGTH_5 + b"hello") == [(OK, LENGTH_5 + b"hello")]
    send(http, flags=HEAD)
    assert fed(http, LENGTH_5) == [(OK, LENGTH_5)]
    send(http, max_bytes=4)
    with pytest.raises(BadResponse, match="longer than 4 bytes"):
        http.feed(LENGTH_5)


@pytest.mark.parametrize(
    "answer",
    [
        LENGTH_5 + b"hello",
        LENGTH_5 + b"hello" + LENGTH_5,
        head("Content-Length: 5", "Connection: close") + b"hello",
        head("Content-Length: 5", version="1.0") + b"hello",
        head("Content-Length: 0", "Location: /y", status="302 Found"),
        head("Content-Length: 0", status="204 No Content"),
        CHUNKED + chunks(b"hello"),
    ],
)
@pytest.mark.parametrize("flags", [0, HEAD, CLOSE, FOLLOW, FOLLOW | CLOSE])
@pytest.mark.parametrize("max_bytes", [4, 5])
def test_an_answer_like_the_last_one_is_read_as_if_it_were_the_first(
    answer: bytes, flags: int, max_bytes: int
) -> None:
    def read(http: Http11) -> tuple[Any, bool]:
        try:
            events = fed(asked(flags=flags, max_bytes=max_bytes, http=http), answer)
        except BadResponse as error:
            return error.text, False
        return events, http.reusable

    again = asked()
    fed(again, answer)
    assert read(again) == read(Http11("http://h:80", "h", "", 1 << 20))


def test_a_large_body_is_joined_once_from_its_pieces() -> None:
    body = bytes(range(256)) * 4_096
    http = asked(max_bytes=1 << 20)
    data = head(f"Content-Length: {len(body)}") + body
    assert fed(http, data, 65_536) == [(OK, data)]


# --- begun ---------------------------------------------------------------------------------------


def test_begun_is_false_until_the_first_byte_of_the_answer() -> None:
    http = asked()
    assert not http.begun
    http.feed(b"H")
    assert http.begun
    fed(http, LENGTH_5[1:] + b"hello")
    send(http)
    assert not http.begun
    http.feed(head(status="100 Continue"))
    assert http.begun


# --- bad days ------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200",
        head("Content-Length: 5")[:-2],
        LENGTH_5 + b"hell",
        CHUNKED + b"5\r\nhello\r\n",
        CHUNKED + b"5\r\nhello\r\n0\r\n",
        CHUNKED + b"5\r\nhel",
        head(status="100 Continue"),
    ],
)
def test_a_peer_that_closes_too_soon_has_not_answered(data: bytes, step: int) -> None:
    http = asked()
    assert fed(http, data, step, close=True) == []  # so the core says ConnectionLost


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"220 mail.example ESMTP\r\n",
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"\r\n\r\n" + LENGTH_5 + b"hello",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        head("Content-Length: 0", status="099 X"),
        head("Content-Length: 0", status="1000 X"),
        head("Content-Length: 0", status="20 X"),
        head("Content-Length: 0", status="abc X"),
        head("Content-Length: 0", status="200 a\x00b"),
        head("Content-Length: 0", status="200OK"),
        head("X: y\rContent-Length: 5"),
        b"HTTP/1.1 200 OK\r\r\nContent-Length: 5\r\r\n\r\r\nhello",
        head("X: a\x00b"),
        head(" X: a"),
        head(" "),
        head("Content-Length:", " 5"),
        head("Content-Length: 5", " "),
        head("Content-Length: 1", " 5"),
        head("Transfer-Encoding:", "\tchunked"),
        head("Transfer-Encoding: x", " chunked"),
        head("Content-Length : 5"),
        head("Content-Length\t: 5"),
        head("Transfer-Encoding : chunked"),
        head("Content-Length: 5", "Transfer-Encoding : chunked"),
        head("Content-Length: 5", "Transfer-Encoding: chunked\x0b"),
        head("Transfer-Encoding: \x0bchunked"),
        head("Transfer-Encoding: chunked\x0c"),
        head("Transfer-Encoding\x0b: chunked"),
        head("\x01Transfer-Encoding: chunked"),
        head("Transfer-Encoding: \x00chunked"),
        head("Content-Length: 5\x0b"),
        head("Content-Length: \x0c5"),
        head("Content-Length: 5\x00"),
        head(": nameless"),
        head("no colon"),
        head("two words: x"),
        head("Content-Length: 5", "Content-Length: 6"),
        head("Content-Length: 5", "Content-Length: 05"),
        head("Content-Length: 5", "Content-Length:"),
        head("Content-Length: 5, 6"),
        head("Content-Length: 5, 5", "Content-Length: 6"),
        head("Content-Length: 5,"),
        head("Content-Length: ,"),
        head("Content-Length: x, x"),
        head("Content-Length: 5_0"),
        head("Content-Length: \xb2"),
        head("Content-Length: +5"),
        head("Content-Length: -5"),
        head("Content-Length: 0x5"),
        head("Content-Length: 5 5"),
        head("Content-Length:"),
        head("Content-Length: 99999999999999999999999"),
        head("Content-Length: x", "Transfer-Encoding: chunked"),
        head("Content-Length: 5", "Content-Length: 6", "Transfer-Encoding: chunked"),
        head("Content-Length: 5", "Transfer-Encoding: gzip"),
        head("Content-Length: 5", "Transfer-Encoding: identity"),
        head("Content-Length: 5", "Transfer-Encoding:"),
        head("Transfer-Encoding: gzip"),
        head("Transfer-Encoding: gzip, chunked"),
        head("Transfer-Encoding: chunked, chunked"),
        head("Transfer-Encoding: xchunked"),
        head("Transfer-Encoding: identity"),
        head("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        head("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        CHUNKED + b"g\r\n",
        CHUNKED + b"\r\n",
        CHUNKED + b"-1\r\n",
        CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b" 5\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"5 0\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"5\x0b\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"5 \nhello\r\n0\r\n\r\n",
        CHUNKED + b"5;a\nhello\r\n0\r\n\r\n",
        CHUNKED + b"5 \rhello\r\n0\r\n\r\n",
        CHUNKED + b"5\r\nhello\n0\r\n\r\n",
        CHUNKED + b"5\r\nhello\r\n0\r\nX: y\n\r\n",
        CHUNKED + b"5\r\nhello\r\n0\r\nX: y\r\n folded\r\n\r\n",
        CHUNKED + b"5\r\nhello\r\n0\r\nX: \x01\r\n\r\n",
        CHUNKED + b"5\r\nhello\r\n0\r\nX:\r\r\n\r\n",
        CHUNKED + b"5\r\nhello\r\n0\r\nX:\r \r\n\r\n",
        CHUNKED + b"5\nhello\n0\n\n",
        CHUNKED + b"5\r\nhelloX\r\n0\r\n\r\n",
        CHUNKED + b"4\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"fffffffffffffffff\r\nhello\r\n",
        CHUNKED + b"5\r\nhello\r\n0\r\nno colon\r\n\r\n",
        CHUNKED + b"5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_no_answer_is_a_bad_response(data: bytes, step: int) -> None:
    http = asked()
    with pytest.raises(BadResponse):
        fed(http, data, step)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("fields", [[], ["Content-Length: 5"], ["Upgrade: websocket", "Connection: Upgrade"]])
def test_switching_protocols_is_a_bad_response(fields: list[str], step: int) -> None:
    http = asked()
    switched = head(*fields, status="101 Switching Protocols")
    with pytest.raises(BadResponse, match="switch of protocols"):
        fed(http, switched + b"\x81\x00", step)
    with pytest.raises(BadResponse, match="switch of protocols"):
        fed(asked(), switched.replace(b"\r\n", b"\n"), step)


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-",
        b"\n",
        b"HTTP/1.1 200OK\r\n",
        head("no colon")[:-2],
        head("Content-Length: x", "X: y")[:-2],
        head("Content-Length: 5", "Content-Length: 6", "X: y")[:-2],
    ],
)
def test_garbage_is_said_at_once_not_when_the_head_is_whole(data: bytes) -> None:
    http = asked()
    with pytest.raises(BadResponse):
        http.feed(data)


@pytest.mark.parametrize("step", [100, 65_536])
@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000,
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000,
        b"HTTP/1.1 200 " + b"y" * 70_000,
        head(*(f"X-{number}: y" for number in range(10_000))),
    ],
)
def test_endless_headers_are_a_bad_response(data: bytes, step: int) -> None:
    http = asked()
    with pytest.raises(BadResponse, match="head of the answer is longer than 65536 bytes"):
        fed(http, data, step)


def test_thousands_of_headers_within_the_bound_are_an_answer() -> None:
    data = head(*(f"X-{number}: y" for number in range(5_000)), "Content-Length: 5") + b"hello"
    assert fed(asked(), data) == [(OK, data)]


@pytest.mark.parametrize("step", [1_000, 65_536])
@pytest.mark.parametrize("quiet", [b"X: y\r\n" * 50_000, b"X: " + b"y" * 4 * MAX_QUIET_BYTES])
def test_endless_trailers_are_a_bad_response(quiet: bytes, step: int) -> None:
    http = asked()
    with pytest.raises(BadResponse, match="trailers"):
        fed(http, CHUNKED + b"1\r\na\r\n0\r\n" + quiet, step)


def test_an_endless_chunk_extension_is_a_bad_response() -> None:
    http = asked()
    with pytest.raises(BadResponse, match="chunk extensions"):
        fed(http, CHUNKED + b"1;" + b"y" * 2 * MAX_QUIET_BYTES, 10_000)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "data",
    [
        head("Content-Length: 1001"),
        head("Content-Length: 18446744073709551615"),
        CHUNKED + chunks(b"x" * 600, b"x" * 401),
        head("Connection: close") + b"x" * 1_001,
    ],
)
def test_a_body_over_the_limit_is_a_bad_response(data: bytes, step: int) -> None:
    http = asked()
    with pytest.raises(BadResponse, match="longer than 1000 bytes"):
        fed(http, data, step)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "data",
    [
        head("Content-Length: 1000") + b"x" * 1_000,
        CHUNKED + chunks(b"x" * 600, b"x" * 400),
        head("Connection: close") + b"x" * 1_000,
    ],
)
def test_a_body_of_just_the_limit_is_an_answer(data: bytes, step: int) -> None:
    ((code, answer),) = fed(asked(), data, step, close=True)
    assert (code, len(answer.partition(b"\r\n\r\n")[2])) == (OK, 1_000)


def test_the_connections_own_limit_holds_whatever_the_request_says() -> None:
    http = asked(max_bytes=1 << 30)
    with pytest.raises(BadResponse, match=f"longer than {1 << 20} bytes"):
        http.feed(head("Content-Length: 2000000"))


SURPLUS = [b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad", b"\x00" * 100]


@pytest.mark.parametrize("surplus", SURPLUS)
@pytest.mark.parametrize(
    "data",
    [
        LENGTH_5 + b"hello",
        CHUNKED + chunks(b"hello"),
        head(status="204 No Content"),
        head("Content-Length: 0"),
    ],
)
def test_bytes_behind_an_answer_are_nobodys(data: bytes, surplus: bytes) -> None:
    whole, bytewise = asked(), asked()
    answers = fed(whole, data + surplus)
    assert fed(bytewise, data + surplus, 1) == answers
    assert [code for code, _ in answers] == [OK]
    assert not whole.reusable
    with pytest.raises(BadResponse, match="unsolicited"):
        bytewise.feed(surplus)


@pytest.mark.parametrize("data", [LENGTH_5 + b"hello", CHUNKED + chunks(b"hello")])
def test_a_request_that_closes_is_the_connections_last_whatever_the_answer_says(data: bytes) -> None:
    http = asked(flags=CLOSE)
    assert [code for code, _ in fed(http, data)] == [OK]
    assert not http.reusable


def test_bytes_before_a_request_are_a_bad_response() -> None:
    http = Http11("http://h:80", "h", "", 1 << 20)
    assert list(http.connected()) == [READY]
    with pytest.raises(BadResponse, match="unsolicited"):
        http.feed(LENGTH_5)


# --- redirects -----------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 1 << 30])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_that_is_to_be_followed_is_again(status: int, step: int) -> None:
    data = head("LOCATION: /y", "Content-Length: 0", status=f"{status} X")
    assert fed(asked(flags=FOLLOW), data, step) == [(int(Code.AGAIN), data)]
    assert fed(asked(), data, step) == [(OK, data)]
    assert fed(asked(flags=FOLLOW | HEAD), data, step) == [(int(Code.AGAIN), data)]


@pytest.mark.parametrize(
    "data",
    [
        head("Content-Length: 0", status="302 X"),
        head("Location:", "Content-Length: 0", status="302 X"),
        head("X-Location: /y", "Content-Length: 0", status="302 X"),
        head("Location: /y", "Content-Length: 0", status="300 X"),
        head("Location: /y", "Content-Length: 0", status="304 X"),
        head("Location: /y", "Content-Length: 0", status="201 X"),
    ],
)
def test_what_leads_nowhere_is_an_answer(data: bytes) -> None:
    assert fed(asked(flags=FOLLOW), data) == [(OK, data)]


REDIRECT = "302 Found"
REDIRECT_CHUNKED = head("Location: /y", "Transfer-Encoding: chunked", status=REDIRECT)


@pytest.mark.parametrize(
    ("data", "content"),
    [
        (head("Location: /y", "Content-Length: 5", status=REDIRECT) + b"hello", b"hello"),
        (REDIRECT_CHUNKED + chunks(b"hello"), b"hello"),
    ],
)
def test_a_redirects_body_that_comes_with_its_head_keeps_the_connection(data: bytes, content: bytes) -> None:
    http = asked(flags=FOLLOW)
    first, end, _ = data.partition(b"\r\n\r\n")
    assert fed(http, data) == [(int(Code.AGAIN), first + end + content)]
    assert http.reusable


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("first", "body"),
    [
        (REDIRECT_CHUNKED, b"zz\r\n"),
        (REDIRECT_CHUNKED, b"5\r\nhello"),
        (REDIRECT_CHUNKED, b"5\r\nhelloX\r\n"),
        (REDIRECT_CHUNKED, chunks(b"x" * 600, b"x" * 600)),
        (REDIRECT_CHUNKED, b""),
        (head("Location: /y", "Content-Length: 5", status=REDIRECT), b"hell"),
        (head("Location: /y", "Content-Length: 5", status=REDIRECT), b""),
        (head("Location: /y", "Content-Length: 1001", status=REDIRECT), b""),
        (head("Location: /y", "Content-Length: 99999999", status=REDIRECT), b"hello"),
        (head("Location: /y", status=REDIRECT), b""),
        (head("Location: /y", status=REDIRECT), b"hello"),
        (head("Location: /y", status=REDIRECT, version="1.0"), b"hello"),
    ],
)
def test_a_redirect_is_followed_whatever_its_body_is(first: bytes, body: bytes, step: int) -> None:
    http = asked(flags=FOLLOW)
    assert fed(http, first + body, step) == [(int(Code.AGAIN), first)]
    assert not http.reusable


def test_a_redirect_that_is_the_answer_is_read_as_any_other() -> None:
    with pytest.raises(BadResponse, match="chunks are malformed"):
        fed(asked(), REDIRECT_CHUNKED + b"zz\r\n")
    assert (
        fed(asked(), head("Location: /y", "Content-Length: 5", status=REDIRECT) + b"hell", close=True) == []
    )
    with pytest.raises(BadResponse, match="longer than 1000"):
        fed(asked(), head("Location: /y", "Content-Length: 1001", status=REDIRECT))


def test_an_answer_behind_a_redirect_is_read_to_its_end() -> None:
    http = asked(flags=FOLLOW)
    fed(http, head("Location: /y", "Content-Length: 0", status=REDIRECT))
    send(http, flags=FOLLOW, max_bytes=1 << 20)
    data = head("Content-Length: 100000") + bytes(100_000)
    assert fed(http, data, 1_000) == [(OK, data)]
    send(http, flags=FOLLOW)
    with pytest.raises(BadResponse, match="malformed"):
        fed(http, CHUNKED + b"zz\r\n")


def test_a_redirect_of_a_named_upstream_says_whose_it_is() -> None:
    http = Http11("http://h:8080", "h:8080", "", 1 << 20)
    send(http, flags=FOLLOW | NAMED)
    data = head("Location: /y", "Content-Length: 0", status="302 X")
    assert fed(http, data) == [(int(Code.AGAIN), b"http://h:8080\r\n" + data)]


# --- what is sent --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://h:80", b"h"),
        ("http://h:8080#0123", b"h:8080"),
        ("http://127.0.0.1:80", b"127.0.0.1"),
        ("http://[::1]:80", b"[::1]"),
        ("http://[::1]:8080", b"[::1]:8080"),
        ("http://h:443", b"h:443"),
    ],
)
def test_a_request_by_name_gets_its_host(origin: str, host: bytes) -> None:
    http = protocol(origin, b"", 1 << 20)
    assert send(http, b"GET / HTTP/1.1\r\nA: b\r\n\r\n") == b"GET / HTTP/1.1\r\nA: b\r\n\r\n"
    request = b"GET / HTTP/1.1\r\nHost: " + host + b"\r\nA: b\r\n\r\n"
    assert send(http, b"GET / HTTP/1.1\r\nA: b\r\n\r\n", flags=NO_HOST) == request


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({"user": "ann", "password": "s\xe9cret"}, b"Basic " + base64.b64encode("ann:sécret".encode())),
        ({"user": "ann"}, b"Basic " + base64.b64encode(b"ann:")),
        ({"token": "abc.def"}, b"Bearer abc.def"),
    ],
)
def test_the_settings_credentials_go_with_requests_that_have_none(settings: Any, value: bytes) -> None:
    http = protocol("http://h:80", msgpack.packb(settings), 1 << 20)
    with_credentials = b"GET /x HTTP/1.1\r\nAuthorization: " + value + b"\r\nHost: h\r\n\r\n"
    assert send(http) == with_credentials
    assert send(http, flags=NO_CREDENTIALS) == GET
    named = b"GET / HTTP/1.1\r\n\r\n"
    assert send(http, named, flags=NO_HOST) == (
        b"GET / HTTP/1.1\r\nHost: h\r\nAuthorization: " + value + b"\r\n\r\n"
    )
    assert send(http, named, flags=NO_HOST | NO_CREDENTIALS) == b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.mark.parametrize("payload", [b"", b"\x00", HEADER.pack(0, 1)])
def test_half_a_payload_is_a_usage_error_and_changes_nothing(payload: bytes) -> None:
    http = Http11("http://h:80", "h", "Bearer x", 1 << 20)
    ask = Ask()
    ask.payload = payload
    with pytest.raises(UsageError):
        http.send(ask)
    ask.payload = HEADER.pack(0, 1) + b"GET / HTTP/1.1"
    with pytest.raises(UsageError):
        http.send(ask)
    with pytest.raises(BadResponse, match="unsolicited"):
        http.feed(LENGTH_5)


def test_https_has_tls_under_it() -> None:
    http = protocol("https://localhost:443", b"", 1 << 20)
    (hello,) = http.connected()
    assert isinstance(hello, bytes)
    assert hello.startswith(b"\x16\x03")
    assert b"localhost" in hello
    assert b"http/1.1" in hello


def test_the_kind_is_one_with_connections() -> None:
    assert (WORKER_KIND.name, WORKER_KIND.depth) == ("http", 1)
    assert WORKER_KIND.info.connections
