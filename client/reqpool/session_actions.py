"""The actions that a client's session asks its driver to take."""

from __future__ import annotations

from typing import Any, NamedTuple


class OpenIntake(NamedTuple):
    """Open a new DEALER and send ``hello``."""

    hello: bytes


class Subscribe(NamedTuple):
    """Open a new SUB to the results socket that WELCOME named, for the session's id."""

    results: str


class Opened(NamedTuple):
    """Submit everything pending; what was sent before is marked as resubmitted, except for ``never_ran``.

    Attributes:
        never_ran: ranges of sequence numbers, ends included, that the broker dropped unrun.
        watermark: that of what was first sent on the last connection; empty if nothing is known.
        settled: whether it also applies to what had been resubmitted on that connection.
        unrun: whether the last broker said goodbye, and of what must not be repeated, is pending and was
            first sent on the last connection, nothing has run except for ``doubtful``.
        unrun_all: whether that also applies to what had been resubmitted on that connection.
        doubtful: ranges as in ``never_ran``, of requests that may have run.
    """

    never_ran: tuple[tuple[int, int], ...]
    watermark: bytes = b""
    settled: bool = False
    unrun: bool = False
    unrun_all: bool = False
    doubtful: tuple[tuple[int, int], ...] = ()


class Send(NamedTuple):
    """Send one head through the DEALER."""

    frame: bytes


class CompleteResults(NamedTuple):
    """Complete these requests.

    Attributes:
        flat: seq, code, data, seq, code, data, …
        attempts: (seq, attempts) for those that took more than one.
    """

    flat: tuple[Any, ...]
    attempts: tuple[tuple[int, int], ...] = ()


class Lost(NamedTuple):
    """Close both sockets, with linger 0."""

    text: str


class EndSubmitted(NamedTuple):
    """End everything that was submitted on this connection: the broker could not read some of it.

    Attributes:
        text: what the broker reported.
    """

    text: str


Action = OpenIntake | Subscribe | Opened | Send | CompleteResults | Lost | EndSubmitted
