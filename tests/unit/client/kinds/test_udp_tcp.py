from __future__ import annotations

from typing import Any

import msgpack
import pytest

from reqpool import kinds
from reqpool.kinds.tcp import KIND as TCP
from reqpool.kinds.tcp import MAX_ANSWER_BYTES
from reqpool.kinds.udp import KIND as UDP
from reqpool.kinds.udp import MAX_DATAGRAM_BYTES
from reqpool_contract.errors import UsageError
from support.plain import ASKED


@pytest.mark.parametrize("name", ["dns", "udp", "tcp"])
def test_kinds_are_found_by_their_entry_points(name: str) -> None:
    assert kinds.find(name).name == name
    assert kinds.find(name) is kinds.find(name)


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"unknown kind 'gopher'.*dns, .*tcp, udp"):
        kinds.find("gopher")


@pytest.mark.parametrize(
    "data", [b"", b"hello", bytearray(b"hello"), memoryview(b"hello"), b"x" * MAX_DATAGRAM_BYTES]
)
def test_a_datagram_travels_as_it_is(data: Any) -> None:
    route, payload, _ = UDP.encode("127.0.0.1:5555", data)
    assert (type(payload), payload) == (bytes, bytes(data))
    assert route.origins == ("udp://127.0.0.1:5555",)
    assert not route.idempotent
    assert UDP.decode(payload, ASKED) == payload


@pytest.mark.parametrize("kind", [UDP, TCP])
def test_one_address_has_one_route(kind: Any) -> None:
    route, _, _ = kind.encode("127.0.0.1:5555", b"a")
    assert kind.encode("127.0.0.1:5555", b"b")[0] is route
    assert kind.encode("127.0.0.1:5556", b"b")[0] is not route


@pytest.mark.parametrize("kind", [UDP, TCP])
@pytest.mark.parametrize(
    ("target", "data", "says"),
    [
        ("127.0.0.1:5555", "hello", r"write text\.encode\(\)"),
        ("127.0.0.1:5555", None, "not NoneType"),
        ("127.0.0.1:5555", 5, "not int"),
        ("127.0.0.1", b"", "no port"),
        (("127.0.0.1", 5555), b"", "not tuple"),
        (["127.0.0.1", 5555], b"", "not list"),
        (None, b"", "not NoneType"),
    ],
)
def test_wrong_targets_and_data_are_refused_at_the_call(kind: Any, target: Any, data: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        kind.encode(target, data)


def test_a_datagram_over_the_limit_of_udp_is_refused() -> None:
    with pytest.raises(UsageError, match="65508 bytes exceeds the 65507"):
        UDP.encode("127.0.0.1:5555", bytes(MAX_DATAGRAM_BYTES + 1))


@pytest.mark.parametrize(
    ("options", "packed"),
    [
        ({}, [None, None, MAX_ANSWER_BYTES]),
        ({"until": b"\n"}, [b"\n", None, MAX_ANSWER_BYTES]),
        ({"length": 5}, [None, 5, MAX_ANSWER_BYTES]),
        ({"length": 5, "max_bytes": 5}, [None, 5, 5]),
        ({"until": b"\r\n", "max_bytes": 100}, [b"\r\n", None, 100]),
    ],
)
def test_a_tcp_exchange_says_where_its_answer_ends(options: Any, packed: list[Any]) -> None:
    route, payload, _ = TCP.encode("[::1]:7", b"data", **options)
    assert route.origins == ("tcp://[::1]:7",)
    assert not route.idempotent
    assert msgpack.unpackb(payload) == [b"data", *packed]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"until": b"\n", "length": 1}, "not both"),
        ({"until": b""}, "until= is 0 bytes"),
        ({"until": "\n"}, r"write text\.encode\(\)"),
        ({"until": b"toolong", "max_bytes": 3}, "until= is 7 bytes"),
        ({"length": 0}, "length=0"),
        ({"length": 10, "max_bytes": 9}, "length=10"),
        ({"length": True}, "length=True"),
        ({"length": 1.5}, r"length=1\.5"),
        ({"max_bytes": 0}, "max_bytes=0"),
        ({"max_bytes": MAX_ANSWER_BYTES + 1}, "max_bytes="),
    ],
)
def test_a_tcp_exchange_that_cannot_end_well_is_refused(options: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        TCP.encode("127.0.0.1:7", b"data", **options)


def test_an_unknown_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="unti"):
        TCP.encode("127.0.0.1:7", b"data", unti=b"\n")  # type: ignore[call-arg]
