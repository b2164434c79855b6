"""Results that a client leaves unread: how much the broker keeps of them. No I/O, no clock.

A session that has too much unread is leased nothing more (:attr:`Session.has_room`). What was leased before
may still be a lot: some thousand requests are under way on the connections to one Redis, and each answer may
have MiB. A broker that kept them all for a client that has stopped would run out of memory, for everybody.
"""

from __future__ import annotations

from collections.abc import Iterable

from reqpool_contract import wire
from reqpool_contract.errors import Code

from .lease_record import Lease
from .session import Session

MAX_ALL_UNREAD_BYTES = 1 << 30
"""Results kept for all sessions together, beyond which those over their own limit get no more."""
SMALL_BYTES = 64 << 10
"""A batch of results up to this size is kept in any case: errors are worth more than the room they take."""


def fit(
    blob: bytes,
    seqs: tuple[int, ...],
    session: Session,
    sessions: Iterable[Session],
    *,
    silent: bool,
) -> bytes:
    """Return a batch for a session that is over its limit, or the errors that are kept in its place.

    What may be repeated can be asked again later: it is ``Overloaded``. What must not is ``OutcomeUnknown``.

    Args:
        blob: the results, encoded.
        seqs: the requests that they are of, still open.
        session: their client's.
        sessions: all there are.
        silent: its client has been silent for so long that it counts as frozen or cut off.
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
