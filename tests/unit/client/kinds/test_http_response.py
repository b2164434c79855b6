"""HttpResponse: an answer, and what is made of it on first look."""

from __future__ import annotations

import gzip
import os
import pickle
import sys
import zlib
from typing import Any

import brotli  # type: ignore[import-untyped]
import pytest
import zstandard

from reqpool.kinds.http import KIND
from reqpool.kinds.http_fields import HttpHeaders
from reqpool.kinds.http_response import HttpResponse
from reqpool_contract.errors import BadResponse, HttpError, RequestFacts, UpstreamError

LIMIT = 1 << 20


class Asked:
    note = KIND.encode("http://h.test/x", "GET", max_bytes=LIMIT)[2]
    trail = ()
    facts = RequestFacts("ab", 7, "http://h.test:80", 2, 0.25)


def answer(*fields: str | bytes, body: bytes = b"", status: str = "200 OK") -> HttpResponse:
    lines = [f"HTTP/1.1 {status}".encode("latin-1")]
    lines += [field.encode("latin-1") if isinstance(field, str) else field for field in fields]
    return KIND.decode(b"\r\n".join([*lines, b"", body]), Asked())


def coded(coding: str, body: bytes) -> HttpResponse:
    return answer(f"Content-Encoding: {coding}", body=body)


# --- the head ----------------------------------------------------------------------------------------


def test_an_answer_is_what_came() -> None:
    response = answer("Content-Type: text/plain", body=b"hello")
    assert (response.status, response.reason, response.ok) == (200, "OK", True)
    assert (response.content, response.raw, response.text) == (b"hello", b"hello", "hello")
    assert (response.url, response.history, response.elapsed_s) == ("http://h.test/x", (), 0.25)
    assert repr(response) == "<HttpResponse 200 http://h.test/x 5 bytes>"
    response.url += "?token=secret"
    assert repr(response) == "<HttpResponse 200 http://h.test/x?*** 5 bytes>"


@pytest.mark.parametrize(
    ("status", "number", "reason"),
    [
        ("404 Not Found", 404, "Not Found"),
        ("200", 200, ""),
        ("200 ", 200, ""),
        ("500 Ung\xfcltig", 500, "Ung\xfcltig"),
    ],
)
def test_a_status_has_a_reason_or_none(status: str, number: int, reason: str) -> None:
    response = answer(status=status)
    assert (response.status, response.reason) == (number, reason)


def test_headers_are_found_in_any_case_and_keep_their_order_and_number() -> None:
    headers = answer("Set-Cookie: a=1", "X-A:  b ", "set-cookie: b=2", "X-Empty:", "X-L: \xe9").headers
    assert headers["SET-COOKIE"] == "a=1, b=2"
    assert headers.get_all("Set-Cookie") == ["a=1", "b=2"]
    assert headers.get_all("x-none") == []
    assert headers.get("x-a") == headers["X-a"] == "b"
    assert headers["x-empty"] == ""
    assert headers["x-l"] == "\xe9"
    assert "x-A" in headers
    assert "x-none" not in headers
    assert list(headers) == ["Set-Cookie", "X-A", "X-Empty", "X-L"]
    assert len(headers) == 4
    assert headers.all[2] == ("set-cookie", "b=2")
    with pytest.raises(KeyError):
        headers["x-none"]
    assert headers == HttpHeaders(headers.all)


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"HTTP/1.1 200 OK", b"HTTP/1.1 2x0 OK\r\n\r\n", b"SSH-2.0-x 200\r\n\r\n", b"\r\n\r\n"],
)
def test_what_is_no_answer_is_a_bad_response(data: bytes) -> None:
    with pytest.raises(BadResponse, match="not an HTTP answer"):
        KIND.decode(data, Asked())


# --- content codings ---------------------------------------------------------------------------------

TEXT = b"hello, hello, hello, hello\n" * 100


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACK: dict[str, Any] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "raw deflate": raw_deflate,
    "br": brotli.compress,
    "zstd": zstandard.compress,
}
CODINGS = list(PACK)


def coding_of(name: str) -> str:
    return name.rpartition(" ")[2]


@pytest.mark.parametrize("name", CODINGS)
@pytest.mark.parametrize(
    "data", [TEXT, b"x", os.urandom(100_000), b"\0" * LIMIT], ids=["text", "x", "random", "zeros"]
)
def test_a_coding_is_undone(name: str, data: bytes) -> None:
    packed = PACK[name](data)
    response = coded(coding_of(name).upper(), packed)
    assert response.content == data
    assert response.content is response.content
    assert response.raw == packed


@pytest.mark.parametrize("name", CODINGS)
def test_an_empty_body_in_a_coding_is_empty(name: str) -> None:
    assert coded(coding_of(name), PACK[name](b"")).content == b""
    assert coded(coding_of(name), b"").content == b"", "as an answer to HEAD has it"


@pytest.mark.parametrize("name", CODINGS)
@pytest.mark.parametrize("size", [LIMIT + 1, 256 << 20])
def test_a_bomb_is_a_bad_response(name: str, size: int) -> None:
    response = coded(coding_of(name), bomb(name, size))
    with pytest.raises(BadResponse, match=rf"{coding_of(name)} data is more than {LIMIT} bytes when decoded"):
        response.content  # noqa: B018
    assert response.raw, "what came can still be looked at"


def bomb(name: str, size: int) -> bytes:
    """So many zeros, packed without having them in memory."""
    if name == "br":
        packer = brotli.Compressor(quality=1)
        parts = [packer.process(bytes(1 << 20)) for _ in range(size >> 20)]
        return b"".join([*parts, packer.process(bytes(size & 0xFFFFF)), packer.finish()])
    if name == "zstd":
        stream: Any = zstandard.ZstdCompressor(level=1).compressobj()
    else:
        stream = zlib.compressobj(1, wbits={"deflate": 15, "raw deflate": -15}.get(name, 31))
    parts = [stream.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    return b"".join([*parts, stream.compress(bytes(size & 0xFFFFF)), stream.flush()])


@pytest.mark.parametrize("name", CODINGS)
def test_data_cut_short_is_a_bad_response(name: str) -> None:
    packed = PACK[name](os.urandom(2_000) + TEXT)
    for length in (1, 2, 5, len(packed) // 2, len(packed) - 1):
        response = coded(coding_of(name), packed[:length])
        with pytest.raises(BadResponse, match="malformed or cut short"):
            response.content  # noqa: B018


@pytest.mark.parametrize("name", CODINGS)
@pytest.mark.parametrize("junk", [b"\xff" * 50, b"<html>not packed at all</html>"])
def test_data_that_is_not_in_its_coding_is_a_bad_response(name: str, junk: bytes) -> None:
    with pytest.raises(BadResponse, match="malformed or cut short"):
        coded(coding_of(name), junk).content  # noqa: B018


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_several_members_are_one_content(name: str) -> None:
    assert coded(name, PACK[name](b"one ") + PACK[name](b"two")).content == b"one two"


def test_several_members_together_are_bounded() -> None:
    half = bomb("gzip", LIMIT // 2 + 1)
    with pytest.raises(BadResponse, match="when decoded"):
        coded("gzip", half * 2).content  # noqa: B018


def test_padding_behind_gzip_is_ignored() -> None:
    assert coded("gzip", gzip.compress(TEXT) + bytes(100)).content == TEXT


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_members_behind_each_other_may_be_cut_anywhere(name: str) -> None:
    noise = os.urandom(200_000)  # more than is fed at once
    assert coded(name, PACK[name](noise) + PACK[name](b"") + PACK[name](noise)).content == noise * 2


def test_a_later_member_that_is_broken_is_no_padding() -> None:
    broken = bytearray(gzip.compress(TEXT) * 2)
    broken[-20] ^= 1
    with pytest.raises(BadResponse, match="malformed or cut short"):
        coded("gzip", bytes(broken)).content  # noqa: B018


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_a_million_empty_members_are_a_bad_response(name: str) -> None:
    with pytest.raises(BadResponse, match="more than 4096 concatenated streams"):
        coded(name, PACK[name](b"") * 1_000_000).content  # noqa: B018


def test_raw_deflate_ends_with_its_stream() -> None:
    assert coded("deflate", raw_deflate(b"") * 1_000_000).content == b""


def test_codings_on_each_other_are_undone_from_the_last() -> None:
    packed = brotli.compress(gzip.compress(TEXT))
    assert coded("gzip, br", packed).content == TEXT
    assert answer("Content-Encoding: gzip", "content-encoding: br", body=packed).content == TEXT
    assert coded("identity", TEXT).content == TEXT


@pytest.mark.parametrize(
    "coding",
    [
        "none",
        "UTF-8",
        "utf8",
        "iso-8859-1",
        "us-ascii",
        "identity",
        "binary",
        "8bit",
        "7bit",
        "aws-chunked",
        "",
        ",",
    ],
)
def test_what_is_no_coding_changes_nothing(coding: str) -> None:
    assert coded(coding, TEXT).content == TEXT
    assert coded(f"gzip, {coding}", gzip.compress(TEXT)).content == TEXT
    assert coded(f"{coding},gzip", gzip.compress(TEXT)).content == TEXT


@pytest.mark.parametrize("coding", ["base64", "hex", "zip", "rot13", "idna", "compress", "*"])
def test_what_python_knows_as_a_codec_is_not_therefore_a_charset(coding: str) -> None:
    with pytest.raises(BadResponse, match="is not supported"):
        coded(coding, TEXT).content  # noqa: B018


def test_a_tower_of_codings_is_a_bad_response() -> None:
    with pytest.raises(BadResponse, match="5 nested content codings"):
        coded("gzip, gzip, gzip, gzip, gzip", TEXT).content  # noqa: B018


def test_an_unknown_coding_is_a_bad_response_and_can_be_looked_at() -> None:
    response = coded("pack200", b"abc")
    with pytest.raises(BadResponse, match=r"content coding 'pack200' is not supported; \.raw has the body"):
        response.content  # noqa: B018
    assert response.raw == b"abc"


@pytest.mark.parametrize(("coding", "package"), [("br", "brotli"), ("zstd", "zstandard")])
def test_a_missing_package_is_said(coding: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BadResponse, match=rf"in {coding}, which needs a package.*reqpool\[http\]"):
        coded(coding, b"abc").content  # noqa: B018


# --- text and JSON -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "body", "text"),
    [
        ("text/plain; charset=latin-1", b"caf\xe9", "caf\xe9"),
        ('text/plain; a=b; Charset="ISO-8859-1"', b"caf\xe9", "caf\xe9"),
        ("text/html", "caf\xe9".encode(), "caf\xe9"),
        ("text/html", b"caf\xe9", "caf\ufffd"),
        ("text/html", b"\xef\xbb\xbfhi", "hi"),
        ("text/plain; charset=utf-16", "hi".encode("utf-16"), "hi"),
        ("text/plain; charset=nonsense", "caf\xe9".encode(), "caf\xe9"),
        ("text/plain; charset=base64", b"aGk=", "aGk="),
        ("text/plain; charset=rot13", b"hi", "hi"),
        ("text/plain; charset=undefined", b"hi", "hi"),
        ("text/plain; charset=idna", "caf\xe9".encode(), "caf\xe9"),
        ("text/plain; charset=punycode", b"caf-dma", "caf-dma"),
        ("text/plain; charset=unicode-escape", rb"\u0041\d", r"\u0041\d"),
        ("text/plain; charset=raw_unicode_escape", rb"\u0041", r"\u0041"),
        ("text/plain; charset=", b"hi", "hi"),
        # RFC 9110 §5.6.6
        ("text/plain;charset=latin-1", b"caf\xe9", "caf\xe9"),
        ("text/plain \t;\t CHARSET=Latin-1 ; a=b", b"caf\xe9", "caf\xe9"),
        ('text/plain; charset="iso\\-8859\\-1"', b"caf\xe9", "caf\xe9"),
        ('text/plain; a="; charset=utf-16"; charset=latin-1', b"caf\xe9", "caf\xe9"),
        ('text/plain; a="\\"; charset=utf-16"; charset=latin-1', b"caf\xe9", "caf\xe9"),
        ("text/plain; ;; charset=latin-1;", b"caf\xe9", "caf\xe9"),
        # What servers send besides.
        ("text/plain; charset='latin-1'", b"caf\xe9", "caf\xe9"),
        ("text/plain; charset = latin-1", b"caf\xe9", "caf\xe9"),
        ('text/plain; charset="latin-1', b"caf\xe9", "caf\xe9"),
        ('text/plain; charset=" latin-1 "', b"caf\xe9", "caf\xe9"),
        ("text/plain; charset=utf8", "caf\xe9".encode(), "caf\xe9"),
        ("text/plain; charset=latin-1; charset=utf-16", b"caf\xe9", "caf\xe9"),
        ("text/plain; charset=nonsense; charset=latin-1", b"caf\xe9", "caf\xe9"),
        ("text/plain; charset=latin-1, text/html", b"caf\xe9", "caf\xe9"),
        ("text/plain; x-charset=utf-16", b"hi", "hi"),
        ("text/plain; charset=" + "x" * 10_000, b"hi", "hi"),
        ("text/plain; charset=caf\xe9", b"hi", "hi"),
        # A mark says more than the server (WHATWG Encoding).
        ("text/plain; charset=latin-1", b"\xef\xbb\xbfcaf\xc3\xa9", "caf\xe9"),
        ("text/plain", "caf\xe9".encode("utf-16"), "caf\xe9"),
        ("text/plain", b"\xfe\xff\0h\0i", "hi"),
        ("text/plain; charset=utf-8", b"\xfe\xff\0h\0i", "hi"),
        ("text/plain; charset=utf-16-le", b"\xff\xfeh\0i\0", "hi"),
        ("text/plain; charset=utf-32", "hi".encode("utf-32"), "hi"),
    ],
)
def test_text_is_in_the_servers_charset_or_utf_8(content_type: str, body: bytes, text: str) -> None:
    assert answer(f"Content-Type: {content_type}", body=body).text == text


def test_of_several_content_types_the_last_one_counts() -> None:
    response = answer("Content-Type: a/b; charset=utf-16", "content-type: c/d; charset=latin-1", body=b"\xe9")
    assert (response.encoding, response.text) == ("iso8859-1", "\xe9")


def test_text_needs_no_content_type() -> None:
    assert answer(body="\u20ac".encode()).text == "\u20ac"
    assert answer().encoding == "utf-8"


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": [1, null]}', {"a": [1, None]}),
        ('"\u20ac"'.encode(), "\u20ac"),
        ('"\u20ac"'.encode("utf-16"), "\u20ac"),
        (b'\xef\xbb\xbf"hi"', "hi"),
    ],
)
def test_json_is_read(body: bytes, value: Any) -> None:
    assert answer(body=body).json() == value


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json; charset=iso-8859-1", b'"\xe9"'),
        ('application/json;charset="windows-1252"', b'"\xe9"'),
        ("application/json; charset=iso-8859-1", '"\xe9"'.encode()),
        ("application/json; charset=utf-8", '"\xe9"'.encode("utf-16")),
    ],
)
def test_json_in_a_charset_that_the_server_names_is_read(content_type: str, body: bytes) -> None:
    assert answer(f"Content-Type: {content_type}", body=body).json() == "\xe9"


@pytest.mark.parametrize("body", [b"", b"<html>", b"{", b'"\xff"', b"[" * 100_000, b"1" * 5_000])
def test_what_is_not_json_is_a_bad_response(body: bytes) -> None:
    response = answer("Content-Type: text/html", body=body, status="502 Bad Gateway")
    with pytest.raises(BadResponse, match=r"http://h.test/x \(502, text/html\) is not JSON"):
        response.json()


# --- status and pickling -----------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "302 Found", "399 X"])
def test_a_good_status_raises_nothing(status: str) -> None:
    response = answer(status=status)
    assert response.raise_for_status() is response
    assert response.ok


@pytest.mark.parametrize("status", ["400 Bad Request", "404 Not Found", "500", "599 X"])
def test_a_bad_status_raises_with_the_answer(status: str) -> None:
    response = answer(status=status)
    assert not response.ok
    with pytest.raises(HttpError, match=f"{status}: http://h.test/x") as caught:
        response.raise_for_status()
    assert isinstance(caught.value, UpstreamError)
    assert (caught.value.status, caught.value.response) == (response.status, response)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.status, again.response.status, str(again)) == (
        response.status,
        response.status,
        str(caught.value),
    )


def test_an_errors_text_has_no_control_characters_of_the_server_in_it() -> None:
    response = answer("Content-Type: a\x1b[0m/b", status="500 \x1b[2J\x9bX")
    assert response.reason == "\x1b[2J\x9bX"
    with pytest.raises(HttpError, match=r"^500 \\x1b\[2J\\x9bX: http") as caught:
        response.raise_for_status()
    assert str(caught.value).isprintable()
    with pytest.raises(BadResponse, match=r"\(500, a\\x1b\[0m/b\)"):
        response.json()


def test_an_answer_pickles_with_its_history() -> None:
    first = answer("Location: /x", status="302 Found")
    facts = RequestFacts("ab", 7, "http://h.test:80", 2, 1.5)
    response = HttpResponse(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip", gzip.compress(TEXT), "u", (first,), facts, 5_000
    )
    for _ in range(2):
        again = pickle.loads(pickle.dumps(response))
        assert (again.status, again.url, again.elapsed_s, again.content) == (200, "u", 1.5, TEXT)
        assert again.history[0].headers["location"] == "/x"
        assert pickle.loads(pickle.dumps(response.headers)) == response.headers
        assert response.content == TEXT, "and once looked at"
