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
    OutcomeUnknown,
    Overloaded,
    PoolError,
    ProtocolError,
    RequestTimeout,
    UpstreamError,
    UpstreamRefused,
    UsageError,
    WorkerLost,
)

if TYPE_CHECKING:
    from .future import Future
    from .kinds.dns_answer import DnsAnswer
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
    "OutcomeUnknown",
    "Overloaded",
    "Pool",
    "PoolError",
    "ProtocolError",
    "RequestTimeout",
    "Stats",
    "UpstreamError",
    "UpstreamRefused",
    "UsageError",
    "WorkerLost",
]

# Broker and workers import reqpool.wire and reqpool.errors: they need none of these, nor their memory.
_LAZY = {"DnsAnswer": "kinds.dns_answer", "Future": "future", "Pool": "pool", "Stats": "stats"}


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'reqpool' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f".{module}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
