"""What a kind says over one connected datagram socket. Sans-IO."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum
from typing import Any


class Then(Enum):
    """What to do about a request for which a datagram came that is not simply its answer."""

    STREAM = "stream"
    """The answer was cut short: ask again over a stream."""
    AGAIN = "again"
    """Send :meth:`DatagramProtocol.again` now; the request is still open."""
    ELSEWHERE = "elsewhere"
    """It is an answer, but another origin may have a better one."""


class DatagramProtocol(ABC):
    """Matches the datagrams of one socket with its requests."""

    @property
    @abstractmethod
    def open_requests(self) -> Sequence[Any]:
        """The requests asked and not yet answered."""

    @abstractmethod
    def ask(self, request: Any) -> bytes:
        """Take a request (an :class:`Ask`) and return the datagram to send.

        Raises:
            UsageError: if its payload is malformed; nothing is remembered then.
        """

    @abstractmethod
    def again(self, request: Any, repeated: int) -> bytes:
        """Return the datagram of an open request again; ``repeated``: how often that was done before."""

    @abstractmethod
    def feed(self, datagram: bytes) -> tuple[Any, Then | None] | None:
        """Match a datagram.

        Returns:
            The request it is for, and None if it is its answer. The request is then no longer open, unless
            it must be sent ``AGAIN``. None instead of both for a datagram that answers nothing: it is counted
            and ignored, since any host can send one.
        """

    @abstractmethod
    def forget(self, request: Any) -> None:
        """Forget a request that is no longer wanted; a late answer to it must match nothing."""
