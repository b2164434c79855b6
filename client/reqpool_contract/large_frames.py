"""Large payloads in separate frames, after the head that they belong to (docs/protocol.md#large-bodies).

A payload in a head is copied when the head is packed and when it is unpacked: some 2 ms for 4 MiB each time,
during which all others wait. The broker passes separate frames on unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .errors import ProtocolError
from .limits import LARGE_MESSAGE_BYTES


def set_apart(groups: Iterable[tuple[Any, ...]], at: int) -> tuple[list[tuple[Any, ...]], list[Any]]:
    """Take the large payloads out of groups.

    Args:
        groups: those of a SUBMIT or a LEASE, as they would be packed.
        at: the index of ``payloads`` in each.

    Returns:
        The groups, with None for each large payload, and the frames to send after the head.
    """
    parted: list[tuple[Any, ...]] = []
    frames: list[Any] = []
    for group in groups:
        payloads = group[at]
        if max(map(len, payloads)) > LARGE_MESSAGE_BYTES:
            left = [None if len(payload) > LARGE_MESSAGE_BYTES else payload for payload in payloads]
            frames += [payload for payload in payloads if len(payload) > LARGE_MESSAGE_BYTES]
            group = (*group[:at], left, *group[at + 1 :])
        parted.append(group)
    return parted, frames


def put_back(groups: Any, at: int, frames: Sequence[Any]) -> Any:
    """Put a peer's frames back into its groups, where :func:`set_apart` took them from.

    Raises:
        ProtocolError: there are more or fewer frames than places.
    """
    if type(groups) is not tuple:
        raise ProtocolError(f"expected an array, got {type(groups).__name__}")
    rest = iter(frames)
    whole = []
    used = 0
    for group in groups:
        if type(group) is tuple and len(group) > at and type(group[at]) is tuple and None in group[at]:
            used += group[at].count(None)
            payloads = tuple(next(rest, None) if item is None else item for item in group[at])
            group = (*group[:at], payloads, *group[at + 1 :])
        whole.append(group)
    if used != len(frames):
        raise ProtocolError(f"expected {used} separate payload frames, got {len(frames)}")
    return tuple(whole)


def view(frame: Any) -> memoryview:
    """Return the bytes of a frame without a copy."""
    view: memoryview = memoryview(frame) if type(frame) is bytes else frame.buffer
    return view


def as_bytes(frame: Any) -> bytes:
    """Return a frame as bytes: a copy if it is a :class:`zmq.Frame`."""
    data: bytes = frame if type(frame) is bytes else frame.bytes
    return data
