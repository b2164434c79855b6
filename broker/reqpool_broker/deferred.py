"""Submissions that wait until the workers of an earlier broker have reported. No I/O, no clock.

Such a group was submitted before, or is for a connection that is pinned already: only those workers know what
became of the request, or of the connection.
"""

from __future__ import annotations

from collections.abc import Iterable

from reqpool_contract import wire


class DeferredGroups:
    """The deferred groups of one session.

    Attributes:
        groups: in their order, each with its deadline (monotonic).
        size_bytes: their payloads and own settings.
    """

    __slots__ = ("groups", "size_bytes")

    def __init__(self) -> None:
        self.groups: list[tuple[wire.SubmitGroup, float]] = []
        self.size_bytes = 0

    def add(self, group: wire.SubmitGroup, deadline_s: float) -> None:
        """Defer a group."""
        self.groups.append((group, deadline_s))
        self.size_bytes += group_bytes(group)

    def take(self) -> list[tuple[wire.SubmitGroup, float]]:
        """Return all groups; none is deferred any more."""
        groups, self.groups = self.groups, []
        self.size_bytes = 0
        return groups

    def drop(self, seqs: Iterable[int]) -> None:
        """Drop requests that have ended while they were deferred."""
        if self.groups:
            ended = set(seqs)
            for group, deadline_s in self.take():
                left = _without(group, ended)
                if left.seqs:
                    self.add(left, deadline_s)

    @property
    def seqs(self) -> list[int]:
        """Sequence numbers of the deferred requests."""
        return [seq for group, _ in self.groups for seq in group.seqs]


def group_bytes(group: wire.SubmitGroup) -> int:
    """Return what a group takes; cached settings are there once for all."""
    return sum(map(len, group.payloads)) + (len(group.settings) if group.kept is None else 0)


def _without(group: wire.SubmitGroup, ended: set[int]) -> wire.SubmitGroup:
    pairs = [pair for pair in zip(group.seqs, group.payloads, strict=True) if pair[0] not in ended]
    return group._replace(seqs=tuple(s for s, _ in pairs), payloads=tuple(p for _, p in pairs))
