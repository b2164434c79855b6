"""The two halves of the example of docs/kinds.md: what is sent, and answers fed whole and byte by byte."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from reqpool_memcached.client import KIND, Item, MemcachedError
from reqpool_memcached.worker import MAX_LINE_BYTES, WORKER_KIND, Memcached

from reqpool.kinds import Route
from reqpool_contract.errors import BadResponse, Code, PoolError, UsageError
from reqpool_workers.protocols import READY, Ask, Event

SERVER = "127.0.0.1:11211"


# --- the client half -------------------------------------------------------------------------------


def encoded(*command: Any, **options: Any) -> bytes:
    return KIND.encode(SERVER, command, **options)[1]


def decoded(command: tuple[Any, ...], answer: bytes) -> Any:
    _, _, note = KIND.encode(SERVER, command)
    return KIND.decode(answer, SimpleNamespace(note=note, trail=(), elapsed_s=0.0))


@pytest.mark.parametrize(
    ("command", "options", "sent"),
    [
        (("get", "k"), {}, b"get k\r\n"),
        (("get", "schlüssel"), {}, "get schlüssel\r\n".encode()),
        (("gets", b"\xff"), {}, b"gets \xff\r\n"),
        (("get_many", "a", b"b"), {}, b"get a b\r\n"),
        (("set", "k", b"a\r\nb"), {}, b"set k 0 0 4\r\na\r\nb\r\n"),
        (("set", "k", "ü"), {"expire": 60, "flags": 7}, b"set k 7 60 2\r\n\xc3\xbc\r\n"),
        (("add", "k", bytearray()), {}, b"add k 0 0 0\r\n\r\n"),
        (("cas", "k", b"v", 9), {}, b"cas k 0 0 1 9\r\nv\r\n"),
        (("delete", "k"), {}, b"delete k\r\n"),
        (("incr", "k"), {}, b"incr k 1\r\n"),
        (("decr", "k", 5), {}, b"decr k 5\r\n"),
        (("touch", "k", 2_592_000), {}, b"touch k 2592000\r\n"),
    ],
)
def test_a_command_is_sent_as_the_protocol_has_it(
    command: tuple[Any, ...], options: dict[str, Any], sent: bytes
) -> None:
    assert encoded(*command, **options) == sent
    assert protocol().send(ask(sent)) == sent


@pytest.mark.parametrize(
    ("command", "options", "says"),
    [
        ((), {}, "a tuple like"),
        ("get k", {}, "a tuple like"),
        (("flush_all",), {}, "there are get, get_many"),
        ((["get"], "k"), {}, "a tuple like"),
        (("get",), {}, r"get takes \(key\), not 0"),
        (("get", "a", "b"), {}, r"get takes \(key\), not 2"),
        (("get_many",), {}, r"key \[key…\]"),
        (("get", ""), {}, "0 bytes"),
        (("get", "k" * 251), {}, "251 bytes"),
        (("get", "ü" * 126), {}, "252 bytes"),
        (("get", "a b"), {}, "a space or a control"),
        (("get", "k\r\nflush_all"), {}, "a space or a control"),
        (("get", "\x7f"), {}, "a space or a control"),
        (("get", 5), {}, "not int"),
        (("set", "k"), {}, r"set takes \(key value\)"),
        (("set", "k", 5), {}, "write str"),
        (("set", "k", None), {}, "not NoneType"),
        (("set", "k", b"v"), {"expire": -1}, "expire=-1"),
        (("set", "k", b"v"), {"expire": 2_592_001}, "30 days"),
        (("set", "k", b"v"), {"flags": 2**32}, "flags="),
        (("set", "k", b"v"), {"flags": True}, "flags=True"),
        (("cas", "k", b"v", None), {}, "token=None"),
        (("incr", "k", -1), {}, "delta=-1"),
        (("touch", "k", 1.5), {}, r"expire=1\.5"),
        (("delete", "k"), {"expire": 5}, "delete stores nothing"),
    ],
)
def test_a_bad_command_is_refused_at_the_call(command: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        KIND.encode(SERVER, command, **options)


@pytest.mark.parametrize(
    ("target", "origin"),
    [
        (SERVER, "memcached://127.0.0.1:11211"),
        ("Cache.Example.:11300", "memcached://cache.example.:11300"),
        ("[0::1]:11211", "memcached://[::1]:11211"),
        ("memcached://cache.example", "memcached://cache.example:11211"),
        ("sessions", "@sessions"),
    ],
)
def test_one_server_has_one_route(target: str, origin: str) -> None:
    route: Route = KIND.encode(target, ("get", "k"))[0]
    assert (route.origins, route.idempotent) == ((origin,), True)
    assert KIND.encode(target, ("gets", "l"))[0] is route
    assert not KIND.encode(target, ("set", "k", b""))[0].idempotent


@pytest.mark.parametrize(
    "target",
    [None, 5, ["127.0.0.1:11211"], "", "127.0.0.1:x", "127.0.0.1:0", "redis://127.0.0.1:6379",
     "memcached://user:secret@127.0.0.1", "127.0.0.1:11211/0", "127.0.0.1:11211?x=1"],
)  # fmt: skip
def test_what_is_no_server_is_refused_without_showing_a_password(target: Any) -> None:
    with pytest.raises(UsageError) as caught:
        KIND.encode(target, ("get", "k"))
    assert "secret" not in str(caught.value)


ONE = b"VALUE k 7 4\r\na\r\nb\r\nEND\r\n"


@pytest.mark.parametrize(
    ("command", "answer", "value"),
    [
        (("get", "k"), ONE, b"a\r\nb"),
        (("get", "k"), b"END\r\n", None),
        (("gets", "k"), b"VALUE k 7 5 12\r\nEND\r\n\r\nEND\r\n", Item(b"END\r\n", 7, 12)),
        (("gets", "k"), b"END\r\n", None),
        (("get_many", "k", "l"), b"VALUE k 0 1\r\n1\r\nVALUE l 0 0\r\n\r\nEND\r\n", {"k": b"1", "l": b""}),
        (("set", "k", b""), b"STORED\r\n", True),
        (("add", "k", b""), b"NOT_STORED\r\n", False),
        (("cas", "k", b"", 1), b"EXISTS\r\n", False),
        (("delete", "k"), b"DELETED\r\n", True),
        (("touch", "k", 0), b"NOT_FOUND\r\n", False),
        (("incr", "k"), b"18446744073709551615\r\n", 2**64 - 1),
        (("decr", "k"), b"9 \r\n", 9),
        (("incr", "k"), b"NOT_FOUND\r\n", None),
    ],
)
def test_an_answer_is_a_python_value(command: tuple[Any, ...], answer: bytes, value: object) -> None:
    assert decoded(command, answer) == value


@pytest.mark.parametrize(
    "answer", [b"ERROR\r\n", b"CLIENT_ERROR bad\r\n", b"SERVER_ERROR object too large\r\n"]
)
def test_an_error_is_raised_as_one_and_pickles(answer: bytes) -> None:
    with pytest.raises(MemcachedError, match=answer.decode().strip()) as caught:
        decoded(("get", "k"), answer)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("command", [("get", "k"), ("set", "k", b""), ("incr", "k")])
@pytest.mark.parametrize("answer", [b"", b"what?\r\n", b"VALUE k 0 1\r\n"])
def test_an_answer_that_cannot_be_read_is_a_bad_response(command: tuple[Any, ...], answer: bytes) -> None:
    with pytest.raises(BadResponse):
        decoded(command, answer)


# --- the worker half -------------------------------------------------------------------------------


def protocol(*payloads: bytes, max_bytes: int = 1 << 20) -> Memcached:
    made = Memcached("memcached://127.0.0.1:11211", b"", max_bytes)
    for payload in payloads:
        assert made.send(ask(payload)) == payload
    return made


def ask(payload: bytes) -> Ask:
    request = Ask()
    request.payload = payload
    return request


def fed(made: Memcached, data: bytes, step: int) -> list[Event]:
    """Feed it step by step; an error ends it, be it raised or an event."""
    events: list[Event] = []
    for at in range(0, len(data), step):
        for event in made.feed(data[at : at + step]):
            if isinstance(event, PoolError):
                raise event
            events.append(event)
    return events


PIPELINE = [
    (b"get k\r\n", ONE),
    (b"set k 0 0 2\r\n\r\n\r\n", b"STORED\r\n"),
    (b"gets k l\r\n", b"VALUE k 0 1 8\r\n1\r\nVALUE l 0 5 9\r\nEND\r\n\r\nEND\r\n"),
    (b"get k\r\n", b"END\r\n"),
    (b"incr k 1\r\n", b"2\r\n"),
    (b"incr l 1\r\n", b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"),
    (b"cas k 0 0 0 8\r\n\r\n", b"EXISTS\r\n"),
    (b"set k 0 0 1\r\n1\r\n", b"SERVER_ERROR object too large for cache\r\n"),
    (b"touch k 0\r\n", b"TOUCHED\r\n"),
    (b"delete k\r\n", b"NOT_FOUND\r\n"),
]


@pytest.mark.parametrize("step", [1, 2, 7, 1_000])
def test_every_answer_is_cut_out_in_order_however_it_comes(step: int) -> None:
    made = protocol(*(payload for payload, _ in PIPELINE))
    assert made.connected() == [READY]
    events = fed(made, b"".join(answer for _, answer in PIPELINE), step)
    assert events == [(Code.OK, answer) for _, answer in PIPELINE]
    assert made.reusable
    assert not made.begun


def test_an_answer_has_begun_with_its_first_byte() -> None:
    made = protocol(b"get k\r\n", b"get k\r\n")
    assert not made.begun
    made.feed(b"END\r\nV")
    assert made.begun
    made.feed(b"ALUE k 0 0\r\n\r\nEND\r\n")
    assert not made.begun
    assert not made.eof()


@pytest.mark.parametrize("step", [1, 1_000])
@pytest.mark.parametrize(
    ("payload", "answer"),
    [
        (b"get k\r\n", b"\x00" * MAX_LINE_BYTES),
        (b"get k\r\n", b"HTTP/1.1 400 Bad Request\r\n"),
        (b"get k\r\n", b"STORED\r\n"),
        (b"get k\r\n", b"VALUE other 0 1\r\n1\r\nEND\r\n"),
        (b"get k\r\n", b"VALUE k 0 2\r\n1\r\nEND\r\n"),
        (b"get k\r\n", b"VALUE k 0 1\r\n12\r\nEND\r\n"),
        (b"get k\r\n", b"VALUE k 0 -1\r\n"),
        (b"get k\r\n", b"VALUE k 0 99999999999\r\n"),
        (b"get k\r\n", b"VALUE k 0 1048576\r\n"),
        (b"get k\r\n", b"VALUE k 0 0\r\n\r\n" * 100_000),
        (b"get k\r\n", b"END\r\nEND\r\n"),
        (b"get k\r\n", b"END\nEND\r\n"),
        (b"set k 0 0 1\r\n1\r\n", b"END\r\n"),
        (b"set k 0 0 1\r\n1\r\n", b"CLIENT_ERROR bad data chunk\r\nERROR\r\n"),
        (b"set k 0 0 1\r\n1\r\n", b"VALUE k 0 1\r\n1\r\nEND\r\n"),
        (b"incr k 1\r\n", b"-1\r\n"),
        (b"delete k\r\n", b"TOUCHED\r\n"),
    ],
)
def test_what_is_no_answer_ends_the_connection(payload: bytes, answer: bytes, step: int) -> None:
    with pytest.raises(BadResponse):
        fed(protocol(payload), answer, step)


def test_answers_before_one_that_is_none_are_answers() -> None:
    *answers, error = protocol(b"get k\r\n", b"delete k\r\n", b"get k\r\n").feed(
        ONE + b"DELETED\r\nwhat?\r\n"
    )
    assert answers == [(Code.OK, ONE), (Code.OK, b"DELETED\r\n")]
    assert isinstance(error, BadResponse)


def test_bytes_that_nobody_asked_for_end_the_connection() -> None:
    with pytest.raises(BadResponse, match="unsolicited"):
        protocol().feed(b"END\r\n")


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"get", b"get k", b"get  k\r\n", b"get k\r\nget l\r\n", b"get k \r\n",
        b"get " + b"k" * 251 + b"\r\n", b"quit\r\n", b"flush_all\r\n", b"delete k noreply\r\n",
        b"set k 0 0 1 noreply\r\n1\r\n", b"set k 0 0 2\r\n1\r\n", b"set k 0 0 1\r\n12\r\n",
        b"set k 0 0 1\r\n1\r\nget k\r\n", b"set k 0 0 0\r\n", b"set k 0 0 1 5\r\n1\r\n",
        b"cas k 0 0 1\r\n1\r\n", b"touch k\r\n", b"incr k 1\r\n\r\n",
    ],
)  # fmt: skip
def test_a_payload_that_is_not_one_command_is_refused_and_changes_nothing(payload: bytes) -> None:
    made = protocol(b"get k\r\n")
    with pytest.raises(UsageError):
        made.send(ask(payload))
    assert fed(made, ONE, 1_000) == [(Code.OK, ONE)]


def test_a_large_value_is_not_looked_through_again_with_every_piece() -> None:
    size = 8 << 20
    answer = b"VALUE k 0 %d\r\n%b\r\nEND\r\n" % (size, b"\r\n" * (size // 2))
    made = protocol(b"get k\r\n", max_bytes=16 << 20)
    assert fed(made, answer, 1 << 10) == [(Code.OK, answer)]


def test_requests_share_connections() -> None:
    assert tuple(WORKER_KIND.info) == ("memcached", True, 8, 64, False, "")
