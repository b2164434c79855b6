"""What a kind says over one stream connection, and the events that come of it. Sans-IO."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from reqpool_contract.errors import PoolError


class Ready:
    """The event that the handshake (or :meth:`StreamProtocol.hold`, ``release``) is over: requests may be
    sent."""


READY = Ready()


class Refused:
    """The event that the oldest unanswered request's answer has come, all of it, and was not taken.

    The request ends with ``error``; the connection goes on.
    """

    __slots__ = ("error",)

    def __init__(self, error: PoolError) -> None:
        self.error = error


Answer = tuple[int, bytes]
"""The outcome of the oldest unanswered request of a connection: a result's code and data."""
Event = Answer | bytes | Ready | Refused | PoolError
"""Bytes are to be sent now: the next step of a handshake, a reply to a ping. Bare tuples and bytes, because
there is one for every answer. An error counts as if it were raised after the answers that came before it."""


class StreamProtocol(ABC):
    """Speaks over one connection. Answers come in the order of the requests."""

    @abstractmethod
    def connected(self) -> Sequence[Event]:
        """Begin: the connection is made. Returns ``[READY]``, or the first step of the handshake.

        Raises:
            PoolError: as in :meth:`feed`.
        """

    @abstractmethod
    def send(self, request: Any) -> bytes:
        """Return the bytes that ask for ``request`` (an :class:`Ask`).

        Raises:
            UsageError: if its payload is malformed; the connection goes on as if nothing had been asked.
        """

    def send_all(self, requests: Sequence[Any]) -> bytes | None:
        """Return the bytes that ask for several requests, in their order.

        None, the default, if :meth:`send` has to be called for each; nothing has changed then.
        """
        return None

    @abstractmethod
    def feed(self, data: bytes) -> Sequence[Event]:
        """Take bytes from the peer.

        Raises:
            PoolError: if the connection cannot go on. The oldest unanswered request ends with this error
                (``BadResponse``: the answer is malformed), the others as lost with the connection. An error
                with ``sent=False`` means that the peer gave up the connection before it read that request,
                which may then be sent again even if it must not run twice. During the handshake, the request
                that waits for it ends with the error (``ConnectFailed``: the log-in was refused).
        """

    @abstractmethod
    def eof(self) -> Sequence[Event]:
        """Take the end of the stream: the peer has closed its side. What is then unanswered was lost.

        Raises:
            PoolError: as in :meth:`feed`.
        """

    def shorten_handshake(self) -> bool:
        """Note that the peer has closed the connection during the handshake, without a word.

        Returns:
            True if the next connection to this upstream will ask for less in its handshake, which is worth a
            try at once. False, the default.
        """
        return False

    @property
    @abstractmethod
    def reusable(self) -> bool:
        """Whether the connection, with nothing unanswered, may serve another request."""

    @property
    def unclean(self) -> bool:
        """Whether :meth:`release` must clean the connection before it serves another request."""
        return False

    @property
    def awaited(self) -> str:
        """What a handshake that does not proceed is waiting for, for display; empty if that says nothing."""
        return ""

    @property
    def begun(self) -> bool:
        """Whether a byte of the oldest unanswered request's answer has come.

        If a kept connection breaks before that, its peer had given it up: the request is tried again on a
        fresh one, if it may be repeated. True, the default, means never.
        """
        return True

    def hold(self) -> Sequence[Event]:
        """Pin the connection, with nothing unanswered, to one session. Ends with :data:`READY`."""
        return [READY]

    def release(self) -> Sequence[Event] | None:
        """Undo what was done on the connection: its session released it, or it is :attr:`unclean`.

        Nothing is unanswered. Ends with :data:`READY`. None, the default: close it instead.
        """
        return None
