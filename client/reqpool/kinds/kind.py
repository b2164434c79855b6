"""The client half of a kind: checks and encodes requests, decodes answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from reqpool_contract.errors import BadResponse, UsageError

from .route import Asked, Followed, Route

if TYPE_CHECKING:
    from reqpool_contract.origin_names import Endpoint
    from reqpool_contract.tls_settings import Tls


class Kind(ABC):
    """Client half of a kind: encodes on the caller's thread, decodes when the result is first read.

    One object serves all threads and pools of a process. Its methods may be called from any thread and must
    not block.

    Attributes:
        name: as registered.
        schemes: URL schemes of its upstreams, needed for upstreams in ``reqpool.toml``; empty if it takes
            addresses.
        connectionless: whether it uses datagrams, so that an upstream's limit counts requests, not
            connections.
    """

    name: ClassVar[str]
    schemes: ClassVar[tuple[str, ...]] = ()
    connectionless: ClassVar[bool] = False

    # *args with **options, so that type checkers let a subclass declare its own options (typing spec, "...").
    @abstractmethod
    def encode(self, target: Any, payload: Any, *args: Any, **options: Any) -> tuple[Route, bytes, Any]:
        """Check a request and encode it.

        Args:
            target: the upstream, in a form that the kind defines.
            payload: the request, in a form that the kind defines.
            **options: the kind's own options; an unknown one is a TypeError.

        Returns:
            The cached route, the payload for the worker half, and a note: whatever :meth:`decode` and
            :meth:`follow` need to know about the request, or None. The note stays in this process.

        Raises:
            UsageError: something is wrong; the text says what, and what would be right.
        """

    @abstractmethod
    def decode(self, data: bytes, request: Asked) -> Any:
        """Make the value of ``future.result()`` from the worker half's raw answer.

        Called when the result is first read. Threads that read it at the same time may each call this; all
        get the value of the first that finishes.

        Raises:
            PoolError: the error for ``result()`` to raise: BadResponse if the answer cannot be read, or the
                upstream's own error if the answer is one.
        """

    def follow(self, data: bytes, request: Asked) -> Followed:
        """Make the next request after the worker half answered :attr:`Code.AGAIN`, for a redirect say.

        Called on the pool's I/O thread. The future and its deadline stay the same.

        Raises:
            PoolError: the error to end the request with instead.
        """
        raise BadResponse(f"kind {self.name!r} has no follow-up requests")

    def endpoint(self, url: str, *, password: str | None = None, tls: Tls | None = None) -> Endpoint:
        """Read a URL of one of :attr:`schemes`, as written in ``reqpool.toml``.

        Args:
            url: with or without user and password.
            password: replaces the one in the URL; for http, a bearer token if the URL has no user.
            tls: None for the kind's default.

        Raises:
            UsageError: the URL or an argument is wrong; the text says which.
        """
        raise UsageError(f"kind {self.name!r} does not support URLs")
