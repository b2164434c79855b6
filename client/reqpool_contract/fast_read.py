"""Fast readers of the messages in which nearly all requests travel; not field by field.

These functions accept only the usual form of a message, and return None for anything that differs from it:
that is read by the tables of :mod:`.wire`, and only they explain errors. The tables accept everything that
these functions accept, with the same values; a test compares them.
"""

from __future__ import annotations

from typing import Any

import msgpack

from .checks import ID_BYTES
from .groups import LeaseGroup
from .limits import MAX_BATCH_REQUESTS, MAX_ORIGIN_CHARS, MAX_PAYLOAD_BYTES, MAX_SETTINGS_BYTES, MAX_SPAN_MS
from .wire import Verb

_RESULTS = int(Verb.RESULTS)
_LEASE = int(Verb.LEASE)
_LEASE_MARK = bytes((_LEASE,))
"""Follows the first byte, which contains the number of fields."""
_LEASE_FIELDS = len(LeaseGroup._fields)
_INT, _BYTES, _OPTIONAL = {int}, {bytes}, (int, type(None))
_unpackb, _new = msgpack.unpackb, tuple.__new__


def publication(head: bytes, blob: bytes) -> tuple[int, int, int, tuple[Any, ...]] | None:
    """Read the broker's RESULTS with one outcome, of a request that took one attempt.

    Args:
        head: the frame after the topic.
        blob: the frame after the head.

    Returns:
        Epoch, number, acknowledged SUBMIT, and (seq, code, data); or None.
    """
    try:
        fields = _unpackb(head, use_list=False)
        flat = _unpackb(blob, use_list=False)
    except (ValueError, RecursionError, msgpack.UnpackException):
        return None
    if type(fields) is not tuple or type(flat) is not tuple or len(fields) != 4 or len(flat) != 3:
        return None
    verb, epoch, number, acked = fields
    seq, code, data = flat
    if (
        verb != _RESULTS
        or type(verb) is not int
        or type(epoch) is not int
        or type(number) is not int
        or type(acked) is not int
        or type(seq) is not int
        or type(code) is not int
        or type(data) is not bytes
        or epoch < 0
        or number < 0
        or acked < 0
        or seq < 0
        or code < 0
    ):
        return None
    return epoch, number, acked, flat


def lease(frame: Any) -> tuple[int, int, list[LeaseGroup]] | None:
    """Read a LEASE of groups without pin and trace, with all payloads in its head.

    Args:
        frame: a message of one frame, as received.

    Returns:
        Epoch, the worker's last heartbeat that the broker had seen, and the groups; or None.
    """
    if type(frame) is not bytes or frame[1:2] != _LEASE_MARK:  # heartbeats and others are not unpacked twice
        return None
    try:
        head = _unpackb(frame, use_list=False, strict_map_key=True)
    except (ValueError, RecursionError, msgpack.UnpackException):
        return None
    if type(head) is not tuple or len(head) != 4 or head[0] != _LEASE:
        return None
    _, epoch, seen, values = head
    if type(epoch) is not int or epoch < 0 or type(seen) is not int or seen < 0 or type(values) is not tuple:
        return None
    groups = []
    for value in values:
        if type(value) is not tuple or len(value) != _LEASE_FIELDS:
            return None
        session, kind, origin, span_ms, flags, attempt, pin, trace = value[:8]
        seqs, payloads, settings, wait_ms, cached, queued_ms = value[8:]
        if (
            pin is not None
            or trace is not None
            or type(session) is not bytes
            or len(session) != ID_BYTES
            or type(kind) is not str
            or type(origin) is not str
            or not 0 < len(origin) <= MAX_ORIGIN_CHARS
            or type(span_ms) is not int
            or not 0 <= span_ms <= MAX_SPAN_MS
            or type(flags) is not int
            or flags < 0
            or type(attempt) is not int
            or attempt < 0
            or type(seqs) is not tuple
            or type(payloads) is not tuple
            or not 0 < len(seqs) == len(payloads) <= MAX_BATCH_REQUESTS
            or set(map(type, seqs)) != _INT
            or min(seqs) < 0
            or set(map(type, payloads)) != _BYTES
            or max(map(len, payloads)) > MAX_PAYLOAD_BYTES
            or type(settings) is not bytes
            or len(settings) > MAX_SETTINGS_BYTES
            or type(wait_ms) not in _OPTIONAL
            or (wait_ms or 0) < 0
            or type(cached) not in _OPTIONAL
            or (cached or 0) < 0
            or type(queued_ms) is not int
            or queued_ms < 0
        ):
            return None
        groups.append(_new(LeaseGroup, value))
    return epoch, seen, groups
