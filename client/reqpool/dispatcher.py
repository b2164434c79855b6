"""A pool's session in this process: started with the first request, and again in a forked child."""

from __future__ import annotations

import concurrent.futures
import math
import time
import weakref
from typing import Any

from reqpool_contract import descriptors, wire
from reqpool_contract.errors import UsageError

from . import host
from .embedded import Embedded
from .future import Future
from .kinds.route import Route, with_idempotence
from .options import Callback
from .stats import Stats
from .stub import Stub

MAX_TIMEOUT_S = wire.MAX_SPAN_MS / 1000
CLOSE_SECONDS = 5.0
"""Longest wait for running callbacks when a pool is closed without draining."""


class Dispatcher:
    """Submits the requests of a pool and of its sessions to the stub of this process.

    When it is garbage-collected, the stub ends as soon as its last request has. All methods may be called
    from any thread.

    Attributes:
        closed: whether the pool takes no more requests.
    """

    def __init__(
        self,
        url: str | None,
        timeout_s: float,
        max_pending: int,
        executor: concurrent.futures.Executor | None,
        workers: int,
        config: str | None,
    ) -> None:
        """Keep what the stub will need; the arguments have been checked.

        Args:
            url: the broker's; None: start a private cluster.
            timeout_s: for requests without a timeout.
            max_pending: requests that may be pending at a time.
            executor: runs the callbacks; None: the stub's own threads.
            workers: number of a private cluster's workers.
            config: path of a private cluster's ``reqpool.toml``.
        """
        self.closed = False
        self._url = url
        self._timeout_s = timeout_s
        self._max_pending = max_pending
        self._executor = executor
        self._workers = workers
        self._config = config
        self._embedded: Embedded | None = None
        self._stub: Stub | None = None
        self._finalizer: weakref.finalize[Any, Dispatcher] | None = None

    def ask(
        self,
        route: Route,
        payload: bytes,
        note: Any,
        timeout: float | None = None,
        callback: Callback[Any] | None = None,
        priority: int = 1,
        idempotent: bool | None = None,
        block: bool = False,
        **unknown: Any,
    ) -> Future[Any]:
        """Submit a request as its kind encoded it, with the options of :class:`.Options`.

        Raises:
            TypeError: there is an unknown option.
            UsageError: an option or the payload is wrong, or the pool is closed.
            Overloaded: the pool is full, or the process is short of file descriptors.
        """
        if unknown:
            raise TypeError(
                f"unknown option {next(iter(unknown))!r}; all methods take timeout, callback, priority, "
                "idempotent and block"
            )
        if timeout is None:
            timeout_s = self._timeout_s
        elif type(timeout) is float and 0 < timeout <= MAX_TIMEOUT_S:
            timeout_s = timeout
        else:
            timeout_s = checked_timeout(timeout)
        # A wrong value would make the whole message illegal, and with it the other requests in it.
        if type(payload) is not bytes:
            raise UsageError(f"kind {route.kind.name!r} encoded the request as {type(payload).__name__}")
        if len(payload) > wire.MAX_PAYLOAD_BYTES:
            raise UsageError(
                f"the request has {len(payload)} bytes; at most {wire.MAX_PAYLOAD_BYTES} are allowed",
                origin=route.origins[0],
            )
        if type(priority) is not int or not 0 <= priority <= wire.LOWEST_PRIORITY:
            raise UsageError(f"priority={priority!r}: must be 0 (first), 1 or 2 (last)")
        if callback is not None and not callable(callback):
            raise UsageError(f"callback={callback!r}: is not callable")
        if idempotent is not None:
            route = with_idempotence(route, idempotent)
        while True:
            stub = self._stub
            if stub is None or stub.abandoned:
                stub = self._open()
            future = stub.submit(route, payload, note, timeout_s, callback, priority, block)
            if future is not None:
                return future
            if not stub.abandoned:
                self.closed = True
                raise UsageError("the pool is closed")

    def take_pin(self) -> tuple[Stub, int]:
        """Return this process's stub and the number of a new pin.

        Raises:
            UsageError: the pool is closed.
        """
        stub = self._stub
        if stub is None or stub.abandoned:
            stub = self._open()
        return stub, stub.new_pin()

    def has_stub(self, stub: Stub | None) -> bool:
        """Return whether this is still the process's stub: not after a fork, nor once it has ended."""
        return stub is not None and stub is self._stub and not stub.abandoned

    def check_wait(self) -> None:
        """Check that the caller may wait for a future.

        Raises:
            UsageError: it runs inside a callback, which would wait for itself.
        """
        if self._stub is not None:
            self._stub.check_wait()

    def stats(self) -> Stats:
        """Return the stub's counts."""
        stub = self._stub
        if stub is None or stub.abandoned:
            return Stats(self._url or "", "closed" if self.closed else "unused")
        return stub.stats()

    def close(self, drain: bool, timeout: float | None) -> None:
        """End the stub and a private cluster; see :meth:`.Pool.close`."""
        with host.start_lock():
            self.closed = True
            stub = self._stub
        if stub is None or stub.abandoned:
            if self._embedded is not None:
                self._embedded.stop()
            return
        now_s = time.monotonic()
        if not drain:
            stub.begin_close(-math.inf)
            stub.join(CLOSE_SECONDS)
        else:
            stub.begin_close(math.inf if timeout is None else now_s + timeout)
            stub.join(None if timeout is None else timeout + CLOSE_SECONDS)

    def _open(self) -> Stub:
        """Start this process's stub."""
        with host.start_lock(), descriptors.as_overloaded():
            if self.closed:
                raise UsageError("the pool is closed")
            stub = self._stub
            if stub is not None and not stub.abandoned:
                return stub
            if self._url is None and self._embedded is None:
                self._embedded = Embedded(self._workers, self._config)
            url = self._embedded.url if self._embedded is not None else self._url
            if url is None:
                raise UsageError("no URL")
            stub = Stub(url, embedded=self._embedded, max_pending=self._max_pending, executor=self._executor)
            stub.start()
            if self._finalizer is not None:
                self._finalizer.detach()
            self._finalizer = weakref.finalize(self, stub.begin_close, math.inf)
            self._finalizer.atexit = False
            self._stub = stub
            return stub


def checked_timeout(timeout: float) -> float:
    """Return a timeout as a float.

    Raises:
        UsageError: it is not a number of seconds, or not in the range.
    """
    try:
        # float() would parse text and take True for one second.
        timeout_s = math.nan if isinstance(timeout, (bool, str, bytes)) else float(timeout)
    except (TypeError, ValueError):
        timeout_s = math.nan
    if not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise UsageError(f"timeout={timeout!r}: must be seconds, more than 0 and at most 24 h")
    return timeout_s
