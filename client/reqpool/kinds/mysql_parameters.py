"""Parameters of a statement: checked here, typed on the wire, escaped by the worker for its connection.

Payload: byte 0, then msgpack ``[sql bin, [parameter, ...]]``, with a ``%s`` in ``sql`` for each parameter and
``%%`` for a percent sign. A parameter is nil, bool, int, float, str, an array of such for ``IN %s``, or an
extension: 1 decimal (its digits), 2 an integer of over 64 bits (its digits), 4 date, datetime or time (as in
a literal of SQL), 5 bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import msgpack

from ..errors import UsageError
from .mysql_statement import quoted

DECIMAL, INTEGER, TEMPORAL, BYTES = 1, 2, 4, 5
TYPED = b"\x00"
"""Begins the payload of a statement with parameters."""
TAKEN = "None, bool, int, float, Decimal, str, bytes, date, datetime, time, timedelta, or a list of these"

_PLACEHOLDER = re.compile(r"%(?:(%)|(s)|\(([^()%]*)\)s)?")
_MAY_QUOTE = re.compile("['\"`#]|--|/[*]")
_AS_THEY_ARE = frozenset((int, str, type(None), bool))

# One for all: making a Packer costs more than packing. Its pack() holds the GIL from end to end.
_pack: Callable[[Any], bytes] = msgpack.Packer().pack


class Template(NamedTuple):
    """A statement with places for parameters.

    Attributes:
        sql: in UTF-8, with ``%s`` and ``%%`` only.
        places: how many parameters it takes.
        names: under which names, in their order; None if by position.
    """

    sql: bytes
    places: int
    names: tuple[str, ...] | None


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
                    f"{sql[at : at + 12]!r} at character {at} of the SQL is no placeholder: with parameters "
                    "it is %s or %(name)s for each, and %% for a percent sign"
                )
            names.append(name)
            places.append(found.start())
    if places and _MAY_QUOTE.search(sql):
        inside = quoted(sql, _PLACEHOLDER).intersection(places)
        if inside:
            # A parameter brings its own quotes: they would end the ones around it, and its text be SQL.
            at = min(inside)
            raise UsageError(
                f"{sql[at : at + 12]!r} at character {at} of the SQL stands in quotes or in a comment: a "
                "placeholder stands alone; what belongs around the value, put into the parameter"
            )
    named = tuple(name for name in names if name is not None)
    if named and len(named) < len(names):
        raise UsageError("the SQL has both %s and %(name)s; parameters come by position or by name")
    try:
        written = (_PLACEHOLDER.sub(_by_position, sql) if named else sql).encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"this SQL cannot be written in UTF-8: {error}") from error
    return Template(written, len(names), named or None)


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
        raise UsageError(f"the SQL has {form.places} placeholders, and there are {len(values)} parameters")
    for value in values:
        if type(value) not in _AS_THEY_ARE:
            break
    else:
        try:
            return TYPED + _pack((form.sql, values))
        except (OverflowError, UnicodeEncodeError):
            pass
    return TYPED + _pack((form.sql, [_typed(value, at + 1) for at, value in enumerate(values)]))


def _in_order(form: Template, params: Any) -> Sequence[Any]:
    if isinstance(params, Mapping):
        if form.names is None:
            if form.places:
                raise UsageError("parameters by name go with %(name)s; this SQL has %s")
            return ()
        missing = [name for name in form.names if name not in params]
        if missing:
            raise UsageError(f"no parameter named {', '.join(map(repr, missing))}")
        return [params[name] for name in form.names]
    if form.names is not None:
        raise UsageError(f"this SQL has %(name)s: params are a dict, not {type(params).__name__}")
    if not isinstance(params, Sequence) or isinstance(params, str | bytes | bytearray | memoryview):
        raise UsageError(
            f"params are a tuple, a list or a dict, not {type(params).__name__}; of a single one write (x,)"
        )
    return tuple(params)


def _typed(value: Any, number: int) -> Any:
    """Return a parameter as msgpack is to have it."""
    kind = type(value)
    if kind is list or kind is tuple:
        if not value:
            raise UsageError(f"parameter {number} is an empty list, and IN () is no SQL")
        if any(type(item) in (list, tuple) for item in value):
            raise UsageError(f"parameter {number} is a list of lists")
        return [_typed(item, number) for item in value]
    write = _WRITERS.get(kind) or next((_WRITERS[base] for base in kind.__mro__ if base in _WRITERS), None)
    if write is None:
        raise UsageError(f"parameter {number} is of type {kind.__name__}; MySQL takes {TAKEN}")
    try:
        return write(value)
    except UsageError as error:
        raise UsageError(f"parameter {number}: {error.text}") from error


MOST_DIGITS = 65
"""Of a DECIMAL, which is what integers of over 64 bits are to the server; it clips longer ones in silence."""


def _integer(value: int) -> Any:
    value = int(value)
    if -(1 << 63) <= value < 1 << 64:
        return value
    if abs(value) >= 10**MOST_DIGITS:
        raise UsageError(f"an integer of over {MOST_DIGITS} digits is beyond what DECIMAL holds")
    return msgpack.ExtType(INTEGER, b"%d" % value)


def _float(value: float) -> float:
    if not math.isfinite(value):
        raise UsageError(f"{value} is nothing that SQL can write")
    return float(value)


def _decimal(value: Decimal) -> Any:
    if not value.is_finite():
        raise UsageError(f"{value} is nothing that SQL can write")
    if abs(value.adjusted()) > 100:  # DECIMAL has 65 digits; written out, 1E999999 is a megabyte
        raise UsageError(f"{value} is beyond what DECIMAL holds")
    return msgpack.ExtType(DECIMAL, format(value, "f").encode())


def _text(value: str) -> str:
    text = str.__str__(value)  # of an enum's member its value
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"a string that cannot be written in UTF-8: {error}") from error
    return text


def _bytes(value: bytes | bytearray | memoryview) -> Any:
    return msgpack.ExtType(BYTES, bytes(value))


def _date(value: date) -> Any:
    return msgpack.ExtType(TEMPORAL, date.isoformat(value).encode())


def _time(value: datetime | time) -> Any:
    if value.tzinfo is not None:
        raise UsageError(
            f"{value!r} has a time zone, and MySQL's types have none: convert it to the server's (or to UTC) "
            "and write .replace(tzinfo=None)"
        )
    # Written by the base's rules: a class of somebody's own may have others.
    text = datetime.isoformat(value, " ") if isinstance(value, datetime) else time.isoformat(value)
    return msgpack.ExtType(TEMPORAL, text.encode())


def _timedelta(value: timedelta) -> Any:
    """TIME counts hours: -1 day, 23:00:00 is -01:00:00."""
    sign, length = ("-", -value) if value < timedelta() else ("", value)
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
