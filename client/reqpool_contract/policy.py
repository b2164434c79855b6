"""What the pool may do to one upstream: limits, timeouts, retries; and the form in which GRANT carries it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from . import checks


@dataclass(frozen=True)
class Policy:
    """One upstream's limits; the defaults apply to an upstream that the configuration does not mention.

    The broker enforces the first three; workers learn the others from GRANT (docs/protocol.md#policy).

    Attributes:
        max_connections: connections of the whole pool to it; None: its kind's limit. Does not apply to a kind
            without connections (dns, udp).
        max_in_flight: requests of the whole pool in progress there, for a kind without connections; None: its
            kind's limit.
        queue_timeout_s: longest wait for a connection; None: until the request's own timeout.
        connect_timeout_s: longest wait until a connection is ready, with TLS and log-in; a request's own
            deadline may be sooner.
        read_timeout_s: longest wait for an answer, from the request, or from the answer before it; None:
            until the request's own timeout.
        idle_timeout_s: an unused connection is closed after this.
        lifetime_s: a connection older than this takes no more requests: servers move, and addresses with
            them.
        max_response_bytes: a longer answer is a BadResponse; None: its kind's limit.
        retries: how often a request that may be repeated is run again after a lost connection or worker;
            0: also, a request that was sent is not sent again even where a stale connection is the likely
            cause, and a server that refuses connections is not waited for.
        pin_idle_timeout_s: a pinned connection that is not used for this long is taken back.
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

    def to_wire(self) -> dict[str, int]:
        """Return the fields of GRANT that describe the workers' part of this."""
        fields = {wire: round(getattr(self, name) * 1000) for wire, name in _SPANS.items()}
        fields["retries"] = self.retries
        if self.max_response_bytes is not None:
            fields["max_bytes"] = self.max_response_bytes
        if self.read_timeout_s is not None:
            fields["read_ms"] = round(self.read_timeout_s * 1000)
        return fields

    @classmethod
    def of_wire(cls, fields: Mapping[str, Any]) -> Self:
        """Read the fields of a GRANT. Absent ones have their defaults, unknown ones are ignored.

        Raises:
            ProtocolError: if one is not an unsigned integer.
        """
        found: dict[str, Any] = {}
        for wire, name in (*_SPANS.items(), ("read_ms", "read_timeout_s")):
            if wire in fields:
                found[name] = checks.uint(fields[wire]) / 1000
        for wire, name in ("max_bytes", "max_response_bytes"), ("retries", "retries"):
            if wire in fields:
                found[name] = checks.uint(fields[wire])
        return cls(**found)


_SPANS = {
    "connect_ms": "connect_timeout_s",
    "idle_ms": "idle_timeout_s",
    "lifetime_ms": "lifetime_s",
    "pin_idle_ms": "pin_idle_timeout_s",
}
"""Fields of GRANT that are always sent, in milliseconds."""
