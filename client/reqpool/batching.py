"""Makes the groups of a SUBMIT from a queue of requests. Sans-IO."""

from __future__ import annotations

import math
from collections import deque
from concurrent.futures._base import PENDING
from typing import Any

from reqpool_contract import wire
from reqpool_contract.cached_settings import SettingsSender

from .entry import RequestEntry

_RESUBMITTED = int(wire.Flag.RESUBMITTED)
BUCKETS_PER_S = 64
"""Requests with deadlines in the same 1/64 s share a group, whose deadline is the end of that interval."""


def next_batch(
    queue: deque[RequestEntry],
    connection: int,
    now_s: float,
    keeping: SettingsSender,
    most: int,
    room_bytes: float,
    large: deque[RequestEntry],
) -> tuple[list[Any], float, int]:
    """Take the requests of one SUBMIT from the queue's left end and group them.

    Other threads may append to ``queue`` meanwhile. Requests that have ended, or were already sent on this
    connection, are dropped.

    Args:
        queue: the requests to send, oldest first.
        connection: number of the connection on which they will be sent, from 1.
        now_s: monotonic clock; spans are counted from here.
        keeping: the settings that the broker keeps; collects what must be sent before the SUBMIT.
        most: largest number of requests to take.
        room_bytes: large payloads are taken while this is over 0.
        large: gets the requests for whose payloads there is no room.

    Returns:
        The groups, with the fields of :class:`~reqpool_contract.wire.SubmitGroup`, empty if nothing was left
        to send; the earliest deadline of these and of those that wait for room (at most 1/64 s early); and
        the approximate size of the groups in bytes.
    """
    groups: dict[tuple[Any, ...], tuple[list[int], list[bytes], int | None]] = {}
    last_key: tuple[Any, ...] | None = None
    seqs: list[int] = []
    payloads: list[bytes] = []
    count = size = 0
    earliest_s = math.inf
    popleft = queue.popleft
    while queue and count < most:
        future = popleft()
        if future._state is not PENDING or future.connection == connection:
            continue
        payload = future.payload
        payload_bytes = len(payload)
        if payload_bytes > wire.LARGE_MESSAGE_BYTES:
            if room_bytes <= 0:
                large.append(future)
                earliest_s = min(earliest_s, future.deadline_s)
                continue
            room_bytes -= payload_bytes
        size += payload_bytes
        key = (future.route, future.priority, int(future.deadline_s * BUCKETS_PER_S), future.resubmitted)
        if key != last_key:
            last_key = key
            group = groups.get(key)
            if group is None:
                settings = future.route.settings
                kept = keeping.place(settings) if settings else None
                size += len(settings) if kept is None else 0
                group = groups[key] = ([], [], kept)
            seqs, payloads, _ = group
        if size > wire.MAX_BATCH_BYTES and count:
            queue.appendleft(future)
            break
        count += 1
        future.connection = connection
        seqs.append(future.seq)
        payloads.append(payload)
    entries = []
    for (route, priority, bucket, resubmitted), (seqs, payloads, kept) in groups.items():
        if not seqs:
            continue  # the request for which it was made did not fit any more
        earliest_s = min(earliest_s, bucket / BUCKETS_PER_S)
        # From the bucket's end and rounded up, so that no request times out early.
        span_ms = math.ceil(((bucket + 1) / BUCKETS_PER_S - now_s) * 1000)
        entries.append(
            (
                route.kind_name,
                route.origins,
                min(max(span_ms, 0), wire.MAX_SPAN_MS),
                route.flags if resubmitted is None else route.flags | _RESUBMITTED,
                priority,
                route.pin,
                None,
                seqs,
                payloads,
                route.settings if kept is None else b"",
                kept,
                resubmitted or b"",
            )
        )
    return entries, earliest_s, size
