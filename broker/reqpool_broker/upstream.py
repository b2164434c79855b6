"""An upstream as the broker knows it: one server, whoever asks for whatever there; limits are counted by it.

No I/O, no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reqpool_contract.policy import Policy

if TYPE_CHECKING:
    from .origin import Origin
    from .worker import Grant, Worker


class Upstream:
    """One server.

    Attributes:
        key: scheme, host and port (:func:`reqpool_contract.origin_names.upstream_of`).
        policy: its limits and timeouts.
        origins: those that lead to it and are known; a user, a database each.
        grants: connection slots there, by worker and origin name, those of forgotten origins included.
        in_flight: requests under way there, those on held connections included.
        pins: connections there that are held for sessions.
        queued: origins that something waits for, and perhaps some that nothing waits for any more.
        limit: connections that the whole pool may have, as last worked out.
        inherited: of those, the ones that workers of the broker's earlier life were found to have.
    """

    def __init__(self, key: str, policy: Policy) -> None:
        self.key = key
        self.policy = policy
        self.origins: dict[Origin, None] = {}
        self.grants: dict[tuple[Worker, str], Grant] = {}
        self.in_flight = 0
        self.pins = 0
        self.queued: dict[Origin, None] = {}
        self.limit = 0
        self.inherited = 0

    def take_turns(self) -> None:
        """Where there are too few connections for each origin to have one, those in front would have them for
        ever."""
        waiting = [origin for origin in self.queued if origin.queue.waiting]
        if len(waiting) < 2:
            return
        granted = {name for (_, name), grant in self.grants.items() if grant.slots}
        if all(origin.name in granted for origin in waiting):
            return
        for origin in self.origins:
            if origin.queue.waiting:
                self.origins[origin] = self.origins.pop(origin)
                return

    @property
    def reserved(self) -> int:
        """Connections that may be open now."""
        return sum(grant.reserved for grant in self.grants.values())

    @property
    def waits(self) -> bool:
        """Does a request wait for room there?"""
        return any(origin.queue.waiting for origin in self.queued)

    @property
    def deserted(self) -> bool:
        """Is nothing known of it any more?"""
        return not (self.origins or self.grants or self.inherited)
