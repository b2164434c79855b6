"""reqpool: an asynchronous request pool as a service. This package is the client SDK.

import reqpool

with reqpool.Pool() as pool:
    future = pool.dns("example.com")
    print(future.result().records)
"""

from __future__ import annotations

from reqpool_contract.errors import (
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
from reqpool_contract.payloads.dns_answer import DnsAnswer
from reqpool_contract.tls_settings import Tls

from .future import Future
from .kinds.http_response import HttpResponse
from .kinds.mysql_result import MysqlResult
from .options import Options
from .pinned_session import MysqlSession, RedisSession
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
    "Options",
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
