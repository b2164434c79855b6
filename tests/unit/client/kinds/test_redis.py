"""The client half of redis: URLs, origins, commands. No server."""

from __future__ import annotations

import enum
from typing import Any

import msgpack
import pytest

from reqpool.kinds.redis import EXCLUSIVE_KIND, KIND
from reqpool.kinds.redis_commands import BLOCKING, PINNED_ONLY, READ_ONLY, REFUSED
from reqpool_contract import wire
from reqpool_contract.errors import UsageError
from reqpool_contract.origin_names import upstream_of
from reqpool_contract.socket_path import MAX_SOCKET_PATH_BYTES
from reqpool_contract.tls_settings import Tls

URL = "redis://127.0.0.1:6379/0"


def origin_of(url: str, **options: Any) -> str:
    route, _, _ = KIND.encode(url, ("GET", "k"), **options)
    return route.origins[0]


def resp(*parts: bytes) -> bytes:
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


# --- URLs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("redis://127.0.0.1", "redis://127.0.0.1:6379/0"),
        ("redis://127.0.0.1/", "redis://127.0.0.1:6379/0"),
        ("REDIS://127.0.0.1:6379/00", "redis://127.0.0.1:6379/0"),
        ("redis://Cache.Example:7000/12", "redis://cache.example:7000/12"),
        ("redis://[::1]/3", "redis://[::1]:6379/3"),
        ("rediss://cache.example", "rediss://cache.example:6379/0"),
        ("redis://alice@127.0.0.1", "redis://alice@127.0.0.1:6379/0"),
        ("redis://al%40ice@127.0.0.1", "redis://al%40ice@127.0.0.1:6379/0"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("unix:///run/redis.sock?db=0", "unix:///run/redis.sock"),
        ("unix:///run/redis.sock?db=3", "unix://;db=3@/run/redis.sock"),
        ("unix://alice@/run/redis.sock?db=3", "unix://alice;db=3@/run/redis.sock"),
        ("unix:///run/my%20redis%3F.sock", "unix:///run/my%20redis%3F.sock"),
    ],
)
def test_one_place_has_one_origin(url: str, origin: str) -> None:
    assert origin_of(url) == origin
    assert KIND.endpoint(url).origin == origin


def test_databases_and_users_of_a_socket_count_as_one_upstream() -> None:
    urls = (
        "unix:///r.sock",
        "unix:///r.sock?db=3",
        "unix://alice:pw@/r.sock",
        "unix://alice:pw@/r.sock?db=1",
    )
    assert {upstream_of(origin_of(url)) for url in urls} == {"unix:///r.sock"}
    assert len({origin_of(url) for url in urls}) == 4


def test_a_password_is_in_the_settings_and_nowhere_else() -> None:
    route, payload, note = KIND.encode("redis://alice:s3cret@127.0.0.1/1", ("GET", "k"))
    assert msgpack.unpackb(route.settings) == {"password": "s3cret"}
    assert "s3cret" not in route.origins[0]
    assert route.origins[0].startswith("redis://alice@127.0.0.1:6379/1#")
    assert b"s3cret" not in payload
    assert note is None
    assert "s3cret" not in repr(route)


def test_other_passwords_are_other_origins() -> None:
    urls = ("redis://h/0", "redis://:a@h/0", "redis://:b@h/0", "redis://u:a@h/0", "redis://u:b@h/0")
    assert len({origin_of(url) for url in urls}) == 5


def test_a_given_password_stands_instead_of_the_urls() -> None:
    assert KIND.endpoint("redis://u:old@h/0", password="new") == KIND.endpoint("redis://u:new@h/0")


def test_tls_is_for_rediss_and_travels_in_the_settings() -> None:
    route, _, _ = KIND.encode("rediss://h/0", ("GET", "k"), tls=Tls(verify=False, server_name="other"))
    assert msgpack.unpackb(route.settings) == {"tls": {"verify": False, "server_name": "other"}}
    assert KIND.encode("rediss://h/0", ("GET", "k"), tls=Tls())[0].settings == b""


def test_variants_name_what_makes_a_connection_another() -> None:
    assert origin_of(URL, protocol=3) == f"{URL}?resp3"
    assert KIND.encode(URL, ("BLPOP", "q", 0))[0].origins == (f"{URL}?exclusive",)
    assert KIND.encode(URL, ("BLPOP", "q", 0), protocol=3)[0].origins == (f"{URL}?exclusive&resp3",)


def test_an_upstream_may_be_called_by_its_name() -> None:
    assert origin_of("cache") == "@cache"
    assert origin_of("cache", protocol=3) == "@cache?resp3"
    assert KIND.encode("cache", ("BLPOP", "q", 0))[0].origins == ("@cache?exclusive",)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1", "not a URL that begins with redis:// or rediss:// or unix://"),
        ("127.0.0.1:6379", "not a URL that begins with redis://"),
        ("redis://", "has no host"),
        ("redis://127.0.0.1/one", "the database must be a number"),
        ("redis://127.0.0.1/-1", "the database must be a number"),
        ("redis://127.0.0.1/0/1", "the number of one database"),
        ("redis://127.0.0.1/0?timeout=3", "has unknown options"),
        ("redis://:secret@127.0.0.1/one", r"redis://:\*\*\*@127.0.0.1/one"),
        ("redis://127.0.0.1:99999", "port is not a number from 1 to 65535"),
        ("unix://redis.sock", "has no socket path: write unix:///"),
        ("unix://", "has no socket path"),
        ("unix:///run/", "has no socket path"),
        ("unix:///run/redis.sock?timeout=3", r"the only option is db, \?db=0"),
        ("unix:///" + "x" * MAX_SOCKET_PATH_BYTES, "at most 107 bytes"),
        ("redis://:\ud800@h", "cannot be encoded as UTF-8"),
        ("unix:///\ud800", "cannot be encoded as UTF-8"),
        (None, "a URL must be a string, not NoneType"),
        (["redis://h"], "target must be a string"),
    ],
)
def test_a_wrong_url_is_refused_at_the_call(url: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        KIND.encode(url, ("GET", "k"))


@pytest.mark.parametrize(
    ("url", "options", "says"),
    [
        (URL, {"tls": Tls()}, "tls= is for rediss://"),
        ("rediss://h", {"tls": "yes"}, "a reqpool.Tls"),
        ("cache", {"tls": Tls()}, "reqpool.toml"),
        (URL, {"protocol": 4}, "protocol=4: must be 2 or 3"),
        (URL, {"protocol": "2"}, "protocol='2': must be 2 or 3"),
    ],
)
def test_wrong_options_are_refused_at_the_call(url: str, options: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        KIND.encode(url, ("GET", "k"), **options)


# --- routes ------------------------------------------------------------------------------------------


def test_requests_of_one_sort_have_one_route() -> None:
    route, _, _ = KIND.encode(URL, ("GET", "a"))
    assert KIND.encode(URL, ["mget", b"b", "c"])[0] is route
    assert KIND.encode(URL, ("SET", "a", 1))[0] is not route


@pytest.mark.parametrize("name", ["GET", "get", b"GeT", "LRANGE", "EVAL_RO"])
def test_what_redis_flags_as_read_only_may_run_again(name: Any) -> None:
    assert KIND.encode(URL, (name, "k"))[0].idempotent


@pytest.mark.parametrize(
    "command", [("SET", "k", 1), ("INCR", "k"), ("EVAL", "…", 0), ("JSON.GET", "k"), ("PING",)]
)
def test_anything_else_may_not(command: Any) -> None:
    assert not KIND.encode(URL, command)[0].idempotent


@pytest.mark.parametrize(
    ("command", "idempotent"),
    [
        (("XINFO", "STREAM", "s"), True),
        (("object", b"encoding", "k"), True),
        (("MEMORY", "USAGE", "k"), True),
        (("MEMORY", "PURGE"), False),
        (("CLIENT", "LIST"), False),
        (("CONFIG", "GET", "*"), False),
        (("OBJECT",), False),
    ],
)
def test_a_subcommand_has_an_answer_of_its_own(command: Any, idempotent: bool) -> None:
    assert KIND.encode(URL, command)[0].idempotent is idempotent


@pytest.mark.parametrize(
    "command",
    [
        *((name, "k", "0") for name in sorted(BLOCKING)),
        ("blpop", "k", 0),
        (b"BLPOP", b"k", b"0"),
        ("XREAD", "BLOCK", 0, "STREAMS", "s", "$"),
        ("XREAD", "COUNT", 2, "block", b"100", "STREAMS", "s", "$"),
        ("XREADGROUP", "GROUP", "g", "c", b"BLOCK", 0, "STREAMS", "s", ">"),
        ("XREADGROUP", "BLOCK", 0, "GROUP", "g", "c", "STREAMS", "s", ">"),
        ("XREADGROUP", "NOACK", "COUNT", 1, "block", 0, "group", "g", "c", "STREAMS", "s", ">"),
    ],
)
def test_what_waits_goes_where_nobody_is_behind_it(command: Any) -> None:
    route, _, _ = KIND.encode(URL, command)
    assert route.kind is EXCLUSIVE_KIND
    assert route.kind.name == "redis-exclusive"
    assert route.origins == (f"{URL}?exclusive",)


@pytest.mark.parametrize(
    "command",
    [
        ("XREAD", "STREAMS", "BLOCK", "0"),
        ("XREADGROUP", "GROUP", "BLOCK", "BLOCK", "STREAMS", "s", ">"),
        ("XREADGROUP", "COUNT", 1, "GROUP", "BLOCK", "STREAMS", "STREAMS", "BLOCK", ">"),
        ("LPOP", "BLOCK"),
    ],
)
def test_what_only_looks_as_if_it_waits_does_not(command: Any) -> None:
    assert KIND.encode(URL, command)[0].kind is KIND


@pytest.mark.parametrize(
    "command",
    [
        ("EVAL", "return redis.error_reply(redis.call('GET', 'k'))", 0),
        ("evalsha", "0" * 40, 0),
        (b"EVAL_RO", "return 1", 0),
        ("EVALSHA_RO", "0" * 40, 0),
        ("FCALL", "f", 0),
        ("FCALL_RO", "f", 0),
        ("FUNCTION", "LIST"),
        ("SCRIPT", "LOAD", "return 1"),
        ("NO.SUCH", "no\r\n$6\r\nforged"),
        ("JSON.SET", "k", "$", b'{\n"a": 1}'),
        ("CONFIG", "SET", "a\nb", "c"),
        ("XREADGROUP", "GROUP", "g\r\n+x", "c", "STREAMS", "s", ">"),
        ("XPENDING", "s\r\n+x", "g"),
        ("EXPIRE", "k", 10, "no\r\n$6\r\nforged"),
        ("PEXPIREAT", "k", 10, "no\r\n$6\r\nforged"),
        ("NOSUCH", memoryview(b"a\nb")),
    ],
    ids=lambda command: repr(command)[:30],
)
def test_what_may_have_line_ends_in_its_error_goes_where_nobody_is_behind_it(command: Any) -> None:
    route = KIND.encode(URL, command)[0]
    assert (route.kind, route.origins) == (EXCLUSIVE_KIND, (f"{URL}?alone",))
    assert KIND.encode(URL, command, protocol=3)[0].origins == (f"{URL}?alone&resp3",)
    assert KIND.encode_multi(URL, [("GET", "k"), command])[0] is route or route.idempotent


def test_a_command_that_waits_and_may_have_line_ends_in_its_error_goes_where_others_wait() -> None:
    both = KIND.encode(URL, ("XREADGROUP", "GROUP", "g\r\n", "c", "BLOCK", 0, "STREAMS", "s", ">"))[0]
    assert both.origins == (f"{URL}?exclusive",)


@pytest.mark.parametrize(
    "command",
    [
        ("SET", "k", "a page\r\nof many\r\nlines"),
        ("XADD", "s", "*", "text", "a\r\nb"),
        ("PUBLISH", "c", b"\r\n"),
        ("GET", "a\r\nb"),
        ("EXPIRE", "k", 10),
        ("JSON.GET", "k"),
        ("CONFIG", "GET", "*"),
        ("OBJECT", "ENCODING", "k"),
        ("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">"),
    ],
    ids=lambda command: repr(command)[:30],
)
def test_whose_errors_quote_nothing_with_line_ends_shares_a_connection(command: Any) -> None:
    assert KIND.encode(URL, command)[0].kind is KIND
    assert KIND.encode_multi(URL, [command])[0].kind is KIND


def test_the_exclusive_kind_takes_any_command_to_a_connection_of_its_own() -> None:
    route, _, _ = EXCLUSIVE_KIND.encode(URL, ("GET", "k"))
    assert (route.kind, route.origins, route.idempotent) == (EXCLUSIVE_KIND, (f"{URL}?exclusive",), True)


# --- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_takes_over_a_connection_is_refused_and_the_way_out_named(name: str) -> None:
    for spelled in (name.split(), name.lower().split(), [word.encode() for word in name.split()]):
        for encode in (
            lambda command: KIND.encode(URL, command),
            lambda command: KIND.encode_multi(URL, [("GET", "k"), command]),
            KIND.encode_pinned,
        ):
            with pytest.raises(UsageError, match=f"^{name} is refused: ") as caught:
                encode((*spelled, "x"))
            assert caught.value.text.endswith(REFUSED[name])


@pytest.mark.parametrize("name", sorted(PINNED_ONLY))
def test_what_changes_a_connection_is_for_sessions(name: str) -> None:
    command = (*name.lower().split(), "1")
    for encode in (
        lambda: KIND.encode(URL, command),
        lambda: KIND.encode_multi(URL, [command]),
        lambda: EXCLUSIVE_KIND.encode(URL, command),
    ):
        with pytest.raises(UsageError, match=f"^{name} is refused on a shared connection: .*session"):
            encode()
    KIND.encode_pinned(command)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("GET k", 'a command must be a tuple like \\("GET", "key"\\)'),
        (b"GET", "a command must be a tuple"),
        (None, "a command must be a tuple"),
        ((), "at least a name"),
        ([], "at least a name"),
        (("CONFIG GET", "*"), "name is one word"),
        (("",), "name is one word"),
        (("GET\r\nDEL",), "name is one word"),
        (("AUTH hunter2",), "^(?!.*hunter2).*name is one word"),
        (("AUTH", "hunter2\ud800"), "^(?!.*hunter2).*surrogates not allowed"),
        (("SET", "k", None), "argument 2 of a command is of type NoneType: Redis has no such value"),
        (("SET", "k", True), "argument 2 of a command is of type bool: Redis has no such value"),
        (("SET", "k", {"a": 1}), "argument 2 of a command is of type dict: give str, bytes, int or float"),
        ((1.5, "k"), "name is one word"),
        ((bytearray(b"GET"), "k"), "the command a string"),
        (("MGET", ["a", "b"]), "argument 1 of a command is of type list: give str, bytes, int or float"),
        (("GET", "\ud800"), "argument 1 of a command is of type str: .*surrogates not allowed"),
    ],
)
def test_a_wrong_command_is_refused_at_the_call(command: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        KIND.encode(URL, command)
    with pytest.raises(UsageError, match=says):
        KIND.encode_pinned(command)
    with pytest.raises(UsageError, match=says):
        KIND.encode_multi(URL, [command])


# --- how commands are written ------------------------------------------------------------------------


class Colour(enum.IntEnum):
    RED = 3


class Odd(float):
    def __repr__(self) -> str:
        return "Odd(…)"


class Shout(str):
    def __str__(self) -> str:
        return "LOUD"

    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("text", b"text"),
        ("", b""),
        ("größe", "größe".encode()),
        (b"\x00\r\n\xff", b"\x00\r\n\xff"),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"abcd")[::2], b"ac"),
        (0, b"0"),
        (-12345678901234567890, b"-12345678901234567890"),
        (1.5, b"1.5"),
        (0.1, b"0.1"),
        (1e300, b"1e+300"),
        (float("-inf"), b"-inf"),
        (Colour.RED, b"3"),
        (Odd(2.5), b"2.5"),
        (Shout("text"), b"text"),
        ("\r\n$3\r\nDEL\r\n", b"\r\n$3\r\nDEL\r\n"),
    ],
)
def test_values_travel_as_redis_py_writes_them(value: Any, written: bytes) -> None:
    _, payload, _ = KIND.encode(URL, ("SET", "k", value))
    assert payload == resp(b"SET", b"k", written)
    assert type(payload) is bytes


@pytest.mark.parametrize("word", ["x", "é", b"\xff"])
@pytest.mark.parametrize("size", [0, 1, 9, 10, 255, 256, 511, 512, 513, 100_000])
@pytest.mark.parametrize("count", [1, 30, 31, 32, 100])
def test_a_command_of_any_size_is_an_array_of_bulk_strings(word: str | bytes, size: int, count: int) -> None:
    argument = word * size
    written = argument.encode() if isinstance(argument, str) else argument
    _, payload, _ = KIND.encode(URL, ("RPUSH", "k", *(argument for _ in range(count))))
    assert payload == resp(b"RPUSH", b"k", *[written] * count)


def test_a_transaction_is_one_payload_with_its_number_of_replies() -> None:
    route, payload, note = KIND.encode_multi(URL, [("INCR", "a"), ["GET", b"b"]])
    commands = resp(b"MULTI") + resp(b"INCR", b"a") + resp(b"GET", b"b") + resp(b"EXEC")
    assert payload == b"M\x00\x00\x00\x04" + commands
    assert (route.kind, route.origins, route.idempotent, note) == (KIND, (URL,), False, ("INCR", "GET"))


def test_what_waits_does_not_in_a_transaction() -> None:
    assert KIND.encode_multi(URL, [("BLPOP", "q", 0)])[0].kind is KIND


@pytest.mark.parametrize("commands", ["GET k", (), [], None, {}])
def test_a_transaction_is_a_list_of_commands(commands: Any) -> None:
    with pytest.raises(UsageError, match=r"commands must be a list|at least one command"):
        KIND.encode_multi(URL, commands)


def test_a_command_over_the_limit_is_left_to_the_pool() -> None:
    _, payload, _ = KIND.encode(URL, ("SET", "k", bytes(wire.MAX_PAYLOAD_BYTES)))
    assert len(payload) > wire.MAX_PAYLOAD_BYTES


def test_a_sessions_route_is_exclusive_and_never_run_again() -> None:
    route = KIND.pinned_route("redis://:pw@h/1", pin=7, opens=True)
    assert (route.kind, route.pin, route.opens, route.idempotent) == (EXCLUSIVE_KIND, 7, True, False)
    assert route.origins[0].startswith("redis://h:6379/1?exclusive#")
    assert msgpack.unpackb(route.settings) == {"password": "pw"}
    assert KIND.pinned_route("cache", pin=1).origins == ("@cache?exclusive",)
    assert KIND.encode_pinned(("WATCH", "k")) == (resp(b"WATCH", b"k"), None)


def test_the_tables_do_not_contradict_each_other() -> None:
    assert not (READ_ONLY | BLOCKING) & (REFUSED.keys() | PINNED_ONLY.keys())
    assert not REFUSED.keys() & PINNED_ONLY.keys()
