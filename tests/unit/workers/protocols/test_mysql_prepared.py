"""When the worker half of mysql prepares a statement, and what it sends instead if that fails. No server."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgpack
import pytest

from reqpool.kinds.mysql import KIND
from reqpool_contract.errors import BadResponse, Code, ConnectionLost, UsageError
from reqpool_workers.protocols import READY, Ask, StreamProtocol, mysql
from reqpool_workers.protocols.mysql_prepared import (
    IDLE_USES,
    MOST_COUNTED,
    MOST_PREPARED,
    MOST_SQL_BYTES,
    USES,
    preparable,
)
from support import mysql_peer as peer
from support.mysql_peer import BINARY, column, err, ok, packet, packets

SQL = "SELECT a FROM t WHERE id = %s"
TEXT = packet(0, b"\x03SELECT a FROM t WHERE id = 7")
PREPARE = packet(0, b"\x16SELECT a FROM t WHERE id = ?")
ONE_ROW = packets(1, [b"\x01", column("a"), b"\0\0" + peer.text(b"x"), ok(ends_rows=True)])
ROW_AS_TEXT = packets(1, peer.rows(["a"], [(b"x",)]))
MARIADB = b"11.4.2-MariaDB"


def logged_in(version: bytes = MARIADB, capabilities: int = peer.MODERN, max_bytes: int = 1 << 20) -> Any:
    protocol = mysql.protocol("mysql://me@h:1/db", b"", max_bytes)
    protocol.connected()
    protocol.feed(packet(0, peer.greeting(capabilities, version=version)))
    protocol.feed(packet(2, ok()))
    assert protocol.feed(packet(1, ok())) == [READY]
    return protocol


def ask(sql: str = SQL, *params: Any) -> Ask:
    request = Ask()
    request.payload = KIND.encode("mysql://me@h/", sql, params=params or (7,))[1]
    return request


def fed(protocol: StreamProtocol, data: bytes, step: int = 1 << 20) -> list[Any]:
    events: list[Any] = []
    for at in range(0, len(data), step):
        events += protocol.feed(data[at : at + step])
    return events


def prepared(number: int, places: int = 1, columns: Sequence[str] = ("a",)) -> bytes:
    """Return what a server answers to a PREPARE."""
    head = b"\0" + struct.pack("<IHHBH", number, len(columns), places, 0, 0)
    return packets(1, [head, *(column("?", collation=BINARY) for _ in range(places)), *map(column, columns)])


def execute(number: int, value: int = 7) -> bytes:
    head = b"\x17" + struct.pack("<IBI", number, 0, 1)
    return packet(0, head + b"\0\x01\x08\0" + struct.pack("<q", value))


def close(number: int) -> bytes:
    return packet(0, b"\x19" + struct.pack("<I", number))


def comes_often(protocol: StreamProtocol, sql: str = SQL) -> bytes:
    """Ask until it is prepared; return what is sent then."""
    for _ in range(USES - 1):
        assert protocol.send(ask(sql))[4] == 0x03
        assert fed(protocol, ROW_AS_TEXT) == [(Code.OK, ROW_AS_TEXT)]
    return protocol.send(ask(sql))


def with_prepared(number: int = 1, **options: Any) -> Any:
    """A connection with one prepared statement."""
    protocol = logged_in(**options)
    assert comes_often(protocol) == PREPARE
    assert fed(protocol, prepared(number)) == [execute(number)]
    assert fed(protocol, ONE_ROW) == [(Code.OK, bytes(4) + ONE_ROW)]
    return protocol


@pytest.mark.parametrize("step", [1, 3, 1 << 20])
def test_a_statement_that_comes_again_is_prepared_and_then_executed(step: int) -> None:
    protocol = logged_in()
    assert comes_often(protocol) == PREPARE
    assert fed(protocol, prepared(258), step) == [execute(258)]
    assert fed(protocol, ONE_ROW, step) == [(Code.OK, bytes(4) + ONE_ROW)]
    assert protocol.send(ask(SQL, 8)) == execute(258, 8)
    assert fed(protocol, ONE_ROW, step) == [(Code.OK, bytes(4) + ONE_ROW)]
    assert (protocol.reusable, protocol.unclean) == (True, False)


def test_an_answer_without_rows_is_the_same_in_both_protocols() -> None:
    protocol = logged_in()
    sql = "UPDATE t SET a = 1 WHERE id = %s"
    comes_often(protocol, sql)
    assert fed(protocol, prepared(1, columns=())) == [execute(1)]
    done = packet(1, ok(affected=1))
    assert fed(protocol, done) == [(Code.OK, done)]


@pytest.mark.parametrize(
    ("value", "kind", "written"),
    [
        (None, b"\x06\0", b""),
        (True, b"\x08\0", b"\x01" + bytes(7)),
        (-1, b"\x08\0", b"\xff" * 8),
        (1 << 63, b"\x08\x80", bytes(7) + b"\x80"),
        (1.5, b"\x05\0", struct.pack("<d", 1.5)),
        ("é'\\", b"\xfd\0", b"\x04\xc3\xa9'\\"),
        ("x" * 251, b"\xfd\0", b"\xfc\xfb\0" + b"x" * 251),
        (b"\0\xff", b"\xfc\0", b"\x02\0\xff"),
        (1 << 64, b"\xf6\0", b"\x1418446744073709551616"),
    ],
)
def test_parameters_in_the_binary_protocol(value: Any, kind: bytes, written: bytes) -> None:
    protocol = with_prepared()
    head = b"\x17" + struct.pack("<IBI", 1, 0, 1)
    nulls = b"\x01" if value is None else b"\0"
    assert protocol.send(ask(SQL, value)) == packet(0, head + nulls + b"\x01" + kind + written)


@pytest.mark.parametrize("value", [[1, 2], float("nan")])
def test_a_parameter_that_only_a_text_can_have_is_asked_as_text(value: Any) -> None:
    protocol = with_prepared()
    request = Ask()
    request.payload = b"\0" + msgpack.packb([SQL, [value]])
    assert protocol.send(request)[4] == 0x03


# --- what is not prepared ----------------------------------------------------------------------------


def never_prepared(protocol: StreamProtocol, request: Ask) -> None:
    for _ in range(2 * USES):
        assert protocol.send(request)[4] == 0x03
        fed(protocol, ROW_AS_TEXT)


@pytest.mark.parametrize(
    "options",
    [{"version": b"8.4.0"}, {"capabilities": peer.OLD}, {"capabilities": peer.MODERN & ~peer.DEPRECATE_EOF}],
    ids=["mysql", "old", "with eof"],
)
def test_nothing_is_prepared_by_other_servers(options: dict[str, Any]) -> None:
    protocol = logged_in(**options)
    answer = ROW_AS_TEXT if "version" in options else packets(1, peer.rows(["a"], [], deprecate_eof=False))
    for _ in range(2 * USES):
        assert protocol.send(ask()) == TEXT
        assert fed(protocol, answer) == [(Code.OK, answer)]


def test_a_client_that_reads_text_alone_is_answered_in_text() -> None:
    """An earlier version: its SQL is a bin."""
    sql = SQL.encode()
    request = Ask()
    request.payload = b"\0\x92\xc4" + bytes((len(sql),)) + sql + b"\x91\x07"
    protocol = with_prepared()
    never_prepared(protocol, request)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT %s", "SELECT a, %s FROM t WHERE id = 1", "SELECT a FROM f(%s)", "SELECT a FROM t ORDER BY %s",
        "SELECT a FROM t GROUP BY %s", "INSERT INTO t (a) VALUES (1) RETURNING a + %s",
        "SELECT 'where', %s FROM t", 'SELECT "where", %s FROM t', "SELECT `where`, %s FROM t",
        "SELECT CAST(a AS CHAR CHARACTER SET utf8), %s FROM t", "SELECT a FROM t WHERE a = '?' AND b = %s",
        r"SELECT a FROM t WHERE a = '\'' AND b = %s", "SELECT /* where */ %s", "SELECT a -- where\n, %s",
        "SELECT a # where\n, %s", "SELECT EXTRACT(DAY FROM a) + %s FROM t", "CALL p(%s)", "SET @a = %s",
        " SELECT a FROM t WHERE id = %s", "SELECT a FROM t WHERE id = 1",
        f"SELECT a FROM t WHERE b = '{'x' * MOST_SQL_BYTES}' AND id = %s",
    ],
)  # fmt: skip
def test_statements_that_are_never_prepared(sql: str) -> None:
    request = Ask()
    request.payload = b"\0" + msgpack.packb([sql, [7] * sql.count("%s")])
    never_prepared(logged_in(), request)


@pytest.mark.parametrize(
    ("sql", "form"),
    [
        (
            "SELECT a FROM t WHERE a = %s AND b LIKE '5%%s'",
            ("SELECT a FROM t WHERE a = ? AND b LIKE '5%s'", 1, ()),
        ),
        ("select a from t where a = %s limit %s, %s", ("select a from t where a = ? limit ?, ?", 3, (1, 2))),
        ("INSERT INTO t VALUES (%s, 'where', %s)", ("INSERT INTO t VALUES (?, 'where', ?)", 2, ())),
        (
            "INSERT INTO t VALUES (%s) ON DUPLICATE KEY UPDATE a = %s",
            ("INSERT INTO t VALUES (?) ON DUPLICATE KEY UPDATE a = ?", 2, ()),
        ),
        ("UPDATE t SET a = %s WHERE b = %s", ("UPDATE t SET a = ? WHERE b = ?", 2, ())),
        ("DELETE FROM t WHERE a = %s % 2", None),
        (
            "SELECT a FROM t JOIN u ON t.a = %s HAVING %s",
            ("SELECT a FROM t JOIN u ON t.a = ? HAVING ?", 2, ()),
        ),
    ],
)
def test_how_a_statement_is_prepared(sql: str, form: tuple[str, int, tuple[int, ...]] | None) -> None:
    found = preparable(sql.encode())
    assert found is not None
    if form is not None:
        assert (found.sql.decode(), found.places, found.limits) == form


def test_a_limit_takes_what_its_text_would_take() -> None:
    protocol = logged_in()
    sql = "SELECT a FROM t LIMIT %s"
    comes_often(protocol, sql)
    assert fed(protocol, prepared(1)) == [execute(1)]
    fed(protocol, ONE_ROW)
    for value in (-1, "1", 1.0, None, True):
        for _ in range(2 * USES):
            assert protocol.send(ask(sql, value))[4] == 0x03
            fed(protocol, ROW_AS_TEXT)
    assert protocol.send(ask(sql, 9)) == execute(1, 9)


def test_a_session_is_asked_as_text_and_what_was_prepared_is_gone_after_it() -> None:
    protocol = with_prepared()
    protocol.hold()
    assert fed(protocol, packet(1, ok(0))) == [READY]
    for _ in range(2 * USES):
        assert protocol.send(ask()) == TEXT
        fed(protocol, packets(1, peer.rows(["a"], [(b"x",)], status=0)))
    released(protocol)
    assert comes_often(protocol) == PREPARE


def released(protocol: Any) -> None:
    events = protocol.release()
    while events != [READY]:
        events = protocol.feed(packet(1, ok()))


# --- what fails --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1295, 1064, 1146, 1317, 1390])
def test_what_cannot_be_prepared_is_asked_as_text_for_good(number: int) -> None:
    protocol = logged_in()
    assert comes_often(protocol) == PREPARE
    assert fed(protocol, packet(1, err(number)), 1) == [TEXT]
    assert fed(protocol, ROW_AS_TEXT) == [(Code.OK, ROW_AS_TEXT)]
    never_prepared(protocol, ask())
    assert protocol.reusable


@pytest.mark.parametrize(
    "answer", [prepared(1, places=2), prepared(1, places=0), prepared(1, columns=("a", "b = ?"))]
)
def test_what_is_not_what_its_text_is_is_closed_again(answer: bytes) -> None:
    protocol = logged_in()
    comes_often(protocol)
    assert fed(protocol, answer) == [close(1) + TEXT]
    assert fed(protocol, ROW_AS_TEXT) == [(Code.OK, ROW_AS_TEXT)]
    never_prepared(protocol, ask())


def test_where_the_server_has_no_room_all_are_closed_and_nothing_is_prepared_even_after_a_reset() -> None:
    protocol = with_prepared(1)
    other = "SELECT b FROM t WHERE id = %s"
    comes_often(protocol, other)
    full = packet(1, err(1461, b"42000", b"Can't create more than max_prepared_stmt_count statements"))
    assert fed(protocol, full) == [close(1) + packet(0, b"\x03SELECT b FROM t WHERE id = 7")]
    fed(protocol, ROW_AS_TEXT)
    never_prepared(protocol, ask(other))
    never_prepared(protocol, ask())
    protocol.send(ask())
    fed(protocol, packet(1, err(1062)))
    released(protocol)
    never_prepared(protocol, ask())


LOST = err(1243, b"HY000", b"Unknown prepared statement handler (1) given to mysqld_stmt_execute")


@pytest.mark.parametrize(
    "error", [LOST, err(1210, b"HY000", b"Incorrect arguments to mysqld_stmt_execute"), err(1615, b"HY000")]
)
def test_a_statement_that_the_server_did_not_begin_is_asked_as_text(error: bytes) -> None:
    protocol = with_prepared()
    assert protocol.send(ask()) == execute(1)
    assert fed(protocol, packet(1, error), 1) == [close(1) + TEXT]
    assert fed(protocol, ROW_AS_TEXT) == [(Code.OK, ROW_AS_TEXT)]
    assert not protocol.unclean
    never_prepared(protocol, ask())


def test_nothing_more_is_asked_on_a_connection_with_bytes_that_belong_to_nothing() -> None:
    protocol = with_prepared()
    protocol.send(ask())
    assert fed(protocol, packet(1, LOST) + b"\0") == [(Code.OK, packet(1, LOST))]
    assert not protocol.reusable


@pytest.mark.parametrize(
    "error", [err(1062, b"23000"), err(1243, b"HY000", b"said by a trigger"), err(1210, b"HY000", b"so too")]
)
def test_an_error_of_the_statement_itself_is_its_answer(error: bytes) -> None:
    protocol = with_prepared()
    assert protocol.send(ask()) == execute(1)
    assert fed(protocol, packet(1, error)) == [(Code.OK, packet(1, error))]
    assert protocol.unclean
    released(protocol)
    assert comes_often(protocol) == PREPARE


def test_an_error_amid_the_rows_is_the_answer() -> None:
    protocol = with_prepared()
    protocol.send(ask())
    data = packets(1, [b"\x01", column("a"), b"\0\0" + peer.text(b"x"), err(1615)])
    # It had begun, whatever the number is: a part of the answer had come.
    assert fed(protocol, data) == [(Code.OK, packet(4, err(1615)))]


def test_a_server_that_ends_while_a_statement_is_prepared_has_not_run_it() -> None:
    protocol = logged_in()
    comes_often(protocol)
    fed(protocol, prepared(1)[:-1])
    with pytest.raises(ConnectionLost) as caught:
        protocol.eof()
    assert caught.value.sent is False
    for number in (1, 0):
        protocol = logged_in()
        comes_often(protocol)
        with pytest.raises(ConnectionLost, match="shutdown") as caught:
            fed(protocol, packet(number, err(1053, b"08S01", b"Server shutdown in progress")))
        assert caught.value.sent is False


def test_a_server_that_ends_after_the_execute_may_have_run_it() -> None:
    protocol = with_prepared()
    protocol.send(ask())
    assert protocol.eof() == ()


@pytest.mark.parametrize(
    "data",
    [
        packet(1, b"\x01"),
        packet(1, b"\0\0\0"),
        packet(2, ok()),
        prepared(1) + b"\0",
        packet(1, b""),
        prepared(1)[:-30] + b"x" * 30,
    ],
)
def test_another_answer_to_a_prepare_breaks_the_connection(data: bytes) -> None:
    protocol = logged_in()
    comes_often(protocol)
    with pytest.raises(BadResponse):
        fed(protocol, data)
    assert not protocol.reusable


def test_a_malformed_payload_is_not_prepared_and_changes_nothing() -> None:
    protocol = logged_in()
    request = Ask()
    request.payload = b"\0\x92" + bytes((0xA0 | len(SQL),)) + SQL.encode() + b"\x92\x01\x02"
    for _ in range(2 * USES):
        with pytest.raises(UsageError):
            protocol.send(request)
    assert protocol.send(ask()) == PREPARE  # it was counted


def test_an_answer_may_be_as_long_as_allowed_with_its_mark() -> None:
    assert with_prepared(max_bytes=len(ONE_ROW) + 4).reusable
    protocol = logged_in(max_bytes=len(ONE_ROW) + 3)
    comes_often(protocol)
    fed(protocol, prepared(1))
    with pytest.raises(BadResponse, match="longer than"):
        fed(protocol, ONE_ROW)


# --- how many ------------------------------------------------------------------------------------------


def test_a_statement_makes_room_once_it_was_not_used_for_long() -> None:
    protocol = logged_in()
    others = [f"SELECT a{number} FROM t WHERE id = %s" for number in range(MOST_PREPARED)]
    for number, sql in enumerate(others):
        comes_often(protocol, sql)
        assert fed(protocol, prepared(number)) == [execute(number)]
        fed(protocol, ONE_ROW)
    never_prepared(protocol, ask())  # there is no room for another
    for _ in range(IDLE_USES):
        for number in range(1, MOST_PREPARED, 31):
            assert protocol.send(ask(others[number])) == execute(number)
            fed(protocol, ONE_ROW)
    assert protocol.send(ask()) == close(0) + PREPARE
    assert fed(protocol, prepared(99)) == [execute(99)]
    fed(protocol, ONE_ROW)
    assert protocol.send(ask()) == execute(99)
    fed(protocol, ONE_ROW)
    assert protocol.send(ask(others[1])) == execute(1)


def test_statements_that_do_not_come_again_are_not_remembered() -> None:
    protocol = logged_in()
    for number in range(5000):
        assert protocol.send(ask(f"SELECT a FROM t{number} WHERE id = %s"))[4] == 0x03
        fed(protocol, ROW_AS_TEXT)
    assert len(protocol._prepared._uses) <= MOST_COUNTED
