"""The worker half of redis, fed whole and byte by byte. No server."""

from __future__ import annotations

import socket
import tracemalloc
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest

from reqpool.kinds.redis import KIND
from reqpool_contract.errors import BadResponse, ConnectFailed, UsageError
from reqpool_contract.payloads.redis_reply import MAX_DEPTH
from reqpool_workers.protocols import READY, Address, Ask, Name, Refused, StreamProtocol, redis, redis_framer
from reqpool_workers.protocols.redis import (
    EXCLUSIVE_WORKER_KIND,
    MAX_NAMELESS,
    WORKER_KIND,
    RedisConnection,
)
from reqpool_workers.protocols.redis_framer import MAX_SKIPPED_BYTES
from support.work import Job, assert_lines_grow_linearly, assert_time_grows_linearly

ORIGIN = "redis://127.0.0.1:6379/0"
MAX_BYTES = 1 << 20
SETNAME = b"*3\r\n$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n$7\r\nreqpool\r\n"


def connection(origin: str = ORIGIN, max_bytes: int = MAX_BYTES, **settings: Any) -> RedisConnection:
    return RedisConnection(origin, msgpack.packb(settings) if settings else b"", max_bytes)


def ready(origin: str = ORIGIN, max_bytes: int = MAX_BYTES, asked: int = 0) -> RedisConnection:
    """A connection after its handshake, with some commands unanswered."""
    made = connection(origin, max_bytes)
    made.connected()
    replies = b"%0\r\n+OK\r\n" if "resp3" in origin else b"+OK\r\n"
    assert made.feed(replies) == [READY]
    for _ in range(asked):
        made.send(ask(b"*1\r\n$4\r\nPING\r\n"))
    return made


def ask(payload: bytes) -> Ask:
    request = Ask()
    request.payload = payload
    return request


def ask_multi(*commands: tuple[Any, ...]) -> Ask:
    return ask(KIND.encode_multi(ORIGIN, commands)[1])


def fed(protocol: StreamProtocol, data: bytes, step: int) -> list[Any]:
    """Return the events, the text of what was refused in place of its event."""
    events: list[Any] = []
    for at in range(0, len(data), step):
        events += protocol.feed(data[at : at + step])
    return [event.error.text if isinstance(event, Refused) else event for event in events]


# --- the handshake -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "settings", "commands"),
    [
        (ORIGIN, {}, ["CLIENT SETNAME reqpool"]),
        (ORIGIN + "#d1", {"password": "pw"}, ["AUTH pw", "CLIENT SETNAME reqpool"]),
        (
            "redis://al%40ice@h:1/7#d1",
            {"password": "p w"},
            ["AUTH al@ice p w", "CLIENT SETNAME reqpool", "SELECT 7"],
        ),
        ("redis://alice@h:1/0", {}, ["AUTH alice ", "CLIENT SETNAME reqpool"]),
        ("redis://h:1/0?resp3", {}, ["HELLO 3", "CLIENT SETNAME reqpool"]),
        (
            "redis://h:1/2?exclusive&resp3#d1",
            {"password": "pw"},
            ["HELLO 3 AUTH default pw", "CLIENT SETNAME reqpool", "SELECT 2"],
        ),
        ("unix:///run/redis.sock", {}, ["CLIENT SETNAME reqpool"]),
        ("unix://;db=3@/run/redis.sock?exclusive", {}, ["CLIENT SETNAME reqpool", "SELECT 3"]),
        (
            "unix://al%3Bice;db=3@/run/redis.sock#d1",
            {"password": "pw"},
            ["AUTH al;ice pw", "CLIENT SETNAME reqpool", "SELECT 3"],
        ),
    ],
)
def test_the_handshake_says_who_and_where(origin: str, settings: Any, commands: list[str]) -> None:
    (sent,) = connection(origin, **settings).connected()
    assert isinstance(sent, bytes)
    said = []
    while sent:
        head, _, sent = sent.partition(b"\r\n")
        words = []
        for _ in range(int(head[1:])):
            length, _, sent = sent.partition(b"\r\n")
            words.append(sent[: int(length[1:])].decode())
            sent = sent[int(length[1:]) + 2 :]
        said.append(" ".join(words))
    assert said == commands


@pytest.mark.parametrize("step", [1, 1000])
def test_the_connection_is_ready_when_all_of_it_is_answered(step: int) -> None:
    made = connection("redis://u@h:1/3#d", password="pw")
    made.connected()
    assert fed(made, b"+OK\r\n+OK\r\n+OK\r", step) == []
    assert made.feed(b"\n") == [READY]


@pytest.mark.parametrize(
    ("origin", "replies", "says"),
    [
        ("redis://u@h:1/0#d", b"-WRONGPASS invalid username-password pair\r\n", "AUTH: WRONGPASS invalid"),
        ("redis://u@h:1/0#d", b"-ERR AUTH <password> called without any\r\n", "AUTH: ERR AUTH <password>"),
        ("redis://h:1/0", b"-NOAUTH Authentication required.\r\n", "CLIENT SETNAME: NOAUTH"),
        ("redis://h:1/0", b"-ERR max number of clients reached\r\n", "max number of clients"),
        ("redis://h:1/0", b"-DENIED Redis is running in protected mode\r\n", "DENIED"),
        ("redis://h:1/99", b"+OK\r\n-ERR DB index is out of range\r\n", "SELECT 99: ERR DB index"),
        ("redis://h:1/1", b"+OK\r\n-NOPERM User default has no permissions\r\n", "SELECT 1: NOPERM"),
        ("redis://h:1/0?resp3", b"-ERR unknown command 'HELLO'\r\n", "HELLO: ERR unknown command"),
        ("redis://h:1/0?resp3", b"-WRONGPASS invalid\r\n", "HELLO: WRONGPASS"),
    ],
)  # fmt: skip
def test_a_refused_handshake_says_which_step_and_why(origin: str, replies: bytes, says: str) -> None:
    made = connection(origin, **({"password": "pw"} if "#" in origin else {}))
    made.connected()
    with pytest.raises(ConnectFailed, match=says):
        made.feed(replies)


@pytest.mark.parametrize(
    "error",
    [
        b"-ERR unknown command 'AUTH', with args beginning with: 'u' 's3cr3t-and-' \r\n",
        b"-ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `u`, `s3cr3t-and-more`, \r\n",
        b"-ERR cannot AUTH u s3cr3t-and-more here\r\n",
    ],
)
@pytest.mark.parametrize("variant", ["", "?resp3"])
def test_a_server_that_repeats_the_password_is_not_quoted(error: bytes, variant: str) -> None:
    made = connection(f"redis://u@h:1/0{variant}#d", password="s3cr3t-and-more")
    made.connected()
    with pytest.raises(ConnectFailed, match=r"Redis refused the connection at \w+: ERR ") as caught:
        made.feed(error)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    "error", [b"-NOPERM no permissions to run client|setname\r\n", b"-ERR unknown command\r\n"]
)
def test_a_server_that_takes_no_name_is_good_enough(error: bytes) -> None:
    made = connection("redis://h:1/1")
    made.connected()
    assert made.feed(error + b"+OK\r\n") == [READY]
    (again,) = connection("redis://h:1/1").connected()
    assert isinstance(again, bytes)
    assert b"SETNAME" not in again
    assert again.startswith(b"*1\r\n$4\r\nPING\r\n")


def test_a_server_that_is_not_ready_yet_is_told_the_name_the_next_time() -> None:
    made = connection()
    made.connected()
    assert made.feed(b"-LOADING Redis is loading the dataset in memory\r\n") == [READY]
    assert SETNAME in connection().connected()[0]  # type: ignore[operator]


@pytest.fixture(autouse=True)
def upstream() -> Iterator[str]:
    """An upstream's origin; what is remembered of any is forgotten after the test."""
    yield "redis://proxy:1/0"
    redis._nameless.clear()


@pytest.mark.parametrize("variant", ["", "?exclusive", "?exclusive&resp3"])
def test_a_server_that_closes_on_the_name_is_not_told_it_again(upstream: str, variant: str) -> None:
    first = connection(upstream + variant)
    assert SETNAME in first.connected()[0]  # type: ignore[operator]
    assert first.shorten_handshake()
    for other in (variant, ""):
        made = connection(upstream + other)
        (sent,) = made.connected()
        assert isinstance(sent, bytes)
        assert b"CLIENT" not in sent
        assert sent.endswith(b"*1\r\n$4\r\nPING\r\n")
        assert made.feed((b"%0\r\n" if "resp3" in other else b"") + b"+PONG\r\n") == [READY]
    assert SETNAME in connection("redis://another:1/0").connected()[0]  # type: ignore[operator]


def test_a_server_that_closes_on_ping_as_well_is_asked_from_the_beginning(upstream: str) -> None:
    connection(upstream).connected()
    made = connection(upstream)
    made.connected()
    assert made.shorten_handshake()
    made = connection(upstream)
    made.connected()
    assert not made.shorten_handshake()
    assert SETNAME in connection(upstream).connected()[0]  # type: ignore[operator]


def test_a_close_after_the_name_was_taken_is_not_for_the_name() -> None:
    made = connection("redis://proxy:1/3")
    made.connected()
    made.feed(b"+OK\r\n")
    assert not made.shorten_handshake()


@pytest.mark.parametrize(
    ("reply", "says"), [(b"-NOAUTH Authentication required.\r\n", "PING: NOAUTH"), (b"-NOPERM no\r\n", None)]
)
def test_in_place_of_the_name_a_ping_shows_whether_one_is_let_in(
    upstream: str, reply: bytes, says: str | None
) -> None:
    made = connection(upstream)
    made.connected()
    made.shorten_handshake()
    made = connection(upstream)
    made.connected()
    if says is None:
        assert made.feed(reply) == [READY]
    else:
        with pytest.raises(ConnectFailed, match=says):
            made.feed(reply)


def test_upstreams_that_mind_the_name_are_remembered_up_to_a_bound() -> None:
    for number in range(MAX_NAMELESS + 2):
        made = connection(f"redis://10.0.{number >> 8}.{number & 255}:1/0")
        made.connected()
        made.shorten_handshake()
    assert len(redis._nameless) <= MAX_NAMELESS


def test_more_than_was_asked_in_the_handshake_is_a_bad_response() -> None:
    made = connection()
    made.connected()
    with pytest.raises(BadResponse, match="unsolicited"):
        made.feed(b"+OK\r\n+OK\r\n")


# --- replies -----------------------------------------------------------------------------------------

BULK = b"$5\r\nhello\r\n"
REPLIES2 = [
    (BULK, b'"hello'),
    (b"$0\r\n\r\n", b'"'),
    (b"$4\r\n\r\n$1\r\n", b'"\r\n$1'),
    (b"$-1\r\n", b"$-1\r\n"),
    (b"*-1\r\n", b"*-1\r\n"),
    (b"*0\r\n", b"*0\r\n"),
    (b"+OK\r\n", b"+OK\r\n"),
    (b"-ERR no\r\n", b"-ERR no\r\n"),
    (b":-12\r\n", b":-12\r\n"),
    (b"$5000\r\n" + b"v" * 5000 + b"\r\n", b'"' + b"v" * 5000),
    (b"*3\r\n" + BULK + b"*2\r\n:1\r\n*0\r\n" + b"$-1\r\n", b"*3\r\n" + BULK + b"*2\r\n:1\r\n*0\r\n$-1\r\n"),
]
REPLIES3 = [
    *REPLIES2,
    (b"_\r\n", b"_\r\n"),
    (b"#t\r\n", b"#t\r\n"),
    (b",1.5e10\r\n", b",1.5e10\r\n"),
    (b"(123456789012345678901234567890\r\n", b"(123456789012345678901234567890\r\n"),
    (b"=8\r\ntxt:text\r\n", b"=8\r\ntxt:text\r\n"),
    (b"!5\r\nERR x\r\n", b"!5\r\nERR x\r\n"),
    (b"%1\r\n" + BULK + b"~2\r\n:1\r\n:2\r\n", b"%1\r\n" + BULK + b"~2\r\n:1\r\n:2\r\n"),
    (b"|1\r\n+ttl\r\n:1\r\n" + BULK, b"|1\r\n+ttl\r\n:1\r\n" + BULK),
    (b",-NAN(0x8)\r\n", b",-NAN(0x8)\r\n"),
    (b"-ERR lone \n and \r\r\n", b"-ERR lone \n and \r\r\n"),
    (b"$?\r\n;2\r\nab\r\n;0\r\n", b"$?\r\n;2\r\nab\r\n;0\r\n"),
    (b"*?\r\n:1\r\n~?\r\n.\r\n" + BULK + b".\r\n", b"*?\r\n:1\r\n~?\r\n.\r\n" + BULK + b".\r\n"),
]


@pytest.mark.parametrize("step", [1, 2, 7, 4096, 1 << 20])
@pytest.mark.parametrize(("origin", "replies"), [(ORIGIN, REPLIES2), (ORIGIN + "?resp3", REPLIES3)])
def test_replies_come_one_by_one_however_they_are_cut(
    origin: str, replies: list[tuple[bytes, bytes]], step: int
) -> None:
    made = ready(origin, asked=2 * len(replies))
    data = b"".join(reply for reply, _ in replies) * 2
    assert fed(made, data, step) == [(0, answer) for _, answer in replies] * 2
    assert made.reusable
    assert all(
        type(answer) is bytes
        for _, answer in fed(ready(origin, asked=len(replies)), data[: len(data) // 2], step)
    )


@pytest.mark.parametrize("cut", range(1, 11))
def test_a_reply_has_begun_with_its_first_byte(cut: int) -> None:
    made = ready(asked=1)
    assert not made.begun
    assert made.feed(BULK[:cut]) == []
    assert made.begun
    assert not made.reusable
    assert made.feed(BULK[cut:]) == [(0, b'"hello')]
    assert not made.begun


def test_a_large_value_is_put_together_from_many_pieces() -> None:
    value = bytes(range(256)) * (MAX_BYTES // 256)
    made = ready(asked=2)
    assert fed(made, b"$%d\r\n%b\r\n+OK\r\n" % (len(value), value), 65_536) == [
        (0, b'"' + value),
        (0, b"+OK\r\n"),
    ]


def test_a_long_list_is_put_together_in_linear_time() -> None:
    def reading(count: int) -> Job:
        data = b"*%d\r\n" % count + BULK * count

        def job() -> None:
            # Reading it anew with each piece would take count * pieces / 2 steps.
            assert fed(ready(max_bytes=16 << 20, asked=1), data, 1_000) == [(0, data)]

        return job

    assert_lines_grow_linearly(reading, 5_000)
    assert_time_grows_linearly(reading, 5_000)


@pytest.mark.parametrize("begin", [b"+", b"-", b"*2\r\n+"])
def test_a_long_line_is_put_together_in_linear_time(begin: bytes) -> None:
    def reading(size: int) -> Job:
        answer = begin + b"x" * size + (b"\r\n" if len(begin) == 1 else b"\r\n:1\r\n")

        def job() -> None:
            # Reading it anew with each piece would give a hostile peer a worker's whole time.
            assert fed(ready(max_bytes=16 << 20, asked=1), answer, 10) == [(0, answer)]

        return job

    assert_time_grows_linearly(reading, 50_000)


def test_many_small_arrays_in_one_piece_are_taken_in_linear_time() -> None:
    one = b"*1\r\n:1\r\n"

    def reading(count: int) -> Job:
        def job() -> None:
            assert fed(ready(max_bytes=16 << 20, asked=count), one * count, 1 << 30) == [(0, one)] * count

        return job

    assert_time_grows_linearly(reading, 20_000)


@pytest.mark.parametrize("step", [1, 1 << 20])
@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"\r\n",
        b"$5\r\nhel\r\n+OK\r\n",
        b"$5\r\nhello!!",
        b"$5x\r\nhello\r\n",
        b"$1_0\r\n0123456789\r\n",
        b"$+5\r\nhello\r\n",
        b"$-2\r\n",
        b"$" + b"0" * 100,
        b"$99999999999\r\n",
        b".\r\n",
        b";1\r\nx\r\n",
        b"*-2\r\n",
        b"$?\r\n+x\r\n",
        b"*?\r\n;1\r\n",
        b"$?\r\n;2\r\nxyz\r\n",
        b"*x\r\n",
        b"*2\r\n:1\r\nx",
        b"*1\r\n$5\r\nhello!!",
        b">1\r\n+pong\r\n",
    ],
    ids=lambda data: repr(data[:20]),
)
def test_what_is_no_reply_is_a_bad_response(data: bytes, step: int) -> None:
    with pytest.raises(BadResponse, match="not a Redis reply"):
        fed(ready(asked=9), data, step)


# --- replies that are refused ------------------------------------------------------------------------

TOO_LARGE = "a Redis reply is larger than 1048576 bytes"
TOO_DEEP = f"a Redis reply has more than {MAX_DEPTH} nested arrays"


@pytest.mark.parametrize("step", [7, 65_536, 1 << 30])
@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (b"$1048609\r\n" + bytes(1_048_609) + b"\r\n", TOO_LARGE),
        (b"*2\r\n$1048570\r\n" + bytes(1_048_570) + b"\r\n$100\r\n" + bytes(100) + b"\r\n", TOO_LARGE),
        (b"*349536\r\n" + b":1\r\n" * 349_536, TOO_LARGE),
        (b"*2\r\n*1\r\n:1\r\n*349536\r\n" + b"*1\r\n:1\r\n" * 349_536, TOO_LARGE),
        (b"+" + b"x" * 1_048_609 + b"\r\n", TOO_LARGE),
        (b"*2\r\n:1\r\n-" + b"\r" * 1_048_609 + b"\r\n", TOO_LARGE),
        (b"*1\r\n" * (MAX_DEPTH + 1) + b":1\r\n", TOO_DEEP),
        (b"*1\r\n" * MAX_DEPTH + b"*0\r\n", TOO_DEEP),
        (b"*2\r\n" * 300 + b":1\r\n" * 301, TOO_DEEP),
        (b":1x\r\n", "not a Redis value: b':1x'"),
        (b"*2\r\n:\r\n:1\r\n", "not a Redis value: b':'"),
        (b"_x\r\n", "not a Redis value: b'_x'"),
        (b"#x\r\n", "not a Redis value: b'#x'"),
        (b",1_0\r\n", "not a Redis value: b',1_0'"),
        (b"(1x\r\n", "not a Redis value: b'(1x'"),
        (b"(" + b"9" * 4301 + b"\r\n", f"not a Redis value: {b'(' + b'9' * 39!r}"),
    ],
    ids=lambda value: repr(value)[:16],
)
def test_a_reply_that_is_refused_is_skipped_and_those_behind_it_are_answers(
    reply: bytes, why: str, step: int
) -> None:
    made = ready(asked=4)
    assert fed(made, b":7\r\n" + reply + BULK, step) == [(0, b":7\r\n"), why, (0, b'"hello')]
    assert made.reusable
    assert fed(made, b":8\r\n", step) == [(0, b":8\r\n")]


def test_a_reply_that_is_skipped_takes_no_memory() -> None:
    made = ready(asked=2)
    made.feed(b"$300000000\r\n")
    piece = bytes(1_000_000)
    tracemalloc.start()
    try:
        for _ in range(300):
            made.feed(piece)
        made.feed(b"\r\n*1000000\r\n")
        for _ in range(200):
            made.feed(b"*1\r\n" * 100)
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "reply",
    [
        b"$%d\r\n" % (MAX_SKIPPED_BYTES + 1),
        b"$9999999999\r\n",
        b"*1000000000\r\n",
        b"*2\r\n:1\r\n%999999999\r\n",
        b"|999999999\r\n",
    ],
)
def test_a_reply_too_large_to_be_skipped_ends_the_connection_at_once(reply: bytes) -> None:
    for step in (1, 100):
        with pytest.raises(BadResponse, match="larger than 1048576 bytes, and too large to be skipped"):
            fed(ready(asked=2), reply, step)


def test_a_reply_of_too_many_elements_to_be_skipped_ends_the_connection() -> None:
    inner = b"*1000000\r\n"
    for step in (7, 1_000):
        made = ready(asked=2)
        assert fed(made, inner * 3, step) == []
        with pytest.raises(BadResponse, match="and has too many elements to be skipped"):
            fed(made, inner, step)


def test_many_small_elements_are_too_many_to_be_skipped_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_framer, "MAX_SKIPPED_BYTES", 2_000_000)
    with pytest.raises(BadResponse, match="too large to be skipped"):
        fed(ready(asked=2), b"*400000\r\n" + (b"$4\r\nabcd\r\n" * 400_000), 10_000)


def test_what_lies_within_a_reply_that_is_skipped_ends_the_connection() -> None:
    for lie in (b"$3\r\nhello\r\n", b"$2000000\r\n" + bytes(2_000_001) + b"\r\n", b"x\r\n"):
        for step in (1_000, 1 << 30):
            made = ready(asked=3)
            with pytest.raises(BadResponse, match="not a Redis reply"):
                fed(made, b"*349536\r\n" + lie + b":1\r\n", step)


def test_a_refused_reply_in_the_handshake_ends_it() -> None:
    made = connection()
    made.connected()
    with pytest.raises(BadResponse, match="not a Redis value"):
        made.feed(b":x\r\n")


@pytest.mark.parametrize("data", [b"?\r\n", b"!?\r\n", b"$x\r\n", b"*?x\r\n", b"|?\r\n"])
def test_a_length_that_is_not_a_number_is_a_bad_response(data: bytes) -> None:
    with pytest.raises(BadResponse, match="not a Redis reply"):
        ready(ORIGIN + "?resp3", asked=9).feed(data)


def test_an_error_shows_nothing_of_the_replies_behind_it() -> None:
    made = ready(asked=2)
    with pytest.raises(BadResponse) as caught:
        made.feed(b"$-7\r\n$6\r\nsecret\r\n")
    assert caught.value.text == "not a Redis reply: b'$-7'"


def test_a_value_of_just_the_limit_is_none_too_many() -> None:
    made = ready(asked=1)
    assert made.feed(b"$%d\r\n" % MAX_BYTES + bytes(MAX_BYTES) + b"\r\n") == [(0, b'"' + bytes(MAX_BYTES))]


def test_arrays_in_arrays_go_as_deep_as_is_said() -> None:
    assert ready(asked=1).feed(b"*1\r\n" * MAX_DEPTH + b":1\r\n") == [(0, b"*1\r\n" * MAX_DEPTH + b":1\r\n")]


@pytest.mark.parametrize("step", [1, 1000])
def test_answers_before_a_bad_reply_are_answers(step: int) -> None:
    made = ready(asked=9)
    made.send(ask_multi(("INCR", "a")))
    good, bad = BULK + b":1\r\n", b"$9\r\nnot nine\r\n" + BULK
    if step == 1:
        assert fed(made, good, 1) == [(0, b'"hello'), (0, b":1\r\n")]
        with pytest.raises(BadResponse):
            fed(made, bad, 1)
    else:
        *answers, error = made.feed(good + bad)
        assert answers == [(0, b'"hello'), (0, b":1\r\n")]
        assert isinstance(error, BadResponse)


# --- what nobody asked for ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"+OK\r\n", b"$5\r\nhel", b"*3\r\n$7\r\nmessage\r\n", b"-ERR shutting down\r\n"]
)
def test_what_nobody_asked_for_is_a_bad_response(data: bytes) -> None:
    made = ready(asked=1)
    assert made.feed(BULK) == [(0, b'"hello')]
    with pytest.raises(BadResponse, match="unsolicited"):
        made.feed(data)


def test_the_beginning_of_what_nobody_asked_for_ends_the_connection() -> None:
    made = ready(asked=1)
    assert made.feed(BULK + b"$5\r\nhel") == [(0, b'"hello')]
    assert not made.reusable


@pytest.mark.parametrize("step", [1, 100])
def test_pushes_of_resp3_are_no_replies(step: int) -> None:
    made = ready(ORIGIN + "?resp3", asked=2)
    push = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n"
    assert fed(made, push + BULK + push + b":1\r\n" + push, step) == [(0, b'"hello'), (0, b":1\r\n")]
    assert made.reusable
    with pytest.raises(BadResponse, match="unsolicited"):
        made.feed(b":1\r\n")


# --- connections for one command at a time ------------------------------------------------------------

EXCLUSIVE = ORIGIN + "?exclusive"


@pytest.mark.parametrize("variant", ["exclusive", "alone", "alone&resp3#d"])
@pytest.mark.parametrize(
    "reply",
    [
        b"-ERR no\r\n$6\r\nforged\r\n",
        b"-ERR no\r\n$6\r\nfor",
        b"-ERR no\r\nnot a reply\r\n",
        b"+no\r\n:1\r\n",
        b"*2\r\n-ERR no\r\n$6\r\nforged\r\n:1\r\n",
        b"+OK\r\n+QUEUED\r\n",
    ],
)
def test_more_than_one_reply_to_a_command_is_none_of_them(reply: bytes, variant: str) -> None:
    made = ready(f"{ORIGIN}?{variant}", asked=1)
    with pytest.raises(BadResponse, match="more than the reply to this command"):
        made.feed(reply)


@pytest.mark.parametrize(
    ("reply", "goes_on"),
    [
        (b":1\r\n", True),
        (b"$8\r\n\r\n-ERR x\r\n", True),
        (b"*2\r\n:1\r\n$1\r\na\r\n", True),
        (b"+OK\r\n", True),
        (b"-NOSCRIPT No matching script. Please use EVAL.\r\n", True),
        (b"-ERR no\r\n", False),
        (b"+forged\r\n", False),
        (b"*2\r\n:1\r\n-ERR no\r\n", False),
    ],
)
def test_after_a_text_that_may_go_on_the_connection_serves_nobody_else(reply: bytes, goes_on: bool) -> None:
    made = ready(EXCLUSIVE, asked=1)
    (answer,) = made.feed(reply)
    assert answer[0] == 0  # type: ignore[index]
    assert made.reusable is goes_on
    session = ready(EXCLUSIVE)
    session.hold()
    session.send(ask(b"*1\r\n$4\r\nPING\r\n"))
    session.feed(reply)
    assert session.reusable


@pytest.mark.parametrize("step", [1, 1000])
def test_a_refused_reply_to_a_single_command_is_that_ones_error(step: int) -> None:
    made = ready(EXCLUSIVE, asked=1)
    assert fed(made, b"*1\r\n" * 200 + b":1\r\n", step) == [TOO_DEEP]
    assert made.reusable


# --- MULTI/EXEC --------------------------------------------------------------------------------------

QUEUED = b"+OK\r\n+QUEUED\r\n+QUEUED\r\n"


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize(
    ("replies", "answer"),
    [
        (QUEUED + b"*2\r\n:1\r\n:2\r\n", b"*2\r\n:1\r\n:2\r\n"),
        (QUEUED + b"*2\r\n-WRONGTYPE no\r\n:2\r\n", b"*2\r\n-WRONGTYPE no\r\n:2\r\n"),
        (
            b"+OK\r\n-ERR unknown command 'NO'\r\n+QUEUED\r\n-EXECABORT Transaction discarded\r\n",
            b"M\0\0\0\x01-ERR unknown command 'NO'\r\n",
        ),
        (
            b"+OK\r\n+QUEUED\r\n!6\r\nERR no\r\n-EXECABORT Transaction discarded\r\n",
            b"M\0\0\0\x02!6\r\nERR no\r\n",
        ),
        (b"-LOADING a\r\n-LOADING b\r\n-LOADING c\r\n-ERR EXEC without MULTI\r\n", b"-LOADING a\r\n"),
        (QUEUED + b"-EXECABORT why\r\n", b"-EXECABORT why\r\n"),
    ],
)
def test_a_transaction_has_one_answer_among_others(replies: bytes, answer: bytes, step: int) -> None:
    made = ready(asked=1)
    request = ask_multi(("INCR", "a"), ("INCR", "b"))
    assert made.send(request) == request.payload[5:]
    made.send(ask(b"*1\r\n$4\r\nPING\r\n"))
    made.send(request)
    made.send(request)
    data = b":7\r\n" + replies + b"+PONG\r\n" + replies + replies
    assert fed(made, data, step) == [
        (0, b":7\r\n"), (0, answer), (0, b"+PONG\r\n"), (0, answer), (0, answer),
    ]  # fmt: skip
    assert made.reusable
    with pytest.raises(BadResponse, match="unsolicited"):
        made.feed(b":1\r\n")


@pytest.mark.parametrize("step", [1, 1000])
@pytest.mark.parametrize("replies", [QUEUED + b",x\r\n", b"+OK\r\n,x\r\n+QUEUED\r\n*0\r\n"])
def test_a_refused_reply_in_a_transaction_is_its_end_and_nobody_elses(replies: bytes, step: int) -> None:
    made = ready(asked=0)
    made.send(ask_multi(("INCR", "a"), ("INCR", "b")))
    made.send(ask(b"*1\r\n$4\r\nPING\r\n"))
    assert fed(made, replies + b"+PONG\r\n", step) == ["not a Redis value: b',x'", (0, b"+PONG\r\n")]


def test_a_transaction_has_begun_with_its_first_reply() -> None:
    made = ready(asked=1)
    made.send(ask_multi(("INCR", "a")))
    assert not made.begun
    made.feed(b":1\r\n")
    assert not made.begun
    made.feed(b"+OK\r\n")
    assert made.begun


@pytest.mark.parametrize(
    "payload", [b"M", b"M\0\0\0\x03", b"M\0\0\0\x02*1\r\n$4\r\nPING\r\n", b"M\0\0\0\x09PING"]
)
def test_half_a_transaction_is_a_usage_error_and_changes_nothing(payload: bytes) -> None:
    made = ready(asked=1)
    with pytest.raises(UsageError, match="payload is not M"):
        made.send(ask(payload))
    assert made.feed(b":1\r\n") == [(0, b":1\r\n")]


# --- letting go --------------------------------------------------------------------------------------


def test_a_session_leaves_a_connection_as_it_was_found() -> None:
    made = connection("redis://u@h:1/3#d", password="pw")
    greeting = made.connected()[0]
    made.feed(b"+OK\r\n+OK\r\n+OK\r\n")
    assert made.hold() == [READY]
    made.send(ask(b"*2\r\n$6\r\nSELECT\r\n$1\r\n9\r\n"))
    made.feed(b"+OK\r\n")
    assert made.release() == [b"*1\r\n$5\r\nRESET\r\n" + greeting]  # type: ignore[operator]
    assert made.feed(b"+RESET\r\n+OK\r\n") == []
    assert made.feed(b"+OK\r\n+OK\r\n") == [READY]
    made.send(ask(b"*1\r\n$4\r\nPING\r\n"))
    assert made.feed(b"+PONG\r\n") == [(0, b"+PONG\r\n")]


def test_a_connection_in_doubt_is_closed_instead() -> None:
    assert ready(asked=1).release() is None
    half = ready(asked=1)
    half.feed(b":1\r\n:")
    assert half.release() is None


def test_a_server_without_reset_closes_the_connection() -> None:
    made = ready()
    made.release()
    with pytest.raises(ConnectFailed, match="at RESET: ERR unknown command"):
        made.feed(b"-ERR unknown command 'RESET'\r\n+OK\r\n")


# --- kinds -------------------------------------------------------------------------------------------


def test_many_share_a_connection_unless_they_wait() -> None:
    assert (WORKER_KIND.name, WORKER_KIND.depth, WORKER_KIND.limit) == ("redis", 128, 64)
    assert (EXCLUSIVE_WORKER_KIND.name, EXCLUSIVE_WORKER_KIND.depth) == ("redis-exclusive", 1)


@pytest.mark.parametrize(
    ("origin", "address"),
    [
        ("redis://127.0.0.1:6379/0", Address(socket.AF_INET, ("127.0.0.1", 6379))),
        ("redis://u@[::1]:7/3?exclusive#d", Address(socket.AF_INET6, ("::1", 7, 0, 0))),
        ("rediss://cache.example:6379/0", Name("cache.example", 6379)),
        ("unix:///run/my%20redis%3F.sock?exclusive", Address(socket.AF_UNIX, "/run/my redis?.sock")),
        ("unix://u;db=3@/run/redis.sock#d", Address(socket.AF_UNIX, "/run/redis.sock")),
    ],
)
def test_an_origin_says_where_to_connect(origin: str, address: Any) -> None:
    assert WORKER_KIND.address(origin) == address
    assert EXCLUSIVE_WORKER_KIND.address(origin) == address


def test_rediss_is_secured_from_the_first_byte() -> None:
    secured = WORKER_KIND.protocol(
        "rediss://127.0.0.1:6379/0#d", msgpack.packb({"tls": {"verify": False}}), MAX_BYTES
    )
    assert not isinstance(secured, RedisConnection)
    assert isinstance(WORKER_KIND.protocol(ORIGIN, b"", MAX_BYTES), RedisConnection)


# --- several at once -------------------------------------------------------------------------------


def test_several_commands_are_asked_for_at_once_in_their_order() -> None:
    together, alone = ready(), ready()
    commands = [ask(b"*1\r\n$4\r\nPING\r\n"), ask(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n")]
    assert together.send_all(commands) == b"".join(map(alone.send, commands))
    replies = b"+PONG\r\n$1\r\nv\r\n"
    assert together.feed(replies) == alone.feed(replies)
    with pytest.raises(BadResponse):  # they are two that were asked for, and no more
        together.feed(b"+PONG\r\n")


def test_a_transaction_among_several_commands_has_each_asked_for_alone() -> None:
    together = ready()
    commands = [ask(b"*1\r\n$4\r\nPING\r\n"), ask_multi(("INCR", "n"))]
    assert together.send_all(commands) is None
    for command in commands:
        together.send(command)
    answers = together.feed(b"+PONG\r\n+OK\r\n+QUEUED\r\n*1\r\n:1\r\n")
    assert answers == [(0, b"+PONG\r\n"), (0, b"*1\r\n:1\r\n")]


@pytest.mark.parametrize("variant", ["", "?resp3"])
def test_a_connection_is_reusable_between_replies(variant: str) -> None:
    made = ready(ORIGIN + variant, asked=2)
    assert made.reusable
    made.feed(b"$4\r\nab")
    assert not made.reusable
    made.feed(b"cd\r\n")
    assert made.reusable
    made.feed(b"*2\r\n+a\r\n")
    assert not made.reusable
    made.feed(b"+b\r\n")
    assert made.reusable
