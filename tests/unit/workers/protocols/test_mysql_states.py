"""What an answer's end means for its connection: the judge's decisions, and every move there is."""

from __future__ import annotations

from typing import Any

import pytest

from reqpool_contract.errors import BadResponse
from reqpool_workers.protocols import mysql
from reqpool_workers.protocols.mysql_packets import (
    TRACK_SCHEMA,
    TRACK_STATE,
    TRACK_TRANSACTION,
    TRACK_VARIABLES,
    ServerError,
)
from reqpool_workers.protocols.mysql_session_state import (
    TRANSITIONS,
    AnswerEnd,
    MysqlEvent,
    MysqlState,
    Residue,
    expected_residue,
    judge,
)
from support import mysql_peer as peer
from support.mysql_peer import AUTOCOMMIT, DB_DROPPED, IN_TRANS, NO_BACKSLASH_ESCAPES

SHARED, PINNED = MysqlState.SHARED, MysqlState.PINNED
SPOILED = MysqlEvent.SPOILED
NOTHING, UNREPORTED, SCHEMA, LASTING, ESCAPES = (
    Residue.NOTHING, Residue.UNREPORTED, Residue.SCHEMA, Residue.LASTING, Residue.ESCAPES,
)  # fmt: skip
SELECT, CALL, SET, SET_ROLE = b"\x03SELECT 1", b"\x03CALL p()", b"\x03SET @a = 1", b"\x03SET ROLE captain"
STATE = (TRACK_STATE, b"1")
DATABASE = (TRACK_SCHEMA, peer.text(b"other"))
LATIN1, UTF8 = (
    (TRACK_VARIABLES, peer.text(b"character_set_client") + peer.text(name)) for name in (b"latin1", b"utf8")
)
OPEN, CLOSED = (TRACK_TRANSACTION, b"\x08T_______"), (TRACK_TRANSACTION, b"\x08________")
DUPLICATE, KILLED, GONE = (ServerError(number, "HY000", "said so") for number in (1062, 1317, 1053))


def end(
    status: int = AUTOCOMMIT,
    *tracked: tuple[int, bytes],
    before: int = AUTOCOMMIT,
    error: ServerError | None = None,
    surplus: bool = False,
) -> AnswerEnd:
    return AnswerEnd(before, status, tracked, error, surplus)


@pytest.mark.parametrize(
    ("statement", "said", "event", "residue"),
    [
        (SELECT, end(), None, NOTHING),
        (SELECT, end(AUTOCOMMIT, CLOSED), None, NOTHING),
        (SELECT, end(AUTOCOMMIT, STATE), SPOILED, NOTHING),
        (SELECT, end(AUTOCOMMIT, DATABASE), SPOILED, NOTHING),
        (SELECT, end(AUTOCOMMIT, UTF8), SPOILED, NOTHING),
        (SELECT, end(AUTOCOMMIT, OPEN), SPOILED, NOTHING),
        (SELECT, end(AUTOCOMMIT | IN_TRANS), SPOILED, NOTHING),
        (SELECT, end(AUTOCOMMIT | DB_DROPPED), SPOILED, NOTHING),
        (SELECT, end(0), SPOILED, NOTHING),
        (SELECT, end(AUTOCOMMIT | NO_BACKSLASH_ESCAPES), SPOILED, NOTHING),
        (SELECT, end(before=AUTOCOMMIT | NO_BACKSLASH_ESCAPES), SPOILED, NOTHING),
        (SELECT, end(surplus=True), SPOILED, NOTHING),
        (SELECT, end(error=DUPLICATE), None, UNREPORTED),
        (SELECT, end(error=KILLED), SPOILED, NOTHING),
        (SELECT, end(error=GONE), SPOILED, NOTHING),
        (CALL, end(), None, UNREPORTED),
        (CALL, end(AUTOCOMMIT, STATE), SPOILED, NOTHING),
        (SET, end(), None, UNREPORTED),
    ],
)
def test_what_a_statement_leaves_on_a_shared_connection(
    statement: bytes, said: AnswerEnd, event: MysqlEvent | None, residue: Residue
) -> None:
    found = judge(SHARED, expected_residue(SHARED, NOTHING, statement), statement, said)
    assert found[0] is event
    if event is None:
        assert found[1] is residue


@pytest.mark.parametrize(
    ("statement", "said", "event", "residue"),
    [
        (SELECT, end(0, before=0), None, NOTHING),
        (SELECT, end(IN_TRANS, OPEN, before=0), None, NOTHING),
        (SET, end(0, STATE, before=0), None, NOTHING),
        (SET, end(0, UTF8, STATE, before=0), None, NOTHING),
        (SET, end(0, LATIN1, STATE, before=0), SPOILED, NOTHING),
        (SET, end(0, before=0, error=DUPLICATE), None, NOTHING),
        (SET, end(NO_BACKSLASH_ESCAPES, STATE, before=0), None, ESCAPES),
        (SET_ROLE, end(0, STATE, before=0), None, LASTING),
        (SET_ROLE, end(0, before=0), None, NOTHING),
        (b"\x03SET session_track_schema = 0", end(0, before=0), None, LASTING),
        (b"\x03USE x", end(0, DATABASE, STATE, before=0), None, SCHEMA),
        (b"\x03DROP DATABASE x", end(DB_DROPPED, before=0), None, SCHEMA),
        (SELECT, end(0, STATE, before=0), None, LASTING),
        (SELECT, end(0, before=0, error=DUPLICATE), None, NOTHING),
        (SELECT, end(0, before=0, error=KILLED), SPOILED, NOTHING),
        (SELECT, end(0, before=0, surplus=True), SPOILED, NOTHING),
        (CALL, end(0, before=0), None, NOTHING),
        (CALL, end(0, STATE, before=0), None, LASTING),
        (CALL, end(0, before=0, error=DUPLICATE), None, LASTING),
    ],
)
def test_what_a_statement_leaves_on_a_pinned_connection(
    statement: bytes, said: AnswerEnd, event: MysqlEvent | None, residue: Residue
) -> None:
    assert judge(PINNED, expected_residue(PINNED, NOTHING, statement), statement, said) == (event, residue)


def test_what_is_left_on_a_pinned_connection_stays_until_it_is_reset() -> None:
    left = SCHEMA | LASTING | ESCAPES
    assert judge(PINNED, expected_residue(PINNED, left, SELECT), SELECT, end(0, before=0)) == (None, left)


def test_a_malformed_report_of_variables_is_a_bad_response() -> None:
    with pytest.raises(BadResponse, match="session-track"):
        judge(PINNED, NOTHING, SET, end(0, (TRACK_VARIABLES, b"\x05ab"), before=0))


# --- moves ---------------------------------------------------------------------------------------------


def connection() -> Any:
    return mysql.protocol("mysql://me@h:1/db", b"", 1 << 20)


@pytest.mark.parametrize("event", MysqlEvent)
@pytest.mark.parametrize("state", MysqlState)
def test_a_connection_moves_by_the_table_and_in_no_other_way(state: MysqlState, event: MysqlEvent) -> None:
    protocol = connection()
    protocol._state = state
    target = TRANSITIONS.get((state, event))
    if target is None:
        with pytest.raises(RuntimeError, match=f"{event.name} while {state.name}"):
            protocol._move(event)
        target = state
    else:
        protocol._move(event)
    assert protocol._state is target
    assert protocol.reusable is (target is not MysqlState.SPENT)


def test_every_state_can_be_reached_and_nothing_leads_out_of_spent() -> None:
    reached = {MysqlState.GREETING}
    for _ in MysqlState:
        reached |= {target for (state, _), target in TRANSITIONS.items() if state in reached}
    assert reached == set(MysqlState)
    assert {target for (state, _), target in TRANSITIONS.items() if state is MysqlState.SPENT} == {
        MysqlState.SPENT
    }


def test_a_connection_that_sent_something_illegal_is_spent() -> None:
    protocol = connection()
    protocol.connected()
    with pytest.raises(BadResponse):
        protocol.feed(b"HTTP/1.1 400 Bad Request\r\n")
    assert not protocol.reusable
