"""How much one client may use of the broker: ``[clients]`` of ``reqpool.toml``. No I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClientLimits:
    """Limits of each client; the defaults are those of a broker that no configuration speaks to.

    Attributes:
        max_pending: requests held for one session.
        max_queued_bytes: payload bytes waiting for one session.
        max_connections: connections of one process (Unix sockets) or address (TCP); a client has two.
            None: half of all that clients may have.
        max_messages_per_s: messages of one session in a second, past which what it submits is refused.
        max_refused_subscriptions: of one connection, with which it is closed.
    """

    max_pending: int = 200_000
    max_queued_bytes: int = 256 << 20
    max_connections: int | None = None
    max_messages_per_s: int = 50_000
    max_refused_subscriptions: int = 32
