"""A cache of look-ups by host name. Sans-IO."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from .look_up import Found, LookupFailure, Outcome

STALE_S = 300.0
"""How long after its TTL an answer may be used while no name server answers (RFC 8767)."""
MAX_NAMES = 4096


@dataclass
class _Entry:
    outcome: Outcome
    fresh_until_s: float
    good_until_s: float
    """When the answer's TTL ends; later it is stale."""


class NameCache:
    """Outcomes by host name, bounded: the least recently used name is forgotten first."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, host: str, now_s: float) -> Outcome | None:
        """Return what is known, while it is valid."""
        known = self._entries.get(host)
        if known is None or now_s >= known.fresh_until_s:
            return None
        self._entries.move_to_end(host)
        return known.outcome

    def stale(self, host: str, now_s: float) -> Found | None:
        """Return addresses that were valid until recently."""
        known = self._entries.get(host)
        if known is None or not isinstance(known.outcome, Found) or now_s >= known.good_until_s + STALE_S:
            return None
        return known.outcome

    def put(self, host: str, outcome: Outcome, now_s: float) -> Outcome:
        """Keep an outcome; return it, or the stale addresses to use instead of a failure."""
        if isinstance(outcome, LookupFailure) and not outcome.known:
            stale = self.stale(host, now_s)
            if stale is not None:
                self._entries[host].fresh_until_s = now_s + outcome.ttl_s
                return stale
        until_s = now_s + outcome.ttl_s
        self._entries[host] = _Entry(outcome, until_s, until_s)
        self._entries.move_to_end(host)
        if len(self._entries) > MAX_NAMES:
            self._entries.popitem(last=False)
        return outcome

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
