"""A pin as the broker knows it: a connection that a worker holds for one session. No I/O, no clock."""

from __future__ import annotations

from .origin import Origin
from .session import Session
from .worker import Worker

MAX_PINS = 1_000
"""Held connections of one session."""


class Pin:
    """One held connection.

    Attributes:
        session: whose.
        number: chosen by its client.
        origin: where it leads.
        worker: who holds it; None until its first request is leased.
        since_s: when that was, or at least since when it is known; monotonic.
    """

    __slots__ = ("number", "origin", "session", "since_s", "worker")

    def __init__(self, session: Session, number: int, origin: Origin) -> None:
        self.session = session
        self.number = number
        self.origin = origin
        self.worker: Worker | None = None
        self.since_s = 0.0
