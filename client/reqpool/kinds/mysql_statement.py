"""What a statement would leave on its connection, as far as its text shows.

On a shared connection, a statement that changes the session (SET, USE, a temporary table, a lock, an open
transaction) would change what other statements mean, and one that asks for what the last statement left
(FOUND_ROWS(), a variable) would see another caller's. Both need a session with its own connection,
``pool.mysql_session``.

This is help, not a safeguard: what a stored procedure does cannot be seen here. The worker half lets the
server report changes and then closes the connection; no server reports GET_LOCK() or, in MariaDB, SELECT ...
INTO @name. Comments are searched where the server executes them (``/*! ... */``); strings and quoted names
are not, and are read as without NO_BACKSLASH_ESCAPES. Columns and tables may have the names that are searched
for here.

A statement may be 16 MB long, and the app's other threads wait while a regular expression runs. So the whole
of it is searched for plain text only, and regular expressions are used at the places found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, NoReturn

from reqpool_contract.errors import UsageError

# The next three pass nearly every statement at little cost.
_ORDINARY = re.compile(
    r"\s*(?:SELECT|INSERT|UPDATE|DELETE|REPLACE|WITH|CALL|SHOW|EXPLAIN|DESCRIBE|DESC|TRUNCATE|ALTER|DO)\s",
    re.IGNORECASE,
)
_SUSPECT = (
    ":=", "/*", "--", "#", "@", "GET_LOCK", "LAST_INSERT_ID", "FOUND_ROWS", "ROW_COUNT", "WARNINGS", "ERRORS",
    "LASTVAL", "PREVIOUS", "CURRVAL",
)  # fmt: skip
_PIECE_CHARS, _OVERLAP_CHARS = 1 << 18, 16

_MARK = re.compile(r"""'|"|`|\#|--(?=[\x00-\x20\x7f]|\Z)|/\*(?:M?!\d*)?|\*/""")
"""Begins a string, a quoted name or a comment, or surrounds what servers of some versions execute. Two
hyphens begin a comment only before an ASCII blank or control character: sql_lex.cc."""
_STRAY = re.compile(r"\\(?!N)")
"""A backslash that is not part of a string; ``\\N`` is NULL."""

_USE_A_SESSION = "use pool.mysql_session(url), whose connection is not shared"

_BEGINS = re.compile(
    r"""
      SET\b(?!\ (?:GLOBAL|PERSIST|PERSIST_ONLY|PASSWORD|DEFAULT\ ROLE)\b | \ ?@@(?:GLOBAL|PERSIST)\b)
    | USE\b | BEGIN\b | START\ TRANSACTION\b | COMMIT\b | ROLLBACK\b | SAVEPOINT\b
    | RELEASE\ SAVEPOINT\b | XA\b | LOCK\b | UNLOCK\b | BACKUP\b | HANDLER\b
    | PREPARE\b | EXECUTE\b | DEALLOCATE\b | DROP\ PREPARE\b
    | CREATE\ (?:OR\ REPLACE\ )?TEMPORARY\b | DROP\ TEMPORARY\b
    | (?:IF|CASE|LOOP|WHILE|REPEAT|FOR|DECLARE)\b | [\w$]{1,64}\ ?:(?!=) | <<     # statements of several
    """,
    re.VERBOSE,
)
_HAS_NO_ACCOUNTS = re.compile(r"(?:SELECT|INSERT|UPDATE|DELETE|REPLACE|WITH|VALUES|CALL|DO|LOAD)\b|\(")
"""In other statements an ``@`` is part of an account's name."""
_SHOWS_THE_LAST = re.compile(
    r"SHOW (?:COUNT ?\( ?\* ?\) )?(?:WARNINGS|ERRORS)\b|GET (?:CURRENT )?DIAGNOSTICS\b"
)
_STORED = re.compile(
    r"(?:CREATE|ALTER) (?!(?:OR REPLACE )?TEMPORARY\b)"
    r".{0,500}?\b(?:PROCEDURE|FUNCTION|TRIGGER|EVENT|PACKAGE)\b"
)
"""Its body runs later, if ever."""
_LOCAL_FILE = re.compile(r"LOAD (?:DATA|XML) (?:LOW_PRIORITY |CONCURRENT )?LOCAL\b")
_CHARACTER_SET = re.compile(
    r"(?:SESSION |LOCAL |@@(?:SESSION ?\. ?|LOCAL ?\. ?)?)?CHARACTER_SET_(?:CLIENT|CONNECTION|RESULTS) ?:?="
    r"|(?:NAMES|CHAR(?:ACTER)? SET|CHARSET) \w"
)
"""Begins one of SET's parts."""
_OURS = re.compile(r"\s*SET\s+NAMES\s+(['\"]?)utf8mb4(?!\w)\1", re.IGNORECASE)


class _Trace(NamedTuple):
    """A way to leave something on a connection, or to ask for what was left there.

    Attributes:
        word: the text to search for.
        rest: what must follow it.
        asks: whether it asks for something.
    """

    word: str
    rest: re.Pattern[str]
    asks: bool = False


_TRACES = (
    _Trace(":=", re.compile("")),
    _Trace("INTO", re.compile(" ?@")),
    _Trace("GET_LOCK", re.compile(r" ?\(")),
    _Trace("LAST_INSERT_ID", re.compile(r" ?\( ?\)"), asks=True),
    _Trace("FOUND_ROWS", re.compile(r" ?\( ?\)"), asks=True),
    _Trace("ROW_COUNT", re.compile(r" ?\( ?\)"), asks=True),
    _Trace("LASTVAL", re.compile(r" ?\("), asks=True),
    _Trace("PREVIOUS", re.compile(r" VALUE FOR [\w$]"), asks=True),
    _Trace(
        "@@",
        re.compile(r"(?:SESSION ?\. ?|LOCAL ?\. ?)?(?:WARNING_COUNT|ERROR_COUNT|IDENTITY|LAST_INSERT_ID)\b"),
        asks=True,
    ),
)
_NAME_BEFORE = re.compile(
    r"(?:[\w$]|\. ?|\b(?:TABLE|EXISTS|INTO|IGNORE|INSERT|REPLACE|INDEX|KEY|UNIQUE|FULLTEXT|SPATIAL|REFERENCES"
    r"|CALL|WITH|RECURSIVE) )\Z"
)
"""Precedes a word that is a name or a part of one, not one of the server's functions."""
_NAME_BEFORE_CHARS = 16
_CURRVAL = "CURRVAL"
_SEQUENCE = re.compile(r"([\w$]+) ?\. ?\Z")
_SEQUENCE_CHARS = 80
_GOES_ON = re.compile(r"[\w$]")
_SETS = re.compile(r"SET\b")


def check(sql: str, *, pinned: bool) -> None:
    """Refuse a statement that must not be sent on its connection.

    Args:
        sql: the statement.
        pinned: whether the connection belongs to a session.

    Raises:
        UsageError: the text says what to do instead.
    """
    if _ORDINARY.match(sql) and (pinned or not _is_suspect(sql)):
        return
    bare = _bare(sql)
    if not bare:
        raise UsageError("an empty statement")
    whole, bare = bare, _without_settings(bare)
    if _LOCAL_FILE.match(bare):
        raise UsageError(
            "LOAD DATA LOCAL is refused: the file would be read at the worker; insert the rows instead"
        )
    if _SETS.match(bare) and not _OURS.match(sql) and _sets_character_set(bare):
        raise UsageError("the character set is always utf8mb4: parameters are escaped for it")
    if pinned or _STORED.match(bare):
        return
    if begins := _BEGINS.match(bare):
        _refuse(f"{begins[0].split(' ')[0]} changes")
    if bare.startswith("FLUSH ") and (" WITH READ LOCK" in bare or " FOR EXPORT" in bare):
        _refuse("FLUSH … WITH READ LOCK or FOR EXPORT leaves a lock on")
    if "SESSION_TRACK_" in whole[: len(whole) - len(bare)]:
        _refuse("SET STATEMENT SESSION_TRACK_… hides what is left on")
    for trace in _TRACES:
        if not trace.asks and (leaves := _find(whole, trace)):
            _refuse(f"{leaves!r} leaves something on")
    if _HAS_NO_ACCOUNTS.match(bare) and "@" in bare.replace("@@", ""):
        # MariaDB does not report variables set by INTO or by an OUT parameter.
        _refuse("a variable (@name) belongs to")
    if shows := _SHOWS_THE_LAST.match(bare):
        _refuse_to_look_back(shows[0])
    for trace in _TRACES:
        if trace.asks and (asks := _find(bare, trace)):
            _refuse_to_look_back(asks)
    if asks := _find_sequence(bare):
        _refuse_to_look_back(asks)


def _refuse(what: str) -> NoReturn:
    raise UsageError(f"{what} the connection, which others share: {_USE_A_SESSION}")


def _refuse_to_look_back(what: str) -> NoReturn:
    raise UsageError(
        f"{what} reports on the last statement of the connection, which may be another caller's: "
        f"{_USE_A_SESSION}"
    )


def _is_suspect(sql: str) -> bool:
    """Return whether it may contain what is searched for."""
    for at in range(0, len(sql), _PIECE_CHARS):
        piece = sql[at : at + _PIECE_CHARS + _OVERLAP_CHARS].upper()
        for word in _SUSPECT:
            if word in piece:
                return True
    return False


def _find(bare: str, trace: _Trace) -> str:
    """Return the text found, or an empty string."""
    word, rest, _ = trace
    at = bare.find(word)
    while at >= 0:
        end = at + len(word)
        found = rest.match(bare, end)
        if found and not (
            word[0].isalpha() and _NAME_BEFORE.search(bare[max(0, at - _NAME_BEFORE_CHARS) : at])
        ):
            return word + found[0].rstrip(" (")
        at = bare.find(word, end)
    return ""


def _find_sequence(bare: str) -> str:
    """Return ``s.currval``, a sequence's last value in sql_mode ORACLE, or an empty string.

    Where ``s`` is named elsewhere in the statement, or is in quotes, it is a table with such a column.
    """
    tables = {"_"}
    at = bare.find(_CURRVAL)
    while at >= 0:
        end = at + len(_CURRVAL)
        is_column = "." in bare[max(0, at - 2) : at] and not _GOES_ON.match(bare, end)
        found = _SEQUENCE.search(bare[max(0, at - _SEQUENCE_CHARS) : at]) if is_column else None
        if found and found[1] not in tables:
            name = re.escape(found[1])
            if not re.search(rf"(?<![\w$]){name}(?![\w$]| ?\. ?(?:CURRVAL|NEXTVAL)\b)", bare):
                return found[0] + _CURRVAL
            tables.add(found[1])
        at = bare.find(_CURRVAL, end)
    return ""


def _without_settings(bare: str) -> str:
    """Return the statement after SET STATEMENT … FOR, or the statement itself."""
    begin = 0
    while bare.startswith("SET STATEMENT ", begin) and (end := bare.find(" FOR ", begin)) >= 0:
        begin = end + len(" FOR ")
    return bare[begin:]


def _sets_character_set(bare: str) -> bool:
    """Return whether one of the parts of this SET chooses a character set."""
    depth = 0
    begins = True
    for part in re.finditer(r"[(),]|[^(),]+", bare[len("SET") :]):
        text = part[0]
        if text == "(":
            depth += 1
        elif text == ")":
            depth -= 1
        elif text == ",":
            begins = True
            continue
        elif begins and not depth and _CHARACTER_SET.match(text.strip()):
            return True
        begins = False
    return False


def _bare(sql: str) -> str:
    """Return the statement without comments, strings' and names' contents, in capitals, with single
    spaces."""
    code: list[str] = []
    end = 0
    for begin, after, is_comment in _not_code(_without_escapes(sql)):
        code += sql[end:begin], " " if is_comment else " _ "
        end = after
    code.append(sql[end:])
    text = "".join(code).upper()
    for blank in "\t\n\r\f\v":
        text = text.replace(blank, " ")
    while "  " in text:
        text = text.replace("  ", " ")
    return text.strip()


def without_comments(sql: str) -> str:
    """Blank the comments of a statement, keeping the length."""
    code: list[str] = []
    end = 0
    for begin, after, is_comment in _not_code(_without_escapes(sql)):
        if is_comment:
            code += sql[end:begin], " " * (after - begin)
            end = after
    code.append(sql[end:])
    return "".join(code)


def _without_escapes(sql: str) -> str:
    """Replace what looks like the end of a string but is not, keeping the length."""
    return _without_doubled(sql.replace("\\\\", "__").replace("\\'", "__").replace('\\"', "__"))


def _without_doubled(sql: str) -> str:
    return sql.replace("''", "__").replace('""', "__").replace("``", "__")


def _not_code(sql: str, *, runs: bool = True) -> Iterator[tuple[int, int, bool]]:
    """Find strings, quoted names and comments: where each begins and ends, and whether it is a comment.

    One that is not closed ends after the statement's end.

    Args:
        sql: without escapes.
        runs: whether the server executes ``/*!80000 ... */`` and ``/*M! ... */``, as every server does
            ``/*! ... */``. Then only the signs around them count as comments.
    """
    at = 0
    looked_into = False
    while found := _MARK.search(sql, at):
        begin, at = found.span()
        mark = found[0]  # longer than two characters: /*! and its like
        if mark == "*/" and not looked_into:
            at = begin + 1  # the operator, and perhaps a comment: 5*/* five */5
            continue
        if len(mark) > len("/*!") and not runs:
            at = _end_of_skipped(sql, at)
            yield begin, at, True
            continue
        looked_into = mark != "*/" and (looked_into or len(mark) > 2)
        is_comment = mark not in "'\"`"
        ends = "\n" if mark in ("#", "--") else "*/" if mark == "/*" else "" if is_comment else mark
        if ends:
            at = sql.find(ends, at) + len(ends)
            if at < len(ends):
                at = len(sql) + (ends != "\n")
        yield begin, at, is_comment


def _end_of_skipped(sql: str, at: int) -> int:
    """Return where a ``/*!80000 ... */`` that is not for this server ends, comments inside it included."""
    while (end := sql.find("*/", at)) >= 0:
        inner = sql.find("/*", at, end)
        if inner < 0:
            return end + 2
        at = sql.find("*/", inner + 2) + 2
        if at < 2:
            break
    return len(sql) + 1


class Quoted(NamedTuple):
    """Which of some places of a statement are inside a string, a quoted name or a comment.

    Attributes:
        places: the offsets of these.
        backslashes: the answer holds only where a backslash escapes the next character (True) or does not
            (False: NO_BACKSLASH_ESCAPES); None: everywhere.
    """

    places: set[int]
    backslashes: bool | None


def quoted(sql: str, places: Sequence[int]) -> Quoted:
    """Return which of some places are inside a string, a quoted name or a comment.

    How a statement is read depends on its connection (NO_BACKSLASH_ESCAPES, ANSI_QUOTES) and on the server's
    version (``/*!80000 ... */``). Readings that every server refuses, since something is not closed or a
    backslash is outside all quotes, count only if there are no others.

    Args:
        sql: the statement.
        places: offsets in it, ascending.
    """
    ways = (True, False) if "/*!" in sql or "/*M!" in sql else (True,)
    if "\\" not in sql:
        return Quoted(_in_any(sql, (_without_doubled(sql),), ways, places)[0], None)
    escaped = sql.replace("\\\\", "__").replace("\\'", "__")  # in ANSI_QUOTES "\" is a name
    forms = _without_doubled(escaped.replace('\\"', "__")), _without_doubled(escaped)
    with_escapes, is_sound_with = _in_any(sql, forms, ways, places)
    without, is_sound_without = _in_any(sql, (_without_doubled(sql),), ways, places)
    if is_sound_with and (not is_sound_without or not with_escapes):
        return Quoted(with_escapes, True if without and not with_escapes else None)
    if is_sound_without and (not is_sound_with or not without):
        return Quoted(without, False if with_escapes and not without else None)
    return Quoted(with_escapes | without, None)


def _in_any(
    sql: str, forms: Sequence[str], ways: Sequence[bool], places: Sequence[int]
) -> tuple[set[int], bool]:
    """Return which places are quoted in any of some readings, and whether a server can take one of these.

    Args:
        sql: the statement.
        forms: the same without escapes, as each would have it.
        ways: see ``runs`` of :func:`_not_code`.
        places: offsets in it, ascending.
    """
    sound: set[int] = set()
    other: set[int] = set()
    found_sound = False
    for form in forms:
        for runs in ways:
            inside, is_sound = _inside(sql, form, runs, places)
            found_sound = found_sound or is_sound
            (sound if is_sound else other).update(inside)
    return (sound if found_sound else other), found_sound


def _inside(sql: str, form: str, runs: bool, places: Sequence[int]) -> tuple[set[int], bool]:
    """Return which places are quoted in a reading, and whether a server can take it.

    Args:
        sql: the statement.
        form: the same without escapes.
        runs: see :func:`_not_code`.
        places: offsets in it, ascending.
    """
    inside = set()
    is_sound = True
    at = last = 0
    looks = "\\" in sql
    for begin, end, _ in _not_code(form, runs=runs):
        if looks and _STRAY.search(sql, last, begin):
            is_sound = False
        last = end
        while at < len(places) and places[at] < end:
            if places[at] >= begin:
                inside.add(places[at])
            at += 1
    if last > len(sql) or (looks and _STRAY.search(sql, last)):
        is_sound = False
    return inside, is_sound
