"""What a client's session asks of the one that drives it."""

from __future__ import annotations

from typing import Any, NamedTuple


class OpenIntake(NamedTuple):
    """Open a new DEALER and send ``hello``."""

    hello: bytes


class Subscribe(NamedTuple):
    """Open a fresh SUB to the results socket that WELCOME named, below the session's id."""

    results: str


class Opened(NamedTuple):
    """Submit everything pending; what was sent before is marked as resubmitted, but for ``never_ran``.

    Attributes:
        never_ran: ranges of sequence numbers, ends included, that the broker dropped unrun.
        watermark: of what was first sent on the connection before; empty if nothing is known of it.
        settled: so it is also of what had been resubmitted on that connection.
        unrun: the broker before has said goodbye, and nothing has run of what must not be repeated, is
            pending and was first sent on the connection before, but for ``doubtful``.
        unrun_all: so it is of what had been submitted again on that connection.
        doubtful: ranges as in ``never_ran``: these may have run.
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
        attempts: (seq, attempts) of those that took more than one.
    """

    flat: tuple[Any, ...]
    attempts: tuple[tuple[int, int], ...] = ()


class Lost(NamedTuple):
    """Close both sockets, linger 0."""

    text: str


class EndSubmitted(NamedTuple):
    """End everything that was submitted on this connection: the broker could not read some of it.

    Attributes:
        text: what the broker reported.
    """

    text: str


Action = OpenIntake | Subscribe | Opened | Send | CompleteResults | Lost | EndSubmitted
