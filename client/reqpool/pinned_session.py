"""Sessions: an upstream connection reserved for one caller's sequence of requests (a *pin*)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures._base import PENDING
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from reqpool_contract.errors import Code, ConnectionLost, UsageError

from .entry import UNDECODED
from .future import Future
from .kinds.route import Route
from .options import Callback

if TYPE_CHECKING:
    from .dispatcher import Dispatcher
    from .kinds.mysql_result import MysqlResult
    from .stub import Stub


_MAY_HAVE_RUN = frozenset((Code.OUTCOME_UNKNOWN, Code.TIMEOUT, Code.CANCELLED))
"""After these the broker may still have the connection, in an unknown state."""


class HasDispatcher(Protocol):
    """The pool, as far as sessions know it."""

    @property
    def _dispatcher(self) -> Dispatcher: ...


class PinnedSession:
    """An upstream connection reserved for this caller until :meth:`close`, which undoes what is left on it.

    The connection is reserved by the first request. It is lost with its worker, with the client's process,
    or after ``pin_idle_timeout_s`` of the upstream without a request. From then on requests end with
    ConnectionLost, and so do those that follow one that timed out, was cancelled, or ended as OutcomeUnknown.
    Submit one request at a time: submitting one before the last has ended is a UsageError. Use it in a
    ``with`` block. Any thread may call the methods, but only one at a time.
    """

    def __init__(
        self,
        pool: HasDispatcher,
        route: Callable[[int, bool], Route],
        encode: Callable[..., tuple[bytes, Any]] = lambda payload: (payload, None),
    ) -> None:
        """Make a session; apps call the pool's ``..._session`` methods.

        Args:
            pool: a :class:`reqpool.Pool`, which carries the requests.
            route: makes the route for the pin of this number; the second argument is whether the route is for
                the first request of the pin.
            encode: makes payload and note from the arguments that a subclass's own methods take.

        Raises:
            UsageError: the route cannot be made.
        """
        route(0, True)  # so that a wrong URL is reported here, not at the first request
        self._dispatcher = pool._dispatcher
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
        callback: Callback[Any] | None = None,
    ) -> Future[Any]:
        """Submit a request for the pinned connection.

        Args:
            payload: as the kind encodes it.
            note: as the kind makes it.
            timeout: seconds; None: the pool's timeout.
            callback: called with the finished future.

        Raises:
            UsageError: the session is closed, or its last request has not ended yet.
            ConnectionLost: its last request may or may not have run.
            PoolError: the error of its last request, if that result was never read.
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
            if self._last is not None and self._last._code and self._last._value is UNDECODED:
                self._last.result()
            if self._further is None:
                stub, pin = self._dispatcher.take_pin()
                further = self._route(pin, False)
                last = self._dispatcher.ask(self._route(pin, True), payload, note, timeout, callback)
                # Not before: a request that was refused here opened nothing, so the next one is the first.
                self._stub, self._pin, self._further = stub, pin, further
            else:
                if not self._dispatcher.has_stub(self._stub):
                    raise UsageError("this session belongs to another process, or to a pool that was closed")
                last = self._dispatcher.ask(self._further, payload, note, timeout, callback)
            self._last = last
            return last

    def close(self) -> None:
        """Release the connection, and cancel a request that still runs. Closing again does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            last, stub = self._last, self._stub
        if last is not None and stub is not None and self._dispatcher.has_stub(stub):
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
    """A separate Redis connection, for WATCH, MULTI and EXEC step by step."""

    def command(
        self,
        *command: str | bytes | int | float,
        timeout: float | None = None,
        callback: Callback[Any] | None = None,
    ) -> Future[Any]:
        """Submit one command.

        Args:
            command: its words, as for :meth:`reqpool.Pool.redis`.
            timeout: seconds; None: the pool's timeout.
            callback: called with the finished future.

        Raises:
            UsageError: the command is wrong, or as for :meth:`submit`.
            PoolError: as for :meth:`submit`.
        """
        payload, note = self._encode(command)
        return self.submit(payload, note, timeout=timeout, callback=callback)


class MysqlSession(PinnedSession):
    """A separate MySQL connection with autocommit off: one transaction after the other.

    If the result of a statement was never read, its error is raised by the next statement, or at the end of
    the ``with`` block. The end of the block waits for a statement that still runs and commits if nothing was
    raised; otherwise, or if the session is closed or lost without a commit, the server rolls back. The
    connection is reset before it is used again.
    """

    def query(
        self,
        sql: str,
        params: Any = None,
        *,
        timeout: float | None = None,
        callback: Callback[MysqlResult] | None = None,
    ) -> Future[MysqlResult]:
        """Submit one statement.

        Args:
            sql: the statement, as for :meth:`reqpool.Pool.mysql`.
            params: its parameters, likewise.
            timeout: seconds; None: the pool's timeout.
            callback: called with the finished future.

        Raises:
            UsageError: the statement or a parameter is wrong, or as for :meth:`submit`.
            PoolError: as for :meth:`submit`.
        """
        payload, note = self._encode(sql, params)
        return self.submit(payload, note, timeout=timeout, callback=callback)

    def commit(self, *, timeout: float | None = None) -> Future[MysqlResult]:
        """Submit COMMIT, which ends this transaction and begins the next."""
        return self.query("COMMIT", timeout=timeout)

    def rollback(self, *, timeout: float | None = None) -> Future[MysqlResult]:
        """Submit ROLLBACK, which undoes everything since the last commit and begins the next transaction."""
        return self.query("ROLLBACK", timeout=timeout)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None and self._last is not None and not self._closed:
                if self._last._value is UNDECODED:
                    self._last.result()  # never read: if it failed, nothing must be committed
                self.commit().result()
        finally:
            self.close()
