"""The messages that nearly every request travels in, read in one look each instead of field by field.

No I/O, no clock. The tables of :mod:`.wire` check a message field by field and explain what is wrong with it.
These functions look at the types and ranges of all fields at once. They accept a part of what the tables
accept, with the same values (a test compares them), and return None for everything else, however slightly
different: that is read by the tables. The names in a SUBMIT are not checked again: what was accepted once for
a kind, origins and settings is looked up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgpack

from .checks import ID_BYTES
from .groups import Flag, LeaseGroup
from .limits import (
    LARGE_MESSAGE_BYTES,
    LOWEST_PRIORITY,
    MAX_BATCH_REQUESTS,
    MAX_ORIGIN_CHARS,
    MAX_PAYLOAD_BYTES,
    MAX_SETTINGS_BYTES,
    MAX_SPAN_MS,
    MAX_TRACE_BYTES,
)
from .wire import Verb

Known = TypeVar("Known")

_SUBMIT = bytes((0x94, Verb.SUBMIT))
_RESULTS = bytes((0x95, Verb.RESULTS))
"""How such a message begins: an array of so many elements, and the verb."""
_FLAGS = (0, int(Flag.IDEMPOTENT))
_LEASE = int(Verb.LEASE)
_LEASE_MARK = bytes((_LEASE,))
"""Follows the first byte, which contains the number of fields."""
_LEASE_FIELDS = len(LeaseGroup._fields)
_OPTIONAL = (int, type(None))
_PUBLISHED = int(Verb.RESULTS)
_INT, _BYTES = {int}, {bytes}
_UNREADABLE = (ValueError, RecursionError, msgpack.UnpackException)
_unpack, _new = msgpack.unpackb, tuple.__new__


def plain_submit(
    frame: Any, known: Mapping[tuple[str, tuple[str, ...], bytes], Known]
) -> tuple[int, int, list[tuple[Known, tuple[Any, ...]]]] | None:
    """Read a SUBMIT of new requests without a pin, none of them large, whose settings are not cached.

    Args:
        frame: the head as it came.
        known: what a group's kind, origins and settings stand for.

    Returns:
        ``number``, ``acked``, and of each group what it stands for and the group as it came, with 9 to 12
        elements; None if it is anything else. Each seq is in it once.
    """
    if not known or type(frame) is not bytes or frame[:2] != _SUBMIT or len(frame) > LARGE_MESSAGE_BYTES:
        return None
    try:
        _, number, acked, groups = _unpack(frame, use_list=False, strict_map_key=True)
    except _UNREADABLE:
        return None
    if (
        type(number) is not int
        or type(acked) is not int
        or number < 0
        or acked < 0
        or type(groups) is not tuple
        or not groups
    ):
        return None
    plain = []
    seen: set[int] = set()
    count = 0
    for group in groups:
        if type(group) is not tuple or not 9 <= (size := len(group)) <= 12:
            return None
        kind, origins, span_ms, flags, priority, pin, trace, seqs, payloads = group[:9]
        settings = group[9] if size > 9 else b""
        if (
            pin is not None
            or type(flags) is not int
            or flags not in _FLAGS
            or type(span_ms) is not int
            or not 0 < span_ms <= MAX_SPAN_MS
            or type(priority) is not int
            or not 0 <= priority <= LOWEST_PRIORITY
            or (trace is not None and (type(trace) is not bytes or len(trace) > MAX_TRACE_BYTES))
            or type(seqs) is not tuple
            or type(payloads) is not tuple
            or not 0 < len(seqs) == len(payloads)
            or set(map(type, seqs)) != _INT
            or min(seqs) < 0
            or set(map(type, payloads)) != _BYTES
            or (size > 10 and group[10] is not None)
            or (size > 11 and (type(group[11]) is not bytes or group[11]))
        ):
            return None
        try:
            found = known.get((kind, origins, settings))
        except TypeError:  # a map, which cannot be a key
            return None
        if found is None:
            return None
        plain.append((found, group))
        seen.update(seqs)
        count += len(seqs)
    if count > MAX_BATCH_REQUESTS or len(seen) != count:
        return None
    return number, acked, plain


def plain_results(frame: Any) -> tuple[int, int, int, tuple[tuple[bytes, tuple[int, ...], int], ...]] | None:
    """Read a RESULTS in which each session, and each of its seqs, is named once.

    Args:
        frame: the head as it came.

    Returns:
        ``epoch``, ``seen``, ``number`` and ``groups``; None if it is anything else.
    """
    if type(frame) is not bytes or frame[:2] != _RESULTS:
        return None
    try:
        _, epoch, seen, number, groups = _unpack(frame, use_list=False, strict_map_key=True)
    except _UNREADABLE:
        return None
    if (
        type(epoch) is not int
        or type(seen) is not int
        or type(number) is not int
        or min(epoch, seen, number) < 0
        or type(groups) is not tuple
        or not groups
    ):
        return None
    sessions = set()
    for group in groups:
        if type(group) is not tuple or len(group) != 3:
            return None
        session, seqs, failed = group
        if (
            type(session) is not bytes
            or len(session) != ID_BYTES
            or type(seqs) is not tuple
            or not seqs
            or set(map(type, seqs)) != _INT
            or min(seqs) < 0
            or len(set(seqs)) != len(seqs)
            or type(failed) is not int
            or failed < 0
        ):
            return None
        sessions.add(session)
    return (epoch, seen, number, groups) if len(sessions) == len(groups) else None


def plain_publication(head: bytes, blob: bytes) -> tuple[int, int, int, tuple[Any, ...]] | None:
    """Read the broker's RESULTS with one outcome, of a request that took one attempt.

    Args:
        head: the frame after the topic.
        blob: the frame after the head.

    Returns:
        Epoch, number, acknowledged SUBMIT, and (seq, code, data); or None.
    """
    try:
        fields = _unpack(head, use_list=False)
        flat = _unpack(blob, use_list=False)
    except _UNREADABLE:
        return None
    if type(fields) is not tuple or type(flat) is not tuple or len(fields) != 4 or len(flat) != 3:
        return None
    verb, epoch, number, acked = fields
    seq, code, data = flat
    if (
        verb != _PUBLISHED
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


def plain_lease(frame: Any) -> tuple[int, int, list[LeaseGroup]] | None:
    """Read a LEASE of groups without pin and trace, with all payloads in its head.

    Args:
        frame: a message of one frame, as received.

    Returns:
        Epoch, the worker's last heartbeat that the broker had seen, and the groups; or None.
    """
    if type(frame) is not bytes or frame[1:2] != _LEASE_MARK:  # heartbeats and others are not unpacked twice
        return None
    try:
        head = _unpack(frame, use_list=False, strict_map_key=True)
    except _UNREADABLE:
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
