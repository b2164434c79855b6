"""What is asked of the upstreams, and what has to come back: one truth for every contestant and the servers.

A *subject* names both, e.g. ``redis-get``. Answers are looked at by its ``check``, by ours and by the peers'
loads alike; a wrong one counts as lost.
"""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

COUNT = 10_000
"""Names, keys and rows there are to ask for."""
ZONE = "example.test"

SMALL_BODY = bytes(range(33, 127)) + b"0123456789abcdefghijklmnopqrstuvwxyz"
"""130 bytes: what an answer of a service that says little is like."""
BIG_BODY = b"".join(b"%08d\n" % number for number in range(116_509))[: 1 << 20]
BODIES = {"/small": SMALL_BODY, "/big": BIG_BODY}
"""Files the web server has to have."""

VALUE_BYTES = 100

ORIGINS = (1, 100, 1_000)
"""Numbers of origins that a crawler's load is spread over."""
ORIGIN_HOSTS = tuple(f"127.1.{number // 250}.{number % 250 + 1}" for number in range(ORIGINS[-1]))
"""Their hosts: loopback addresses at which one web server listens, at one port."""

TABLE = """\
CREATE TABLE bench (
    id INT PRIMARY KEY, name VARCHAR(64) NOT NULL, price DECIMAL(10, 2) NOT NULL,
    changed DATETIME NOT NULL, remark VARCHAR(64)
)"""
ONE_ROW = "SELECT id, name, price, changed, remark FROM bench WHERE id = %s"
MANY_ROWS = "SELECT id, name, price, changed, remark FROM bench WHERE id >= %s ORDER BY id LIMIT 1000"
MANY = 1_000

Row = tuple[int, str, decimal.Decimal, datetime.datetime, str | None]


class WrongAnswer(Exception):
    """An upstream's answer is not the one that belongs to the request."""


@dataclass(frozen=True)
class Subject:
    """One sort of request.

    Attributes:
        targets: what to ask for, in turn; one item is one request: a name, a URL, a key, or a row's number.
        check: called with a target and its answer in the kind's plain form: ``list[str]`` of addresses,
            ``(status, body)``, the value as bytes, or a sequence of row tuples. Raises WrongAnswer.
        sql: the statement, which takes the target as its one parameter; empty for what is no SQL.
    """

    targets: Sequence[Any]
    check: Callable[[Any, Any], None]
    sql: str = ""


def host_address(number: int) -> str:
    """Return the address of ``h<number>``."""
    return f"10.0.{number >> 8}.{number & 0xFF}"


def value_of(key: str) -> bytes:
    """Return the value that Redis has under ``key``."""
    return key.encode("ascii").ljust(VALUE_BYTES, b".")


def row_of(number: int) -> Row:
    """Return the row with this id: a text, a sum, a date, often a NULL, as tables of businesses have."""
    return (
        number,
        f"customer number {number}",
        decimal.Decimal(number * 7) / 100,
        datetime.datetime(2024, 1, 1) + datetime.timedelta(minutes=number),
        None if number % 2 else f"remark {number}",
    )


def find(name: str, server: str = "") -> Subject:
    """Return the subject of this name.

    Args:
        name: one of :data:`NAMES`.
        server: the web server's URL, which the targets of HTTP begin with; nothing else needs it.
    """
    return _SUBJECTS[name](server)


def _dns(_server: str) -> Subject:
    right = {f"h{number}.{ZONE}": [host_address(number)] for number in range(COUNT)}

    def check(name: str, addresses: list[str]) -> None:
        if addresses != right[name]:
            raise WrongAnswer(f"{addresses} for {name}")

    return Subject([*right], check)


def _http(urls: Sequence[str], body: bytes) -> Subject:
    right = (200, body)

    def check(_url: str, answer: tuple[int, bytes]) -> None:
        if answer != right:
            raise WrongAnswer(f"status {answer[0]} and {len(answer[1])} bytes")

    return Subject(urls, check)


def _small(server: str) -> Subject:
    return _http([f"{server}/small"], SMALL_BODY)


def _big(server: str) -> Subject:
    return _http([f"{server}/big"], BIG_BODY)


def _origins(server: str, count: int) -> Subject:
    port = urlsplit(server).port
    return _http([f"http://{host}:{port}/small" for host in ORIGIN_HOSTS[:count]], SMALL_BODY)


def _redis(_server: str) -> Subject:
    # As redis-benchmark -r names its keys, so that it asks for the same.
    keys = [f"key:{number:012}" for number in range(COUNT)]
    values = {key: value_of(key) for key in keys}

    def check(key: str, value: bytes) -> None:
        if value != values[key]:
            raise WrongAnswer(f"{value!r} for {key}")

    return Subject(keys, check)


def _rows(sql: str, count: int) -> Subject:
    rows = [row_of(number) for number in range(COUNT)]

    def check(first: int, answer: Sequence[Row]) -> None:
        if len(answer) != count or list(answer) != rows[first : first + count]:
            raise WrongAnswer(f"{len(answer)} rows from {first}, the first {answer[:1]!r}")

    return Subject(range(COUNT - count + 1), check, sql)


_SUBJECTS: dict[str, Callable[[str], Subject]] = {
    "dns": _dns,
    "http-small": _small,
    "http-big": _big,
    **{f"http-origins-{count}": partial(_origins, count=count) for count in ORIGINS},
    "redis-get": _redis,
    "mysql-one": lambda _server: _rows(ONE_ROW, 1),
    "mysql-many": lambda _server: _rows(MANY_ROWS, MANY),
}
NAMES = tuple(_SUBJECTS)
