"""reqpool: an asynchronous request pool as a service. This package is the client SDK.

import reqpool

with reqpool.Pool() as pool:
    future = pool.dns("example.com")
    print(future.result().records)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import (
    BadResponse,
    BrokerUnavailable,
    Cancelled,
    ClusterError,
    ConnectFailed,
    ConnectionLost,
    HttpError,
    MysqlError,
    OutcomeUnknown,
    Overloaded,
    PoolError,
    ProtocolError,
    RedisError,
    RequestTimeout,
    UpstreamError,
    UpstreamRefused,
    UsageError,
    WorkerLost,
)

if TYPE_CHECKING:
    from .future import Future
    from .held import MysqlSession, RedisSession
    from .kinds.dns_answer import DnsAnswer
    from .kinds.http_response import HttpResponse
    from .kinds.mysql_result import MysqlResult
    from .kinds.origin import Tls
    from .pool import Pool
    from .stats import Stats

__all__ = [
    "BadResponse",
    "BrokerUnavailable",
    "Cancelled",
    "ClusterError",
    "ConnectFailed",
    "ConnectionLost",
    "DnsAnswer",
    "Future",
    "HttpError",
    "HttpResponse",
    "MysqlError",
    "MysqlResult",
    "MysqlSession",
    "OutcomeUnknown",
    "Overloaded",
    "Pool",
    "PoolError",
    "ProtocolError",
    "RedisError",
    "RedisSession",
    "RequestTimeout",
    "Stats",
    "Tls",
    "UpstreamError",
    "UpstreamRefused",
    "UsageError",
    "WorkerLost",
]

# Broker and workers import reqpool.wire and reqpool.errors: they need none of these, nor their memory.
_LAZY = {
    "DnsAnswer": "kinds.dns_answer",
    "Future": "future",
    "HttpResponse": "kinds.http_response",
    "MysqlResult": "kinds.mysql_result",
    "MysqlSession": "held",
    "Pool": "pool",
    "RedisSession": "held",
    "Stats": "stats",
    "Tls": "kinds.origin",
}


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'reqpool' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f".{module}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
