"""The pool: what an application holds."""

from __future__ import annotations

import concurrent.futures
import math
import os
import time
import weakref
from collections.abc import Callable, Generator, Iterable
from types import TracebackType
from typing import Any, TypeVar

from reqpool_contract import broker_url, descriptors, masking, wire
from reqpool_contract.errors import Code, UsageError

from . import host
from .callback_runner import Handoff
from .embedded import Embedded
from .future import Future
from .kinds import Route
from .requests import Callback, Requests
from .stats import Stats
from .stub import Stub

Item = TypeVar("Item")
T = TypeVar("T")
MAX_TIMEOUT_S = wire.MAX_SPAN_MS / 1000
CLOSE_SECONDS = 5.0
"""How long closing without draining waits for callbacks that run."""


class Pool(Requests):
    """A door to a pool of workers: hand in a request, get called back.

    Opens no socket and starts no thread before its first request, so it can be made at import, before
    a server forks; each process then has a session of its own. All methods may be called from any
    thread. Use it in a ``with`` block or call :meth:`close`; a pool that is merely dropped ends by
    itself when its last request has ended, and at interpreter exit what is pending is cancelled: a
    warning says how many requests that were.

    Options of every request:

    * ``timeout``: seconds until it ends with RequestTimeout, over 0, at most 24 h; None: the pool's.
    * ``callback``: called with the ended future on the pool's I/O thread, or in its executor.
    * ``priority``: 0 first, 1 default, 2 last; strict for each upstream.
    * ``idempotent``: may it be sent more than once? None: what the kind says; udp and tcp say no.
    * ``block``: if ``max_pending`` requests are pending, wait for room for at most ``timeout``,
      instead of raising Overloaded.

    Every submitting method raises UsageError if the request is wrong or the pool is closed, and
    Overloaded if the pool is full or the process is out of file descriptors.
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
            url: the broker's, ``tcp://host:port`` or ``ipc:///path``. None: ``$REQPOOL_URL``, and
                without that a private broker and workers of this process, ended with it.
            timeout: seconds, for requests that give none.
            max_pending: requests that may be pending at a time in this process, from 1.
            executor: runs the callbacks; None: one thread of the pool's own.
            workers: worker processes of a private cluster, from 1; None: by the number of CPUs.
            config: path of a private cluster's ``reqpool.toml``, with upstreams by name; a shared one has
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
        self._url = url
        self._timeout_s = _checked_timeout(timeout)
        self._max_pending = max_pending
        self._executor = executor
        self._workers = workers or 0
        self._config = None if config is None else os.path.abspath(config)
        self._embedded: Embedded | None = None
        self._stub: Stub | None = None
        self._finalizer: weakref.finalize[Any, Pool] | None = None
        self._closed = False

    # --- requests -------------------------------------------------------------------------------

    def map(
        self,
        method: Callable[..., Future[T]],
        items: Iterable[Item],
        *,
        window: int = 256,
        **options: Any,
    ) -> Generator[tuple[Item, Future[T]], None, None]:
        """Submit one request per item and yield them as they end; a window is kept in flight.

        ``for name, future in pool.map(pool.dns, names, server="192.0.2.1"): …``

        Args:
            method: e.g. ``pool.dns``; called with the item and ``options``.
            items: read as the window has room, on the thread that iterates.
            window: requests in flight at a time, from 1; fewer while some are refused (Overloaded).
            **options: for ``method``, but no ``callback`` and no ``block``.

        Yields:
            Each item and its ended future, in the order in which they end. An item that ``method``
            refuses with UsageError comes with a future that raises it. Leaving the loop early
            cancels what is in flight.

        Raises:
            UsageError: a bad window, or iterated inside a callback of this pool.
        """
        if type(window) is not int or window < 1:
            raise UsageError(f"window={window!r}: must be a number from 1")
        ended = Handoff()
        asked: dict[Future[T], tuple[Item, int]] = {}
        # As TCP does for what it sends: half as many in flight after a refusal, one more each time that as
        # many were answered. Else an upstream that is too slow would have all items refused in no time.
        most, count, cut = float(window), 0, 0
        source = iter(items)
        exhausted = False
        try:
            while True:
                while not exhausted and len(asked) < int(most):
                    try:
                        item = next(source)
                    except StopIteration:
                        exhausted = True
                        break
                    try:
                        count += 1
                        asked[method(item, callback=ended, block=True, **options)] = (item, count)
                    except UsageError as error:
                        if self._closed:
                            raise
                        yield item, Future.refused(error)
                if not asked:
                    return
                if ended.empty() and self._stub is not None:
                    self._stub.check_wait()
                future = ended.get()
                item, number = asked.pop(future)
                if future._code != Code.OVERLOADED:
                    most = min(window, most + 1 / most)
                elif number > cut:
                    most, cut = max(1.0, most / 2), count
                yield item, future
        finally:
            for future in asked:
                future.cancel()

    # --- the pool itself ------------------------------------------------------------------------

    def stats(self) -> Stats:
        """Return the counts of this process's session; cheap, and never waits."""
        stub = self._stub
        if stub is None or stub.abandoned:
            return Stats(self._url or "", "closed" if self._closed else "unused")
        return stub.stats()

    def close(self, drain: bool = True, timeout: float | None = None) -> None:
        """End the pool's session, and a private cluster. Doing it again does nothing.

        Inside a callback it does not wait: the pool ends when the callbacks have.

        Args:
            drain: wait until everything pending has ended and its callbacks have run; else it is
                cancelled.
            timeout: seconds to drain at most, then the rest is cancelled; None: every request has a
                timeout of its own.
        """
        with host.start_lock():
            self._closed = True
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

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # An exception on its way out, Ctrl-C above all, does not wait for what nobody will look at.
        self.close(drain=error is None)

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<reqpool.Pool {stats.url or 'embedded'} {stats.state}, {stats.pending} pending>"

    # --- inner ----------------------------------------------------------------------------------

    def take_pin(self) -> tuple[Stub, int]:
        """Return this process's session and a new number for a :class:`.PinnedSession`."""
        stub = self._stub
        if stub is None or stub.abandoned:
            stub = self._open()
        return stub, stub.new_pin()

    def has_session(self, stub: Stub | None) -> bool:
        """Is this still the process's session? For :class:`~.pinned_session.PinnedSession`."""
        return stub is not None and stub is self._stub and not stub.abandoned

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
        """See :class:`~.requests.Requests`."""
        timeout_s = self._timeout_s if timeout is None else _checked_timeout(timeout)
        # What is wrong here would make the whole message illegal, and all requests in it.
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
        while True:
            stub = self._stub
            if stub is None or stub.abandoned:
                stub = self._open()
            future = stub.submit(route, payload, note, timeout_s, callback, priority, block)
            if future is not None:
                return future
            if not stub.abandoned:
                self._closed = True
                raise UsageError("the pool is closed")

    def _open(self) -> Stub:
        """Start this process's session."""
        with host.start_lock(), descriptors.told():
            if self._closed:
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


def _checked_timeout(timeout: float) -> float:
    try:
        # float() reads text, and takes True for a second.
        timeout_s = math.nan if isinstance(timeout, (bool, str, bytes)) else float(timeout)
    except (TypeError, ValueError):
        timeout_s = math.nan
    if not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise UsageError(f"timeout={timeout!r}: must be seconds, more than 0 and at most 24 h")
    return timeout_s
