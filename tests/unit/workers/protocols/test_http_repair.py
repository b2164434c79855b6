"""What the worker half of http takes though RFC 9112 lets it be refused, whole and byte by byte.

What is refused is in ``test_worker_http.py``; why the one and not the other is in docs/kinds-http.md.
"""

from __future__ import annotations

from typing import Any

import pytest

from reqpool_contract.errors import BadResponse, Code
from reqpool_contract.payloads.http import HEAD, HEADER
from reqpool_workers.protocols import Ask
from reqpool_workers.protocols.http import MAX_HEAD_BYTES, Http11

OK = int(Code.OK)
STEPS = [1, 2, 3, 7, 1 << 30]
LINE = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: 2\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\nLink: </a.css>\n\n"


def asked(http: Http11 | None = None, flags: int = 0) -> Http11:
    http = http or Http11("http://h:80", "h", "", 1 << 20)
    request = Ask()
    request.payload = HEADER.pack(flags, 100_000) + b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    http.send(request)
    return http


def fed(http: Http11, data: bytes, step: int = 1 << 30) -> list[Any]:
    for at in range(0, len(data), step):
        events = list(http.feed(data[at : at + step]))
        if events:
            return events
    return []


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("data", "head"),
    [
        (LINE + b"X: one,\r\n two\r\n" + LENGTH, LINE + b"X: one, two\r\n" + LENGTH),
        (LINE + b"X: one \t\r\n\t \ttwo\r\n three \r\n" + LENGTH, LINE + b"X: one two three\r\n" + LENGTH),
        (LINE + b"X:\r\n one\r\n" + LENGTH, LINE + b"X: one\r\n" + LENGTH),
        (LINE + b"X: one\r\n \r\n" + LENGTH, LINE + b"X: one\r\n" + LENGTH),
        (LINE + b"X: \r\n \t\r\n" + LENGTH, LINE + b"X: \r\n" + LENGTH),
        (LINE + LENGTH + b"X: a\r\n Content-Length: 9\r\n", LINE + LENGTH + b"X: a Content-Length: 9\r\n"),
        (
            LINE + b"X: a\x01b\x0b\x0c\x1b\x7fc\r\n" + LENGTH,
            LINE + b"X: a\x01b\x0b\x0c\x1b\x7fc\r\n" + LENGTH,
        ),
        (LINE + LENGTH + b"P: x\r\n" + LENGTH, LINE + LENGTH + b"P: x\r\n"),
        (LINE + LENGTH + b"content-length:2\r\n", LINE + LENGTH),
        (LINE + b"Content-Length: 2,2 ,\t2\r\n", LINE + LENGTH),
        (LINE + b"Content-Length: 2, 2\r\n" + LENGTH, LINE + LENGTH),
    ],
)
def test_what_can_be_read_in_one_way_only_keeps_the_connection(data: bytes, head: bytes, step: int) -> None:
    http = asked()
    for _ in range(3):
        assert fed(http, data + b"\r\nok", step) == [(OK, head + b"\r\nok")]
        assert http.reusable
        asked(http)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"HTTP/1.1 200 OK\nX: y\nContent-Length: 2\n\nok", LINE + b"X: y\r\n" + LENGTH + b"\r\nok"),
        (LINE + b"X: y\n" + LENGTH + b"\r\nok", LINE + b"X: y\r\n" + LENGTH + b"\r\nok"),
        (b"HTTP/1.1 200 OK\n" + LENGTH + b"\r\nok", LINE + LENGTH + b"\r\nok"),
        (LINE + LENGTH + b"\nok", LINE + LENGTH + b"\r\nok"),
        (LINE + CHUNKED + b"\n2\r\nok\r\n0\r\n\r\n", LINE + CHUNKED + b"\r\nok"),
        (LINE + b"X : y\r\n" + LENGTH + b"\r\nok", LINE + b"X: y\r\n" + LENGTH + b"\r\nok"),
        (LINE + b"X \t : y\r\n" + LENGTH + b"\r\nok", LINE + b"X: y\r\n" + LENGTH + b"\r\nok"),
        (
            LINE + b"Content-Length: 9\r\n" + CHUNKED + b"\r\n2\r\nok\r\n0\r\n\r\n",
            LINE + b"Content-Length: 9\r\n" + CHUNKED + b"\r\nok",
        ),
        (
            LINE + CHUNKED + b"Content-Length: 0\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            LINE + CHUNKED + b"Content-Length: 0\r\n\r\nok",
        ),
        (INTERIM + LINE + LENGTH + b"\r\nok", LINE + LENGTH + b"\r\nok"),
        (LINE.replace(b"200", b"204") + CHUNKED + LENGTH + b"\r\n",) * 2,
    ],
)
def test_what_others_may_read_in_another_way_is_the_connections_last(
    data: bytes, answer: bytes, step: int
) -> None:
    http = asked()
    assert fed(http, data, step) == [(OK, answer)]
    assert not http.reusable


@pytest.mark.parametrize("step", STEPS)
def test_chunks_override_a_length_and_the_rest_is_nobodys(step: int) -> None:
    http = asked()
    data = LINE + b"Content-Length: 2\r\n" + CHUNKED + b"\r\n2\r\nok\r\n0\r\n\r\n" + LINE + LENGTH + b"\r\nno"
    ((_, answer),) = fed(http, data, step)
    assert answer.endswith(b"\r\n\r\nok")
    assert not http.reusable


def test_a_doubt_about_an_interim_answer_is_one_about_the_connection() -> None:
    http = asked()
    plain = LINE + LENGTH + b"\r\nok"
    assert fed(http, plain) == [(OK, plain)]
    assert http.reusable
    asked(http)
    assert fed(http, INTERIM + plain) == [(OK, plain)]
    assert not http.reusable


def test_a_plain_answer_after_a_repaired_one_is_read_as_it_is() -> None:
    http = asked()
    answers = [LINE + b"X: a\r\n b\r\n" + LENGTH + b"\r\nok", LINE + b"X: a b\r\n" + LENGTH + b"\r\nok"]
    for data in answers * 2:
        assert fed(http, data) == [(OK, answers[1])]
        asked(http)


def test_an_answer_to_head_may_be_repaired() -> None:
    http = asked(flags=HEAD)
    assert fed(http, LINE + b"X: a\r\n b\r\n" + LENGTH + b"\r\n") == [
        (OK, LINE + b"X: a b\r\n" + LENGTH + b"\r\n")
    ]
    assert http.reusable


def test_what_looks_like_the_end_of_a_head_may_be_in_its_body() -> None:
    body = bytes(MAX_HEAD_BYTES) + b"\r\n\r\n"
    http = asked()
    data = b"HTTP/1.1 200 OK\nContent-Length: %d\n\n" % len(body) + body
    assert fed(http, data) == [(OK, LINE + b"Content-Length: %d\r\n\r\n" % len(body) + body)]


@pytest.mark.parametrize("step", [1_000, 65_536])
@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\n" + b"X: y\n" * 20_000,
        b"HTTP/1.1 200 OK\nX: " + b"y" * 70_000,
        LINE + b"X: a\r\n" + b" b\r\n" * 20_000,
        LINE + b"X: a\r\n" + b" \r\n" * 30_000,
        INTERIM * 2_000,
    ],
)
def test_endless_heads_are_a_bad_response(data: bytes, step: int) -> None:
    http = asked()
    with pytest.raises(BadResponse, match="65536 bytes"):
        fed(http, data, step)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"Content-Length: 2\r\nContent-Length: 3\r\n", "its Content-Length is not a single number"),
        (b"Content-Length : 2\r\n", "white space before the colon of a framing field"),
        (b"Transfer-Encoding:\r\n chunked\r\n", "a framing field is folded"),
        (b" X: y\r\n", "its first field begins with white space"),
        (b"X y: z\r\n", "not a field name followed by a colon: b'X y'$"),
        (b"Set-Cookie: secret\x00\r\n", "it contains a NUL or a bare CR: b'Set-Cookie'$"),
    ],
)
def test_a_refused_head_is_told_why(data: bytes, says: str) -> None:
    with pytest.raises(BadResponse, match=f"the head of the answer is malformed: {says}"):
        fed(asked(), LINE + data + b"\r\n")
