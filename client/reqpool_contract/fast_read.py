"""The messages that nearly every request travels in, read in one look each instead of field by field.

A function here accepts only the exact form that is usual, and returns None for anything else, however
slightly different: the tables of :mod:`.wire` then read it, and they alone explain what is wrong. What a
function accepts the tables accept with the same values; a test compares them.
"""

from __future__ import annotations

from typing import Any

import msgpack

from .wire import Verb

_RESULTS = int(Verb.RESULTS)
_unpackb = msgpack.unpackb


def publication(head: bytes, blob: bytes) -> tuple[int, int, int, tuple[Any, ...]] | None:
    """Read a RESULTS of the broker with one outcome, of a request that took one attempt.

    Args:
        head: the frame after the topic.
        blob: the one after that.

    Returns:
        Epoch, number, what is acknowledged, and (seq, code, data); or None.
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
