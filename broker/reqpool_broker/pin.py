"""A pin as the broker knows it: a connection that a worker reserves for one session. No I/O, no clock."""

from __future__ import annotations

from .origin import Origin
from .session import Session
from .worker import Worker

MAX_PINS = 1_000
"""Pinned connections of one session."""


class Pin:
    """One pinned connection.

    Attributes:
        session: whose requests it is for.
        number: chosen by the session's client.
        origin: where it leads.
        worker: the worker that has it; None until its first request is leased.
        since_s: when that was, or since when it has been known; monotonic.
    """

    __slots__ = ("number", "origin", "session", "since_s", "worker")

    def __init__(self, session: Session, number: int, origin: Origin) -> None:
        self.session = session
        self.number = number
        self.origin = origin
        self.worker: Worker | None = None
        self.since_s = 0.0
