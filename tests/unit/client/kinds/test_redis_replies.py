"""Replies of Redis as Python values."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest

from reqpool.kinds.redis import KIND
from reqpool.kinds.redis_answer import decode
from reqpool_contract.errors import BadResponse, RedisError
from reqpool_contract.payloads.redis_reply import MAX_DEPTH


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'"hello', b"hello"),
        (b'"', b""),
        (b'"\r\n"', b'\r\n"'),
        (b"$5\r\nhello\r\n", b"hello"),
        (b"$0\r\n\r\n", b""),
        (b"$-1\r\n", None),
        (b"*-1\r\n", None),
        (b"*0\r\n", []),
        (b"+OK\r\n", b"OK"),
        (b"+\r\n", b""),
        (b":0\r\n", 0),
        (b":-9223372036854775808\r\n", -(2**63)),
        (b":+5\r\n", 5),
        (b"*3\r\n$1\r\na\r\n$-1\r\n:1\r\n", [b"a", None, 1]),
        (b"*2\r\n*1\r\n+x\r\n*-1\r\n", [[b"x"], None]),
        (b"*3\r\n$1\r\na\r\n$0\r\n\r\n$2\r\nbc\r\n", [b"a", b"", b"bc"]),
        (b"*2\r\n$7\r\n$1\r\na\r\n\r\n$1\r\nb\r\n", [b"$1\r\na\r\n", b"b"]),
        # RESP3
        (b"_\r\n", None),
        (b"#t\r\n", True),
        (b"#f\r\n", False),
        (b",1.5\r\n", 1.5),
        (b",10\r\n", 10.0),
        (b",-1e-7\r\n", -1e-7),
        (b",inf\r\n", math.inf),
        (b",-inf\r\n", -math.inf),
        (b"(3492890328409238509324850943850943825024385\r\n", 3492890328409238509324850943850943825024385),
        (b"=8\r\ntxt:text\r\n", b"text"),
        (b"%2\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n:2\r\n", {b"a": 1, b"b": 2}),
        (b"%0\r\n", {}),
        (b"~2\r\n+a\r\n+b\r\n", {b"a", b"b"}),
        (b":-007\r\n", -7),
        (b":123456789012345678901234567890\r\n", 123456789012345678901234567890),
        (b",.5\r\n", 0.5),
        (b",5.\r\n", 5.0),
        (b",1e5\r\n", 1e5),
        (b",+INFINITY\r\n", math.inf),
        (b",-Inf\r\n", -math.inf),
        (b"~-1\r\n", None),
        (b"%-1\r\n", None),
        (b"=4\r\ntxt:\r\n", b""),
        (b"=2\r\nhi\r\n", b"hi"),
        (b"+a lone \n or \r\r\n", b"a lone \n or \r"),
        (b"$?\r\n;4\r\nHell\r\n;1\r\no\r\n;0\r\n", b"Hello"),
        (b"$?\r\n;0\r\n", b""),
        (b"*?\r\n:1\r\n*?\r\n.\r\n$?\r\n;1\r\na\r\n;0\r\n.\r\n", [1, [], b"a"]),
        (b"~?\r\n:1\r\n.\r\n", {1}),
        (b"%?\r\n+a\r\n:1\r\n.\r\n", {b"a": 1}),
        (b"%?\r\n+a\r\n.\r\n", [b"a"]),
        (b"|1\r\n+ttl\r\n:3600\r\n$1\r\na\r\n", b"a"),
        (b"*2\r\n|1\r\n+ttl\r\n:3600\r\n$1\r\na\r\n:7\r\n", [b"a", 7]),
    ],
)
def test_every_type_has_its_value(data: bytes, value: Any) -> None:
    got = KIND.decode(data, None)  # type: ignore[arg-type]
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    "text", [b"nan", b"NaN", b"-nan", b"+NAN", b"nan(0x8000000000000)", b"-NaN(a_1)", b"nan()"]
)
def test_not_a_number_is_one_as_any_c_library_writes_it(text: bytes) -> None:
    assert math.isnan(decode(b",%b\r\n" % text))


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"%2\r\n+a\r\n:1\r\n+a\r\n:2\r\n", [(b"a", 1), (b"a", 2)]),
        (b"%1\r\n*1\r\n+a\r\n:1\r\n", [([b"a"], 1)]),
        (b"~2\r\n+a\r\n+a\r\n", [b"a", b"a"]),
        (b"~1\r\n*1\r\n+a\r\n", [[b"a"]]),
        (b"~2\r\n:1\r\n#t\r\n", [1, True]),
    ],
)
def test_nothing_is_lost_of_what_python_cannot_map(data: bytes, value: Any) -> None:
    assert decode(data) == value


@pytest.mark.parametrize(
    ("data", "code", "text"),
    [
        (b"-WRONGTYPE Operation against a key\r\n", "WRONGTYPE", "WRONGTYPE Operation against a key"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "LOADING", "LOADING Redis is loading"),
        (b"-MOVED 3999 127.0.0.1:6381\r\n", "MOVED", "MOVED 3999 127.0.0.1:6381"),
        (b"-ASK 3999 127.0.0.1:6381\r\n", "ASK", "ASK 3999 127.0.0.1:6381"),
        (b"-READONLY You can't write against a read only replica.\r\n", "READONLY", "READONLY You"),
        (b"-NOAUTH Authentication required.\r\n", "NOAUTH", "NOAUTH Authentication required."),
        (b"-\r\n", "ERR", ""),
        (b"-ERR \xff\r\n", "ERR", "ERR \\xff"),
        (b"!21\r\nSYNTAX invalid syntax\r\n", "SYNTAX", "SYNTAX invalid syntax"),
    ],
)
def test_an_error_is_raised_with_its_code_and_whole_text(data: bytes, code: str, text: str) -> None:
    with pytest.raises(RedisError) as caught:
        decode(data)
    assert caught.value.reply_code == code
    assert caught.value.text.startswith(text)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.reply_code, again.text) == (code, caught.value.text)


def test_an_error_in_a_list_stands_in_its_place() -> None:
    first, error, last = decode(b"*3\r\n:1\r\n-WRONGTYPE no\r\n:2\r\n")
    assert (first, last) == (1, 2)
    assert isinstance(error, RedisError)
    assert error.reply_code == "WRONGTYPE"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"$",
        b"$5\r\nhell\r\n",
        b"$5\r\nhello",
        b"$5\r\nhelloXY",
        b"$5\r\nhello\r\n$1\r\na\r\n",
        b"$1_0\r\n0123456789\r\n",
        b"$ 5\r\nhello\r\n",
        b"$-2\r\n",
        b":1.5\r\n",
        b":\r\n",
        b": 1\r\n",
        b"*2\r\n:1\r\n",
        b"*2\r\n$1\r\na\r\n$1\r\nb",
        b"*1\r\n$1\r\na\r\n$1\r\nb\r\n",
        b"*2\r\n$01\r\na\r\n$2\r\nb\r\n",
        b"*1\r\n",
        b"%1\r\n:1\r\n",
        b".\r\n",
        b";1\r\na\r\n",
        b"$?\r\n;1\r\na\r\n",
        b"$?\r\n:1\r\n;0\r\n",
        b"*?\r\n:1\r\n",
        b"*?\r\n" * (MAX_DEPTH + 1) + b".\r\n" * (MAX_DEPTH + 1),
        b"#x\r\n",
        b",1_0\r\n",
        b"(12x\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"*1\r\n" * (MAX_DEPTH + 1) + b":1\r\n",
        b"*1\r\n" * 100_000,
    ],
)
def test_what_is_no_reply_is_a_bad_response(data: bytes) -> None:
    with pytest.raises(BadResponse):
        decode(data)


def test_arrays_in_arrays_go_as_deep_as_is_said() -> None:
    value = decode(b"*1\r\n" * MAX_DEPTH + b":1\r\n")
    for _ in range(MAX_DEPTH):
        (value,) = value
    assert value == 1


@pytest.mark.parametrize(
    "reply", [b"-ERR unknown command 'INCRX'\r\n", b"!27\r\nERR unknown command 'INCRX'\r\n"]
)
def test_the_error_of_a_transaction_says_which_command_was_refused(reply: bytes) -> None:
    _, _, note = KIND.encode_multi("redis://h/0", [("GET", "a"), ("INCRX", "secret"), ("CONFIG", "SET", "a")])
    with pytest.raises(RedisError) as caught:
        KIND.decode(b"M\0\0\0\x02" + reply, Noted(note))  # type: ignore[arg-type]
    assert caught.value.reply_code == "ERR"
    assert (
        caught.value.text == "command 2 of the transaction, INCRX, was refused: ERR unknown command 'INCRX'"
    )
    with pytest.raises(RedisError, match=r"command 3 of the transaction, CONFIG, was refused: "):
        KIND.decode(b"M\0\0\0\x03" + reply, Noted(note))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data", [b"M", b"M\0\0\0\x01", b"M\0\0\0\x01:1\r\n", b"M\0\0\0\0-ERR\r\n", b"M\0\0\0\x09-ERR\r\n"]
)
def test_half_a_refusal_is_a_bad_response(data: bytes) -> None:
    with pytest.raises(BadResponse):
        KIND.decode(data, Noted(("GET",)))  # type: ignore[arg-type]


class Noted:
    def __init__(self, note: Any) -> None:
        self.note = note
