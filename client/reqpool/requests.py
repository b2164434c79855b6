"""What can be asked of a pool: one method per kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from reqpool_contract.errors import UsageError

from . import kinds
from .future import Future
from .kinds import Kind, Route
from .pinned_session import MysqlSession, RedisSession

if TYPE_CHECKING:
    from reqpool_contract.payloads.dns_answer import DnsAnswer
    from reqpool_contract.tls_settings import Tls

    from .kinds.http import HttpKind
    from .kinds.http_response import HttpResponse
    from .kinds.mysql import MysqlKind
    from .kinds.mysql_result import MysqlResult
    from .kinds.redis import RedisKind
    from .stub import Stub

T = TypeVar("T")
Callback = Callable[[Future[T]], object]
Argument = str | bytes | int | float
"""What a Redis command is made of."""

MAX_ANSWER_BYTES = 16 << 20
"""Default bound of an HTTP answer's body."""


class Requests(ABC):
    """The requests a :class:`~reqpool.Pool` takes; what their common options mean is said there."""

    @abstractmethod
    def ask(
        self,
        route: Route,
        payload: bytes,
        note: Any,
        timeout: float | None,
        callback: Callback[Any] | None,
        priority: int,
        block: bool,
    ) -> Future[Any]:
        """Submit what a kind has encoded."""

    @abstractmethod
    def take_pin(self) -> tuple[Stub, int]:
        """Return this process's session and a new number for a held connection."""

    @abstractmethod
    def has_session(self, stub: Stub | None) -> bool:
        """Is this still the process's session?"""

    def submit(
        self,
        kind: str | Kind,
        target: Any,
        payload: Any,
        *,
        timeout: float | None = None,
        callback: Callback[Any] | None = None,
        priority: int = 1,
        idempotent: bool | None = None,
        block: bool = False,
        **options: Any,
    ) -> Future[Any]:
        """Submit a request of any kind: the door that ``dns`` and the others use.

        Args:
            kind: registered name, or the kind itself.
            target: which upstream, as the kind takes it.
            payload: what to ask, as the kind takes it.
            timeout: see :class:`~reqpool.Pool`.
            callback: see :class:`~reqpool.Pool`.
            priority: see :class:`~reqpool.Pool`.
            idempotent: see :class:`~reqpool.Pool`.
            block: see :class:`~reqpool.Pool`.
            **options: the kind's own.
        """
        if isinstance(kind, str):
            kind = kinds.find(kind)
        elif not isinstance(kind, Kind):
            raise UsageError(f"kind={kind!r:.80} is neither a kind nor the name of one")
        route, data, note = kind.encode(target, payload, **options)
        if idempotent is not None:
            route = kinds.with_idempotence(route, idempotent)
        return self.ask(route, data, note, timeout, callback, priority, block)

    def dns(
        self,
        name: str,
        rtype: str | int = "A",
        *,
        server: str | Sequence[str] | None = None,
        timeout: float | None = None,
        callback: Callback[DnsAnswer] | None = None,
        priority: int = 1,
        block: bool = False,
    ) -> Future[DnsAnswer]:
        """Look a name up.

        Args:
            name: the name; IDNA is applied.
            rtype: record type, by name or number.
            server: ``host[:port]``, or 1 to 8 of them, tried in turn; None: the system's. The next is asked
                when one is silent, cannot be reached, or answers FORMERR, SERVFAIL, NOTIMP, REFUSED or with
                a mere referral; if no other has a better answer, that of the last one is the result.
            timeout: see :class:`~reqpool.Pool`.
            callback: see :class:`~reqpool.Pool`.
            priority: see :class:`~reqpool.Pool`.
            block: see :class:`~reqpool.Pool`.

        Returns:
            The future of the answer. NXDOMAIN and the like are answers, with an ``rcode``.
        """
        route, payload, note = kinds.find("dns").encode(server, name, rtype=rtype)
        return self.ask(route, payload, note, timeout, callback, priority, block)

    def udp(
        self,
        address: str,
        data: bytes,
        *,
        timeout: float | None = None,
        callback: Callback[bytes] | None = None,
        priority: int = 1,
        idempotent: bool | None = None,
        block: bool = False,
    ) -> Future[bytes]:
        """Send a datagram to ``host:port`` and get the datagram that answers it.

        Args:
            address: ``host:port``.
            data: the datagram.
            timeout: see :class:`~reqpool.Pool`.
            callback: see :class:`~reqpool.Pool`.
            priority: see :class:`~reqpool.Pool`.
            idempotent: see :class:`~reqpool.Pool`.
            block: see :class:`~reqpool.Pool`.
        """
        return self.submit(
            "udp", address, data,
            timeout=timeout, callback=callback, priority=priority, idempotent=idempotent, block=block,
        )  # fmt: skip

    def tcp(
        self,
        address: str,
        data: bytes,
        *,
        until: bytes | None = None,
        length: int | None = None,
        max_bytes: int | None = None,
        timeout: float | None = None,
        callback: Callback[bytes] | None = None,
        priority: int = 1,
        idempotent: bool | None = None,
        block: bool = False,
    ) -> Future[bytes]:
        """Send bytes to ``host:port`` and get bytes: until a delimiter, a length, or close.

        Args:
            address: ``host:port``.
            data: what to send.
            until: the answer ends with these bytes, which are part of it.
            length: the answer has this many bytes. Neither: it ends when the peer closes.
            max_bytes: a longer answer is BadResponse; None: the kind's limit.
            timeout: see :class:`~reqpool.Pool`.
            callback: see :class:`~reqpool.Pool`.
            priority: see :class:`~reqpool.Pool`.
            idempotent: see :class:`~reqpool.Pool`.
            block: see :class:`~reqpool.Pool`.
        """
        options = {} if max_bytes is None else {"max_bytes": max_bytes}
        return self.submit(
            "tcp", address, data, until=until, length=length, **options,
            timeout=timeout, callback=callback, priority=priority, idempotent=idempotent, block=block,
        )  # fmt: skip

    def http(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, Any] | Sequence[tuple[str, Any]] | str | bytes | None = None,
        headers: Mapping[str, str | bytes] | Sequence[tuple[str, str | bytes]] | None = None,
        json: Any = None,
        data: Any = None,
        files: Any = None,
        auth: tuple[str | bytes, str | bytes] | str | None = None,
        tls: Tls | None = None,
        follow_redirects: bool = True,
        max_bytes: int = MAX_ANSWER_BYTES,
        timeout: float | None = None,
        callback: Callback[HttpResponse] | None = None,
        priority: int = 1,
        idempotent: bool | None = None,
        block: bool = False,
    ) -> Future[HttpResponse]:
        """Send an HTTP/1.1 request. Any status is an answer: see ``HttpResponse.raise_for_status``.

        GET, HEAD, OPTIONS, TRACE, PUT and DELETE are idempotent (RFC 9110, 9.2.2).

        Args:
            method: ``"GET"`` and so on.
            url: ``http://`` or ``https://``; a user and password in it are sent as basic authorization.
            params: added to the URL's query.
            headers: sent besides ours; a header of ours that is named here is replaced.
            json: the body, as JSON.
            data: the body: bytes, str, or a mapping or pairs, sent as a form.
            files: the body, as multipart/form-data: field to content, or to (file name, content[, type]); a
                part whose file name is None has none.
            auth: (user, password) for basic authorization, a string for a bearer token.
            tls: None: verified by the system's authorities.
            follow_redirects: up to 20, as browsers do; False: a redirect is an answer.
            max_bytes: a longer body, encoded or decoded, is BadResponse.
            timeout: see :class:`~reqpool.Pool`; for all redirects together.
            callback: see :class:`~reqpool.Pool`.
            priority: see :class:`~reqpool.Pool`.
            idempotent: see :class:`~reqpool.Pool`.
            block: see :class:`~reqpool.Pool`.
        """
        kind = cast("HttpKind", kinds.find("http"))
        route, payload, note = kind.encode(
            url, method,
            params=params, headers=headers, json=json, data=data, files=files, auth=auth, tls=tls,
            follow_redirects=follow_redirects, max_bytes=max_bytes,
        )  # fmt: skip
        if idempotent is not None:
            route = kinds.with_idempotence(route, idempotent)
        return self.ask(route, payload, note, timeout, callback, priority, block)

    def redis(
        self,
        url: str,
        *command: Argument,
        tls: Tls | None = None,
        protocol: int = 2,
        timeout: float | None = None,
        callback: Callback[Any] | None = None,
        priority: int = 1,
        idempotent: bool | None = None,
        block: bool = False,
    ) -> Future[Any]:
        """Send one Redis command, pipelined with those of all other clients over few connections.

        Commands that Redis flags as read-only are idempotent; blocking ones have a connection of their own.
        These, with sessions, have at most seven eighths of the upstream's connections (64 by default).
        An error reply is raised as RedisError.

        Args:
            url: ``redis://[[user]:password@]host[:port][/db]``, ``rediss://`` (TLS), ``unix:///path?db=0``,
                or the name of an upstream in ``reqpool.toml``.
            command: its words, ``"GET", "key"``.
            tls: for ``rediss://``; None: verified by the system's authorities.
            protocol: 2, or 3 for RESP3.
            timeout: see :class:`~reqpool.Pool`.
            callback: see :class:`~reqpool.Pool`.
            priority: see :class:`~reqpool.Pool`.
            idempotent: see :class:`~reqpool.Pool`.
            block: see :class:`~reqpool.Pool`.
        """
        kind = cast("RedisKind", kinds.find("redis"))
        route, payload, note = kind.encode(url, command, tls=tls, protocol=protocol)
        if idempotent is not None:
            route = kinds.with_idempotence(route, idempotent)
        return self.ask(route, payload, note, timeout, callback, priority, block)

    def redis_multi(
        self,
        url: str,
        commands: Sequence[Sequence[Argument]],
        *,
        tls: Tls | None = None,
        protocol: int = 2,
        timeout: float | None = None,
        callback: Callback[list[Any]] | None = None,
        priority: int = 1,
        block: bool = False,
    ) -> Future[list[Any]]:
        """Run Redis commands between MULTI and EXEC, as one request that stays together.

        Args:
            url: see :meth:`redis`.
            commands: each a sequence of words.
            tls: see :meth:`redis`.
            protocol: see :meth:`redis`.
            timeout: see :class:`~reqpool.Pool`.
            callback: see :class:`~reqpool.Pool`.
            priority: see :class:`~reqpool.Pool`.
            block: see :class:`~reqpool.Pool`.

        Returns:
            The future of their replies, in order; one that failed is a RedisError in its place.
        """
        kind = cast("RedisKind", kinds.find("redis"))
        route, payload, note = kind.encode_multi(url, commands, tls=tls, protocol=protocol)
        return self.ask(route, payload, note, timeout, callback, priority, block)

    def redis_session(self, url: str, *, tls: Tls | None = None, protocol: int = 2) -> RedisSession:
        """Hold a Redis connection, for WATCH above all. Use it in a ``with`` block.

        Args:
            url: see :meth:`redis`.
            tls: see :meth:`redis`.
            protocol: see :meth:`redis`.
        """
        kind = cast("RedisKind", kinds.find("redis"))

        def route(pin: int, opens: bool) -> Route:
            return kind.pinned_route(url, tls=tls, protocol=protocol, pin=pin, opens=opens)

        return RedisSession(self, route, kind.encode_pinned)

    def mysql(
        self,
        url: str,
        sql: str,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        tls: Tls | None = None,
        timeout: float | None = None,
        callback: Callback[MysqlResult] | None = None,
        priority: int = 1,
        idempotent: bool | None = None,
        block: bool = False,
    ) -> Future[MysqlResult]:
        """Run one SQL statement at MySQL or MariaDB, on any connection, autocommit on.

        A statement that would leave something on the connection (SET, USE, LOCK, a temporary table, a
        transaction) is refused: see :meth:`mysql_session`. The server's errors are raised as MysqlError.

        Args:
            url: ``mysql://user[:password]@host[:port][/database]``, ``mysqls://`` (TLS), or the name of an
                upstream in ``reqpool.toml``.
            sql: the statement, with ``%s`` or ``%(name)s`` for parameters, never in quotes, and ``%%`` for a
                percent sign if it has any.
            params: the parameters; None: ``sql`` is sent as it is.
            tls: makes ``mysql://`` TLS, too; None: verified by the system's authorities.
            timeout: see :class:`~reqpool.Pool`.
            callback: see :class:`~reqpool.Pool`.
            priority: see :class:`~reqpool.Pool`.
            idempotent: may it run more than once? None: no. Say True for a SELECT, and it survives a lost
                connection.
            block: see :class:`~reqpool.Pool`.
        """
        kind = cast("MysqlKind", kinds.find("mysql"))
        route, payload, note = kind.encode(url, sql, params=params, tls=tls)
        if idempotent is not None:
            route = kinds.with_idempotence(route, idempotent)
        return self.ask(route, payload, note, timeout, callback, priority, block)

    def mysql_session(self, url: str, *, tls: Tls | None = None) -> MysqlSession:
        """Hold a MySQL connection for a transaction. Use it in a ``with`` block, which commits at its end.

        Args:
            url: see :meth:`mysql`.
            tls: see :meth:`mysql`.
        """
        kind = cast("MysqlKind", kinds.find("mysql"))

        def route(pin: int, opens: bool) -> Route:
            return kind.pinned_route(url, tls=tls, pin=pin, opens=opens)

        return MysqlSession(self, route, kind.encode_pinned)
