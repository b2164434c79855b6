"""Where a request is while it is open, as its session sees it. No I/O, no clock."""

from __future__ import annotations

from typing import Protocol


class Place(Protocol):
    """A group that waits, or a lease."""

    @property
    def worker(self) -> object | None:
        """The worker that has the request; None while it waits."""

    @property
    def idempotent(self) -> bool:
        """Whether it may run more than once."""
