"""Parameters of a statement: checked here, typed on the wire, escaped or bound by the worker.

The payload is described in :mod:`reqpool_contract.payloads.mysql`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import msgpack

from reqpool_contract.errors import UsageError
from reqpool_contract.payloads.mysql import BYTES, DECIMAL, INTEGER, INTRODUCED, TEMPORAL, TYPED

from .mysql_statement import quoted, without_comments

TAKEN = "None, bool, int, float, Decimal, str, bytes, date, datetime, time, timedelta, or a list of these"

_PLACEHOLDER = re.compile(r"%(?:(%)|(s)|\(([^()%]*)\)s)?")
_MAY_QUOTE = re.compile("['\"`#]|--|/[*]")
_INTRODUCER = re.compile(
    r"""
    (?<![\w$.@])
    _(armscii8|ascii|big5|binary|cp(?:1250|1251|1256|1257|850|852|866|932)|dec8|eucjpms|euckr|gb18030|gb2312|gbk
    |geostd8|greek|hebrew|hp8|keybcs2|koi8r|koi8u|latin[1257]|macce|macroman|sjis|swe7|tis620|ucs2|ujis
    |utf16(?:le)?|utf32|utf8(?:mb[34])?)\Z
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""A character set before a string literal, here a placeholder (``_latin1 'a'``).
https://dev.mysql.com/doc/refman/8.4/en/charset-introducer.html"""
_INTRODUCER_CHARS = 400
"""How far before a placeholder an introducer is searched for; blanks and comments may be between."""
_ENDS_A_NAME = re.compile(r"[\w$.@]")
_OF_UTF8 = frozenset(("binary", "utf8", "utf8mb3", "utf8mb4"))
"""Character sets in which the UTF-8 of a text is that text, or as good as."""
_NOT_OF_ASCII = frozenset(("ucs2", "utf16", "utf16le", "utf32", "swe7"))
"""Character sets in which ASCII is something else."""
_LITERALS = frozenset("NnXxBb")
"""Prefixes that make a string literal one of the national character set, or of digits: ``X'41'``."""
_AS_THEY_ARE = frozenset((int, str, type(None), bool))

# One for all: making a Packer costs more than packing. Its pack() holds the GIL from end to end.
_pack: Callable[[Any], bytes] = msgpack.Packer().pack


class Template(NamedTuple):
    """A statement with places for parameters.

    Attributes:
        sql: with ``%s`` and ``%%`` only; can be written in UTF-8.
        places: the number of parameters.
        names: the parameters' names, in order; None if they are given by position.
        introducers: for each place the character set that the SQL names before it, or ""; None if it names
            none at all.
        backslashes: whether they must escape (True) or must not (False) on the connection; None: either.
    """

    sql: str
    places: int
    names: tuple[str, ...] | None
    introducers: tuple[str, ...] | None
    backslashes: bool | None = None


def template(sql: str) -> Template:
    """Read a statement's placeholders.

    Raises:
        UsageError: for one that is neither ``%s`` nor ``%(name)s`` nor ``%%``, for one in quotes or in a
            comment, or both sorts together.
    """
    names: list[str | None] = []
    places = []
    for found in _PLACEHOLDER.finditer(sql):
        percent, positional, name = found.groups()
        if percent is None:
            if positional is None and name is None:
                at = found.start()
                raise UsageError(
                    f"{sql[at : at + 2]!r} at character {at} of the SQL is not a placeholder: with "
                    "parameters, write %s or %(name)s for each, and %% for a percent sign"
                )
            names.append(name)
            places.append(found.start())
    backslashes = None
    if places and _MAY_QUOTE.search(sql):
        inside, backslashes = quoted(sql, places)
        if inside:
            # A parameter brings its own quotes: they would end the ones around it, and its text be SQL.
            at = min(inside)
            raise UsageError(
                f"{sql[at : at + 2]!r} at character {at} of the SQL is inside quotes or a comment: write "
                "placeholders without quotes, and put the text around the value into the parameter"
            )
    named = tuple(name for name in names if name is not None)
    if named and len(named) < len(names):
        raise UsageError("the SQL has both %s and %(name)s; give parameters either by position or by name")
    try:
        written = _PLACEHOLDER.sub(_by_position, sql) if named else sql
        written.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"this SQL cannot be encoded as UTF-8: {error}") from error
    return Template(written, len(names), named or None, _introducers(sql, places), backslashes)


def _introducers(sql: str, places: Sequence[int]) -> tuple[str, ...] | None:
    """Return what the SQL has before its placeholders, see :class:`Template`.

    Raises:
        UsageError: for a literal of digits or of the national character set: ``X%s``.
    """
    for place in places:
        if sql[place - 1 : place] in _LITERALS and not _ENDS_A_NAME.match(sql[place - 2 : place - 1]):
            raise UsageError(
                f"{sql[place - 1 : place + 2]!r} at character {place - 1} of the SQL: parameters are quoted "
                "automatically; write only %s, and give bytes for binary data, an int for a number, a str "
                "for text"
            )
    if "_" not in sql:
        return None
    code = ""
    names = []
    for place in places:
        name = ""
        before = sql[max(0, place - _INTRODUCER_CHARS) : place]
        if "_" in before:
            code = code or without_comments(sql)
            found = _INTRODUCER.search(code[max(0, place - _INTRODUCER_CHARS) : place].rstrip())
            name = found[1].lower() if found else ""
        names.append(name)
    return tuple(names) if any(names) else None


def _by_position(found: re.Match[str]) -> str:
    return "%%" if found[1] else "%s"


def pack(form: Template, params: Sequence[Any] | Mapping[str, Any]) -> bytes:
    """Write a statement's payload.

    Raises:
        UsageError: for parameters of wrong number, of missing names, or that MySQL cannot take.
    """
    kind = type(params)
    if form.names is None and (kind is tuple or kind is list):
        values: Any = params
    else:
        values = _in_order(form, params)
    if len(values) != form.places:
        raise UsageError(f"the SQL has {form.places} placeholders, but there are {len(values)} parameters")
    if form.introducers is None and form.backslashes is None:
        for value in values:
            if type(value) not in _AS_THEY_ARE:
                break
        else:
            try:
                return TYPED + _pack((form.sql, values))
            except (OverflowError, UnicodeEncodeError):
                pass
    typed = [_typed(value, at + 1) for at, value in enumerate(values)]
    if form.introducers is not None:
        for at, name in enumerate(form.introducers):
            if name:
                typed[at] = _introduced(typed[at], name, at + 1)
    if form.backslashes is not None:
        return TYPED + _pack((form.sql, typed, form.backslashes))
    return TYPED + _pack((form.sql, typed))


def _introduced(value: Any, name: str, number: int) -> Any:
    """Return a parameter that follows an introducer, in the form for msgpack."""
    if type(value) is str:
        if name not in _OF_UTF8 and (name in _NOT_OF_ASCII or not value.isascii()):
            # Its UTF-8 would be taken for characters of that set.
            raise UsageError(
                f"parameter {number} follows _{name}, which takes bytes of that character set; for a "
                f"str write CONVERT(%s USING {name})"
            )
        return msgpack.ExtType(INTRODUCED, value.encode())
    if type(value) is msgpack.ExtType and value.code in (BYTES, TEMPORAL):
        return msgpack.ExtType(INTRODUCED, value.data)
    raise UsageError(
        f"parameter {number} follows _{name}, which takes bytes or str: write only %s for None, "
        "numbers and lists"
    )


def _in_order(form: Template, params: Any) -> Sequence[Any]:
    if isinstance(params, Mapping):
        if form.names is None:
            if form.places:
                raise UsageError("named parameters need %(name)s; this SQL has %s")
            return ()
        missing = [name for name in form.names if name not in params]
        if missing:
            raise UsageError(f"no parameter named {', '.join(map(repr, missing))}")
        return [params[name] for name in form.names]
    if form.names is not None:
        raise UsageError(f"this SQL has %(name)s: params must be a dict, not {type(params).__name__}")
    if not isinstance(params, Sequence) or isinstance(params, str | bytes | bytearray | memoryview):
        raise UsageError(
            f"params must be a tuple, a list or a dict, not {type(params).__name__}; for one write (x,)"
        )
    return tuple(params)


def _typed(value: Any, number: int) -> Any:
    """Return a parameter in the form for msgpack."""
    kind = type(value)
    if kind is list or kind is tuple:
        if not value:
            raise UsageError(f"parameter {number} is an empty list, and IN () is not valid SQL")
        if any(type(item) in (list, tuple) for item in value):
            raise UsageError(f"parameter {number} is a list of lists")
        return [_typed(item, number) for item in value]
    write = _WRITERS.get(kind)
    try:
        return _derived(value) if write is None else write(value)
    except UsageError as error:
        raise UsageError(f"parameter {number} {error.text}") from error


def _derived(value: Any) -> Any:
    """Return a value of a derived type in the form for msgpack: as the value of the base type that it equals.

    A value that equals none is something else by its own rules: pandas.NaT, which is year 1 to ``datetime``,
    or a Timestamp with nanoseconds.
    """
    kind = type(value)
    base = next((base for base in kind.__mro__ if base in _PLAIN), None)
    if base is None:
        whose = "" if kind.__module__ == "builtins" else f" of {kind.__module__}"  # numpy has a bool, too
        raise UsageError(f"is of type {kind.__name__}{whose}; MySQL takes {TAKEN}")
    try:
        plain = _PLAIN[base](value)
        typed = _WRITERS[base](plain)
        equals = bool(plain == value)
    except UsageError:
        raise
    except Exception as error:  # of its own methods
        raise UsageError(
            f"is a {kind.__name__} that cannot be compared with a {base.__name__}: {type(error).__name__}"
        ) from error
    if not equals:
        raise UsageError(
            f"is a {kind.__name__} that does not equal the {base.__name__} it would be stored as: convert it "
            "first (to None if it has no value)"
        )
    return typed


MOST_DIGITS = 65
"""Of a DECIMAL, which is how the server reads integers of more than 64 bits; it silently clips longer
ones."""
LONGEST_TIME = timedelta(hours=838, minutes=59, seconds=59, microseconds=999_999)
"""Of a TIME; longer ones are clipped silently, except in strict mode."""


def _integer(value: int) -> Any:
    if -(1 << 63) <= value < 1 << 64:
        return value
    if abs(value) >= 10**MOST_DIGITS:
        raise UsageError(f"is an integer of more than {MOST_DIGITS} digits, outside the range of DECIMAL")
    return msgpack.ExtType(INTEGER, b"%d" % value)


def _float(value: float) -> float:
    if not math.isfinite(value):
        raise UsageError(f"is {value}, which SQL cannot express")
    return value


def _decimal(value: Decimal) -> Any:
    if not value.is_finite():
        raise UsageError(f"is {value}, which SQL cannot express")
    # More digits before the point are clipped in silence; written out, 1E-999999 is a megabyte.
    if not -100 <= value.adjusted() < MOST_DIGITS:
        raise UsageError(f"is {value:E}, outside the range of DECIMAL")
    return msgpack.ExtType(DECIMAL, format(value, "f").encode())


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"is a string that cannot be encoded as UTF-8: {error}") from error
    return value


def _bytes(value: bytes | bytearray | memoryview) -> Any:
    return msgpack.ExtType(BYTES, bytes(value))


def _date(value: date) -> Any:
    return msgpack.ExtType(TEMPORAL, value.isoformat().encode())


def _time(value: datetime | time) -> Any:
    if value.tzinfo is not None:
        raise UsageError(
            f"is a {type(value).__name__} with a time zone, and MySQL's types have none: convert it to the "
            "server's (or to UTC) and write .replace(tzinfo=None)"
        )
    text = value.isoformat(" ") if isinstance(value, datetime) else value.isoformat()
    return msgpack.ExtType(TEMPORAL, text.encode())


def _timedelta(value: timedelta) -> Any:
    """TIME counts hours: -1 day, 23:00:00 is -01:00:00."""
    sign, length = ("-", -value) if value < timedelta() else ("", value)
    if length > LONGEST_TIME:
        raise UsageError("is a timedelta beyond what TIME holds, -838:59:59 to 838:59:59")
    minutes, seconds = divmod(length.days * 86_400 + length.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f".{length.microseconds:06d}" if length.microseconds else ""
    return msgpack.ExtType(TEMPORAL, f"{sign}{hours:02d}:{minutes:02d}:{seconds:02d}{fraction}".encode())


def _itself(value: Any) -> Any:
    return value


_WRITERS: dict[type, Callable[[Any], Any]] = {
    type(None): _itself,
    bool: _itself,
    int: _integer,
    float: _float,
    Decimal: _decimal,
    str: _text,
    bytes: _bytes,
    bytearray: _bytes,
    memoryview: _bytes,
    date: _date,
    datetime: _time,
    time: _time,
    timedelta: _timedelta,
}

_PLAIN: dict[type, Callable[[Any], Any]] = {
    int: int.__int__,
    float: float.__float__,
    Decimal: Decimal,
    str: str.__str__,  # of an enum's member its value
    bytes: lambda value: memoryview(value).tobytes(),
    bytearray: lambda value: memoryview(value).tobytes(),
    datetime: lambda value: datetime.combine(datetime.date(value), datetime.timetz(value)),
    date: lambda value: date.fromordinal(date.toordinal(value)),
    time: lambda value: time.fromisoformat(time.isoformat(value)),
    timedelta: timedelta.__pos__,
}
"""Functions that return the base type's value of a derived type, whatever that type overrides."""
