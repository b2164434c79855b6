"""Invariants: what a well-formed answer says is what PyMySQL reads of it; how it is cut changes nothing; any
other is a BadResponse (or the server's good-bye) and nothing else; and a parameter comes out of its literal
as it went in.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymysql.connections import MySQLResult
from pymysql.converters import decoders
from pymysql.protocol import MysqlPacket

from reqpool.kinds.mysql import KIND
from reqpool.kinds.mysql_parameters import pack, template
from reqpool.kinds.mysql_result import MysqlResult
from reqpool.kinds.mysql_statement import check
from reqpool_contract.errors import BadResponse, Code, ConnectFailed, ConnectionLost, MysqlError, UsageError
from reqpool_workers.protocols import READY, Ask, mysql
from reqpool_workers.protocols.mysql_literals import read_typed, render
from support import mysql_peer as peer
from support.mysql_peer import AUTOCOMMIT, BINARY, MORE_RESULTS, UTF8MB4, column, err, ok, packet, packets
from support.plain import ASKED

TEXT = st.text(max_size=300).map(str.encode)
DIGITS = st.integers(-(2**63), 2**64 - 1).map(lambda number: b"%d" % number)
TWO = st.integers(0, 99).map(lambda number: b"%02d" % number)
DATES = st.builds(lambda y, m, d: b"20%s-%s-%s" % (y, m, d), TWO, TWO, TWO)
TIMES = st.builds(lambda h, m, s: b"%s:%s:%s" % (h, m, s), TWO, TWO, TWO)
FRACTIONS = st.one_of(st.just(b""), st.integers(0, 999_999).map(lambda number: b".%06d" % number))
VALUES: dict[tuple[int, int], st.SearchStrategy[bytes]] = {
    (8, BINARY): DIGITS,
    (3, BINARY): DIGITS,
    (5, BINARY): st.floats(allow_nan=False, allow_infinity=False).map(lambda number: repr(number).encode()),
    (246, BINARY): st.decimals(-(10**9), 10**9, places=3).map(lambda number: str(number).encode()),
    (10, BINARY): DATES,
    (12, BINARY): st.builds(lambda d, t, f: d + b" " + t + f, DATES, TIMES, FRACTIONS),
    (11, BINARY): st.builds(lambda sign, t, f: sign + t + f, st.sampled_from([b"", b"-"]), TIMES, FRACTIONS),
    (253, UTF8MB4): TEXT,
    (252, BINARY): st.binary(max_size=300),
    (16, BINARY): st.binary(max_size=8),
    (245, BINARY): TEXT,
}  # fmt: skip


@st.composite
def results(draw: st.DrawFn) -> tuple[list[bytes], list[list[bytes | None]]]:
    """Columns, and rows for them."""
    types = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=5))
    columns = [column(f"c{at}", kind, collation) for at, (kind, collation) in enumerate(types)]
    row = st.tuples(*(st.none() | VALUES[kind] for kind in types)).map(list)
    return columns, draw(st.lists(row, max_size=6))


@st.composite
def answers(draw: st.DrawFn, deprecate_eof: bool) -> list[bytes]:
    """The packets of an answer: results, in the midst of which there may be an error."""
    payloads: list[bytes] = []
    count = draw(st.integers(1, 3))
    for at in range(count):
        status = AUTOCOMMIT | (MORE_RESULTS if at + 1 < count else 0)
        if draw(st.booleans()):
            payloads.append(
                ok(status, affected=draw(st.integers(0, 2**40)), info=draw(st.binary(max_size=300)))
            )
        else:
            payloads += peer.rows(*draw(results()), deprecate_eof=deprecate_eof, status=status)
    if draw(st.integers(0, 4)) == 0:
        payloads = [*payloads[: draw(st.integers(0, len(payloads) - 1))], err()]
    return payloads


def connection(capabilities: int, max_bytes: int = 1 << 20) -> Any:
    protocol = mysql.protocol("mysql://me@h:1/", b"", max_bytes)
    protocol.connected()
    protocol.feed(packet(0, peer.greeting(capabilities)))
    protocol.feed(packet(2, ok()))
    events = protocol.feed(packet(1, ok()))
    assert events == [READY]
    request = Ask()
    request.payload = b"\x03SELECT 1"
    protocol.send(request)
    return protocol


def outcome(data: bytes, cuts: list[int], capabilities: int) -> Any:
    """What becomes of an answer that comes in these pieces: events, or the sort of error and what came before
    it."""
    protocol = connection(capabilities)
    events: list[Any] = []
    at = 0
    try:
        for cut in [*cuts, len(data)]:
            if cut > at and not events:
                events += protocol.feed(data[at:cut])
                at = cut
    except (BadResponse, ConnectionLost) as error:
        return type(error)
    return events, protocol.reusable if events else None


CAPABILITIES = {True: peer.MODERN, False: peer.OLD}


@pytest.mark.parametrize("deprecate_eof", [True, False], ids=["modern", "old"])
@given(data=st.data())
def test_an_answer_is_found_whole_however_it_is_cut(deprecate_eof: bool, data: st.DataObject) -> None:
    payloads = data.draw(answers(deprecate_eof))
    raw = packets(1, payloads)
    is_error = payloads[-1] == err()
    expected = packet(len(payloads), err()) if is_error else raw
    capabilities = CAPABILITIES[deprecate_eof]
    assert outcome(raw, [], capabilities)[0] == [(Code.OK, expected)]
    assert outcome(raw, list(range(1, len(raw))), capabilities)[0] == [(Code.OK, expected)]
    cuts = sorted(data.draw(st.lists(st.integers(1, len(raw)), max_size=6)))
    assert outcome(raw, cuts, capabilities)[0] == [(Code.OK, expected)]
    # Cut off anywhere it is no answer yet.
    length = data.draw(st.integers(0, len(raw) - 1))
    assert outcome(raw[:length], [], capabilities) == ([], None)


@pytest.mark.parametrize("deprecate_eof", [True, False], ids=["modern", "old"])
@given(data=st.data())
def test_wrong_bytes_end_the_same_way_however_they_are_cut(deprecate_eof: bool, data: st.DataObject) -> None:
    raw = bytearray(packets(1, data.draw(answers(deprecate_eof))))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    mutated = bytes(raw)
    capabilities = CAPABILITIES[deprecate_eof]
    whole = outcome(mutated, [], capabilities)
    one_by_one = outcome(mutated, list(range(1, len(mutated))), capabilities)
    if isinstance(whole, tuple) and whole[0] and isinstance(one_by_one, tuple) and one_by_one[0]:
        # Bytes behind an answer are seen only where they come with it.
        assert whole[0] == one_by_one[0]
        for code, answer in whole[0]:
            assert code == Code.OK
            look_or_bad_response(answer)
    else:
        assert whole == one_by_one


@given(st.binary(max_size=200), st.booleans())
def test_garbage_is_nothing_or_a_bad_response(garbage: bytes, deprecate_eof: bool) -> None:
    outcome(garbage, [], CAPABILITIES[deprecate_eof])
    look_or_bad_response(garbage)


@given(st.binary(max_size=120), st.sampled_from([1, 7, 1000]))
def test_garbage_in_the_log_in_is_a_refusal_or_a_bad_response(garbage: bytes, step: int) -> None:
    for before in (b"", packet(0, peer.greeting())):
        protocol = mysql.protocol("mysql://me:pw@h:1/db", msgpack.packb({"password": "pw"}), 1 << 20)
        protocol.connected()
        protocol.feed(before)
        for data in (garbage, packet(2 if before else 0, garbage)):
            try:
                for at in range(0, len(data), step):
                    protocol.feed(data[at : at + step])
            except (BadResponse, ConnectFailed, ConnectionLost):
                break


def look_or_bad_response(raw: bytes) -> None:
    with contextlib.suppress(BadResponse, MysqlError):
        found = KIND.decode(raw, ASKED)
        _ = (found.rows, found.sets, found.fields, repr(found))


# --- rows, as PyMySQL reads them ---------------------------------------------------------------------


class Theirs:
    """As much of a PyMySQL connection as its result reader needs."""

    encoding, use_unicode, decoders, _result = "utf-8", True, decoders, None

    def __init__(self, payloads: list[bytes]) -> None:
        self._payloads = iter(payloads)

    def _read_packet(self, packet_type: Any = MysqlPacket) -> Any:
        return packet_type(next(self._payloads), self.encoding)


@given(results())
def test_rows_are_what_pymysql_reads(drawn: tuple[list[bytes], list[list[bytes | None]]]) -> None:
    old = peer.rows(*drawn, deprecate_eof=False)
    theirs: Any = MySQLResult(Theirs(old))
    theirs.read()
    for payloads in (old, peer.rows(*drawn)):
        ours = MysqlResult(packets(1, payloads))
        assert ours.rows == list(theirs.rows)
        assert [list(map(type, row)) for row in ours.rows] == [list(map(type, row)) for row in theirs.rows]
        assert ours.columns == tuple(field.name for field in theirs.fields)


# --- parameters --------------------------------------------------------------------------------------

STRINGS = st.text(alphabet=st.characters(exclude_categories=["Cs"])) | st.text(alphabet="\\'\"%s\0\n`")


def unquoted(literal: bytes, backslashes: bool) -> bytes:
    """Read one string literal as MySQL does; it must end where it ends."""
    assert (literal[:1], literal[-1:]) == (b"'", b"'")
    found, at = b"", 1
    while at < len(literal) - 1:
        if literal[at : at + 1] == b"\\" and backslashes:
            escaped = literal[at + 1 : at + 2]
            assert escaped not in b"0'\"bnrtZ%_" or escaped == b"'"
            found += escaped
            at += 2
            assert at <= len(literal) - 1
        elif literal[at : at + 1] == b"'":
            assert literal[at : at + 2] == b"''"
            assert at + 2 <= len(literal) - 1
            found += b"'"
            at += 2
        else:
            found += literal[at : at + 1]
            at += 1
    return found


@given(STRINGS, st.booleans())
def test_a_string_comes_out_of_its_literal_as_it_went_in(value: str, backslashes: bool) -> None:
    assert (
        unquoted(render(read_typed(pack(template("%s"), (value,))), backslashes), backslashes)
        == value.encode()
    )


@given(st.binary() | st.text(alphabet="\\'").map(str.encode), st.booleans())
def test_bytes_come_out_of_their_literal_as_they_went_in(value: bytes, backslashes: bool) -> None:
    literal = render(read_typed(pack(template("%s"), (value,))), backslashes)
    assert unquoted(literal.removeprefix(b"_binary"), backslashes) == value


@given(st.binary(max_size=100))
def test_a_payload_is_rendered_or_a_usage_error(garbage: bytes) -> None:
    for payload in (b"\x00" + garbage, b"\x00\x92\xc4\x02%s" + garbage, b"\x00\x92\xc4\x02%s\x91" + garbage):
        with contextlib.suppress(UsageError):
            render(read_typed(payload), True)


@given(st.text(alphabet="%s()da \\'"))
def test_a_template_is_read_or_a_usage_error(sql: str) -> None:
    try:
        form = template(sql)
        values: Any = dict.fromkeys(form.names, 1) if form.names else (1,) * form.places
        written = render(read_typed(pack(form, values)), True)
    except UsageError:
        return
    assert written == re.sub(r"%(?:\([^()]*\))?s", "1", sql.replace("%%", "\0")).replace("\0", "%").encode()


@given(st.text(alphabet="SETaselct @:=/*!-#'\"`\\\n ;,(", max_size=60), st.booleans())
def test_any_statement_is_let_through_or_a_usage_error(sql: str, pinned: bool) -> None:
    with contextlib.suppress(UsageError):
        check(sql, pinned=pinned)
