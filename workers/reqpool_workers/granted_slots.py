"""What the broker has granted over this connection: how many connections to upstreams. Sans-IO."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reqpool_contract.policy import Policy

from .worker_upstreams import Upstreams


class GrantedSlots:
    """The last GRANT for each origin, and whether it has been answered.

    Args:
        upstreams: open the connections.

    Attributes:
        unanswered: origins to the numbers of GRANTs that GRANTED was not sent for.
    """

    def __init__(self, upstreams: Upstreams) -> None:
        self._upstreams = upstreams
        self._granted: dict[str, tuple[int, int]] = {}  # number, slots
        self.unanswered: dict[str, int] = {}

    def take(self, name: str, number: int, slots: int, about: Mapping[str, Any]) -> bool:
        """Take a GRANT; False if it is older than the last one.

        Raises:
            ProtocolError: if its policy is malformed.
        """
        if name in self._granted and number < self._granted[name][0]:
            return False
        policy = Policy.of_wire(about)
        self._granted[name] = (number, slots)
        self.unanswered[name] = number
        self._upstreams.grant(name, slots, policy)
        return True

    def answers(self) -> Iterator[tuple[str, int, int]]:
        """Yield origin, number and connections, for GRANTED: of each grant that is observed by now."""
        for name, number in list(self.unanswered.items()):
            slots, open_connections = self._granted[name][1], self._upstreams.open_connections(name)
            if open_connections <= slots:
                del self.unanswered[name]
                if not slots:
                    del self._granted[name]
                yield name, number, open_connections

    def lapse(self) -> None:
        """Note that the connection to the broker is a new one: nothing is granted but what is open."""
        self._granted.clear()
        self.unanswered.clear()
        self._upstreams.open_no_more()
