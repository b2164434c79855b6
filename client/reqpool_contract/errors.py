"""The exception tree, and the frozen numbers that stand for it on the wire.

Codes never change their meaning and are never used again; the text beside them is free.
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
    """No end: the client half of the kind makes a further request of the answer (a redirect, say)."""
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
"""Code to exception; filled below, by each class that has a code."""


class PoolError(Exception):
    """Root of everything reqpool raises.

    Attributes:
        request_id: ``"<session>-<sequence>"`` of the request, or None when there was none yet. It is fit for
            logs: the session's part is derived from its id one way, and is what ``reqpool status`` shows.
        origin: the upstream, e.g. ``"dns://127.0.0.1:53"``; never holds a secret.
        phase: where it happened: ``queue``, ``connect``, ``read``, ``cluster``, or None.
        elapsed_s: seconds from submission to this outcome.
        attempts: how many times the request was handed to a worker, redirects included; 0 if never, or if no
            worker or broker was left to tell.
        sent: could the upstream have acted on it, in this attempt or an earlier one? False: certainly not;
            None: nobody knows whether it left the pool.
        retry_after_s: after ``Overloaded``, how long to wait before trying again.
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
    """What errors say of the request they came from. An answer that may raise one later keeps it.

    Attributes:
        session_label: what stands for the session in ids that are shown.
        seq: the request's number in it.
        origin: the upstream that answered.
        attempts: how many times it was handed to a worker.
        elapsed_s: seconds from submission to the end.
    """

    session_label: str
    seq: int
    origin: str
    attempts: int
    elapsed_s: float

    @property
    def request_id(self) -> str:
        """See :class:`PoolError`."""
        return f"{self.session_label}-{self.seq}"

    def told_by(self, error: SomeError) -> SomeError:
        """Fill in an error that was made of an answer, and so of a request that was sent."""
        error.request_id = self.request_id
        error.origin = error.origin or self.origin
        error.attempts = self.attempts
        error.sent = True
        error.elapsed_s = self.elapsed_s
        return error


RequestFacts.__module__ = "reqpool.errors"


class UsageError(PoolError, ValueError, code=Code.USAGE):
    """The caller broke the contract: a bad name, target, payload or order of calls."""


class ProtocolError(PoolError, code=Code.PROTOCOL):
    """A peer of ours (client, broker or worker) sent an illegal frame."""


class ClusterError(PoolError):
    """The pool itself, not the upstream, could not carry the request through."""


class BrokerUnavailable(ClusterError, code=Code.BROKER_UNAVAILABLE):
    """There is certainly no broker at the URL, or it refuses this client (a version, say).

    One that may yet come is waited for until the request's timeout.
    """


class Overloaded(ClusterError, code=Code.OVERLOADED):
    """A bound was reached, or the upstream could not have answered in time (phase ``queue``): not sent.

    ``retry_after_s`` says how long to wait.
    """


class WorkerLost(ClusterError, code=Code.WORKER_LOST):
    """Workers died under an idempotent request until its attempts were used up."""


class OutcomeUnknown(ClusterError, code=Code.OUTCOME_UNKNOWN):
    """The worker holding a request that must not be repeated is gone: it may or may not have run."""


class Cancelled(ClusterError, concurrent.futures.CancelledError, code=Code.CANCELLED):
    """The caller cancelled the request, or closed the pool without draining it."""


class RequestTimeout(PoolError, TimeoutError, code=Code.TIMEOUT):
    """The request's time was up; ``phase`` says where it was spent."""


class UpstreamError(PoolError, code=Code.UPSTREAM):
    """The upstream failed."""


class ConnectFailed(UpstreamError, code=Code.CONNECT_FAILED):
    """No connection to the upstream came about (refused, unreachable, bad TLS)."""


class ConnectionLost(UpstreamError, code=Code.CONNECTION_LOST):
    """The upstream closed or reset the connection before its answer was complete."""


class BadResponse(UpstreamError, code=Code.BAD_RESPONSE):
    """The upstream's answer was malformed, or larger than allowed."""


class UpstreamRefused(UpstreamError, code=Code.UPSTREAM_REFUSED):
    """The pool's policy for this upstream refuses the request."""


class HttpError(UpstreamError):
    """An HTTP answer's status says that it failed; raised by ``HttpResponse.raise_for_status`` alone.

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
        reply_code: its first word: ``ERR``, ``WRONGTYPE``, ``MOVED``, ``LOADING``, ``READONLY`` …
    """

    def __init__(self, text: str = "", *, reply_code: str = "ERR", **about: Any) -> None:
        super().__init__(text, **about)
        self.reply_code = reply_code


class MysqlError(UpstreamError):
    """MySQL or MariaDB answered with an error.

    Attributes:
        number: the server's, e.g. 1062 (duplicate entry).
        sqlstate: five characters, e.g. ``"23000"``.
    """

    def __init__(self, text: str = "", *, number: int = 0, sqlstate: str = "HY000", **about: Any) -> None:
        super().__init__(text, **about)
        self.number = number
        self.sqlstate = sqlstate

    def __str__(self) -> str:
        return f"{self.number} ({self.sqlstate}): {super().__str__()}"
