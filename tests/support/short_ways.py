"""Which messages go the broker's short ways, counted and forbidden at will."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from reqpool_broker.short_way import ShortResults, ShortSubmit


class ShortWays:
    """Stands before the short ways of every broker.

    Args:
        patch: undoes it.
        share: of the messages that may take them.
        seed: of which these are.

    Attributes:
        taken: how many messages took each.
        barred: how many were not let in.
    """

    def __init__(self, patch: pytest.MonkeyPatch, share: float = 1.0, seed: int = 0) -> None:
        self.taken: Counter[str] = Counter()
        self.barred: Counter[str] = Counter()
        self._share = share
        self._chance = random.Random(seed)
        for owner in (ShortSubmit, ShortResults):
            patch.setattr(owner, "take", self._gate(owner.__name__, owner.take))

    def _gate(self, name: str, take: Any) -> Any:
        def gated(this: Any, peer: Any, message: Any, now_s: float) -> bool:
            if self._chance.random() >= self._share:
                self.barred[name] += 1
                return False
            if not take(this, peer, message, now_s):
                return False
            self.taken[name] += 1
            return True

        return gated
