"""A worker's reports in HELLO: the kinds that it serves, and what it still has from before."""

from __future__ import annotations

from typing import Any, NamedTuple

from .checks import array, boolean, bounded, identity, record, text, uint
from .groups import kind_name, origin, seqs
from .limits import MAX_SLOTS


class KindInfo(NamedTuple):
    """A kind that a worker serves.

    Attributes:
        name: the kind.
        connections: whether each request needs a granted connection slot.
        limit: default limit per origin for the whole pool: connections, or requests in flight.
        depth: requests that may be unanswered on one connection; 1 for connectionless kinds.
        waits: whether a request may occupy its connection for an unlimited time.
        prompt_variant: variant of origins whose requests never do; empty if there is none.
    """

    name: str
    connections: bool
    limit: int
    depth: int
    waits: bool = False
    prompt_variant: str = ""


_count = bounded(MAX_SLOTS)
_kind_record = record(KindInfo, kind_name, boolean, _count, _count, boolean, text)


def _kind(value: Any) -> KindInfo:
    if type(value) is tuple and len(value) in (4, 5):  # from an earlier version
        value = (*value, False, "") if len(value) == 4 else (*value, "")
    checked: KindInfo = _kind_record(value)
    return checked


_kinds = array(_kind)
_held = array(record(lambda session, numbers: (session, set(numbers)), identity, seqs))
_slots = array(record(lambda name, count: (name, count), origin, _count))
_pins = array(record(lambda *values: values, identity, uint, text, origin))


def kinds(value: Any) -> dict[str, KindInfo]:
    """Check ``kinds`` of a worker's HELLO."""
    return {kind.name: kind for kind in _kinds(value)}


def held(value: Any) -> dict[bytes, set[int]]:
    """Check ``held`` of a worker's HELLO: session ids to seqs."""
    by_session: dict[bytes, set[int]] = {}
    for session, numbers in _held(value):
        by_session.setdefault(session, set()).update(numbers)
    return by_session


def slots(value: Any) -> dict[str, int]:
    """Check ``slots`` of a worker's HELLO: origins to open connections."""
    return dict(_slots(value))


def pins(value: Any) -> list[tuple[bytes, int, str, str]]:
    """Check ``pins`` of a worker's HELLO: session id, pin, kind and origin of each pinned connection."""
    checked: list[tuple[bytes, int, str, str]] = _pins(value)
    return checked
