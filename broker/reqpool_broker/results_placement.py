"""Sessions spread over the results sockets, so that none has many. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .session import Session

SESSIONS_PER_SOCKET = 64
"""Sessions on every results socket before another one is wanted."""


class ResultsPlacement:
    """Which session is published on which results socket.

    Args:
        told: what WELCOME says of the first socket.

    Attributes:
        wanting: it is time for another socket.
    """

    def __init__(self, told: str) -> None:
        self.wanting = False
        self._told = [told]
        self._on: list[dict[Session, None]] = [{}]
        self._turn = -1

    def extend(self, told: str) -> None:
        """Another socket is bound, of which WELCOME says this."""
        self._told.append(told)
        self._on.append({})
        self.wanting = False

    def join(self, session: Session) -> str:
        """Place a session that has none yet, in the first socket with room, else where there are fewest.

        Returns:
            What WELCOME tells it; the same until it leaves.
        """
        if session.place is None:
            counts = [len(sessions) for sessions in self._on]
            roomy = (place for place, count in enumerate(counts) if count < SESSIONS_PER_SOCKET)
            session.place = next(roomy, None)
            if session.place is None:
                session.place = counts.index(min(counts))
            self._on[session.place][session] = None
            self.wanting = all(len(sessions) >= SESSIONS_PER_SOCKET for sessions in self._on)
        return self._told[session.place]

    def leave(self, session: Session) -> None:
        """Nothing is published to it any more."""
        if session.place is not None:
            del self._on[session.place][session]
            session.place = None
            self.wanting = False

    def __len__(self) -> int:
        """How many sockets are there?"""
        return len(self._on)

    def turn(self) -> Iterable[Session]:
        """Return the sessions of one socket; of all sockets, in turn."""
        self._turn = (self._turn + 1) % len(self._on)
        return self._on[self._turn]
