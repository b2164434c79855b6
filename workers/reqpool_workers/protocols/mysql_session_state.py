"""What a connection to MySQL may be used for, and what its statements leave on it.

                            PREPARING
                               ^ |
    GREETING -> LOGGING_IN -> SHARED --HOLD--> HOLDING -> PINNED
                               ^ |                           |
                               | +--CLEAN--> RESETTING <-----+--RELEASE
                               +-----------------+

A shared connection takes statements of all callers. The client half refuses those that would change its
state; what changes nevertheless (by a trigger, say) shows in the server's status flags and session tracking,
and the connection is spent: it is closed after that answer. Where it may not show, after an error,
which reports no state, or a CALL, which may take locks that no server reports, the connection is reset. One
that is pinned to a session may be changed at will, and is reset afterwards, or closed if something might
outlast the reset.

Bytes, TLS and dialogues are left to :mod:`.mysql_connection`.
"""

from __future__ import annotations

import re
from enum import Enum, Flag, auto
from typing import NamedTuple

from .mysql_packets import (
    AUTOCOMMIT,
    DB_DROPPED,
    ENDS_CONNECTION,
    IN_TRANS,
    NO_BACKSLASH_ESCAPES,
    TRACK_SCHEMA,
    TRACK_STATE,
    TRACK_VARIABLES,
    ServerError,
    Tracked,
    changes,
    tracked_variables,
)


class MysqlState(Enum):
    """What a connection can be used for."""

    GREETING = "the server has not greeted yet"
    LOGGING_IN = "logging in"
    SHARED = "takes statements of all callers"
    PREPARING = "preparing a statement before it is executed"
    HOLDING = "becoming one session's own"
    PINNED = "one session's own"
    RESETTING = "becoming shared again"
    SPENT = "takes no further statement"


class MysqlEvent(Enum):
    """What moves a connection."""

    GREETED = auto()
    DONE = auto()  # a dialogue has ended well
    PREPARE = auto()
    HOLD = auto()
    RELEASE = auto()  # by its session
    CLEAN = auto()  # it is shared, and something may have been left on it
    SPOILED = auto()  # by a statement, in a way that no reset is trusted to undo
    FAILED = auto()  # it broke, or the server sent something illegal


TRANSITIONS: dict[tuple[MysqlState, MysqlEvent], MysqlState] = {
    (MysqlState.GREETING, MysqlEvent.GREETED): MysqlState.LOGGING_IN,
    (MysqlState.LOGGING_IN, MysqlEvent.DONE): MysqlState.SHARED,
    (MysqlState.SHARED, MysqlEvent.PREPARE): MysqlState.PREPARING,
    (MysqlState.PREPARING, MysqlEvent.DONE): MysqlState.SHARED,
    (MysqlState.SHARED, MysqlEvent.HOLD): MysqlState.HOLDING,
    (MysqlState.HOLDING, MysqlEvent.DONE): MysqlState.PINNED,
    (MysqlState.SHARED, MysqlEvent.CLEAN): MysqlState.RESETTING,
    (MysqlState.PINNED, MysqlEvent.RELEASE): MysqlState.RESETTING,
    (MysqlState.RESETTING, MysqlEvent.DONE): MysqlState.SHARED,
    (MysqlState.SHARED, MysqlEvent.SPOILED): MysqlState.SPENT,
    (MysqlState.PINNED, MysqlEvent.SPOILED): MysqlState.SPENT,
    (MysqlState.SPENT, MysqlEvent.SPOILED): MysqlState.SPENT,
} | {(state, MysqlEvent.FAILED): MysqlState.SPENT for state in MysqlState}
"""Every move there is."""


class Residue(Flag):
    """What statements have left, or may have left, on a connection since its log-in or last reset."""

    NOTHING = 0
    UNCERTAIN = auto()  # the statement that is being answered may leave something
    UNREPORTED = auto()  # something may be there that the server does not report
    SCHEMA = auto()  # another database may be the current one
    LASTING = auto()  # something may outlast a reset
    ESCAPES = auto()  # NO_BACKSLASH_ESCAPES has changed, so its flag is not trusted: see mysql_literals


class AnswerEnd(NamedTuple):
    """What the end of an answer reports about the session.

    Attributes:
        before: the status flags as of the previous answer.
        status: the status flags now; an ERR packet has none.
        tracked: reported changes.
        error: the ERR packet, or None.
        surplus: whether bytes followed that belong to no answer.
    """

    before: int
    status: int
    tracked: Tracked = ()
    error: ServerError | None = None
    surplus: bool = False


_SPOILING = ENDS_CONNECTION | {1317}
"""Errors after which a connection is not used again. KILL QUERY (1317) leaves it open, but may come late and
hit the next statement."""
_NOT_SHARED = IN_TRANS | DB_DROPPED
_UTF8 = frozenset((b"utf8mb4", b"utf8mb3", b"utf8"))
"""Character sets that a session may be set to; the others would let a quote be a part of a character."""

# There is one way to match each byte: a comment that could also end where the next one does would be tried
# both ways, 2**n of them.
_COMMENTS = rb"(?is)\x03?\s*+(?:/\*(?!M?!)[^*]*+(?:\*(?!/)[^*]*+)*\*/\s*+)*"
_PLAIN = re.compile(
    _COMMENTS
    + rb"(?:select|insert|update|delete|replace|with|values|table|show|desc|describe|explain|create|drop"
    rb"|alter|truncate|rename|grant|revoke|analyze|check|optimize|repair|load|kill|do|\()\b"
)
"""Statements that do what their text says, apart from functions and triggers. Another one, say a CALL, may
have begun a transaction before it failed, and an ERR packet reports no state."""
USUAL_VERBS = frozenset(
    word for verb in (b"select", b"insert", b"update", b"delete") for word in (verb, verb.upper())
)
"""How nearly all of these begin: looked up in no time, at offset 1 of the payload."""
_UNDONE = re.compile(
    _COMMENTS
    + rb"(?:set|use|create|drop|prepare|deallocate|lock|unlock|start|begin(?!\s+not)|commit|rollback"
    rb"|savepoint|release|handler|flush)\b"
)
"""Statements whose effect on a session COM_RESET_CONNECTION undoes, except for those below."""
_NOT_UNDONE = (b"role", b"authorization")
"""In statements that may have an effect which the reset leaves: SET ROLE (MariaDB 10.11), and SET SESSION
AUTHORIZATION (12.0), which has not been tried."""
_TRACKING = b"session_track"
"""A statement with this in it may stop the server from reporting what the next ones change."""


def expected_residue(state: MysqlState, residue: Residue, statement: bytes) -> Residue:
    """Return what must be assumed of a connection as soon as a statement is sent.

    Args:
        state: SHARED or PINNED.
        residue: as it was before.
        statement: the payload of COM_QUERY.
    """
    if state is MysqlState.PINNED:
        return residue | Residue.LASTING if _TRACKING in statement.lower() else residue
    if statement[1:7] in USUAL_VERBS or _PLAIN.match(statement):
        return residue
    return residue | Residue.UNCERTAIN


def judge(
    state: MysqlState, residue: Residue, statement: bytes, end: AnswerEnd
) -> tuple[MysqlEvent | None, Residue]:
    """Decide what an answer's end means for its connection.

    Args:
        state: SHARED or PINNED.
        residue: as it was when the statement was sent.
        statement: the payload of COM_QUERY.
        end: the end of the answer.

    Returns:
        SPOILED, or None if the connection can be used on; and what is left on it.

    Raises:
        BadResponse: if a tracked variable is malformed.
    """
    if end.surplus or (end.error is not None and end.error.number in _SPOILING):
        return MysqlEvent.SPOILED, residue
    changed = changes(end.tracked)
    escapes_changed = bool((end.before ^ end.status) & NO_BACKSLASH_ESCAPES)
    if state is not MysqlState.PINNED:
        if changed or escapes_changed or not end.status & AUTOCOMMIT or end.status & _NOT_SHARED:
            return MysqlEvent.SPOILED, residue
        is_unreported = Residue.UNCERTAIN in residue or end.error is not None
        return None, Residue.UNREPORTED if is_unreported else Residue.NOTHING
    if escapes_changed:
        residue |= Residue.ESCAPES
    if TRACK_SCHEMA in changed or end.status & DB_DROPPED:
        residue |= Residue.SCHEMA
    may_have_changed = TRACK_STATE in changed or (end.error is not None and not _PLAIN.match(statement))
    if may_have_changed and not _is_undone(statement):
        residue |= Residue.LASTING
    left_utf8 = TRACK_VARIABLES in changed and not _still_utf8(end.tracked)
    return MysqlEvent.SPOILED if left_utf8 else None, residue


def _is_undone(statement: bytes) -> bool:
    """Return whether COM_RESET_CONNECTION undoes what a statement did to the session."""
    if not _UNDONE.match(statement):
        return False
    text = statement.lower()
    return not any(word in text for word in _NOT_UNDONE)


def _still_utf8(tracked: Tracked) -> bool:
    return all(
        value in _UTF8
        for about, piece in tracked
        if about == TRACK_VARIABLES
        for name, value in tracked_variables(piece).items()
        if name.startswith(b"character_set_")
    )
