"""Large answers, read in pieces, and only as results on their way to the broker leave room. Sans-IO.

All results of a worker go through its one connection to the broker, where each waits for those before it. So
what is large stays with its upstream, whose connection holds it back, until the broker has what came before.
"""

from __future__ import annotations

from typing import Protocol


class Source(Protocol):
    """A connection from which more of a large answer can be read."""

    @property
    def answers(self) -> int:
        """How many answers have been read from it in full."""

    def read_on(self) -> bool:
        """Read a piece; False if nothing more has come. It notices by itself when that changes."""


class LargeReads:
    """The connections with more to be read.

    The next piece of each new one is read soon, as there may be no more than that. Then they are read one
    after the other: if they took turns, all would be complete, and wait to be sent on, at about the same
    time. But after each answer it is the others' turn: a connection that many requests share may never run
    dry.

    Attributes:
        waiting: there are some.
    """

    def __init__(self) -> None:
        # Dicts used as ordered sets.
        self._new: dict[Source, None] = {}
        self._long: dict[Source, None] = {}
        self.waiting = False

    def wait(self, source: Source) -> None:
        """Note that more can be read from this one."""
        self.waiting = True
        if source not in self._long:
            self._new[source] = None

    def read_on(self) -> None:
        """Read what may be read in a turn: a piece from the first of both sorts."""
        long, new = next(iter(self._long), None), next(iter(self._new), None)
        if long is not None:
            before = long.answers
            more = long.read_on()
            if not more or long.answers > before:
                del self._long[long]
            if more:
                self.wait(long)
        if new is not None:
            del self._new[new]
            if new.read_on():
                self._long[new] = None
        self.waiting = bool(self._new or self._long)
