"""What becomes of the requests that were unanswered on a connection that closed. Pure."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Closed(NamedTuple):
    """What is known of the connection.

    Attributes:
        sent: requests had been sent on it; otherwise it never became ready for one, or for its next holder.
        unread: the peer said why it closes before it read the oldest of them.
        given_up: it had served others, and broke before a byte of the oldest answer: most likely its peer
            had given it up before that request came.
        served: it had answered requests before.
        shortened: the next connection will say less in its handshake, by which this one may have failed.
        pinned: it belonged to one session.
        opens: the oldest request was to be the first on it for that session.
        shortage: there was no file descriptor for it.
        unreachable: the server refused it, or closed it in the handshake without a word.
    """

    sent: bool = False
    unread: bool = False
    given_up: bool = False
    served: bool = False
    shortened: bool = False
    pinned: bool = False
    opens: bool = False
    shortage: bool = False
    unreachable: bool = False


class Again(Enum):
    """Requests that are tried again at once, on a fresh connection, unless they were before."""

    NONE = "none"
    REPEATABLE = "repeatable"
    """Those that may run twice, if the policy has retries."""
    ALL = "all"


class Wait(Enum):
    """Why those that are not tried again at once wait, as for a connection."""

    NONE = "none"
    """They end."""
    DESCRIPTOR = "descriptor"
    SERVER = "server"
    """The server may be restarting."""


class Verdict(NamedTuple):
    """What to do.

    Attributes:
        again: requests to try again at once.
        wait: what the others wait for.
        sent: the upstream could have acted on them.
        unpinned: report that the session's connection is gone.
    """

    again: Again
    wait: Wait
    sent: bool
    unpinned: bool


def what_to_retry(closed: Closed) -> Verdict:
    """Return what becomes of the unanswered requests."""
    # A connection that had served and then cannot be pinned, or cleaned for the next request, does not make
    # that an error of the next request.
    harmless = (
        closed.shortened or (closed.served and not closed.sent) or (closed.unread and not closed.pinned)
    )
    again = Again.ALL if harmless else Again.REPEATABLE if closed.given_up else Again.NONE
    wait = Wait.DESCRIPTOR if closed.shortage else Wait.SERVER if closed.unreachable else Wait.NONE
    # Until its first request is sent nothing is pinned: the end of that request says it all.
    unpinned = closed.pinned and closed.sent and not (closed.unread and closed.opens)
    return Verdict(again, wait, closed.sent and not closed.unread, unpinned)
