"""Results that a client leaves unread: how much of them the broker retains. No I/O, no clock.

For a session with too many unread results nothing more is leased (:attr:`Session.has_room`). What was leased
before may still be a lot: some thousand requests are in progress on the connections to one Redis, and each
answer may have MiB. A broker that retained them all for a stopped client would run out of memory, for all.
"""

from __future__ import annotations

from collections.abc import Iterable

from reqpool_contract import wire
from reqpool_contract.errors import Code

from .lease_record import Lease
from .session import Session

MAX_ALL_UNREAD_BYTES = 1 << 30
"""Results retained for all sessions together, above which those over their own limit get no more."""
SMALL_BYTES = 64 << 10
"""A batch of results up to this size is retained in any case: errors are worth more than their room."""


def fit(
    blob: bytes,
    seqs: tuple[int, ...],
    session: Session,
    sessions: Iterable[Session],
    *,
    silent: bool,
) -> bytes:
    """Return a batch for a session that is over its limit, or the errors that are retained instead.

    Requests that may be repeated end with ``Overloaded``, as they can be sent again later; the others with
    ``OutcomeUnknown``.

    Args:
        blob: the results, encoded.
        seqs: the requests that have them, still open.
        session: the one that submitted these.
        sessions: all that there are.
        silent: the session's client has been silent for so long that it counts as frozen or cut off.
    """
    if len(blob) <= SMALL_BYTES:
        return blob
    if not silent and sum(one.unacked_bytes for one in sessions) <= MAX_ALL_UNREAD_BYTES:
        return blob
    session.refused += len(seqs)
    unread_mib = session.unacked_bytes >> 20
    text = f"answered, but this client has {unread_mib} MiB of unread answers: this one was dropped"
    data = wire.encode_error(text, sent=True)
    flat: list[object] = []
    for seq in seqs:
        lease = session.open.get(seq)
        once = isinstance(lease, Lease) and not lease.terms.idempotent
        flat += (seq, Code.OUTCOME_UNKNOWN if once else Code.OVERLOADED, data)
    return wire.encode_blob(flat)
