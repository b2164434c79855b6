"""What the answers of MySQL are decoded to: as PyMySQL has it."""

from __future__ import annotations

import gc
import pickle
import tracemalloc
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from reqpool.kinds.mysql_result import MysqlResult
from reqpool_contract.errors import BadResponse
from support import mysql_peer as peer
from support.interleaved import interleaved
from support.mysql_peer import AUTOCOMMIT, BINARY, MORE_RESULTS, column, ok, packet, packets, rows


def result(*payloads: bytes) -> MysqlResult:
    return MysqlResult(packets(1, payloads))


def value(kind: int, data: bytes | None, *, collation: int = BINARY) -> Any:
    """What one value of a type comes out as; the same whether there are EOF packets or not."""
    columns = [column("a", kind, collation), column("b", kind, collation)]
    ((one, two),) = result(*rows(columns, [(data, data)])).rows
    ((other, _),) = result(*rows(columns, [(data, data)], deprecate_eof=False)).rows
    assert one == two == other
    return one


DECIMAL, TINY, SHORT, LONG, FLOAT, DOUBLE, NULL, TIMESTAMP, LONGLONG, INT24 = range(10)
DATE, TIME, DATETIME, YEAR, NEWDATE, OLD_VARCHAR, BIT = range(10, 17)
VECTOR, JSON, NEWDECIMAL, ENUM, SET, TINY_BLOB, MEDIUM_BLOB, LONG_BLOB, BLOB, VAR_STRING, STRING, GEOMETRY = (
    242, 245, 246, 247, 248, 249, 250, 251, 252, 253, 254, 255,
)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        (TINY, b"-128", -128), (SHORT, b"0", 0), (LONG, b"2147483647", 2**31 - 1), (INT24, b"-1", -1),
        (LONGLONG, b"18446744073709551615", 2**64 - 1), (YEAR, b"2024", 2024),
        (FLOAT, b"1.5", 1.5), (DOUBLE, b"-1.5e300", -1.5e300),
        (NEWDECIMAL, b"-1.10", Decimal("-1.10")), (DECIMAL, b"0", Decimal(0)),
        (DATE, b"2024-02-29", date(2024, 2, 29)), (DATE, b"0000-00-00", "0000-00-00"),
        (DATE, b"2024-02-00", "2024-02-00"), (NEWDATE, b"2024-02-29", date(2024, 2, 29)),
        (DATETIME, b"2024-02-29 23:59:01", datetime(2024, 2, 29, 23, 59, 1)),
        (DATETIME, b"2024-02-29 23:59:01.000005", datetime(2024, 2, 29, 23, 59, 1, 5)),
        (DATETIME, b"2024-02-29 23:59:01.5", datetime(2024, 2, 29, 23, 59, 1, 500_000)),
        (TIMESTAMP, b"0000-00-00 00:00:00", "0000-00-00 00:00:00"),
        (TIME, b"838:59:59", timedelta(hours=838, minutes=59, seconds=59)),
        (TIME, b"-00:00:01.5", timedelta(seconds=-1.5)), (TIME, b"00:00:00", timedelta()),
        (BIT, b"\x01\xff", b"\x01\xff"), (GEOMETRY, b"\x00\x01", b"\x00\x01"), (VECTOR, b"\x00\xff",
        b"\x00\xff"),
    ],
)  # fmt: skip
def test_a_value_comes_out_as_its_type(kind: int, data: bytes, expected: Any) -> None:
    found = value(kind, data)
    assert (type(found), found) == (type(expected), expected)
    assert value(kind, None) is None


@pytest.mark.parametrize("kind", [TINY_BLOB, MEDIUM_BLOB, LONG_BLOB, BLOB, VAR_STRING, STRING, OLD_VARCHAR])
def test_text_and_bytes_have_one_type_and_differ_by_their_collation(kind: int) -> None:
    assert value(kind, "ü€🙂".encode(), collation=peer.UTF8MB4) == "ü€🙂"
    assert value(kind, b"\xff\x00") == b"\xff\x00"
    for empty in (value(kind, b"", collation=peer.UTF8MB4), value(kind, b"")):
        assert empty in ("", b"")
    assert value(kind, None) is None


@pytest.mark.parametrize("collation", [BINARY, peer.UTF8MB4])
def test_json_is_text_whatever_its_collation(collation: int) -> None:
    assert value(JSON, '{"a": "ü"}'.encode(), collation=collation) == '{"a": "ü"}'


@pytest.mark.parametrize("size", [0, 1, 250, 251, 252, 0xFFFF, 0x10000, 0xFFFFFF - 10, 0xFFFFFF, 0x1000000])
def test_values_of_any_size(size: int) -> None:
    data = b"\xfe" * size
    for modern in (True, False):
        payloads = rows(
            [column("a", BLOB, BINARY), column("b", LONG)], [(data, b"1"), (None, None)], deprecate_eof=modern
        )
        assert result(*payloads).rows == [(data, 1), (None, None)]


def test_columns_and_what_is_said_of_them() -> None:
    found = result(
        *rows(
            [
                column("id", LONGLONG, BINARY, flags=1 | 32),
                column("größe", NEWDECIMAL, BINARY, decimals=2),
                column("e", STRING, flags=256),
                column("s", STRING, flags=2048),
                column("x", 200),
            ],
            [],
        )
    )
    assert found.columns == ("id", "größe", "e", "s", "x")
    assert [field.type for field in found.fields] == ["bigint", "decimal", "enum", "set", "type 200"]
    first, second = found.fields[:2]
    assert (first.nullable, first.unsigned, first.table, first.database) == (False, True, "t", "test")
    assert (second.nullable, second.unsigned, second.decimals, second.collation) == (True, False, 2, BINARY)
    assert found.rows == []


def test_what_a_change_did() -> None:
    found = result(ok(affected=70_000, last_id=2**40, warnings=3, info=b"Records: 3  Duplicates: 0"))
    assert (found.affected, found.last_id, found.warnings) == (70_000, 2**40, 3)
    assert (found.info, found.rows, found.columns, found.fields) == ("Records: 3  Duplicates: 0", [], (), ())
    assert result(ok(affected=2**63, last_id=2**64 - 1)).last_id == 2**64 - 1
    assert result(ok(tracked=peer.STATE)).info == ""


def test_warnings_of_a_select() -> None:
    assert result(*rows(["a"], [], end=ok(warnings=2, ends_rows=True))).warnings == 2
    assert result(*rows(["a"], [], deprecate_eof=False, end=peer.eof(warnings=2))).warnings == 2


@pytest.mark.parametrize("modern", [True, False])
def test_several_results(modern: bool) -> None:
    more = AUTOCOMMIT | MORE_RESULTS
    found = result(
        *rows(["a"], [(b"1",), (b"2",)], status=more, deprecate_eof=modern),
        *rows(["b", "c"], [], status=more, deprecate_eof=modern),
        ok(more, affected=1),
        ok(affected=5),
    )
    assert found.rows == [("1",), ("2",)]
    assert [one.columns for one in found.sets] == [("a",), ("b", "c"), (), ()]
    assert [one.affected for one in found.sets] == [0, 0, 1, 5]
    assert found.sets[0] is found
    second = found.sets[1]
    assert second.sets == (second,)


def test_rows_in_other_forms() -> None:
    found = result(*rows(["a", "b"], [(b"1", None), (b"2", b"x")]))
    assert found.dicts() == [{"a": "1", "b": None}, {"a": "2", "b": "x"}]
    assert list(found) == found.rows
    assert (len(found), bool(found), bool(result(ok()))) == (2, True, True)
    assert repr(found) == "<MysqlResult 2 rows of a, b>"
    assert repr(result(ok(affected=3, last_id=7))) == "<MysqlResult 3 affected, last id 7>"


@pytest.mark.parametrize("looked", [False, True])
def test_a_result_can_be_pickled(looked: bool) -> None:
    found = result(*rows(["a"], [(b"1",)], status=AUTOCOMMIT | MORE_RESULTS), ok())
    if looked:
        assert found.rows
    copy = pickle.loads(pickle.dumps(found))
    assert (copy.rows, copy.columns, len(copy.sets)) == ([("1",)], ("a",), 2)


def test_rows_of_the_binary_protocol_are_pickled_as_what_they_are() -> None:
    """0.2.0 reads rows of the text protocol only."""
    answer = bytes(4) + packets(1, [b"\x01", column("a"), b"\0\0\x011", ok(ends_rows=True)])
    _, state = MysqlResult(answer).__getstate__()
    assert (state["_data"], state["_set"].rows) == (b"", [("1",)])
    assert pickle.loads(pickle.dumps(MysqlResult(answer))).rows == [("1",)]
    malformed = pickle.loads(pickle.dumps(MysqlResult(answer[:-1])))
    with pytest.raises(BadResponse):
        _ = malformed.rows


def test_threads_that_look_at_the_same_time_see_all_of_a_result() -> None:
    def look(found: MysqlResult) -> object:
        return [one.rows for one in found.sets]

    def two() -> MysqlResult:
        more = AUTOCOMMIT | MORE_RESULTS
        return result(*rows(["a"], [(b"1",)], status=more), *rows(["b"], [(b"2",)]))

    orders = 0
    for looks in interleaved(two, look, look):
        orders += 1
        assert looks == ([[("1",)], [("2",)]], [[("1",)], [("2",)]])
    assert orders > 10


def test_many_columns() -> None:
    names = [f"c{number}" for number in range(4096)]
    found = result(*rows(names, [[b"%d" % number for number in range(4096)]] * 2))
    assert found.columns == tuple(names)
    assert found.rows[1][-1] == "4095"


def test_definitions_of_megabytes_are_not_kept() -> None:
    gc.collect()
    tracemalloc.start()
    for number in range(20):
        assert result(*rows([f"c{number}" * 200_000], [[b"1"]])).rows == [("1",)]
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 2 << 20


# --- what cannot be read -----------------------------------------------------------------------------

GOOD = rows(["a", "b"], [(b"1", b"22"), (b"333", None)])


def changed(number: int, payload: bytes) -> Sequence[bytes]:
    return [*GOOD[:number], payload, *GOOD[number + 1 :]]


@pytest.mark.parametrize(
    "payloads",
    [
        [b"\xfe"], [b"\xfb/etc/passwd"], [b"\xfc\x00"], [b"\x02\x00"], [b"\x00"], [b"\x00\x00\x00\x02"],
        GOOD[:1], GOOD[:2], GOOD[:3], GOOD[:4], GOOD[:5], [*GOOD, ok()],
        changed(1, b"\x03def"), changed(1, GOOD[1][:-3]), changed(1, b"\xfe" + b"\xff" * 8),
        changed(3, b""), changed(3, b"\x011"), changed(3, b"\x011\xff"), changed(3, b"\x011\x0322"),
        changed(3, b"\x011\x0222x"), changed(3, b"\x011\xfc\x01"), changed(3, b"\x011\xfd\xff"),
        changed(5, peer.err()), changed(5, b"\xfe"),
        changed(5, ok(AUTOCOMMIT | MORE_RESULTS, ends_rows=True)),
        rows([column("a", LONG)], [(b"x",)]), rows([column("a", LONG)], [(b"",)]),
        rows([column("a", NEWDECIMAL)], [(b"1.x",)]), rows([column("a", DOUBLE)], [(b"\xff",)]),
        rows([column("a", DATE)], [(b"\xff",)]), rows([column("a", TIME)], [(b"\xff",)]),
    ],
)  # fmt: skip
def test_an_answer_that_is_none_is_a_bad_response_at_every_look(payloads: Sequence[bytes]) -> None:
    found = result(*payloads)
    for _ in range(2):
        with pytest.raises(BadResponse):
            _ = found.rows


def test_a_length_that_leads_out_of_the_answer() -> None:
    data = packets(1, GOOD)
    for at in range(len(data) - 4):
        mutated = bytearray(data)
        mutated[at : at + 3] = b"\xff\xff\xff"
        try:
            found = MysqlResult(bytes(mutated)).rows
        except BadResponse:
            continue
        assert isinstance(found, list)


def test_a_large_row_whose_values_do_not_fit() -> None:
    payloads = rows(["a", "b"], [(b"x" * 0x1000000, b"y")])
    for row in (payloads[3][:-1], payloads[3] + b"z", payloads[3][:-2] + b"\xfc\x05"):
        with pytest.raises(BadResponse):
            _ = result(*payloads[:3], row, payloads[4]).rows
    with pytest.raises(BadResponse):
        _ = MysqlResult(packets(1, payloads[:3]) + packet(4, payloads[3][:0xFFFFFF])).rows


def test_a_text_that_is_not_utf8_leaves_the_rows_readable_and_can_be_told_from_others() -> None:
    """PyMySQL#1046: others' statements in SHOW PROCESSLIST have bytes in them."""
    found = result(*rows(["a", "b"], [(b"1", b"x"), (b"\xff\xfe'", "ü".encode()), (None, b"z")]))
    assert found.rows == [("1", "x"), ("\udcff\udcfe'", "ü"), (None, "z")]
    assert found.rows[1][0].encode("utf-8", "surrogateescape") == b"\xff\xfe'"


def test_columns_whose_names_are_not_utf8_have_names() -> None:
    definition = column("name").replace(b"\x04name\x04name", b"\x04na\xffe\x04name")
    assert result(*rows([definition], [(b"1",)])).columns == ("na\udcffe",)


@pytest.mark.parametrize("count", [251, 513, 4097, 65_535])
def test_a_result_may_have_more_columns_than_a_table(count: int) -> None:
    """sqlyog-community#2181"""
    names = [f"c{number}" for number in range(count)]
    values = [b"%d" % number for number in range(count)]
    found = result(*rows(names, [values, [None] * count]))
    assert found.rows == [tuple(map(str, range(count))), (None,) * count]
    assert len(found.columns) == count


@pytest.mark.parametrize("ends_rows", [False, True])
def test_a_remark_is_read_with_its_length_or_as_the_packets_rest(ends_rows: bool) -> None:
    """ClickHouse#84542, #107693"""
    said = b"Read 1 rows, 1.00 B in 0.000463 sec., 2159 rows/sec., 2.11 KiB/sec."
    before = rows(["a"], [])[:-1] if ends_rows else []
    for info in (said, peer.text(said)):
        end = (b"\xfe" if ends_rows else b"\x00") + b"\x00\x00\x02\x00\x00\x00" + info
        assert result(*before, end).info == said.decode()
    for first in (b"\xfe", b"\xfc", b"\xff"):  # not UTF-8, and like the begin of a length
        end = (b"\xfe" if ends_rows else b"\x00") + b"\x00\x00\x02\x00\x00\x00" + first
        assert result(*before, end).info == "\ufffd"
    flagged = (b"\xfe" if ends_rows else b"\x00") + b"\x00\x00\x02\x40\x00\x00"  # ProxySQL#2915
    assert result(*before, flagged).info == ""
