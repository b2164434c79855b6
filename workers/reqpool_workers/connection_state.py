"""The states of a stream connection.

connecting --connected--> handshake --READY--> ready <--sent / all answered--> busy
    |                         |   ^              |  |                             |
    |                         |   +-hold,release-+  |                             |
    +-------------------------+----> closed <-------+-----------------------------+
"""

from __future__ import annotations

from enum import Enum


class ConnectionState(Enum):
    """How far a connection is, and whether something is unanswered on it."""

    CONNECTING = "connecting"
    HANDSHAKE = "handshake"
    READY = "ready"
    BUSY = "busy"
    CLOSED = "closed"


TRANSITIONS: dict[ConnectionState, frozenset[ConnectionState]] = {
    ConnectionState.CONNECTING: frozenset({ConnectionState.HANDSHAKE, ConnectionState.CLOSED}),
    ConnectionState.HANDSHAKE: frozenset({ConnectionState.READY, ConnectionState.CLOSED}),
    ConnectionState.READY: frozenset(
        {ConnectionState.BUSY, ConnectionState.HANDSHAKE, ConnectionState.CLOSED}
    ),
    ConnectionState.BUSY: frozenset({ConnectionState.READY, ConnectionState.CLOSED}),
    ConnectionState.CLOSED: frozenset(),
}
