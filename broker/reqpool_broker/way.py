"""Where groups of one kind, with the same origins and settings, have been leased. No I/O, no clock."""

from __future__ import annotations

from typing import NamedTuple

from .origin import Origin
from .worker import Grant, Worker

MAX_WAYS = 4_096
"""Ways that are remembered; with more, all are forgotten."""


class Way(NamedTuple):
    """Where such groups are leased, as long as no worker, owner or configuration changes.

    Attributes:
        origin: the only one that they may be tried at.
        worker: its only owner.
        grant: the worker's connection slots for it; None if its kind has no connections.
        depth: requests that may be outstanding on one connection.
        names: its name, resolved.
        settings: what the worker needs for a connection, resolved.
        own_bytes: size of the settings that came with the request.
    """

    origin: Origin
    worker: Worker
    grant: Grant | None
    depth: int
    names: tuple[str, ...]
    settings: bytes
    own_bytes: int
