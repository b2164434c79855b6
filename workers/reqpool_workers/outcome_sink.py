"""Where requests end that were sent by datagram: the worker's leases, or a look-up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from reqpool_contract.errors import Code

from .lease import Request


class OutcomeSink(Protocol):
    """Takes each request's end, once."""

    def finish(self, request: Request, code: int, data: bytes) -> None:
        """Take a request's outcome."""

    def finish_many(self, finished: Sequence[tuple[Request, int, bytes]]) -> None:
        """Take the outcomes of several."""

    def conclude(
        self, request: Request, code: Code, text: str, *, phase: str | None = None, sent: bool | None = None
    ) -> None:
        """End a request that has failed for good."""

    def fail(self, requests: list[Request], code: Code, text: str, *, phase: str, sent: bool) -> None:
        """End this attempt at requests of one lease; another one may do better."""

    def decline(self, request: Request, answer: bytes) -> None:
        """End a request with an answer that another origin may better."""

    def give_back(self, requests: list[Request]) -> None:
        """Hand back requests of one lease that were not sent."""

    def count_ignored(self) -> None:
        """Count a datagram that answers nothing."""

    def count_resent(self) -> None:
        """Count a datagram that was sent again."""
