"""What a statement would leave behind on its connection, as far as its text tells.

On a connection that others share, a statement that changes the session (SET, USE, a temporary table, a lock,
an open transaction) would change what theirs mean, and one that asks what the last statement left
(FOUND_ROWS(), a variable) would be told of theirs. Both are for a session with a connection of its own,
``pool.mysql_session``.

This is help, not a wall: what a stored procedure does is not seen here. The worker half has the server tell
it of changes and closes the connection then; of GET_LOCK() and, in MariaDB, of SELECT ... INTO @name no
server tells. Comments are looked into where the server does (``/*! ... */``); strings and quoted names are
not looked at, read as without NO_BACKSLASH_ESCAPES.
"""

from __future__ import annotations

import re
from typing import NoReturn

from ..errors import UsageError

# The next two let nearly every statement through after one search each.
_ORDINARY = re.compile(
    r"\s*(?:SELECT|INSERT|UPDATE|DELETE|REPLACE|WITH|CALL|SHOW|EXPLAIN|DESCRIBE|DESC|TRUNCATE|ALTER|DO)\s",
    re.IGNORECASE,
)
_SUSPECT = re.compile(
    r":=|/\*|--|#|@|\b(?:GET_LOCK|LAST_INSERT_ID|FOUND_ROWS|ROW_COUNT|WARNINGS|ERRORS)\b"
    r"|\b(?:LASTVAL|PREVIOUS|CURRVAL)\b|\bSESSION_TRACK_",
    re.IGNORECASE,
)

_NOT_CODE = r"""
    `(?:[^`]|``)*(?:`|$)
    | /\*M?!\d* | \*/                                   # around what a server of that version runs
    | /\*.*?(?:\*/|$)
    | \#[^\n]* | --(?=[\s]|$)[^\n]*
    | """
_SKIPPED = re.compile(
    _NOT_CODE + r"""'(?:[^'\\]|\\.|'')*(?:'|$) | "(?:[^"\\]|\\.|"")*(?:"|$)""", re.VERBOSE | re.DOTALL
)
_SKIPPED_WITHOUT_BACKSLASHES = re.compile(
    _NOT_CODE + r"""'(?:[^']|'')*(?:'|$) | "(?:[^"]|"")*(?:"|$)""", re.VERBOSE | re.DOTALL
)
"""For NO_BACKSLASH_ESCAPES."""

_USE_A_SESSION = "use pool.mysql_session(url): there the connection is yours until you let it go"

_BEGINS = re.compile(
    r"""
      SET\b(?!\ (?:GLOBAL|PERSIST|PERSIST_ONLY|PASSWORD|DEFAULT\ ROLE)\b | \ ?@@(?:GLOBAL|PERSIST)\b)
    | USE\b | BEGIN\b | START\ TRANSACTION\b | COMMIT\b | ROLLBACK\b | SAVEPOINT\b
    | RELEASE\ SAVEPOINT\b | XA\b | LOCK\b | UNLOCK\b | BACKUP\b | HANDLER\b
    | PREPARE\b | EXECUTE\b | DEALLOCATE\b | DROP\ PREPARE\b
    | CREATE\ (?:OR\ REPLACE\ )?TEMPORARY\b | DROP\ TEMPORARY\b
    | FLUSH\b.*\b(?:WITH\ READ\ LOCK|FOR\ EXPORT)\b
    | (?:IF|CASE|LOOP|WHILE|REPEAT|FOR|DECLARE)\b | [\w$]+\ ?:(?!=) | <<     # statements of several
    """,
    re.VERBOSE,
)
_CHANGES = re.compile(r":=|\bINTO ?@|\bGET_LOCK ?\(|(?<!@)\bSESSION_TRACK_\w+ ?=")
_HAS_NO_ACCOUNTS = re.compile(r"(?:SELECT|INSERT|UPDATE|DELETE|REPLACE|WITH|VALUES|CALL|DO|LOAD)\b|\(")
_VARIABLE = re.compile(r"(?<!@)@(?!@)")
"""A user's own; elsewhere an ``@`` stands in the name of an account."""
_LOOKS_BACK = re.compile(
    r"\bLAST_INSERT_ID ?\( ?\)|\bFOUND_ROWS ?\( ?\)|\bROW_COUNT ?\( ?\)"
    r"|\bLASTVAL ?\(|\bPREVIOUS VALUE FOR\b"
    r"|^SHOW (?:COUNT ?\( ?\* ?\) )?(?:WARNINGS|ERRORS)\b|^GET (?:CURRENT )?DIAGNOSTICS\b"
    r"|\. ?CURRVAL\b"
    r"|@@(?:SESSION\.|LOCAL\.)?(?:WARNING_COUNT|ERROR_COUNT|IDENTITY|LAST_INSERT_ID)\b"
)
_STORED = re.compile(
    r"(?:CREATE|ALTER) (?!(?:OR REPLACE )?TEMPORARY\b).*?\b(?:PROCEDURE|FUNCTION|TRIGGER|EVENT|PACKAGE)\b"
)
"""Its body runs later, if ever."""
_STATEMENT_ONLY = re.compile(r"SET STATEMENT .*? FOR ")
_LOCAL_FILE = re.compile(r"LOAD (?:DATA|XML) .*?\bLOCAL\b")
_CHARACTER_SET = re.compile(
    r"SET (?:.*, ?)?(?:(?:SESSION |LOCAL |@@(?:SESSION\.|LOCAL\.)?)?"
    r"CHARACTER_SET_(?:CLIENT|CONNECTION|RESULTS)|NAMES|CHARACTER SET|CHARSET)\b"
)
_OURS = re.compile(r"\s*SET\s+NAMES\s+(['\"]?)utf8mb4(?!\w)\1", re.IGNORECASE)


def check(sql: str, *, pinned: bool) -> None:
    """Refuse a statement that its connection is not to be asked.

    Args:
        sql: the statement.
        pinned: is the connection the caller's own?

    Raises:
        UsageError: with the way out.
    """
    if not pinned and _ORDINARY.match(sql) and not _SUSPECT.search(sql):
        return
    bare = _bare(sql)
    if not bare:
        raise UsageError("an empty statement")
    changes = _CHANGES.search(bare)
    while found := _STATEMENT_ONLY.match(bare):
        bare = bare[found.end() :]
    if _LOCAL_FILE.match(bare):
        raise UsageError(
            "LOAD DATA LOCAL is refused: the file would be read at the worker; insert the rows instead"
        )
    if _CHARACTER_SET.match(bare) and not _OURS.match(sql):
        raise UsageError("the character set is utf8mb4 and stays it: parameters are escaped for that")
    if pinned or _STORED.match(bare):
        return
    if begins := _BEGINS.match(bare):
        _refuse(f"{begins[0].split(' ')[0]} changes", "the connection, which others share")
    if changes:
        _refuse(f"{changes[0].rstrip(' (')!r} leaves something on", "the connection, which others share")
    if _HAS_NO_ACCOUNTS.match(bare) and _VARIABLE.search(bare):
        # MariaDB does not tell of those that INTO or an OUT parameter sets.
        _refuse("a variable (@name) is a thing of", "the connection, which others share")
    if looks := _LOOKS_BACK.search(bare):
        _refuse(
            f"{looks[0]} tells of the last statement on",
            "the connection, which may have been somebody else's",
        )


def _refuse(what: str, why: str) -> NoReturn:
    raise UsageError(f"{what} {why}: {_USE_A_SESSION}")


def _bare(sql: str) -> str:
    """Return the statement without comments, strings' and names' contents, in capitals, with single
    spaces."""
    return " ".join(_SKIPPED.sub(_place, sql).upper().split())


def _place(found: re.Match[str]) -> str:
    return " _ " if found[0][0] in "'\"`" else " "


def quoted(sql: str, what: re.Pattern[str]) -> set[int]:
    """Return where something stands in a string, a quoted name or a comment.

    A place counts only if it is quoted both with backslashes as escapes and with NO_BACKSLASH_ESCAPES: which
    of the two holds, only the connection knows.
    """
    return set.intersection(
        *(
            {part.start() + found.start() for part in form.finditer(sql) for found in what.finditer(part[0])}
            for form in (_SKIPPED, _SKIPPED_WITHOUT_BACKSLASHES)
        )
    )
