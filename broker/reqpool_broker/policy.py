"""What the pool may do to one upstream: limits, timeouts, retries. No I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    """One upstream's limits; the defaults are those of an upstream that no configuration speaks of.

    Attributes:
        max_connections: connections of the whole pool to it; None: its kind's limit. Of no account to a kind
            without connections (dns, udp).
        max_in_flight: requests of the whole pool under way there, for a kind without connections; None: its
            kind's limit.
        queue_timeout_s: longest wait for a connection; None: until the request's own timeout.
        connect_timeout_s: longest wait until a connection is made, TLS and log-in included.
        read_timeout_s: longest wait for an answer once the request is sent; None: until its own timeout.
        idle_timeout_s: an unused connection is closed after this.
        lifetime_s: a connection older than this is closed as soon as nothing runs on it.
        max_response_bytes: a longer answer is a BadResponse; None: its kind's limit.
        retries: how often a request that may be repeated is run again after a lost connection or worker;
            0: also, a server that refuses connections is not waited for.
        pin_idle_timeout_s: a pinned connection that is asked nothing is taken back after this.
    """

    max_connections: int | None = None
    max_in_flight: int | None = None
    queue_timeout_s: float | None = None
    connect_timeout_s: float = 5.0
    read_timeout_s: float | None = None
    idle_timeout_s: float = 30.0
    lifetime_s: float = 600.0
    max_response_bytes: int | None = None
    retries: int = 2
    pin_idle_timeout_s: float = 60.0
