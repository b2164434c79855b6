"""The pool: what an application holds."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from reqpool_contract import broker_url, masking
from reqpool_contract.errors import UsageError

from . import host
from .dispatcher import Dispatcher, checked_timeout
from .future import Future
from .kinds.kind import Kind
from .kinds.registry import INSTALLED
from .kinds.route import Route
from .options import Callback, Options
from .pinned_session import MysqlSession, RedisSession
from .stats import Stats
from .windowed import windowed

if TYPE_CHECKING:
    from reqpool_contract.payloads.dns_answer import DnsAnswer
    from reqpool_contract.tls_settings import Tls

    from .kinds.http import HttpKind
    from .kinds.http_response import HttpResponse
    from .kinds.mysql import MysqlKind
    from .kinds.mysql_result import MysqlResult
    from .kinds.redis import RedisKind

Item = TypeVar("Item")
T = TypeVar("T")
Argument = str | bytes | int | float
"""A word of a Redis command."""

MAX_ANSWER_BYTES = 16 << 20
"""Default limit of an HTTP answer's body."""


class Pool:
    """A client of a pool of workers: submit a request, get its result in a future or a callback.

    A new pool has no sockets and no threads until its first request, so it can be made at import, before a
    server forks; each process then has its own session. All methods may be called from any thread. Use a pool
    in a ``with`` block or call :meth:`close`. A pool that is simply dropped ends when its last request has
    ended; what is pending when the interpreter exits is cancelled, and a warning says how many requests that
    were.

    All methods that submit a request take the options of :class:`reqpool.Options` (timeout, callback,
    priority, idempotent, block) by keyword. They raise UsageError if the request is wrong or the pool is
    closed, and Overloaded if the pool is full or the process is out of file descriptors.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        timeout: float = 5.0,
        max_pending: int = 100_000,
        executor: concurrent.futures.Executor | None = None,
        workers: int | None = None,
        config: str | os.PathLike[str] | None = None,
    ) -> None:
        """Make a pool.

        Args:
            url: the broker's, ``tcp://host:port`` or ``ipc:///path``. None: ``$REQPOOL_URL``; if that is not
                set, a private broker and workers, which end with this process.
            timeout: seconds, for requests without a timeout of their own.
            max_pending: requests that may be pending at a time in this process, at least 1.
            executor: runs the callbacks; None: a thread of the pool.
            workers: worker processes of a private cluster, at least 1; None: by the number of CPUs.
            config: path of a private cluster's ``reqpool.toml``, which names upstreams; a shared cluster has
                its own.

        Raises:
            UsageError: a bad URL or option, or gevent has patched threads.
        """
        host.check_unpatched()
        url = url or os.environ.get("REQPOOL_URL") or None
        if url is not None:
            broker_url.check(url)
            if workers is not None or config is not None:
                name = "config" if workers is None else "workers"
                raise UsageError(f"{name}= is for a pool without a URL: a shared pool has its own")
        elif workers is None:
            workers = max(1, min(4, (os.cpu_count() or 1) - 1))
        elif type(workers) is not int or workers < 1:
            raise UsageError(f"workers={workers!r}: must be a number from 1")
        if not isinstance(config, str | os.PathLike | None):
            raise UsageError(f"config= must be a path, not {type(config).__name__}")
        if config is not None and not os.path.isfile(config):
            shown = masking.without_password(os.fspath(config))
            raise UsageError(f"config={shown!r}: there is no such file")
        if type(max_pending) is not int or max_pending < 1:
            raise UsageError(f"max_pending={max_pending!r}: must be a number from 1")
        if executor is not None and not callable(getattr(executor, "submit", None)):
            raise UsageError(f"executor={executor!r}: must be a concurrent.futures.Executor")
        config = None if config is None else os.path.abspath(config)
        self._dispatcher = Dispatcher(
            url, checked_timeout(timeout), max_pending, executor, workers or 0, config
        )

    # --- requests -------------------------------------------------------------------------------

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
        """Submit a request of any kind, including those of other packages.

        Args:
            kind: registered name, or the kind itself.
            target: the upstream, as the kind takes it.
            payload: the request, as the kind takes it.
            timeout, callback, priority, idempotent, block: as in :class:`reqpool.Options`.
            **options: the kind's own options; an unknown one is a TypeError.
        """
        if isinstance(kind, str):
            kind = INSTALLED[kind]
        if not isinstance(kind, Kind):
            raise UsageError(f"kind={kind!r:.80} is neither a kind nor the name of one")
        route, data, note = kind.encode(target, payload, **options)
        return self._dispatcher.ask(route, data, note, timeout, callback, priority, idempotent, block)

    def dns(
        self,
        name: str,
        rtype: str | int = "A",
        *,
        server: str | Sequence[str] | None = None,
        **options: Unpack[Options[DnsAnswer]],
    ) -> Future[DnsAnswer]:
        """Look up a name. Idempotent.

        Args:
            name: the name; IDNA is applied.
            rtype: record type, by name or number.
            server: ``host[:port]``, or 1 to 8 of them, tried in turn; None: the system's name servers. The
                next server is tried when one does not answer, cannot be reached, or answers FORMERR,
                SERVFAIL, NOTIMP, REFUSED or only a referral. If no server has a better answer, the result is
                that of the last one.
            **options: timeout, callback, priority, idempotent, block; see :class:`reqpool.Options`.

        Returns:
            The future of the answer. NXDOMAIN and the like are answers, with an ``rcode``.
        """
        route, payload, note = INSTALLED["dns"].encode(server, name, rtype=rtype)
        return self._dispatcher.ask(route, payload, note, **options)

    def udp(self, address: str, data: bytes, **options: Unpack[Options[bytes]]) -> Future[bytes]:
        """Send a datagram to ``host:port``; the result is the datagram that comes back.

        Args:
            address: ``host:port``.
            data: the datagram.
            **options: timeout, callback, priority, idempotent, block; see :class:`reqpool.Options`.
        """
        route, payload, note = INSTALLED["udp"].encode(address, data)
        return self._dispatcher.ask(route, payload, note, **options)

    def tcp(
        self,
        address: str,
        data: bytes,
        *,
        until: bytes | None = None,
        length: int | None = None,
        max_bytes: int | None = None,
        **options: Unpack[Options[bytes]],
    ) -> Future[bytes]:
        """Send bytes to ``host:port``; the result is what comes back.

        The answer ends at a delimiter, after a number of bytes, or when the peer closes the connection.

        Args:
            address: ``host:port``.
            data: the bytes to send.
            until: the answer ends with these bytes and includes them.
            length: the answer has this many bytes. Give ``until`` or ``length``, or neither.
            max_bytes: a longer answer is BadResponse; None: the kind's limit.
            **options: timeout, callback, priority, idempotent, block; see :class:`reqpool.Options`.
        """
        limit = {} if max_bytes is None else {"max_bytes": max_bytes}
        route, payload, note = INSTALLED["tcp"].encode(address, data, until=until, length=length, **limit)
        return self._dispatcher.ask(route, payload, note, **options)

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
        **options: Unpack[Options[HttpResponse]],
    ) -> Future[HttpResponse]:
        """Send an HTTP/1.1 request. Any status is an answer: see ``HttpResponse.raise_for_status``.

        GET, HEAD, OPTIONS, TRACE, PUT and DELETE are idempotent (RFC 9110, 9.2.2).

        Args:
            method: ``"GET"`` and so on.
            url: ``http://`` or ``https://``; a user and password in it are sent as basic authorization.
            params: added to the URL's query.
            headers: sent in addition to the default headers; one with the same name replaces the default.
            json: the body, encoded as JSON.
            data: the body: bytes, str, or a mapping or pairs, sent as a form.
            files: the body, as multipart/form-data: maps fields to contents, or to (file name, content[,
                type]); a part whose file name is None is sent without one.
            auth: (user, password) for basic authorization, or a string, the bearer token.
            tls: None: the server is verified against the system's authorities.
            follow_redirects: follow up to 20 redirects, as browsers do. False: a redirect is an answer.
            max_bytes: a longer body, encoded or decoded, is BadResponse.
            **options: timeout, callback, priority, idempotent, block; see :class:`reqpool.Options`.
        """
        kind: HttpKind = INSTALLED["http"]
        route, payload, note = kind.encode(
            url, method,
            params=params, headers=headers, json=json, data=data, files=files, auth=auth, tls=tls,
            follow_redirects=follow_redirects, max_bytes=max_bytes,
        )  # fmt: skip
        return self._dispatcher.ask(route, payload, note, **options)

    def redis(
        self,
        url: str,
        *command: Argument,
        tls: Tls | None = None,
        protocol: int = 2,
        **options: Unpack[Options[Any]],
    ) -> Future[Any]:
        """Send one Redis command, pipelined with those of other clients over a few connections.

        Commands that Redis flags as read-only are idempotent. Blocking commands have separate connections;
        these and sessions together use at most seven eighths of the upstream's connections (64 by default).
        An error reply is raised as RedisError.

        Args:
            url: ``redis://[[user]:password@]host[:port][/db]``, ``rediss://`` (TLS), ``unix:///path?db=0``,
                or the name of an upstream in ``reqpool.toml``.
            command: its words, ``"GET", "key"``.
            tls: for ``rediss://``; None: the server is verified against the system's authorities.
            protocol: 2, or 3 for RESP3.
            **options: timeout, callback, priority, idempotent, block; see :class:`reqpool.Options`.
        """
        kind: RedisKind = INSTALLED["redis"]
        route, payload, note = kind.encode(url, command, tls=tls, protocol=protocol)
        return self._dispatcher.ask(route, payload, note, **options)

    def redis_multi(
        self,
        url: str,
        commands: Sequence[Sequence[Argument]],
        *,
        tls: Tls | None = None,
        protocol: int = 2,
        **options: Unpack[Options[list[Any]]],
    ) -> Future[list[Any]]:
        """Run Redis commands between MULTI and EXEC, as one request. Not idempotent.

        Args:
            url: as for :meth:`redis`.
            commands: each a sequence of words.
            tls: as for :meth:`redis`.
            protocol: as for :meth:`redis`.
            **options: timeout, callback, priority, idempotent, block; see :class:`reqpool.Options`.

        Returns:
            The future of the replies, in order; that of a command that failed is a RedisError.
        """
        kind: RedisKind = INSTALLED["redis"]
        route, payload, note = kind.encode_multi(url, commands, tls=tls, protocol=protocol)
        return self._dispatcher.ask(route, payload, note, **options)

    def redis_session(self, url: str, *, tls: Tls | None = None, protocol: int = 2) -> RedisSession:
        """Reserve a Redis connection, above all for WATCH. Use it in a ``with`` block.

        Args:
            url: as for :meth:`redis`.
            tls: as for :meth:`redis`.
            protocol: as for :meth:`redis`.
        """
        kind: RedisKind = INSTALLED["redis"]

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
        **options: Unpack[Options[MysqlResult]],
    ) -> Future[MysqlResult]:
        """Run one SQL statement on MySQL or MariaDB, on a shared connection with autocommit on.

        A statement that would leave something on the connection (SET, USE, LOCK, a temporary table, a
        transaction) is refused: use :meth:`mysql_session`. The server's errors are raised as MysqlError. Not
        idempotent: give ``idempotent=True`` for a SELECT, and it survives a lost connection.

        Args:
            url: ``mysql://user[:password]@host[:port][/database]``, ``mysqls://`` (TLS), or the name of an
                upstream in ``reqpool.toml``.
            sql: the statement, with ``%s`` or ``%(name)s`` for parameters, never in quotes. If it has
                parameters, a percent sign is written ``%%``.
            params: the parameters; None: ``sql`` is sent unchanged.
            tls: uses TLS for ``mysql://``, too; None: the server is verified against the system's
                authorities.
            **options: timeout, callback, priority, idempotent, block; see :class:`reqpool.Options`.
        """
        kind: MysqlKind = INSTALLED["mysql"]
        route, payload, note = kind.encode(url, sql, params=params, tls=tls)
        return self._dispatcher.ask(route, payload, note, **options)

    def mysql_session(self, url: str, *, tls: Tls | None = None) -> MysqlSession:
        """Reserve a MySQL connection for transactions. Use it in a ``with`` block, which commits at its end.

        Args:
            url: as for :meth:`mysql`.
            tls: as for :meth:`mysql`.
        """
        kind: MysqlKind = INSTALLED["mysql"]

        def route(pin: int, opens: bool) -> Route:
            return kind.pinned_route(url, tls=tls, pin=pin, opens=opens)

        return MysqlSession(self, route, kind.encode_pinned)

    def map(
        self,
        method: Callable[..., Future[T]],
        items: Iterable[Item],
        *,
        window: int = 256,
        **options: Any,
    ) -> Generator[tuple[Item, Future[T]], None, None]:
        """Submit one request per item, with a window of requests in flight, and yield them as they end.

        ``for name, future in pool.map(pool.dns, names, server="192.0.2.1"): …``

        Args:
            method: e.g. ``pool.dns``; called with the item and ``options``.
            items: read when the window has room, on the thread that iterates.
            window: requests in flight at a time, at least 1; fewer while some are refused (Overloaded).
            **options: for ``method``, except ``callback`` and ``block``.

        Yields:
            Each item and its finished future, in the order in which they end. For an item that ``method``
            refuses with UsageError, the future raises that error. Leaving the loop early cancels the
            requests in flight.

        Raises:
            UsageError: a bad window, or iterated inside a callback of this pool.
        """
        return windowed(self._dispatcher, method, items, window, options)

    # --- the pool itself ------------------------------------------------------------------------

    def stats(self) -> Stats:
        """Return the counts of this process's session; cheap, never waits."""
        return self._dispatcher.stats()

    def close(self, drain: bool = True, timeout: float | None = None) -> None:
        """End the pool's session, and its private cluster if it has one. Closing again does nothing.

        Inside a callback it does not wait: the pool ends when the callbacks have returned.

        Args:
            drain: wait until all pending requests have ended and their callbacks have run. False: cancel
                them.
            timeout: longest time to drain, in seconds, after which the rest is cancelled; None: until each
                request has ended, by its own timeout at the latest.
        """
        self._dispatcher.close(drain, timeout)

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # An exception, above all Ctrl-C, does not wait for results that will not be read.
        self.close(drain=error is None)

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<reqpool.Pool {stats.url or 'embedded'} {stats.state}, {stats.pending} pending>"
