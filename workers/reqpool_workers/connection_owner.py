"""Who opens connections: what is told of what becomes of them."""

from __future__ import annotations

from typing import Protocol, TypeVar

from reqpool_contract.errors import PoolError, UsageError

from .lease import Request
from .protocols import Address

Finished = tuple[Request, int, bytes]
"""A request, and the code and data of its result."""
Owned = TypeVar("Owned", contravariant=True)


class ConnectionOwner(Protocol[Owned]):
    """Who opens connections and is told of them. All calls come on the loop thread."""

    def on_room(self, connection: Owned) -> None:
        """It may take requests: after the handshake, and each time answers have made room."""

    def on_answers(self, answers: list[Finished]) -> None:
        """Requests have their outcomes, those that came in one go."""

    def on_unreadable(self, request: Request, error: PoolError) -> None:
        """The answer to a request has come and was not taken; the connection goes on."""

    def on_refused(self, connection: Owned, request: Request, error: UsageError) -> None:
        """The protocol would not take a request; nothing was sent."""

    def on_opening(self, connection: Owned, request: Request) -> None:
        """It is ready, and to be pinned for the request it was opened for."""

    def on_tried(self, address: Address, good: bool) -> None:
        """A connection to this address is ready for the first time, or broke off in its handshake."""

    def on_unsent(self, connection: Owned, error: PoolError, requests: list[Request]) -> None:
        """The connection is gone, and these, asked for in the same turn, were not written to it; before
        :meth:`on_closed`. The first of them ends with ``error``, the others are lost."""

    def on_closed(self, connection: Owned, error: PoolError, unanswered: list[Request], sent: bool) -> None:
        """The connection is gone. The first of ``unanswered`` ends with ``error``, the others are lost. All
        were ``sent`` on it, unless it was never ready."""
