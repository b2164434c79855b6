"""``reqpool http|redis|mysql``: what their arguments come to, and how answers are shown; no pool."""

from __future__ import annotations

import argparse
import io
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import reqpool
from reqpool_ops.cli import parser
from reqpool_ops.requests import http, mysql, redis, secured


def options(*arguments: str) -> argparse.Namespace:
    return parser().parse_args(arguments)


@pytest.fixture(autouse=True)
def _no_password_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REQPOOL_PASSWORD", raising=False)


# --- passwords and TLS -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "secret", "made"),
    [
        ("redis://h:6379/0", "s/e@c:r%t", "redis://:s%2Fe%40c%3Ar%25t@h:6379/0"),
        ("mysql://app@h/db", "pw", "mysql://app:pw@h/db"),
        ("mysql://app:own@h/db", "pw", "mysql://app:own@h/db"),
        ("mysql://app:@h/db", "pw", "mysql://app:@h/db"),
        ("unix:///tmp/a@b.sock?db=1", "pw", "unix://:pw@/tmp/a@b.sock?db=1"),
        ("http://h/@x", None, "http://h/@x"),
        ("cache", "pw", "cache"),
    ],
)
def test_a_password_goes_into_a_url_that_has_none(url: str, secret: str | None, made: str) -> None:
    assert secured.with_password(url, secret) == made


def test_the_file_comes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = options("redis", "redis://h", "PING")
    assert secured.password(given) is None
    monkeypatch.setenv("REQPOOL_PASSWORD", "from the environment")
    assert secured.password(given) == "from the environment"
    (tmp_path / "password").write_bytes("schlüssel\r\nsecond line".encode())
    given = options("redis", "--password-file", str(tmp_path / "password"), "redis://h", "PING")
    assert secured.password(given) == "schlüssel"
    (tmp_path / "password").write_bytes(b"\xff\n")
    with pytest.raises(reqpool.UsageError, match="not UTF-8"):
        secured.password(given)
    (tmp_path / "password").unlink()
    with pytest.raises(reqpool.UsageError, match="No such file"):
        secured.password(given)


def test_a_password_beside_the_name_of_an_upstream_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQPOOL_PASSWORD", "meant for something else")
    assert secured.target(options("redis", "cache", "PING")) == "cache"
    with pytest.raises(reqpool.UsageError, match="the pool has its password"):
        secured.target(options("redis", "--password-file", "/dev/null", "cache", "PING"))


def test_tls_is_the_defaults_if_nothing_is_said() -> None:
    assert secured.tls(options("redis", "rediss://h", "PING")) is None
    given = options("redis", "--ca", "a.pem", "--cert", "c.pem", "--key", "k.pem", "rediss://h", "PING")
    assert secured.tls(given) == reqpool.Tls(ca="a.pem", cert="c.pem", key="k.pem")
    assert secured.tls(options("redis", "--insecure", "rediss://h", "PING")) == reqpool.Tls(verify=False)


# --- http ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "method"),
    [
        (("http://h",), None),
        (("PUT", "http://h"), "PUT"),
        (("-d", "x", "PUT", "http://h"), "PUT"),
        (("http://h", "-X", "PUT"), "PUT"),
    ],
)
def test_the_method_stands_before_the_url_or_is_an_option(
    arguments: tuple[str, ...], method: str | None
) -> None:
    given = options("http", *arguments)
    assert (given.method or given.request, given.target) == (method, "http://h")


@pytest.mark.parametrize(
    ("arguments", "body", "sent"),
    [
        ((), None, []),
        (("-d", "a=1"), b"a=1", [("Content-Type", "application/x-www-form-urlencoded")]),
        (
            ("-d", "a=1", "-d", "ü", "-H", "content-type: text/plain"),
            "a=1&ü".encode(),
            [("content-type", "text/plain")],
        ),
        (("--json",), None, [("Accept", "application/json")]),
        (
            ("--json", "-d", "[1]", "-H", "Accept:x:y "),
            b"[1]",
            [("Accept", "x:y"), ("Content-Type", "application/json")],
        ),
        (("-H", "X: 1", "-H", "X: 2"), None, [("X", "1"), ("X", "2")]),
    ],
)
def test_body_and_headers_are_as_curl_has_them(
    arguments: tuple[str, ...], body: bytes | None, sent: list[tuple[str, str]]
) -> None:
    given = options("http", *arguments, "http://h")
    data = http.body(given)
    assert data == body
    assert http.headers(given, data) == sent


def test_a_body_can_come_from_a_file_or_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "body").write_bytes(b"\x00\xff\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"in\xff")))
    given = options("http", "-d", f"@{tmp_path}/body", "-d", "@-", "http://h")
    assert http.body(given) == b"\x00\xff\n&in\xff"
    with pytest.raises(reqpool.UsageError, match="nothing: No such file"):
        http.body(options("http", "-d", f"@{tmp_path}/nothing", "http://h"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("-H", "nonsense"), "'nonsense' is not a header"),
        (("--json", "-d", "{"), "--json: the data is not JSON"),
    ],
)
def test_what_cannot_be_sent_is_said(arguments: tuple[str, ...], says: str) -> None:
    given = options("http", *arguments, "http://h")
    with pytest.raises(reqpool.UsageError, match=says):
        http.headers(given, http.body(given))


def test_a_password_goes_only_where_a_user_or_a_file_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQPOOL_PASSWORD", "env")
    (tmp_path / "token").write_text("tok\n")
    for arguments, credentials in [
        (("http://h/",), ("http://h/", None)),
        (("http://app@h/",), ("http://app:env@h/", None)),
        (("http://app:own@h/",), ("http://app:own@h/", None)),
        (("-u", "app", "http://h/"), ("http://h/", ("app", "env"))),
        (("-u", "app:o:wn", "http://h/"), ("http://h/", ("app", "o:wn"))),
        (("--password-file", f"{tmp_path}/token", "http://h/"), ("http://h/", "tok")),
        (("--password-file", f"{tmp_path}/token", "http://app@h/"), ("http://app:tok@h/", None)),
    ]:
        assert http.credentials(options("http", *arguments)) == credentials


# --- redis -----------------------------------------------------------------------------------------


def test_everything_behind_the_url_is_the_command() -> None:
    given = options("redis", "--timeout", "2", "redis://h", "LRANGE", "-k", "0", "-1", "--raw", "--")
    assert given.command == ["LRANGE", "-k", "0", "-1", "--raw", "--"]
    assert (given.timeout, given.raw, given.protocol) == (2.0, None, 2)


@pytest.mark.parametrize(
    ("reply", "shown", "raw"),
    [
        (None, ["(nil)"], [b""]),
        (5, ["(integer) 5"], [b"5"]),
        (True, ["(true)"], [b"true"]),
        (2.5, ["(double) 2.5"], [b"2.5"]),
        (b'a"\\\n\x1b\xff', [r'"a\"\\\n\x1b\xff"'], [b'a"\\\n\x1b\xff']),
        ([], ["(empty array)"], []),
        ([b"a", [1, None], b"b"], ['1) "a"', "2) 1) (integer) 1", "   2) (nil)", '3) "b"'],
         [b"a", b"1", b"", b"b"]),
        ({b"k": [1, 2]}, ['1# "k" => 1) (integer) 1', "   2) (integer) 2"], [b"k", b"1", b"2"]),
        ([reqpool.RedisError("ERR x\x1b")], [r"1) (error) ERR x\x1b"], [b"ERR x\x1b"]),
    ],
)  # fmt: skip
def test_a_reply_is_shown_as_redis_cli_does(reply: Any, shown: list[str], raw: list[bytes]) -> None:
    assert redis.lines(reply) == shown
    assert list(redis.raw_lines(reply)) == raw


def test_numbers_of_a_long_list_stand_under_each_other() -> None:
    shown = redis.lines([1] * 10)
    assert (shown[0], shown[9]) == (" 1) (integer) 1", "10) (integer) 1")


# --- mysql -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (None, "NULL"), (5, "5"), ("a\tb\nc\\d\0", r"a\tb\nc\\d\0"), (b"\x00\xff", "0x00FF"), (b"", ""),
        ("NULL", "NULL"), ("ü", "ü"), (1.5, "1.5"), (datetime(2026, 2, 3, 4, 5, 6), "2026-02-03 04:05:06"),
        (timedelta(hours=838, minutes=5, seconds=9), "838:05:09"), ("\x1b[2J\x9b\x7f", r"\x1b[2J\x9b\x7f"),
        (-timedelta(microseconds=1), "-00:00:00.000001"), ("a\udcff\udc80", r"a\xff\x80"),
    ],
)  # fmt: skip
def test_a_cell_is_text_that_stays_in_its_column(value: Any, cell: str) -> None:
    assert mysql.cell(value) == cell


def test_parameters_may_be_negative_numbers() -> None:
    given = options("mysql", "mysql://h", "SELECT %s, %s", "-5", "x")
    assert given.params == ["-5", "x"]
