"""The exception tree, and its frozen codes on the wire.

The meaning of a code never changes, and no code is reused; the text that travels with it is free.
"""

from __future__ import annotations

import concurrent.futures
from enum import IntEnum
from typing import Any, ClassVar, NamedTuple, TypeVar


class Code(IntEnum):
    """Outcome of a request as it travels in a result (uint8). 0 is success."""

    __module__ = "reqpool.errors"

    OK = 0
    USAGE = 1
    PROTOCOL = 2
    AGAIN = 3
    """Not an end: the client half of the kind makes a further request from the answer (a redirect, say)."""
    BROKER_UNAVAILABLE = 10
    OVERLOADED = 11
    WORKER_LOST = 12
    OUTCOME_UNKNOWN = 13
    CANCELLED = 14
    TIMEOUT = 20
    UPSTREAM = 30
    CONNECT_FAILED = 31
    CONNECTION_LOST = 32
    BAD_RESPONSE = 33
    UPSTREAM_REFUSED = 34


BY_CODE: dict[int, type[PoolError]] = {}
"""Maps codes to exceptions; each class with a code adds itself."""


PIN_GONE = "the connection pinned to this session is lost, with its uncommitted work"
"""What broker and workers report as CONNECTION_LOST for a request whose pinned connection is gone."""


class PoolError(Exception):
    """Base class of all errors that reqpool raises.

    Attributes:
        request_id: ``"<session>-<sequence>"`` of the request, or None if it has none yet. It may be logged:
            its first part is not the session's id but derived from it, and is what ``reqpool status`` shows.
        origin: the upstream, e.g. ``"dns://127.0.0.1:53"``; never contains a secret.
        phase: where the time was spent: ``queue``, ``connect``, ``read``, ``cluster``, or None.
        elapsed_s: seconds from submission to this outcome.
        attempts: times that the request was leased to a worker, redirects included; 0 if it never was, or if
            no worker or broker was left to report it.
        sent: whether the upstream could have acted on the request, in any attempt. False: certainly not;
            None: it is unknown whether the request left the pool.
        retry_after_s: for ``Overloaded``, seconds to wait before trying again.
    """

    code: ClassVar[Code] = Code.PROTOCOL

    __module__ = "reqpool.errors"  # where apps find it, in logs and pickles too

    def __init_subclass__(cls, *, code: Code | None = None) -> None:
        if cls.__module__ == __name__:
            cls.__module__ = "reqpool.errors"
        if code is not None:
            cls.code = code
            BY_CODE[code] = cls

    def __init__(
        self,
        text: str = "",
        *,
        request_id: str | None = None,
        origin: str | None = None,
        phase: str | None = None,
        elapsed_s: float | None = None,
        attempts: int = 0,
        sent: bool | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(text)
        self.text = text
        self.request_id = request_id
        self.origin = origin
        self.phase = phase
        self.elapsed_s = elapsed_s
        self.attempts = attempts
        self.sent = sent
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        facts = []
        if self.origin:
            facts.append(self.origin)
        if self.phase:
            facts.append(f"phase {self.phase}")
        if self.elapsed_s is not None:
            facts.append(f"after {self.elapsed_s:.3f} s")
        if self.attempts > 1:
            facts.append(f"{self.attempts} attempts")
        if self.retry_after_s is not None:
            facts.append(f"retry after {self.retry_after_s:.2f} s")
        if not facts:
            return self.text
        return f"{self.text} ({', '.join(facts)})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception.__reduce__ would call the class with args only and lose the keywords.
        return (type(self), (self.text,), dict(self.__dict__))


SomeError = TypeVar("SomeError", bound=PoolError)


class RequestFacts(NamedTuple):
    """The details of a request that errors carry; kept by answers that may raise an error later.

    Attributes:
        session_label: the session's part of ids that are shown.
        seq: the request's number in the session.
        origin: the upstream that answered.
        attempts: times that the request was leased to a worker.
        elapsed_s: seconds from submission to the end.
    """

    session_label: str
    seq: int
    origin: str
    attempts: int
    elapsed_s: float

    @property
    def request_id(self) -> str:
        """As in :class:`PoolError`."""
        return f"{self.session_label}-{self.seq}"

    def fill_in(self, error: SomeError) -> SomeError:
        """Fill in an error made from an answer, whose request was therefore sent; return the error."""
        error.request_id = self.request_id
        error.origin = error.origin or self.origin
        error.attempts = self.attempts
        error.sent = True
        error.elapsed_s = self.elapsed_s
        return error


RequestFacts.__module__ = "reqpool.errors"


class UsageError(PoolError, ValueError, code=Code.USAGE):
    """The caller made a mistake: a wrong name, target, payload, option or order of calls."""


class ProtocolError(PoolError, code=Code.PROTOCOL):
    """A client, broker or worker sent an illegal message."""


class ClusterError(PoolError):
    """The pool, not the upstream, failed to complete the request."""


class BrokerUnavailable(ClusterError, code=Code.BROKER_UNAVAILABLE):
    """There is certainly no broker at the URL, or it refuses this client (for its version, say).

    If a broker may still start there, requests wait for it until their timeout instead.
    """


class Overloaded(ClusterError, code=Code.OVERLOADED):
    """A limit was reached, or the upstream could not have answered in time (phase ``queue``): not sent.

    ``retry_after_s`` is the time to wait before trying again.
    """


class WorkerLost(ClusterError, code=Code.WORKER_LOST):
    """Each worker that had the idempotent request died, until no attempts were left."""


class OutcomeUnknown(ClusterError, code=Code.OUTCOME_UNKNOWN):
    """The worker was lost while it ran a request that must not be repeated: it may or may not have run."""


class Cancelled(ClusterError, concurrent.futures.CancelledError, code=Code.CANCELLED):
    """The caller cancelled the request, or closed the pool without draining it."""


class RequestTimeout(PoolError, TimeoutError, code=Code.TIMEOUT):
    """The request did not end within its timeout; ``phase`` is where the time was spent."""


class UpstreamError(PoolError, code=Code.UPSTREAM):
    """The upstream failed."""


class ConnectFailed(UpstreamError, code=Code.CONNECT_FAILED):
    """The connection to the upstream could not be made (refused, unreachable, bad TLS)."""


class ConnectionLost(UpstreamError, code=Code.CONNECTION_LOST):
    """The upstream closed or reset the connection before its answer was complete."""


class BadResponse(UpstreamError, code=Code.BAD_RESPONSE):
    """The upstream's answer was malformed, or larger than allowed."""


class UpstreamRefused(UpstreamError, code=Code.UPSTREAM_REFUSED):
    """The pool's policy for this upstream refuses the request."""


class HttpError(UpstreamError):
    """The status of an HTTP answer is an error; raised only by ``HttpResponse.raise_for_status``.

    Attributes:
        status: 400 or more.
        response: the :class:`~reqpool.HttpResponse`.
    """

    def __init__(self, text: str = "", *, status: int = 0, response: Any = None, **about: Any) -> None:
        super().__init__(text, **about)
        self.status = status
        self.response = response


class RedisError(UpstreamError):
    """Redis answered with an error.

    Attributes:
        reply_code: the error's first word: ``ERR``, ``WRONGTYPE``, ``MOVED``, ``LOADING``, ``READONLY``, …
    """

    def __init__(self, text: str = "", *, reply_code: str = "ERR", **about: Any) -> None:
        super().__init__(text, **about)
        self.reply_code = reply_code


class MysqlError(UpstreamError):
    """MySQL or MariaDB answered with an error.

    Attributes:
        number: the server's error number, e.g. 1062 (duplicate entry).
        sqlstate: five characters, e.g. ``"23000"``.
    """

    def __init__(self, text: str = "", *, number: int = 0, sqlstate: str = "HY000", **about: Any) -> None:
        super().__init__(text, **about)
        self.number = number
        self.sqlstate = sqlstate

    def __str__(self) -> str:
        return f"{self.number} ({self.sqlstate}): {super().__str__()}"
