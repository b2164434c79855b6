"""Client half of kind ``redis``: commands to Redis, on connections that all clients share.

There are three ways: one command; several commands between MULTI and EXEC, which stay together; or a session
with a separate connection, for WATCH. Two sorts of commands use kind ``redis-exclusive``, whose connections
have one command at a time, and so do sessions: commands that wait (BLPOP), and those whose reply may contain
line ends, which would shift the replies after it (EVAL).

Payload: the command as Redis takes it. For MULTI/EXEC: ``M``, the number of replies (uint32, big-endian), and
all commands. Answer: see :mod:`reqpool_contract.payloads.redis_reply`.

Origins: ``redis[s]://[user@]host:port/db`` and ``unix://[[user];db=n@]/path``, with the variants
``exclusive``, ``alone`` and ``resp3``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar
from urllib.parse import quote, unquote

from reqpool_contract import origin_names
from reqpool_contract.errors import BadResponse, UsageError
from reqpool_contract.host_names import netloc
from reqpool_contract.masking import without_password
from reqpool_contract.origin_names import Endpoint
from reqpool_contract.payloads import redis_reply
from reqpool_contract.payloads.redis_command import ALONE_VARIANT, MULTI, pack
from reqpool_contract.socket_path import MAX_SOCKET_PATH_BYTES
from reqpool_contract.tls_settings import Tls

from . import redis_answer
from .kind import Kind
from .redis_commands import ALONE, LOOK, QUOTES, READ, WAITS, command_name, named_use, use_of
from .route import Asked, Route

PORTS = {"redis": 6379, "rediss": 6379, "unix": 0}
"""The schemes and their default ports; a Unix socket has none."""

_MULTI_COMMAND, _EXEC_COMMAND = pack(("MULTI",)), pack(("EXEC",))


class RedisKind(Kind):
    """Client half of ``redis``."""

    name: ClassVar[str] = "redis"
    schemes: ClassVar[tuple[str, ...]] = tuple(PORTS)
    _always: ClassVar[int] = 0
    """A use that all commands of this kind have."""

    def encode(
        self, target: str, payload: Sequence[Any], *, tls: Tls | None = None, protocol: int = 2
    ) -> tuple[Route, bytes, None]:
        """Check and encode one command. Idempotent if Redis flags it as read-only.

        Args:
            target: ``redis://[user[:password]@]host[:port][/db]``, ``rediss://…`` (TLS),
                ``unix://[user:password@]/path[?db=n]``, or an upstream's name in ``reqpool.toml``.
            payload: the command's name and arguments: str, bytes, int, float.
            tls: for ``rediss://``; None: the server is verified against the system's authorities.
            protocol: the version of RESP, 2 or 3.

        Raises:
            UsageError: an argument is wrong, or the command would change or occupy a shared connection; the
                text says what would be right.
        """
        packed = pack(payload)
        try:
            use = named_use(payload[0])
            if use & (LOOK | QUOTES):
                use = use_of(payload, packed, False)
            return _route(target, tls, protocol, use | self._always), packed, None
        except UsageError:
            raise
        except (TypeError, ValueError) as error:  # ValueError: from hashing a writable memoryview
            raise _unhashable(target, tls, protocol, payload[0]) from error

    def encode_multi(
        self, target: str, commands: Sequence[Sequence[Any]], *, tls: Tls | None = None, protocol: int = 2
    ) -> tuple[Route, bytes, tuple[str, ...]]:
        """Check and encode a transaction: MULTI, the commands, EXEC. Not idempotent.

        The answer is that of EXEC: a list of the commands' replies, in which an error is a RedisError. If
        Redis refuses to queue a command, none runs, and the result is the RedisError of the first refused
        command, with its position, from 1, and its name.

        Args:
            target, tls, protocol: as for :meth:`encode`.
            commands: at least one, each as ``payload`` there.

        Raises:
            UsageError: as for :meth:`encode`.
        """
        if type(commands) is not tuple and type(commands) is not list:
            raise UsageError(
                f'commands must be a list like [("INCR", "a"), ("INCR", "b")], not {type(commands).__name__}'
            )
        if not commands:
            raise UsageError("a transaction must have at least one command")
        packed = [pack(command) for command in commands]
        use = self._always
        for command, part in zip(commands, packed, strict=True):
            # Blocking commands do not wait in a transaction.
            use |= self._check(command, part, False) & ALONE
        head = MULTI + (len(commands) + 2).to_bytes(4, "big")
        try:
            route = _route(target, tls, protocol, use)
        except TypeError as error:
            raise _unhashable(target, tls, protocol, "MULTI") from error
        names = tuple(command_name(command) for command in commands)
        return route, b"".join((head, _MULTI_COMMAND, *packed, _EXEC_COMMAND)), names

    def pinned_route(
        self, target: str, *, pin: int, opens: bool = False, tls: Tls | None = None, protocol: int = 2
    ) -> Route:
        """Make the route of a session, for a separate connection.

        Args:
            target, tls, protocol: as for :meth:`encode`.
            pin, opens: as in :class:`Route`.

        Raises:
            UsageError: as for :meth:`encode`.
        """
        try:
            route = _route(target, tls, protocol, WAITS)
        except TypeError as error:
            raise _unhashable(target, tls, protocol, "") from error
        return Route(route.kind, route.origins, False, route.settings, pin, opens)

    def encode_pinned(self, command: Sequence[Any]) -> tuple[bytes, None]:
        """Check and encode a command of a session, where WATCH, MULTI, EXEC and SELECT are allowed.

        Raises:
            UsageError: as for :meth:`encode`.
        """
        packed = pack(command)
        self._check(command, packed, True)
        return packed, None

    @staticmethod
    def _check(command: Sequence[Any], packed: bytes, pinned: bool) -> int:
        try:
            return use_of(command, packed, pinned)
        except TypeError as error:
            raise _unhashable("", None, 2, command[0]) from error

    def decode(self, data: bytes, request: Asked) -> Any:
        """Return the reply as a Python value, as :func:`redis_answer.decode` does.

        Raises:
            RedisError: Redis answered with an error.
            BadResponse: the answer cannot be read.
        """
        if data[:1] == redis_reply.BULK:
            return data[1:]  # the most common reply, without a further call
        try:
            return redis_answer.decode(data, request)
        except BadResponse:
            if data[:1] != redis_reply.NOT_QUEUED:
                raise
        raise redis_answer.refusal_of(data, request.note or ())

    def endpoint(self, url: str, *, password: str | None = None, tls: Tls | None = None) -> Endpoint:
        """Read a URL. See :meth:`Kind.endpoint`."""
        return _endpoint(url, password, tls, ())


class ExclusiveRedisKind(RedisKind):
    """Client half of ``redis-exclusive``: the same, on connections that have one command at a time."""

    name: ClassVar[str] = "redis-exclusive"
    _always: ClassVar[int] = WAITS


def _unhashable(target: object, tls: object, protocol: object, name: object) -> UsageError:
    """Return the error for arguments that a cache cannot hash."""
    types = ", ".join(type(one).__name__ for one in (target, tls, protocol, name))
    return UsageError(
        f"target must be a string, tls= a reqpool.Tls, protocol= 2 or 3, the command a string, not {types}"
    )


@lru_cache(maxsize=1024)
def _route(target: str, tls: Tls | None, protocol: int, use: int) -> Route:
    if protocol not in (2, 3):
        raise UsageError(f"protocol={protocol!r}: must be 2 or 3")
    # Blocking commands have separate connections, so that no other command waits for them.
    exclusive = ("exclusive",) if use & WAITS else (ALONE_VARIANT,) if use & ALONE else ()
    variants = exclusive + (("resp3",) if protocol == 3 else ())
    name = origin_names.named(target)
    if name is None:
        found = _endpoint(target, None, tls, variants)
    elif tls is not None:
        raise UsageError(f"tls= is for URLs: upstream {target!r} has its TLS settings in reqpool.toml")
    else:
        found = Endpoint("?".join((name, "&".join(variants))) if variants else name, b"")
    kind = EXCLUSIVE_KIND if exclusive else KIND
    return Route(kind, (found.origin,), bool(use & READ), found.settings)


def _endpoint(url: str, password: str | None, tls: Tls | None, variants: tuple[str, ...]) -> Endpoint:
    parts = origin_names.parse(url, PORTS)
    shown = without_password(url)
    if tls is not None and not isinstance(tls, Tls):
        raise UsageError(f"tls= must be a reqpool.Tls, not {type(tls).__name__}")
    if tls is not None and parts.scheme != "rediss":
        raise UsageError(f"tls= is for rediss://, not for {shown!r}")
    user = "" if parts.user is None else quote(parts.user, safe="") + "@"
    if parts.scheme == "unix":
        path = unquote(parts.path)
        if parts.host or not path.startswith("/") or path.endswith("/"):
            raise UsageError(f"{shown!r} has no socket path: write unix:///run/redis/redis.sock")
        if "\0" in path or len(path.encode()) > MAX_SOCKET_PATH_BYTES:
            raise UsageError(f"{shown!r}: a socket path can have at most {MAX_SOCKET_PATH_BYTES} bytes")
        option, _, db = parts.query.partition("=")
        if option not in ("", "db"):
            raise UsageError(f"{shown!r}: the only option is db, ?db=0")
        # Not in the query, which is for variants, nor after the path, by which limits are counted.
        number = _database(db, shown)
        if number:
            user = f"{user[:-1]};db={number}@"
        place = quote(path)
    else:
        if parts.query:
            raise UsageError(f"{shown!r} has unknown options; the database is the path: /0")
        database = re.fullmatch("/?([^/]*)/?", parts.path)
        if database is None:
            raise UsageError(f"{shown!r}: the path must be the number of one database, like /0")
        place = f"{netloc(parts.host, parts.port)}/{_database(database[1], shown)}"
    public = f"{parts.scheme}://{user}{place}"
    if variants:
        public += "?" + "&".join(variants)
    secret = parts.password if password is None else password
    return origin_names.endpoint(
        public, {"password": secret or None, "tls": (tls and tls.settings()) or None}
    )


def _database(text: str, url: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise UsageError(f"{url!r}: the database must be a number from 0")
    return int(text)


KIND = RedisKind()
EXCLUSIVE_KIND = ExclusiveRedisKind()
