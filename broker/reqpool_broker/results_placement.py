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
        name: how WELCOME names the first socket.

    Attributes:
        wanting: it is time for another socket.
    """

    def __init__(self, name: str) -> None:
        self.wanting = False
        self._names = [name]
        self._on: list[dict[Session, None]] = [{}]
        self._turn = -1

    def extend(self, name: str) -> None:
        """Note that another socket is bound, and how WELCOME names it."""
        self._names.append(name)
        self._on.append({})
        self.wanting = False

    def join(self, session: Session) -> str:
        """Place a session that has none yet, in the first socket with room, else where there are fewest.

        Returns:
            How WELCOME names the socket; the same until the session leaves.
        """
        if session.place is None:
            counts = [len(sessions) for sessions in self._on]
            roomy = (place for place, count in enumerate(counts) if count < SESSIONS_PER_SOCKET)
            session.place = next(roomy, None)
            if session.place is None:
                session.place = counts.index(min(counts))
            self._on[session.place][session] = None
            self.wanting = all(len(sessions) >= SESSIONS_PER_SOCKET for sessions in self._on)
        return self._names[session.place]

    def leave(self, session: Session) -> None:
        """Note that nothing is published to a session any more."""
        if session.place is not None:
            del self._on[session.place][session]
            session.place = None
            self.wanting = False

    def __len__(self) -> int:
        """Return how many sockets there are."""
        return len(self._on)

    def turn(self) -> Iterable[Session]:
        """Return the sessions of one socket; of all sockets, in turn."""
        self._turn = (self._turn + 1) % len(self._on)
        return self._on[self._turn]
