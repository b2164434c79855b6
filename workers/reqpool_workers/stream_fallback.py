"""Answers that were cut short, asked for again over a connection for each."""

from __future__ import annotations

from reqpool_contract.errors import Code, PoolError, UsageError

from .connection import Connection
from .connection_owner import Finished
from .event_loop import EventLoop
from .lease import Request
from .outcome_sink import OutcomeSink
from .protocols.addresses import Address
from .protocols.worker_kinds import DatagramKind

STREAM_CONNECT_S = 5.0


class StreamFallback:
    """Connections of one datagram origin; the :class:`.ConnectionOwner` of each.

    Args:
        loop: that of this thread.
        outcomes: where requests end.
        kind: how to talk to the origin.
        name: the origin.
        address: its address.
    """

    def __init__(
        self, loop: EventLoop, outcomes: OutcomeSink, kind: DatagramKind, name: str, address: Address
    ) -> None:
        self.connections: set[Connection] = set()
        self._loop = loop
        self._outcomes = outcomes
        self._kind = kind
        self._name = name
        self._address = address

    def ask(self, request: Request) -> None:
        """Ask again over a new connection."""
        if self._kind.stream is None:
            raise RuntimeError(f"kind {self._kind.name} has no stream")
        connection = Connection(self._loop, self, self._kind.stream(self._name), request)
        self.connections.add(connection)
        request.place = connection
        connection.bound(STREAM_CONNECT_S)
        connection.open([self._address])

    def close(self, reason: str) -> None:
        """Close all connections."""
        for connection in list(self.connections):
            connection.close(reason)

    # --- as their owner ----------------------------------------------------------------------------

    def on_room(self, connection: Connection) -> None:
        """Do nothing: a connection serves one request."""

    def on_opening(self, connection: Connection, request: Request) -> None:
        """Do nothing: these requests pin no connection."""

    def on_tried(self, address: Address, good: bool) -> None:
        """Do nothing: there is only one address."""

    def on_answers(self, answers: list[Finished]) -> None:
        """Report answers, unless another origin may have a better one."""
        for request, code, data in answers:
            if self._kind.declines is not None and self._kind.declines(data):
                self._outcomes.decline(request, data)
            else:
                self._outcomes.finish(request, code, data)

    def on_unreadable(self, request: Request, error: PoolError) -> None:
        """End a request whose answer was not taken."""
        self._outcomes.conclude(request, error.code, error.text, phase="read", sent=True)

    def on_refused(self, connection: Connection, request: Request, error: UsageError) -> None:
        """End a request that the protocol would not take."""
        self._outcomes.conclude(request, Code.USAGE, error.text, sent=True)
        connection.close("the request was refused")

    def on_unsent(self, connection: Connection, error: PoolError, requests: list[Request]) -> None:
        """End what had not been written: it was sent before, by datagram."""
        self.on_closed(connection, error, requests, sent=True)

    def on_closed(
        self, connection: Connection, error: PoolError, unanswered: list[Request], sent: bool
    ) -> None:
        """Report what was not answered; whatever it was, another origin may do better."""
        self.connections.discard(connection)
        self._outcomes.fail(unanswered, error.code, error.text, phase="read", sent=True)
