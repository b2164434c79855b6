"""Kind ``mysql``: SQL for MySQL and MariaDB, on shared connections or on a session's own connection.

Payloads and answers are described in :mod:`reqpool_contract.payloads.mysql`.

Origin: ``mysql://user@host:port/database``, or ``mysql://user@/database?socket=/path``; variant ``tls``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar
from urllib.parse import parse_qsl, quote, unquote

from reqpool_contract import origin_names, wire
from reqpool_contract.errors import BadResponse, MysqlError, UsageError
from reqpool_contract.host_names import netloc
from reqpool_contract.masking import without_password
from reqpool_contract.origin_names import Endpoint
from reqpool_contract.payloads.mysql import ERR, HEADER_BYTES, QUERY
from reqpool_contract.tls_settings import Tls

from . import Asked, Kind, Route
from .mysql_parameters import pack, template
from .mysql_result import MysqlResult
from .mysql_statement import check

try:
    import pymysql  # noqa: F401  (decodes rows)

    from . import mysql_rows as mysql_rows
except ImportError as error:
    _missing: str | None = error.name or str(error)
else:
    _missing = None

PORT = 3306
KEPT_CHARS = 4096
"""Statements up to this length are checked once; longer ones, which are rarely repeated, each time."""
KEPT_STATEMENTS = 2048


class MysqlKind(Kind):
    """Client half of ``mysql``."""

    name: ClassVar[str] = "mysql"
    schemes: ClassVar[tuple[str, ...]] = ("mysql", "mysqls")

    def encode(
        self,
        target: str,
        payload: str,
        *,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        tls: Tls | None = None,
    ) -> tuple[Route, bytes, None]:
        """Check and encode one statement for a shared connection. Not idempotent unless the caller says so.

        Args:
            target: ``mysql://user[:password]@host[:port][/database]``, ``mysqls://…`` (TLS, or no
                connection), ``mysql://user@/database?socket=/path``, or an upstream's name in
                ``reqpool.toml``.
            payload: one SQL statement; the server refuses several, separated by semicolons.
            params: one for each ``%s`` of the statement, or one for each name of its ``%(name)s``;
                placeholders must not be inside quotes, and a percent sign must be written ``%%``. None, bool,
                int, float, Decimal, str, bytes, date, datetime (without time zone), time, timedelta; a list
                or tuple of these for ``IN %s``. One of a derived type has to equal the value of its base type
                that is stored: pandas.NaT does not. Bytes come with an introducer (``_binary'...'``) unless
                the SQL has one (``_binary %s``, ``_latin1 %s``). None: no parameters, and percent signs are
                themselves.
            tls: TLS settings; they require TLS whatever the scheme is.

        Raises:
            UsageError: if any of these is wrong, or the statement would change the state of a shared
                connection; the text names the cause and the fix.
        """
        if type(payload) is str and len(payload) <= KEPT_CHARS:
            sql = _shared(payload) if params is None else _shared_template(payload)
        else:
            sql = _checked(payload, False, params is not None)
        try:
            route = _route(target, tls)
        except TypeError:
            route = _kept(target, tls)  # says why
        written: bytes = sql if params is None else pack(sql, params)
        if len(written) > wire.MAX_PAYLOAD_BYTES:
            written = _payload(sql, params)  # as above
        return route, written, None

    def pinned_route(self, target: str, *, pin: int, opens: bool = False, tls: Tls | None = None) -> Route:
        """Make the route of a session: a connection of its own, autocommit off.

        Args:
            target, tls: as for :meth:`encode`.
            pin, opens: see :class:`Route`.

        Raises:
            UsageError: as for :meth:`encode`.
        """
        route = _kept(target, tls)
        return Route(route.kind, route.origins, False, route.settings, pin, opens)

    def encode_pinned(
        self, sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None
    ) -> tuple[bytes, None]:
        """Check and encode a statement of a session. What it changes is undone when the session ends.

        Raises:
            UsageError: as for :meth:`encode`, and for a statement that leaves utf8mb4.
        """
        return _payload(_checked(sql, True, params is not None), params), None

    def decode(self, data: bytes, request: Asked) -> MysqlResult:
        """Return the server's answer; rows are decoded when they are first accessed.

        Raises:
            MysqlError: if the server answered with an error.
            BadResponse: if the answer cannot be read.
        """
        if len(data) <= HEADER_BYTES:
            raise BadResponse("a MySQL answer that is shorter than any packet")
        if data[HEADER_BYTES] == ERR:
            raise _error(data)
        return MysqlResult(data)

    def endpoint(self, url: str, *, password: str | None = None, tls: Tls | None = None) -> Endpoint:
        """Read a URL. See :meth:`Kind.endpoint`."""
        return _endpoint(url, password, tls)


# --- statements ---------------------------------------------------------------------------------------


def _checked(sql: object, pinned: bool, with_params: bool) -> Any:
    """Check a statement; return its payload, or the template into which its parameters go."""
    if not isinstance(sql, str):
        raise UsageError(f"SQL must be a string, not {type(sql).__name__}")
    check(sql, pinned=pinned)
    if with_params:
        return template(sql)
    try:
        return QUERY + sql.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"this SQL cannot be encoded as UTF-8: {error}") from error


@lru_cache(KEPT_STATEMENTS)
def _shared(sql: str) -> Any:
    return _checked(sql, False, False)


@lru_cache(KEPT_STATEMENTS)
def _shared_template(sql: str) -> Any:
    return _checked(sql, False, True)


def _payload(sql: Any, params: Sequence[Any] | Mapping[str, Any] | None) -> bytes:
    payload: bytes = sql if params is None else pack(sql, params)
    if len(payload) > wire.MAX_PAYLOAD_BYTES:
        raise UsageError(
            f"a statement of {len(payload)} bytes; a request has at most {wire.MAX_PAYLOAD_BYTES}: "
            "send it in parts"
        )
    return payload


def _error(data: bytes) -> MysqlError | BadResponse:
    """Read an ERR packet: number, perhaps ``#`` and SQLSTATE, text."""
    if len(data) < 7:
        return BadResponse("an ERR packet that is cut short")
    number, sqlstate, text = int.from_bytes(data[5:7], "little"), "HY000", data[7:]
    if text[:1] == b"#":
        sqlstate, text = text[1:6].decode("ascii", "replace"), text[6:]
    return MysqlError(text.decode("utf-8", "replace"), number=number, sqlstate=sqlstate)


# --- upstreams ----------------------------------------------------------------------------------------


def _kept(target: str, tls: Tls | None) -> Route:
    try:
        return _route(target, tls)
    except TypeError as error:  # from lru_cache: something cannot be hashed
        types = f"{type(target).__name__}, {type(tls).__name__}"
        raise UsageError(f"target must be a string and tls= a reqpool.Tls, not {types}") from error


@lru_cache(1024)
def _route(target: str, tls: Tls | None) -> Route:
    if _missing is not None:
        raise UsageError(f"kind mysql needs {_missing}: pip install 'reqpool[mysql]'")
    name = origin_names.named(target)
    if name is None:
        found = _endpoint(target, None, tls)
        return Route(KIND, (found.origin,), False, found.settings)
    if tls is not None:
        raise UsageError(f"upstream {target!r} has its TLS from reqpool.toml; omit tls=")
    return Route(KIND, (name,), False)


def _endpoint(url: str, password: str | None, tls: Tls | None) -> Endpoint:
    if tls is not None and not isinstance(tls, Tls):
        raise UsageError(f"tls= must be a reqpool.Tls, not {type(tls).__name__}")
    parts = origin_names.parse(url, {"mysql": 0, "mysqls": 0})
    shown = without_password(url)
    if parts.user is None:
        raise UsageError(f"{shown!r} has no user: use mysql://user@host/database")
    database = unquote(parts.path.removeprefix("/"))
    if "/" in parts.path[1:] or "\0" in parts.user + database:
        raise UsageError(f"{shown!r}: the path must be the name of one database")
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    query = dict(pairs)
    if len(query) < len(pairs):
        raise UsageError(f"{shown!r}: an option is given twice")
    socket = query.pop("socket", "")
    if query:
        name, value = next(iter(query.items()))
        option = f"unknown option {name!r}" if value else "an unknown option"  # without a value it may be one
        raise UsageError(f"{shown!r}: {option}; the character set is always utf8mb4")
    if bool(socket) == bool(parts.host):
        raise UsageError(f"{shown!r}: give a host, or a socket (?socket=/path)")
    if socket and not socket.startswith("/"):
        raise UsageError(f"{shown!r}: give the absolute path of the Unix socket: ?socket=/path")
    secured = tls is not None or parts.scheme == "mysqls"
    variants = []
    if socket:
        if secured or parts.port:
            raise UsageError(f"{shown!r}: a Unix socket cannot have TLS or a port")
        variants.append(f"socket={quote(socket)}")
    if secured:
        variants.append("tls")
    place = netloc(parts.host, parts.port or PORT) if parts.host else ""
    public = f"mysql://{quote(parts.user, safe='')}@{place}/{quote(database, safe='')}"
    if variants:
        public += "?" + "&".join(variants)
    settings = {
        "password": (parts.password if password is None else password) or None,
        "tls": (tls or Tls()).settings() if secured else None,
    }
    return origin_names.endpoint(public, settings)


KIND = MysqlKind()
