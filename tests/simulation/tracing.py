"""What a message says, in a line for people."""

from __future__ import annotations

from typing import Any

from reqpool_contract import wire
from reqpool_contract.errors import ProtocolError
from reqpool_contract.wire import Verb

QUIET = {Verb.HEARTBEAT, Verb.STATUS}
"""Not worth a line each."""


def describe(frames: list[bytes]) -> str:
    """Describe a message; empty if it is not worth it."""
    for frame in frames[:2]:
        try:
            head = wire.unpack(frame)
        except ProtocolError:
            continue
        if type(head) is tuple and head and head[0] in set(Verb):
            verb = Verb(head[0])
            return "" if verb in QUIET else f"{verb.name} {' '.join(map(_short, head[1:]))}"
    return "SUBSCRIBE" if frames[0][:1] == b"\x01" else f"{frames!r:.60}"


def _short(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()[:6] if len(value) in (5, 16) else repr(value)[2:-1][:24]
    if isinstance(value, tuple):
        return f"[{' '.join(map(_short, value))}]"
    if isinstance(value, dict):
        shown = {key: item for key, item in value.items() if key not in _DULL and item not in ((), 0, None)}
        return "{" + " ".join(f"{key}={_short(item)}" for key, item in shown.items()) + "}"
    return str(value)


_DULL = {"name", "pid", "heartbeat_ms", "liveness_ms", "results", "max_pending", "keeps", "kinds"}
