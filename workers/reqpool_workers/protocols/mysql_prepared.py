"""Which statements are prepared on a connection, and which can be.

A statement with parameters is prepared when it comes for the third time: MariaDB then spends about a fifth
less on it. That must not change what the statement means or returns, so it is done

* only with MariaDB. MySQL (8.0.22) derives a parameter's type when it prepares: ``text_column = ?`` compares
  texts even if a number is passed, https://dev.mysql.com/doc/refman/8.4/en/prepare.html
* only where each parameter is a value to search for or to store. In a select list its type and its text would
  be part of the answer (a column named ``5``), and ``ORDER BY 2`` orders by the second column.
* only on shared connections. A session may have changed what a text means, by sql_mode or USE.

Metadata caching (MARIADB_CLIENT_CACHE_METADATA) is not requested: it saved the server 1 of 35 µs, and the
worker would have to add the columns to each answer again.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from reqpool_contract.errors import BadResponse, ConnectionLost
from reqpool_contract.payloads.mysql import ERR, HEADER_BYTES, OK, QUERY

from .mysql_packets import (
    COM_STMT_CLOSE,
    COM_STMT_PREPARE,
    ENDS_CONNECTION,
    Reader,
    ServerError,
    packet,
    read_error,
    reading,
)

Preparation = Generator[bytes, Any, Sequence[bytes]]
"""A dialogue as in :mod:`.mysql_login`; returns the ids of statements to close."""

USES = 3
"""Uses on a connection after which a statement is prepared: with the last of these."""
MOST_PREPARED = 32
"""On a connection. A server holds 16,382 for all its clients (max_prepared_stmt_count); 48 connections take
a tenth of them."""
IDLE_USES = 1_000
"""Statements that must have come since a prepared one was used before another may take its place. Otherwise
more statements than there is room for would displace one another all the time."""
MOST_COUNTED = 512
"""Statements whose uses are counted."""
MOST_SQL_BYTES = 4 << 10
"""Longer statements are rarely repeated; they are ignored."""

_PREPARE_OK_BYTES = 12
_TOO_MANY_PREPARED, _NEEDS_PREPARING = 1461, 1615
_REFUSED = frozenset((1210, 1243))
_EXECUTE = "mysqld_stmt_execute"
"""Errors of an EXECUTE that did not begin: the arguments are wrong, the id is unknown. A routine might send
their numbers, too, but not with that name in the text."""
_NEVER = -(1 << 62)
_VERBS = (b"select", b"insert", b"update", b"delete")
_STARTS_COMMENT = re.compile(rb"/\*|--|#")
_TOKEN = re.compile(
    rb"""%%|'[^']*'|"[^"]*"|`[^`]*`|(%s)|\b(select|from|by|returning|where|on|having|limit|values|set|update)\b""",
    re.IGNORECASE,
)
_ESCAPE = re.compile(rb"%[%s]")
_TAKES_VALUES = frozenset((b"where", b"on", b"having", b"limit", b"values", b"set", b"update"))
"""Words after which, up to the next of the words above, a placeholder is a value to search for or to
store."""


class Preparable(NamedTuple):
    """A statement that can be prepared.

    Attributes:
        template: its text, with ``%s`` and ``%%``.
        sql: with a ``?`` for each parameter.
        places: how many there are.
        limits: which of them are in a LIMIT, where a literal must be a whole number.
    """

    template: bytes
    sql: bytes
    places: int
    limits: tuple[int, ...]


@lru_cache(256)
def preparable(template: bytes) -> Preparable | None:
    """Return how a statement can be prepared; None if it must not be.

    Args:
        template: SQL with ``%s`` for each parameter, and ``%%`` for percent signs.
    """
    if template[:6].lower() not in _VERBS:
        return None
    # Where strings end is certain without backslashes. A question mark may be taken for a placeholder.
    if b"?" in template or b"\\" in template or _STARTS_COMMENT.search(template):
        return None
    is_select = template[:6].lower() == b"select"
    limits = []
    places = 0
    word = b"select"
    for placeholder, keyword in _TOKEN.findall(template):
        if keyword:
            word = keyword.lower()
        elif placeholder:
            if word not in _TAKES_VALUES or (is_select and word == b"set"):  # CHARACTER SET
                return None
            if word == b"limit":
                limits.append(places)
            places += 1
    if not places:
        return None
    return Preparable(template, _ESCAPE.sub(_unescaped, template), places, tuple(limits))


def _unescaped(found: re.Match[bytes]) -> bytes:
    return b"?" if found[0] == b"%s" else b"%"


class PreparedStatement:
    """A statement that is prepared on one connection.

    Attributes:
        number: its id there, as it is sent.
        form: what was prepared.
        query: its text as the payload of a COM_QUERY, without parameters.
        used: when it was last used, in statements of the connection.
    """

    __slots__ = ("form", "number", "query", "used")

    def __init__(self, number: bytes, form: Preparable, used: int) -> None:
        self.number = number
        self.form = form
        self.query = QUERY + form.sql
        self.used = used

    def takes(self, parameters: list[Any]) -> bool:
        """Return whether these parameters mean the same to it as they do in the statement's text."""
        if len(parameters) != self.form.places:
            return False
        limits = self.form.limits
        return not limits or all(type(parameters[at]) is int and parameters[at] >= 0 for at in limits)


class PreparedStatements:
    """The prepared statements of one connection, by their text with ``%s``.

    Attributes:
        enabled: whether statements are prepared at all; not if the server cannot do it or has no more room.
    """

    def __init__(self) -> None:
        self.enabled = False
        self._prepared: dict[bytes, PreparedStatement] = {}
        self._uses: dict[int, int] = {}
        self._asked = 0

    def find(self, template: bytes) -> PreparedStatement | None:
        """Return a statement if it is prepared; it is about to be used."""
        self._asked += 1
        statement = self._prepared.get(template)
        if statement is not None:
            statement.used = self._asked
        return statement

    def wanted(self, template: bytes) -> Preparable | None:
        """Count a use of a statement as text; return how to prepare it if that is due."""
        key = hash(template)
        uses = self._uses.get(key, 0) + 1
        if uses == 1 and len(self._uses) >= MOST_COUNTED:
            self._uses.clear()
        self._uses[key] = uses
        if uses < USES or template in self._prepared:
            return None
        if len(self._prepared) >= MOST_PREPARED and self._asked - self._oldest().used < IDLE_USES:
            return None
        form = preparable(template)
        if form is None:
            self._uses[key] = _NEVER
        return form

    def add(self, number: bytes, form: Preparable) -> None:
        """Note that a statement has been prepared."""
        self._prepared[form.template] = PreparedStatement(number, form, self._asked)

    def make_room(self) -> list[bytes]:
        """Make room for another statement; return the ids of those to close."""
        return [] if len(self._prepared) < MOST_PREPARED else self._drop(self._oldest())

    def refuse(self, template: bytes) -> list[bytes]:
        """Leave a statement unprepared from now on; return its id, if it has one, to be closed."""
        self._uses[hash(template)] = _NEVER
        statement = self._prepared.get(template)
        return [] if statement is None else self._drop(statement)

    def stop(self) -> list[bytes]:
        """Prepare nothing any more, and leave the room to others; return the ids of those to close."""
        self.enabled = False
        numbers = [one.number for one in self._prepared.values()]
        self._prepared.clear()
        return numbers

    def forget(self) -> None:
        """Note that the server has dropped them all, as it does when a connection is reset.

        They are counted from zero: where resets are frequent, nothing is prepared for a single use.
        """
        self._prepared.clear()
        self._uses = dict.fromkeys((key for key, uses in self._uses.items() if uses < 0), _NEVER)

    def _drop(self, statement: PreparedStatement) -> list[bytes]:
        self._prepared = {key: one for key, one in self._prepared.items() if one is not statement}
        return [statement.number]

    def _oldest(self) -> PreparedStatement:
        return min(self._prepared.values(), key=_used)


def _used(statement: PreparedStatement) -> int:
    return statement.used


# --- dialogue -----------------------------------------------------------------------------------------


def prepare(prepared: PreparedStatements, form: Preparable) -> Preparation:
    """Prepare a statement, and close another one if there is no room.

    Raises:
        ConnectionLost: if the server ends the connection instead; the statement itself was not sent.
        BadResponse: if it answers something else.
    """
    _, payload = yield closing(prepared.make_room()) + packet(COM_STMT_PREPARE + form.sql)
    if payload[0] == ERR:
        error = read_error(payload)
        if error.number in ENDS_CONNECTION:
            raise ConnectionLost(f"the server ended the connection: {error}", sent=False)
        return prepared.stop() if error.number == _TOO_MANY_PREPARED else prepared.refuse(form.template)
    if payload[0] != OK or len(payload) < _PREPARE_OK_BYTES:
        raise BadResponse("the server answers neither OK nor ERR where a statement is prepared")
    number = payload[1:5]
    columns, places = (int.from_bytes(payload[at : at + 2], "little") for at in (5, 7))
    for _ in range(places):
        yield b""
    names = []
    for _ in range(columns):
        _, payload = yield b""
        names.append(_name(payload))
    # In an answer to the text, a column like this would have the parameter in its name.
    if places != form.places or any(b"?" in name for name in names):
        return [*prepared.refuse(form.template), number]
    prepared.add(number, form)
    return ()


def closing(numbers: Sequence[bytes]) -> bytes:
    """Return the packets that close statements; they are not answered."""
    return b"".join([packet(COM_STMT_CLOSE + number) for number in numbers])


def never_began(error: ServerError, answer: bytes) -> bool:
    """Return whether an EXECUTE failed before the statement began: the server does not know it, refuses its
    parameters, or could not prepare it again after its tables had changed.

    Args:
        error: the server's error.
        answer: its packet, which is the answer's first packet if nothing began.
    """
    if answer[HEADER_BYTES - 1] != 1:
        return False
    return error.number == _NEEDS_PREPARING or (error.number in _REFUSED and _EXECUTE in error.text)


def _name(definition: bytes) -> bytes:
    reader = Reader(definition)
    with reading("column definition"):
        for _ in range(4):  # catalog, database, table, its true name
            reader.text()
        return reader.text()
