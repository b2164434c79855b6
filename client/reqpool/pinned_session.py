"""Held connections: one connection of an upstream kept for one caller's sequence of requests (a *pin*)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures._base import PENDING
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from reqpool_contract.errors import Code, ConnectionLost, UsageError

from .future import _UNDECODED, Future
from .kinds import Route

if TYPE_CHECKING:
    from .requests import Requests
    from .stub import Stub


_MAY_HAVE_RUN = frozenset((Code.OUTCOME_UNKNOWN, Code.TIMEOUT, Code.CANCELLED))
"""After these the broker may still have the connection, and what it holds is anybody's guess."""


class PinnedSession:
    """A connection that is this caller's alone until :meth:`close`; what is left on it is then undone.

    It is taken with the first request and lost with its worker, with the client's process, or when nothing
    has been asked for the upstream's ``pin_idle_timeout_s``: whatever comes then ends with ConnectionLost. So
    does what comes after a request that timed out, was cancelled, or ended as OutcomeUnknown. Requests go one
    after the other: one that is submitted before the last has ended is a UsageError. Use it in a ``with``
    block. Methods may be called from any thread, by one at a time.
    """

    def __init__(
        self,
        pool: Requests,
        route: Callable[[int, bool], Route],
        encode: Callable[..., tuple[bytes, Any]] = lambda payload: (payload, None),
    ) -> None:
        """Made by the pool's ``..._session`` methods.

        Args:
            pool: whose requests these are.
            route: makes the route for a pin, of its first request or of the others.
            encode: makes payload and note of what the methods of a kind's own session take.

        Raises:
            UsageError: there is no such route.
        """
        route(0, True)  # what is wrong with a URL is said here, not at the first request
        self._pool = pool
        self._route = route
        self._encode = encode
        self._stub: Stub | None = None
        self._pin = 0
        self._further: Route | None = None
        self._last: Future[Any] | None = None
        self._closed = False
        self._lock = threading.Lock()

    def submit(
        self,
        payload: bytes,
        note: Any = None,
        *,
        timeout: float | None = None,
        callback: Callable[[Future[Any]], object] | None = None,
    ) -> Future[Any]:
        """Submit a request for the held connection.

        Args:
            payload: as the kind encodes it.
            note: likewise.
            timeout: seconds; None: the pool's.
            callback: called with the ended future.

        Raises:
            UsageError: the session is closed, or its last request has not ended yet.
            ConnectionLost: its last request may or may not have run.
            PoolError: the error of its last request, if nobody has looked at that one.
        """
        with self._lock:
            if self._closed:
                raise UsageError("this session is closed: its connection was released")
            if self._last is not None and self._last._state is PENDING:
                raise UsageError(
                    "the last request of this session has not finished yet: send one request at a time"
                )
            if self._last is not None and self._last._code in _MAY_HAVE_RUN:
                raise ConnectionLost(
                    "the last request of this session may or may not have run: close the session, which "
                    "undoes uncommitted work",
                    origin=self._last.route.origins[0],
                    sent=False,
                )
            if self._last is not None and self._last._code and self._last._value is _UNDECODED:
                self._last.result()
            if self._further is None:
                stub, pin = self._pool.take_pin()
                further = self._route(pin, False)
                last = self._pool.ask(self._route(pin, True), payload, note, timeout, callback, 1, False)
                # Not before: one that was refused here has opened nothing, and the next is the first.
                self._stub, self._pin, self._further = stub, pin, further
            else:
                if not self._pool.has_session(self._stub):
                    raise UsageError("this session belongs to another process, or to a pool that was closed")
                last = self._pool.ask(self._further, payload, note, timeout, callback, 1, False)
            self._last = last
            return last

    def close(self) -> None:
        """Let the connection go; doing it again does nothing. A request that still runs is cancelled."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            last, stub = self._last, self._stub
        if last is not None and stub is not None and self._pool.has_session(stub):
            last.cancel()
            stub.unpin(self._pin)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class RedisSession(PinnedSession):
    """A Redis connection of one's own: for WATCH, MULTI and EXEC step by step."""

    def command(
        self,
        *command: str | bytes | int | float,
        timeout: float | None = None,
        callback: Callable[[Future[Any]], object] | None = None,
    ) -> Future[Any]:
        """Submit one command; see :meth:`reqpool.Pool.redis`."""
        payload, note = self._encode(command)
        return self.submit(payload, note, timeout=timeout, callback=callback)


class MysqlSession(PinnedSession):
    """A MySQL connection of one's own, autocommit off: a transaction, then the next.

    The error of a statement that nobody has looked at is raised by the next one, or on leaving the ``with``
    block. That waits for what still runs, and commits if nothing was raised; else, or if the session is
    closed or lost without a commit, the server rolls back. The connection is reset before anybody else gets
    it.
    """

    def query(
        self,
        sql: str,
        params: Any = None,
        *,
        timeout: float | None = None,
        callback: Callable[[Future[Any]], object] | None = None,
    ) -> Future[Any]:
        """Submit one statement; see :meth:`reqpool.Pool.mysql`."""
        payload, note = self._encode(sql, params)
        return self.submit(payload, note, timeout=timeout, callback=callback)

    def commit(self, *, timeout: float | None = None) -> Future[Any]:
        """Submit COMMIT: what was done so far stays, and the next transaction begins."""
        return self.query("COMMIT", timeout=timeout)

    def rollback(self, *, timeout: float | None = None) -> Future[Any]:
        """Submit ROLLBACK: what was done since the last commit is undone, and the next transaction begins."""
        return self.query("ROLLBACK", timeout=timeout)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None and self._last is not None and not self._closed:
                if self._last._value is _UNDECODED:
                    self._last.result()  # nobody has looked at it: nothing is committed without it
                self.commit().result()
        finally:
            self.close()
