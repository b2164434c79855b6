"""KEEP: which settings are cached for a session, and how many for all together. No I/O, no clock."""

from __future__ import annotations

from reqpool_contract import wire
from reqpool_contract.errors import ProtocolError
from reqpool_contract.wire import Reject

from .epoch import Epoch
from .session import Session

MAX_ALL_CACHED_BYTES = 1 << 30
"""Settings cached for all sessions together."""


class SettingsBudget:
    """Caches settings for connections of clients, within bounds.

    Args:
        epoch: shared by both sides of the broker.
    """

    def __init__(self, epoch: Epoch) -> None:
        self._epoch = epoch
        self._cached_bytes = 0

    @property
    def room(self) -> int:
        """How many settings a further connection may have cached: none if they might not find room."""
        most = wire.SESSION_KEEPS * wire.MAX_SETTINGS_BYTES
        return wire.SESSION_KEEPS if self._cached_bytes + most <= MAX_ALL_CACHED_BYTES else 0

    def cache(self, session: Session, number: int, settings: bytes, now_s: float) -> None:
        """Take a KEEP; REJECT if it cannot be cached."""
        code, text = Reject.OVERLOADED, "no room for the settings of another session"
        if self._cached_bytes + len(settings) <= MAX_ALL_CACHED_BYTES:
            before = session.cached.size_bytes
            try:
                session.cached.keep(number, settings)
                self._cached_bytes += session.cached.size_bytes - before
                return
            except ProtocolError as error:
                self._epoch.malformed["intake"] += 1
                code, text = Reject.MALFORMED, error.text
        if session.route is not None:
            self._epoch.reject(self._epoch.outbox.intake, session.route, code, text)

    def drop(self, session: Session) -> None:
        """Forget what a connection has cached, which begins anew or ends."""
        self._cached_bytes -= session.cached.size_bytes
        session.cached.clear()
