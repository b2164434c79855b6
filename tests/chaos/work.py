"""What producers ask: one stream per way of asking, and how each answer is recognised.

An answer names its question, so one that belongs to another request is seen. What must not be repeated
leaves its own number at the upstream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import reqpool
from support.knot import HOSTS, ZONE, host_address

TRANSACTION = "mysql-transaction"
"""Not a request but two INSERTs and a COMMIT on a held connection; each of them is a ``mysql-statement``."""
STATEMENT = "mysql-statement"

REDIS_KEYS = 100
"""``value:0`` to ``value:99`` hold their own name."""
LOG_KEY, PAIRS_KEY = "log", "pairs"
"""Lists of the numbers that RPUSH alone, and MULTI, put there; INCR counts in ``count:`` and ``pair:``."""
TABLE = "work"
INSERT = f"INSERT INTO {TABLE} (number, part, slept) SELECT %s, %s, SLEEP(%s)"

Targets = dict[str, list[str]]
"""What names each upstream, by the kind of target: several ways to the same server."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The parts of one request.

    Attributes:
        number: unique in the run.
        target: one of the stream's targets.
        delay_s: how long the upstream is to take, where it can be told.
        options: ``timeout`` and ``callback``.
    """

    number: str
    target: str
    delay_s: float
    options: dict[str, Any]

    @property
    def question(self) -> bytes:
        """What :mod:`.counting` is asked."""
        return b"%b %.3f" % (self.number.encode(), self.delay_s)

    @property
    def index(self) -> int:
        """The number without the producer's name."""
        return int(self.number.rpartition("-")[2])


@dataclass(frozen=True, slots=True)
class Stream:
    """One way of asking.

    Attributes:
        name: its own.
        kind: of the request: dns, http, redis, mysql, udp, tcp.
        targets: key of :data:`Targets`.
        once: must not run twice, and is counted at the upstream.
        ask: submits a request.
        answers: is this the answer to that request?
    """

    name: str
    kind: str
    targets: str
    once: bool
    ask: Callable[[reqpool.Pool, Asked], reqpool.Future[Any]]
    answers: Callable[[Any, Asked], bool]


def _host(asked: Asked) -> int:
    return asked.index % HOSTS


def _key(asked: Asked) -> str:
    return f"value:{asked.index % REDIS_KEYS}"


def _dns(pool: reqpool.Pool, asked: Asked) -> reqpool.Future[Any]:
    return pool.dns(f"h{_host(asked)}.{ZONE}", server=asked.target, **asked.options)


def _http_get(pool: reqpool.Pool, asked: Asked) -> reqpool.Future[Any]:
    return pool.http("GET", f"{asked.target}/said?{asked.number}", **asked.options)


def _http_post(pool: reqpool.Pool, asked: Asked) -> reqpool.Future[Any]:
    return pool.http("POST", f"{asked.target}/", data=asked.question, **asked.options)


def _redis_get(pool: reqpool.Pool, asked: Asked) -> reqpool.Future[Any]:
    return pool.redis(asked.target, "GET", _key(asked), **asked.options)


def _redis_incr(pool: reqpool.Pool, asked: Asked) -> reqpool.Future[Any]:
    return pool.redis(asked.target, "INCR", f"count:{asked.number}", **asked.options)


def _redis_push(pool: reqpool.Pool, asked: Asked) -> reqpool.Future[Any]:
    return pool.redis(asked.target, "RPUSH", LOG_KEY, asked.number, **asked.options)


def _redis_multi(pool: reqpool.Pool, asked: Asked) -> reqpool.Future[Any]:
    commands = [("INCR", f"pair:{asked.number}"), ("RPUSH", PAIRS_KEY, asked.number)]
    return pool.redis_multi(asked.target, commands, **asked.options)


def _mysql_select(pool: reqpool.Pool, asked: Asked) -> reqpool.Future[Any]:
    return pool.mysql(asked.target, "SELECT %s", (asked.number,), idempotent=True, **asked.options)


def _mysql_insert(pool: reqpool.Pool, asked: Asked) -> reqpool.Future[Any]:
    return pool.mysql(asked.target, INSERT, (asked.number, 0, asked.delay_s), **asked.options)


def _udp(pool: reqpool.Pool, asked: Asked) -> reqpool.Future[Any]:
    return pool.udp(asked.target, asked.question, **asked.options)


def _udp_again(pool: reqpool.Pool, asked: Asked) -> reqpool.Future[Any]:
    return pool.udp(asked.target, asked.question, idempotent=True, **asked.options)


def _tcp(pool: reqpool.Pool, asked: Asked) -> reqpool.Future[Any]:
    return pool.tcp(asked.target, asked.question + b"\n", until=b"\n", **asked.options)


def _tcp_again(pool: reqpool.Pool, asked: Asked) -> reqpool.Future[Any]:
    return pool.tcp(asked.target, asked.question + b"\n", until=b"\n", idempotent=True, **asked.options)


def _is_line(answer: bytes, asked: Asked) -> bool:
    return answer == asked.number.encode() + b"\n"


def _is_datagram(answer: bytes, asked: Asked) -> bool:
    return answer == asked.number.encode()


STREAMS = (
    Stream(
        "dns", "dns", "dns", False, _dns,
        lambda answer, asked: [record.value for record in answer.records] == [host_address(_host(asked))],
    ),
    Stream(
        "http-get", "http", "http", False, _http_get,
        lambda answer, asked: answer.content.startswith(b"GET|%b|" % asked.number.encode()),
    ),
    Stream(
        "http-post", "http", "posts", True, _http_post,
        lambda answer, asked: bool(answer.content == asked.number.encode()),
    ),
    Stream(
        "redis-get", "redis", "redis", False, _redis_get,
        lambda answer, asked: bool(answer == _key(asked).encode()),
    ),
    Stream("redis-incr", "redis", "redis", True, _redis_incr, lambda answer, asked: answer == 1),
    Stream("redis-push", "redis", "redis", True, _redis_push, lambda answer, asked: answer > 0),
    Stream(
        "redis-multi", "redis", "redis", True, _redis_multi,
        lambda answer, asked: answer[0] == 1 and answer[1] > 0,
    ),
    Stream(
        "mysql-select", "mysql", "mysql", False, _mysql_select,
        lambda answer, asked: [tuple(row) for row in answer.rows] == [(asked.number,)],
    ),
    Stream("mysql-insert", "mysql", "mysql", True, _mysql_insert, lambda answer, asked: answer.affected == 1),
    Stream("udp", "udp", "udp", True, _udp, _is_datagram),
    Stream("udp-idempotent", "udp", "udp", False, _udp_again, _is_datagram),
    Stream("tcp", "tcp", "tcp", True, _tcp, _is_line),
    Stream("tcp-idempotent", "tcp", "tcp", False, _tcp_again, _is_line),
)  # fmt: skip
BY_NAME = {stream.name: stream for stream in STREAMS}
KIND_OF = {**{stream.name: stream.kind for stream in STREAMS}, STATEMENT: "mysql", TRANSACTION: "mysql"}
ONCE = frozenset({TRANSACTION, *(stream.name for stream in STREAMS if stream.once)})


def a_timeout_s(random: Random) -> float:
    """Choose a timeout: most are ordinary, some are short."""
    return random.choices((0.3, 1.0, 3.0, 8.0, 20.0), (5, 15, 30, 30, 20))[0]


def a_delay_s(random: Random) -> float:
    """Choose how long the upstream takes: mostly nothing, so that something is always under way."""
    return random.choices((0.0, random.uniform(0.005, 0.05), random.uniform(0.2, 0.8)), (70, 20, 10))[0]
