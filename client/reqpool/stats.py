"""What ``Pool.stats()`` returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stats:
    """The counts of a process's session since its start: a snapshot, taken while the session goes on.

    Attributes:
        url: the broker's URL; empty for an embedded pool before its first request.
        state: ``unused``, ``closed``, ``greeting``, ``subscribing`` or ``open``.
        pending: requests that have not ended.
        submitted: requests ever submitted.
        completed: ended with an answer.
        failed: ended with an error other than the next two.
        timeouts: ended with RequestTimeout.
        cancelled: ended by ``cancel()`` or by closing.
        callback_errors: callbacks that raised.
        batches_in: result batches received, each counted once.
        batches_out: SUBMIT messages sent.
        batches_repeated: result batches received again and ignored.
        gaps: times that missing result batches were requested.
        ignored: illegal or stale messages from the broker.
        reconnects: times that the session was reopened.
    """

    url: str
    state: str
    pending: int = 0
    submitted: int = 0
    completed: int = 0
    failed: int = 0
    timeouts: int = 0
    cancelled: int = 0
    callback_errors: int = 0
    batches_in: int = 0
    batches_out: int = 0
    batches_repeated: int = 0
    gaps: int = 0
    ignored: int = 0
    reconnects: int = 0
