"""In which order a host's addresses are tried. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from .protocols.addresses import Address


class AddressOrder:
    """What is known of one origin's addresses from earlier connections."""

    __slots__ = ("_last_bad", "_last_good")

    def __init__(self) -> None:
        self._last_good: Address | None = None
        self._last_bad: Address | None = None

    def note(self, address: Address, good: bool) -> None:
        """Note that a connection to an address became ready, or broke off in its handshake."""
        if not good:
            self._last_bad = address
            return
        self._last_good = address
        if self._last_bad == address:
            self._last_bad = None

    def sorted(self, addresses: Iterable[Address]) -> list[Address]:
        """Return addresses in the order to try them, which is otherwise as given.

        The one that took the last connection comes first: an address that is dead is not tried again and
        again. One that took it and broke off in the handshake comes last: another attempt meets another
        server.
        """
        return sorted(addresses, key=lambda address: (address == self._last_bad, address != self._last_good))
