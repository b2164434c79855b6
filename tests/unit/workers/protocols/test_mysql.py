"""The worker half of mysql, fed whole and byte by byte. No server."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import pytest

from reqpool_contract.errors import BadResponse, Code, ConnectFailed, ConnectionLost, UsageError
from reqpool_workers.protocols import READY, Address, Ask, Name, StreamProtocol, mysql
from support import mysql_peer as peer
from support.mysql_peer import (
    AUTOCOMMIT,
    IN_TRANS,
    MORE_RESULTS,
    STATE,
    err,
    ok,
    packet,
    packets,
    rows,
    track,
)
from support.work import Job, assert_time_grows_linearly

ORIGIN = "mysql://me@127.0.0.1:3306/db"
MAX_BYTES = 1 << 20
SELECT = b"\x03SELECT a FROM t"

VARIABLES, SCHEMA, TRANSACTION, GTID = 0, 1, 5, 3
TRANSACTION_OPEN, LOCK_TABLES, TRANSACTION_OVER = (
    track(TRANSACTION, peer.text(value)) for value in (b"T_______", b"_______L", b"________")
)
WHOLE = 1 << 30


def logged_in(
    origin: str = ORIGIN,
    *,
    max_bytes: int = MAX_BYTES,
    capabilities: int = peer.MODERN,
    status: int = AUTOCOMMIT,
    version: bytes = b"8.0.99",
) -> StreamProtocol:
    """A connection after its log-in."""
    protocol = mysql.protocol(origin, b"", max_bytes)
    protocol.connected()
    protocol.feed(packet(0, peer.greeting(capabilities, version=version)))
    protocol.feed(packet(2, ok()))
    assert protocol.feed(packet(1, ok(status))) == [READY]
    return protocol


def ask(payload: bytes = SELECT) -> Ask:
    request = Ask()
    request.payload = payload
    return request


def asked(payload: bytes = SELECT, **options: Any) -> StreamProtocol:
    """A connection with one statement unanswered."""
    protocol = logged_in(**options)
    protocol.send(ask(payload))
    return protocol


def fed(protocol: StreamProtocol, data: bytes, step: int = WHOLE) -> list[Any]:
    events: list[Any] = []
    for at in range(0, len(data), step):
        events += protocol.feed(data[at : at + step])
    return events


def answer(protocol: StreamProtocol, *payloads: bytes) -> None:
    """Let the server answer the statement, to the end."""
    ((code, _),) = fed(protocol, packets(1, payloads))
    assert code == Code.OK


def steps(data: bytes) -> list[int]:
    """How to cut data: whole, byte by byte, and such that headers are cut in different places."""
    return [WHOLE, 1, 2, 3, 5, 7, max(1, len(data) - 1)]


# --- addresses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "address"),
    [
        (ORIGIN, Address(socket.AF_INET, ("127.0.0.1", 3306))),
        ("mysql://me@[::1]:3307/?tls#digest", Address(socket.AF_INET6, ("::1", 3307, 0, 0))),
        ("mysql://me@db.example:3306/db", Name("db.example", 3306)),
        ("mysql://me@/db?socket=/run/my%20sql.sock", Address(socket.AF_UNIX, "/run/my sql.sock")),
    ],
)
def test_where_an_origin_is(origin: str, address: object) -> None:
    assert mysql.WORKER_KIND.address(origin) == address


# --- what is sent ------------------------------------------------------------------------------------


def test_a_statement_without_parameters_is_sent_as_it_is() -> None:
    assert logged_in().send(ask(b"\x03SELECT '%s \\'")) == packet(0, b"\x03SELECT '%s \\'")


def test_parameters_are_escaped_by_the_connections_status_flags() -> None:
    payload = b"\x00" + bytes((0x92, 0xC4, 2)) + b"%s" + b"\x91\xa3\\'x"  # msgpack [b"%s", ["\\'x"]]
    assert logged_in().send(ask(payload)) == packet(0, rb"""\\''x""".join((b"\x03'", b"'")))
    strict = logged_in(status=AUTOCOMMIT | peer.NO_BACKSLASH_ESCAPES)
    assert strict.send(ask(payload)) == packet(0, rb"""\''x""".join((b"\x03'", b"'")))


def test_once_the_flag_has_changed_what_has_a_backslash_is_written_in_hexadecimal_digits() -> None:
    """MariaDB leaves the flag wrong after a routine that sets sql_mode: see mysql_literals."""
    text, plain = b"\x00\x92\xc4\x02%s\x91\xa2\\'", b"\x00\x92\xc4\x02%s\x91\xa2'x"
    octets = b"\x00\x92\xc4\x02%s\x91\xc7\x01\x05\\"
    protocol = held()
    for flags in (peer.NO_BACKSLASH_ESCAPES, 0, 0):
        says(protocol, b"CALL sets_sql_mode()", ok(flags))
        for payload, literal in ((text, b"_utf8mb4 X'5c27'"), (octets, b"_binary X'5c'"), (plain, b"QQQx'")):
            literal = literal.replace(b"Q", b"'")
            assert protocol.send(ask(payload)) == packet(0, b"\x03" + literal)
            answer(protocol, ok(flags))
    assert protocol.reusable
    released(protocol)
    assert protocol.send(ask(text)) == packet(0, b"\x03" + rb"Q\\QQQ".replace(b"Q", b"'"))  # known again


@pytest.mark.parametrize("size", [0xFFFFFE, 0xFFFFFF, 0x1000000, 2 * 0xFFFFFF])
def test_a_statement_of_16_mb_is_sent_in_several_packets(size: int) -> None:
    payload = b"\x03" + b"x" * (size - 1)
    protocol = logged_in()
    assert protocol.send(ask(payload)) == packets(0, [payload])
    answered = packets(size // 0xFFFFFF + 1, ONE_ROW)  # numbers go on from the statement's
    assert fed(protocol, answered) == [(Code.OK, answered)]
    protocol.send(ask())
    assert fed(protocol, packets(1, ONE_ROW)) == [(Code.OK, packets(1, ONE_ROW))]


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"\x01select", b"\x00", b"\x00\x92\xc4\x02%s\x90", b"\x00\x92\xc4\x02%s\x92\x01\x02",
        b"\x00\x92\xc4\x02%d\x91\xa1x", b"\x00\x92\xc4\x01%\x90", b"\x00\x93\x01\x02\x03",
        b"\x00\x92\xc4\x02%s\x91\x80", b"\x00\x92\xc4\x02%s\x91\x90", b"\x00\x92\xc4\x02%s\x91\x91\x91\x01",
        b"\x00\x92\xc4\x02%s\x91\xd4\x01'", b"\x00\x92\xc4\x02%s\x91\xd4\x04'",
        b"\x00\x92\xc4\x02%s\x91\xd4\x09x",
        b"\x00\x92\x01\x90", b"\x00\x92\xc4\x04%(a)\x90", b"\x00\x92\xc4\x0c%9999999999s\x91\xa1x",
        b"\x00\x92\xc4\x04%-5s\x91\xa1x", b"\x00\x92\xc4\x05%%%5s\x91\xa1x", b"\x00\x92\xc4\x02%a\x91\xa1x",
    ],
)  # fmt: skip
def test_a_malformed_payload_is_a_usage_error_and_changes_nothing(payload: bytes) -> None:
    protocol = logged_in()
    with pytest.raises(UsageError):
        protocol.send(ask(payload))
    assert protocol.send(ask()) == packet(0, SELECT)
    assert fed(protocol, packet(1, ok())) == [(Code.OK, packet(1, ok()))]


# --- where an answer ends ----------------------------------------------------------------------------

ONE_ROW = rows(["a", "b"], [(b"1", None)])
ANSWERS: dict[str, Sequence[bytes]] = {
    "ok": [ok()],
    "ok with numbers": [ok(affected=70_000, last_id=1 << 40, warnings=3, info=b"Records: 3")],
    "error": [err()],
    "error without sqlstate": [err(2000, b"")],
    "one row": ONE_ROW,
    "no rows": rows(["a"], []),
    "empty strings and NULL": rows(["a", "b"], [(b"", b""), (None, None), (b"", None)]),
    "300 columns": rows([f"c{number}" for number in range(300)], [[b"x"] * 300]),
    "400 rows, so that numbers wrap": rows(["a"], [(b"%d" % number,) for number in range(400)]),
    "values that look like ends": rows(["a"], [(ok(),), (peer.eof(),), (err(),), (packet(9, ok()),)]),
    "values of 251 and more": rows(["a"], [(bytes(size),) for size in (250, 251, 0xFFFF, 0x10000)]),
    "two results": [
        *rows(["a"], [(b"1",)], status=AUTOCOMMIT | MORE_RESULTS),
        *rows(["b"], [(b"2",)], status=AUTOCOMMIT | MORE_RESULTS),
        ok(),
    ],
    "ok, then more": [ok(AUTOCOMMIT | MORE_RESULTS), ok(AUTOCOMMIT | MORE_RESULTS), *ONE_ROW],
    "tracked at the end of rows": rows(["a"], [(b"1",)], end=ok(ends_rows=True, tracked=STATE)),
}  # fmt: skip
OLD_ANSWERS = {
    "one row": rows(["a", "b"], [(b"1", None)], deprecate_eof=False),
    "no rows": rows(["a"], [], deprecate_eof=False),
    "two results": [
        *rows(["a"], [(b"1",)], deprecate_eof=False, status=AUTOCOMMIT | MORE_RESULTS),
        *rows(["b"], [(b"2",)], deprecate_eof=False),
    ],
    "values that look like ends": rows(["a"], [(ok(),), (peer.eof(),), (err(),)], deprecate_eof=False),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_handed_on_as_it_came_however_it_is_cut(name: str) -> None:
    data = packets(1, ANSWERS[name])
    for step in steps(data):
        protocol = asked()
        assert fed(protocol, data, step) == [(Code.OK, data)]
        protocol.send(ask())
        assert fed(protocol, data, step) == [(Code.OK, data)]


@pytest.mark.parametrize("name", OLD_ANSWERS)
def test_an_old_servers_eof_packets_are_counted_off_as_well(name: str) -> None:
    data = packets(1, OLD_ANSWERS[name])
    for step in steps(data):
        assert fed(asked(capabilities=peer.OLD), data, step) == [(Code.OK, data)]


@pytest.mark.parametrize("size", [0xFFFFFF - 4, 0xFFFFFF - 4 + 1, 0x1000000, 0x1000001, 2 * 0xFFFFFF - 9])
@pytest.mark.parametrize("capabilities", [peer.MODERN, peer.OLD], ids=["modern", "old"])
def test_a_row_of_over_16_mb_is_several_packets(size: int, capabilities: int) -> None:
    """Its first byte is that of an OK or EOF packet; the second packet begins with anything."""
    modern = capabilities == peer.MODERN
    value = b"\xff\xfe\x00\xfb" * (size // 4) + b"\xff" * (size % 4)
    data = packets(1, rows(["a"], [(value,), (b"next",)], deprecate_eof=modern))
    for step in (WHOLE, 1_000_003):
        protocol = asked(capabilities=capabilities, max_bytes=64 << 20)
        assert fed(protocol, data, step) == [(Code.OK, data)]


def test_of_an_answer_that_ends_in_an_error_the_error_is_handed_on() -> None:
    error = err(1317, b"70100", b"Query execution was interrupted")
    for payloads in (
        [*ONE_ROW[:-1], error],
        [*ONE_ROW[:2], error],
        [*rows(["a"], [], status=AUTOCOMMIT | MORE_RESULTS), error],
    ):
        data = packets(1, payloads)
        for step in steps(data):
            assert fed(asked(), data, step) == [(Code.OK, packet(len(payloads), error))]


def test_nothing_is_copied_where_an_answer_comes_whole() -> None:
    data = packets(1, ONE_ROW)
    ((_, handed_on),) = asked().feed(data)
    assert handed_on is data


# --- limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 1000, WHOLE])
def test_an_answer_over_the_limit_is_a_bad_response(step: int) -> None:
    data = packets(1, rows(["a"], [(bytes(200),)] * 10))
    assert fed(asked(max_bytes=len(data)), data, step) == [(Code.OK, data)]
    with pytest.raises(BadResponse, match=f"longer than {len(data) - 1} bytes"):
        fed(asked(max_bytes=len(data) - 1), data, step)


def test_a_length_over_the_limit_is_refused_before_the_bytes_come() -> None:
    data = packets(1, rows(["a"], [])[:2]) + b"\xfe\xff\xff\x03\xfd"
    with pytest.raises(BadResponse, match="longer than"):
        fed(asked(), data)


@pytest.mark.parametrize("phase", ["first", "last"])
def test_a_huge_packet_where_an_answer_begins_or_ends_is_refused(phase: str) -> None:
    before = packets(1, rows(["a"], [])[:2]) if phase == "last" else b""
    with pytest.raises(BadResponse, match="a packet of 4194303 bytes"):
        fed(asked(max_bytes=32 << 20), before + b"\xff\xff\x3f" + bytes((3 if before else 1,)) + b"\xfe")


# --- what is no answer -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        packet(2, ok()),
        packet(1, b""),
        packet(1, b"\xfe"),
        packet(1, b"\xff\x01"),
        packet(1, b"\x00\x00"),
        packet(1, b"\xfc\x00"),
        packet(1, b"\xfd\xff\xff\xff"),
        packet(1, b"\x02\x00"),
        packets(1, ONE_ROW[:-1]) + packet(9, ONE_ROW[-1]),
        packets(1, [*ONE_ROW[:1], b"", *ONE_ROW[2:]]),
        packets(1, [*ONE_ROW[:3], b"", *ONE_ROW[3:]]),
        packets(1, [*ONE_ROW[:4], b"\xfe\x00"]),
        packets(1, [*ONE_ROW[:4], b"\xff\x00"]),
        packet(1, ok()[:-4] + b"\x00\x40\x00\x00\x00\x05\x00\x09xyz"),
    ],
    ids=[
        "http", "number", "empty", "eof first", "half an ERR", "half an OK", "half a count",
        "more columns than bytes", "count and more", "a number left out", "empty column", "empty row",
        "half an end", "half an ERR at the end", "lies about what is tracked",
    ],
)  # fmt: skip
@pytest.mark.parametrize("step", [1, WHOLE], ids=["byte by byte", "whole"])
def test_what_is_no_answer_is_a_bad_response(data: bytes, step: int) -> None:
    with pytest.raises(BadResponse):
        fed(asked(), data, step)


def test_an_old_server_that_forgets_the_eof_behind_the_columns() -> None:
    with pytest.raises(BadResponse, match="no EOF packet"):
        fed(asked(capabilities=peer.OLD), packets(1, ONE_ROW))


def test_a_server_that_asks_for_a_file_is_refused() -> None:
    with pytest.raises(BadResponse, match="LOCAL INFILE"):
        fed(asked(), packet(1, b"\xfb/etc/passwd"))


@pytest.mark.parametrize("step", [1, WHOLE], ids=["byte by byte", "whole"])
def test_a_good_bye_that_crosses_a_statement_is_a_lost_connection(step: int) -> None:
    """Packet 0 in place of 1: it was sent before the statement came, so that is no answer to it."""
    for number, sqlstate in ((1053, b"08S01"), (4031, b"HY000"), (1927, b"70100"), (9999, b"08006")):
        protocol = asked()
        with pytest.raises(ConnectionLost, match=r"ended the connection: said so") as caught:
            fed(protocol, packet(0, err(number, sqlstate, b"said so")), step)
        assert not protocol.begun
        assert caught.value.sent is False


@pytest.mark.parametrize("step", [1, WHOLE], ids=["byte by byte", "whole"])
@pytest.mark.parametrize("number", [0, 2, 255])
def test_an_error_out_of_turn_in_place_of_an_answer_is_the_answer_and_the_last(
    step: int, number: int
) -> None:
    """A packet over max_allowed_packet, say: the server stops reading and answers what it has read."""
    protocol = asked()
    said = packet(number, err(1153, b"42000", b"Got a packet bigger than"))
    assert fed(protocol, said, step) == [(Code.OK, said)]
    assert not protocol.reusable


@pytest.mark.parametrize("step", [1, WHOLE], ids=["byte by byte", "whole"])
def test_an_error_out_of_turn_amid_rows_keeps_the_servers_words(step: int) -> None:
    protocol = asked()
    with pytest.raises(BadResponse, match=r"expected packet 4, got 0: said so \(1053") as caught:
        fed(protocol, packets(1, ONE_ROW[:3]) + packet(0, err(1053, b"08S01", b"said so")), step)
    assert caught.value.sent is None


def test_an_ok_packet_of_a_server_that_does_not_track_may_end_in_text() -> None:
    """ClickHouse#84542; and MariaDB behind a proxy sets the flag of a changed state all the same."""
    remark = b"Read 1 rows, 1.00 B in 0.000463 sec."
    for payload in (ok(affected=1) + remark, ok(affected=1, status=AUTOCOMMIT | peer.STATE_CHANGED) + remark):
        protocol = asked(capabilities=peer.MODERN & ~peer.SESSION_TRACK)
        answer(protocol, payload)
        assert protocol.reusable


def test_a_flag_of_changed_state_with_nothing_behind_it_is_no_change() -> None:
    """ProxySQL#2915"""
    protocol = asked()
    answer(protocol, ok(affected=1, status=AUTOCOMMIT | peer.STATE_CHANGED))
    assert protocol.reusable


@pytest.mark.parametrize("step", [1, WHOLE], ids=["byte by byte", "whole"])
@pytest.mark.parametrize("count", [4097, 65_535])
def test_a_result_may_have_more_columns_than_a_table(step: int, count: int) -> None:
    data = packets(1, rows(["a"] * count, [[b"1"] * count]))
    protocol = asked(max_bytes=len(data))
    if step == 1:
        assert fed(protocol, data[:4096], 1) == []
        data = data[4096:]
    assert [code for code, _ in fed(protocol, data, max(step, 1 << 16))] == [Code.OK]


def test_many_comments_before_a_statement_are_passed_over_once() -> None:
    """Tried in 2**n ways they held up the worker, and all its connections."""
    protocol = logged_in()
    protocol.send(ask(b"\x03" + b"/* a */ " * 1000 + b"CALL p()"))
    answer(protocol, err(1305))
    assert protocol.unclean


def test_a_good_bye_to_an_idle_connection() -> None:
    with pytest.raises(ConnectionLost, match="Connection was killed"):
        fed(logged_in(), packet(0, err(1927, b"70100", b"Connection was killed")))


def test_bytes_that_nobody_asked_for_break_an_idle_connection() -> None:
    with pytest.raises(BadResponse, match="before any request"):
        fed(logged_in(), packets(1, ONE_ROW))


def test_bytes_behind_an_answer_are_nobodys_and_end_the_connection() -> None:
    protocol = asked()
    data = packets(1, ONE_ROW)
    assert fed(protocol, data + packet(0, err(1053))) == [(Code.OK, data)]
    assert not protocol.reusable


def test_begun_says_if_a_byte_of_the_answer_came() -> None:
    protocol = asked()
    assert not protocol.begun
    fed(protocol, b"\x01")
    assert protocol.begun
    fed(protocol, packet(1, b"\x01")[1:])
    assert protocol.begun
    fed(protocol, packets(2, rows(["a"], [])[1:]))
    protocol.send(ask())
    assert not protocol.begun


def test_results_with_other_columns_by_turns_are_told_apart() -> None:
    """How they began is remembered, by the first bytes, which these have in common."""
    name = "n" * 60
    sets = [
        packets(1, rows([name, *others], [[b"x"] * (1 + len(others))] * 2))
        for others in (["a"], ["b"], ["a long name"], ["c"])
    ]
    short = packets(1, rows(["a"], [(b"1",)]))
    cut_short = packets(1, rows([name, "a"], [])[:-1])
    protocol = logged_in()
    for _ in range(3):
        for data in (*sets, short, *reversed(sets)):
            protocol.send(ask())
            assert fed(protocol, data) == [(Code.OK, data)]
    protocol.send(ask())
    assert fed(protocol, cut_short) == []
    assert fed(protocol, sets[0][len(cut_short) :]) == [(Code.OK, sets[0])]


# --- what a shared connection shows of itself -------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [
        ok(tracked=STATE),
        ok(ends_rows=False, tracked=track(SCHEMA, peer.text(b"other"))),
        ok(tracked=track(VARIABLES, peer.text(b"character_set_client") + peer.text(b"latin1"))),
        ok(tracked=TRANSACTION_OPEN),
        ok(tracked=LOCK_TABLES),
        ok(AUTOCOMMIT | IN_TRANS),
        ok(0),
        ok(AUTOCOMMIT | peer.DB_DROPPED),
        ok(tracked=track(GTID, b"xx") + STATE),
    ],
    ids=[
        "state", "schema", "variables", "transaction", "locked tables", "in a transaction", "no autocommit",
        "database dropped", "gtid and state",
    ],
)  # fmt: skip
def test_a_shared_connection_that_was_changed_serves_nobody_else(payload: bytes) -> None:
    protocol = asked(b"\x03CALL something()")
    assert protocol.reusable
    answer(protocol, payload)
    assert not protocol.reusable


@pytest.mark.parametrize(
    "payload",
    [
        ok(),
        ok(AUTOCOMMIT | 0x20, affected=3),
        ok(tracked=track(GTID, b"\x000-1-2")),
        ok(tracked=TRANSACTION_OVER),
    ],
    ids=["nothing", "no index used", "gtid", "transaction over"],
)
def test_a_shared_connection_where_nothing_lasts_is_used_again(payload: bytes) -> None:
    protocol = asked()
    answer(protocol, payload)
    assert protocol.reusable


@pytest.mark.parametrize(
    ("before", "after"), [(0, peer.NO_BACKSLASH_ESCAPES), (peer.NO_BACKSLASH_ESCAPES, 0)]
)
def test_a_shared_connection_whose_escaping_is_in_doubt_serves_nobody_else(before: int, after: int) -> None:
    protocol = logged_in(status=AUTOCOMMIT | before)
    says(protocol, b"INSERT INTO with_a_trigger VALUES (1)", ok(AUTOCOMMIT | before, affected=1))
    assert protocol.reusable
    says(protocol, b"INSERT INTO with_a_trigger VALUES (1)", ok(AUTOCOMMIT | after, affected=1))
    assert not protocol.reusable


def test_a_change_is_seen_in_whichever_of_several_results_it_is_told() -> None:
    protocol = asked(b"\x03CALL something()")
    answer(protocol, ok(AUTOCOMMIT | MORE_RESULTS, tracked=STATE), ok())
    assert not protocol.reusable


def test_results_without_end_that_tell_of_changes_are_read_in_linear_time() -> None:
    told = ok(AUTOCOMMIT | MORE_RESULTS, tracked=track(GTID, b"x"))

    def reading(count: int) -> Job:
        results, last = packets(1, [told] * count), packet(count + 1, ok())

        def job() -> None:
            protocol = asked(max_bytes=64 << 20)
            assert fed(protocol, results, 1 << 16) == []
            ((code, _),) = fed(protocol, last, 1 << 16)
            assert (code, protocol.reusable) == (Code.OK, True)

        return job

    assert_time_grows_linearly(reading, 5_000)


@pytest.mark.parametrize("number", [1053, 1317, 1927, 3169, 4031])
def test_an_error_that_ends_a_connection_or_may_hit_the_next_statement_ends_its_use(number: int) -> None:
    protocol = asked()
    answer(protocol, err(number))
    assert not protocol.reusable


@pytest.mark.parametrize(
    ("sql", "payload", "unclean"),
    [
        (b"SELECT 1", ok(), False),
        (b" /* who asked */ insert into t values (1)", ok(), False),
        (b"(SELECT 1)", ok(), False),
        (b"CREATE TABLE t (a INT)", ok(), False),
        (b"INSERT INTO with_a_trigger VALUES (1)", err(1062, b"23000"), True),
        (b"CREATE TABLE t (a INT)", err(1050, b"42S01"), True),
        (b"CALL locks_all_tables()", ok(), True),
        (b"/*!50000 CALL p() */", ok(), True),
        (b"/*M! CALL p() */", ok(), True),
        (b"BEGIN NOT ATOMIC SELECT 1; END", ok(), True),
        (b"EXECUTE IMMEDIATE 'SET @a = 1'", ok(), True),
    ],
)
def test_a_shared_connection_is_cleaned_where_the_server_may_not_tell_what_is_left(
    sql: bytes, payload: bytes, unclean: bool
) -> None:
    protocol = asked(b"\x03" + sql)
    answer(protocol, payload)
    assert (protocol.reusable, protocol.unclean) == (True, unclean)
    if unclean:
        released(protocol)
        assert not protocol.unclean


def test_mariadbs_roles_are_looked_for_after_a_reset() -> None:
    protocol = logged_in(version=b"11.4.2-MariaDB")
    protocol.hold()
    protocol.feed(packet(1, ok(0)))
    assert protocol.release() == [ROLLBACK]
    assert protocol.feed(packet(1, ok())) == [RESET]
    (look,) = protocol.feed(packet(1, ok()))
    assert b"CURRENT_ROLE() IS NOT NULL" in look
    with pytest.raises(ConnectionLost, match="could not be reset"):
        protocol.feed(packet(1, err(1644, b"45000")))


# --- held connections --------------------------------------------------------------------------------


def held(origin: str = ORIGIN, **options: Any) -> StreamProtocol:
    protocol = logged_in(origin, **options)
    assert protocol.hold() == [packet(0, b"\x03SET autocommit=0")]
    assert protocol.feed(packet(1, ok(0, tracked=STATE))) == [READY]
    return protocol


def says(protocol: StreamProtocol, sql: bytes, *payloads: bytes) -> None:
    protocol.send(ask(b"\x03" + sql))
    answer(protocol, *payloads)


ROLLBACK, RESET, TO_DATABASE = packet(0, b"\x03ROLLBACK"), packet(0, b"\x1f"), packet(0, b"\x02db")


def released(protocol: StreamProtocol, *, goes_back: bool = False) -> None:
    """Follow a release to its end."""
    assert protocol.release() == [ROLLBACK]
    assert protocol.feed(packet(1, ok())) == [RESET]
    (event,) = protocol.feed(packet(1, ok()))
    if goes_back:
        assert event == TO_DATABASE
        (event,) = protocol.feed(packet(1, ok()))
    assert isinstance(event, bytes)
    assert event[4:].startswith(b"\x03SET NAMES utf8mb4, autocommit=1")
    assert protocol.feed(packet(1, ok(tracked=STATE))) == [READY]
    assert protocol.reusable


def test_a_held_connection_may_be_changed_and_is_reset() -> None:
    protocol = held()
    says(protocol, b"INSERT INTO t VALUES (1)", ok(IN_TRANS, affected=1, tracked=TRANSACTION_OPEN))
    says(protocol, b"SET @a = 1", ok(IN_TRANS, tracked=STATE))
    says(protocol, b"CREATE TEMPORARY TABLE x (a INT)", ok(0, tracked=STATE))
    says(protocol, b"LOCK TABLES t READ", ok(0, tracked=LOCK_TABLES))
    says(protocol, b"INSERT INTO t VALUES (1)", err(1062, b"23000"))
    assert protocol.reusable
    released(protocol)
    says(protocol, b"SELECT 1", *rows(["1"], [(b"1",)]))
    assert protocol.reusable
    says(protocol, b"SELECT @a := 1", ok(tracked=STATE))
    assert not protocol.reusable  # shared again, it is judged as such


def test_a_reset_does_not_leave_another_database() -> None:
    for payload in (ok(0, tracked=track(SCHEMA, peer.text(b"x")) + STATE), ok(peer.DB_DROPPED)):
        protocol = held()
        says(protocol, b"USE x", payload)
        released(protocol, goes_back=True)


def test_a_connection_without_a_database_that_got_one_is_closed() -> None:
    protocol = held("mysql://me@h:1/")
    says(protocol, b"USE x", ok(0, tracked=track(SCHEMA, peer.text(b"x")) + STATE))
    assert protocol.release() is None


@pytest.mark.parametrize(
    ("sql", "payload"),
    [
        (b"SET ROLE captain", ok(0, tracked=STATE)),
        (b"SET SESSION AUTHORIZATION captain", ok(0, tracked=STATE)),
        (b"CALL who_knows()", ok(0, tracked=STATE)),
        (b"CALL who_knows()", err(1644, b"45000")),
        (b"SELECT f()", ok(0, tracked=STATE)),
        (b"SELECT 1", err(1317, b"70100")),
        (b"SET SESSION Session_Track_state_change = 0", ok(0)),
    ],
)
def test_a_connection_with_what_may_outlast_a_reset_is_closed(sql: bytes, payload: bytes) -> None:
    protocol = held()
    says(protocol, sql, payload)
    assert protocol.release() is None


def test_a_session_that_leaves_utf8_is_over() -> None:
    protocol = held()
    utf8, latin1 = (
        track(VARIABLES, peer.text(b"character_set_client") + peer.text(name))
        for name in (b"utf8mb4", b"latin1")
    )
    says(protocol, b"SET NAMES utf8mb4", ok(0, tracked=utf8 + STATE))
    assert protocol.reusable
    says(protocol, b"EXECUTE IMMEDIATE 'SET NAMES latin1'", ok(0, tracked=utf8 + latin1 + STATE))
    assert not protocol.reusable
    assert protocol.release() is None


def test_a_connection_whose_changes_are_not_told_is_closed() -> None:
    protocol = held(capabilities=peer.OLD)
    assert protocol.release() is None


def test_a_connection_in_the_midst_of_an_answer_is_not_reset() -> None:
    protocol = held()
    protocol.send(ask())
    fed(protocol, packets(1, ONE_ROW[:-1]))
    assert protocol.release() is None


@pytest.mark.parametrize("payload", [err(1047, b"08S01", b"Unknown command"), b"\x01what", b""])
def test_a_reset_that_fails_loses_the_connection_and_is_no_requests_error(payload: bytes) -> None:
    protocol = held()
    protocol.release()
    with pytest.raises(ConnectionLost, match="could not be reset"):
        protocol.feed(packet(1, payload))


def test_a_server_that_goes_while_a_connection_is_reset() -> None:
    protocol = held()
    protocol.release()
    good_bye = packet(0, err(1053, b"08S01", b"Server shutdown in progress"))
    assert fed(protocol, good_bye[:-1], 1) == []
    with pytest.raises(ConnectionLost, match="Server shutdown in progress"):
        protocol.feed(good_bye[-1:])


def test_a_connection_that_cannot_be_held_says_so() -> None:
    protocol = logged_in()
    protocol.hold()
    with pytest.raises(ConnectFailed, match="read only"):
        protocol.feed(packet(1, err(1290, b"HY000", b"read only")))
