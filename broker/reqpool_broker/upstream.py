"""An upstream as the broker knows it: one server, by which limits are counted.

No I/O, no clock.
"""

from __future__ import annotations

from reqpool_contract.policy import Policy

from .worker import Grant, Worker


class Upstream:
    """One server.

    Attributes:
        key: scheme, host and port (:func:`reqpool_contract.origin_names.upstream_of`).
        policy: its limits and timeouts.
        grants: connection slots there, by worker and origin name, those of forgotten origins included.
        in_flight: requests in progress there, including those on pinned connections.
        pins: connections there that are pinned to sessions.
        limit: connections that the whole pool may have, as last worked out.
        inherited: of those, the ones that workers of an earlier epoch were found to have.
    """

    def __init__(self, key: str, policy: Policy) -> None:
        self.key = key
        self.policy = policy
        self.grants: dict[tuple[Worker, str], Grant] = {}
        self.in_flight = 0
        self.pins = 0
        self.limit = 0
        self.inherited = 0

    @property
    def reserved(self) -> int:
        """Connections that may be open now."""
        return sum(grant.reserved for grant in self.grants.values())
