"""Who ended, and how often: the other side of "every request ends exactly once"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from reqpool import Future

from .wait import wait_until


class Ends:
    """A callback that counts how often each future ended; called on the I/O thread."""

    def __init__(self) -> None:
        self._count: Counter[Future[Any]] = Counter()

    def __call__(self, future: Future[Any]) -> None:
        self._count[future] += 1

    def check(self, futures: Iterable[Future[Any]]) -> None:
        """Each of these has ended exactly once, and nothing else has.

        Raises:
            AssertionError: if not.
        """
        expected = set(futures)
        wait_until(lambda: len(self._count) >= len(expected), 5.0, "all callbacks")
        assert self._count.keys() == expected
        assert set(self._count.values()) <= {1}
