"""The exception tree, and the frozen numbers that stand for it on the wire.

The contract lives here, in the client's package: broker and workers import it. Codes never change
their meaning and are never used again; the text beside them is free.
"""

from __future__ import annotations

import concurrent.futures
from enum import IntEnum
from typing import Any


class Code(IntEnum):
    """Outcome of a request as it travels in a result (uint8). 0 is success."""

    OK = 0
    USAGE = 1
    PROTOCOL = 2
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


class PoolError(Exception):
    """Root of everything reqpool raises.

    Attributes:
        request_id: ``"<session hex>-<sequence>"`` of the request, or None when there was none yet.
        origin: the upstream, e.g. ``"dns://127.0.0.1:53"``; never holds a secret.
        phase: where it happened: ``queue``, ``connect``, ``read``, ``cluster``, or None.
        elapsed_s: seconds from submission to this outcome.
        attempts: how many times the request was handed to a worker; 0 if never.
        sent: could the upstream have acted on it? None when nobody knows.
        retry_after_s: after ``Overloaded``, how long to wait before trying again.
    """

    code: Code = Code.PROTOCOL

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


class UsageError(PoolError, ValueError):
    """The caller broke the contract: a bad name, target, payload or order of calls."""

    code = Code.USAGE


class ProtocolError(PoolError):
    """A peer of ours (client, broker or worker) sent an illegal frame."""

    code = Code.PROTOCOL


class ClusterError(PoolError):
    """The pool itself, not the upstream, could not carry the request through."""


class BrokerUnavailable(ClusterError):
    """No broker answers at the URL, or it refuses this client (a version, say)."""

    code = Code.BROKER_UNAVAILABLE


class Overloaded(ClusterError):
    """A bound was reached; nothing was queued. ``retry_after_s`` says how long to wait."""

    code = Code.OVERLOADED


class WorkerLost(ClusterError):
    """Workers died under an idempotent request until its attempts were used up."""

    code = Code.WORKER_LOST


class OutcomeUnknown(ClusterError):
    """The worker holding a request that must not be repeated is gone: it may or may not have run."""

    code = Code.OUTCOME_UNKNOWN


class Cancelled(ClusterError, concurrent.futures.CancelledError):
    """The caller cancelled the request, or closed the pool without draining it."""

    code = Code.CANCELLED


class RequestTimeout(PoolError, TimeoutError):
    """The request's time was up; ``phase`` says where it was spent."""

    code = Code.TIMEOUT


class UpstreamError(PoolError):
    """The upstream failed."""

    code = Code.UPSTREAM


class ConnectFailed(UpstreamError):
    """No connection to the upstream came about (refused, unreachable, bad TLS)."""

    code = Code.CONNECT_FAILED


class ConnectionLost(UpstreamError):
    """The upstream closed or reset the connection before its answer was complete."""

    code = Code.CONNECTION_LOST


class BadResponse(UpstreamError):
    """The upstream's answer was malformed, or larger than allowed."""

    code = Code.BAD_RESPONSE


class UpstreamRefused(UpstreamError):
    """The pool's policy for this upstream refuses the request."""

    code = Code.UPSTREAM_REFUSED


BY_CODE: dict[int, type[PoolError]] = {
    cls.code: cls
    for cls in (
        UsageError,
        ProtocolError,
        BrokerUnavailable,
        Overloaded,
        WorkerLost,
        OutcomeUnknown,
        Cancelled,
        RequestTimeout,
        UpstreamError,
        ConnectFailed,
        ConnectionLost,
        BadResponse,
        UpstreamRefused,
    )
}
