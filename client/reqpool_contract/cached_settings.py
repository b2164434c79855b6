"""Cached settings: kept by the receiver, so that they are sent once and not with each request. Sans-IO.

A file of certificate authorities alone may have hundreds of KiB. KEEP (docs/protocol.md#cached-settings)
gives settings a number for the life of the connection, and groups refer to the number. It works in the same
way between client and broker as between broker and worker.
"""

from __future__ import annotations

from . import wire
from .errors import ProtocolError


class SettingsSender:
    """The sender's side: which settings the peer keeps.

    Args:
        most: how many the peer keeps, as it reported; 0 for a peer that does not know KEEP.
    """

    def __init__(self, most: int = 0) -> None:
        self._most = most
        self._numbers: dict[bytes, int] = {}
        self._fresh: list[tuple[int, bytes]] = []
        self._full = False

    def place(self, settings: bytes) -> int | None:
        """Return the number under which the peer keeps settings; None if they must be sent in full.

        Small ones always are. Send what :meth:`take_fresh` returns before a group with the number.
        """
        if len(settings) < wire.KEPT_FROM_BYTES or not self._most:
            return None
        number = self._numbers.get(settings)
        if number is None and len(self._numbers) < self._most:
            number = self._numbers[settings] = len(self._numbers)
            self._fresh.append((number, settings))
        self._full |= number is None
        return number

    def take_fresh(self) -> list[tuple[int, bytes]]:
        """Return what must be sent as KEEP: numbers and settings."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def end_turn(self) -> None:
        """Start over if there was no room for further settings; call when all groups have been sent.

        Not before, or a number might mean other settings by the time its request is read.
        """
        if self._full:
            self._numbers.clear()
            self._full = False


class SettingsReceiver:
    """The receiver's side: settings by number.

    Args:
        most: the most that it keeps.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._settings: dict[int, bytes] = {}

    @property
    def size_bytes(self) -> int:
        """The size of all settings kept; computed by each call."""
        return sum(map(len, self._settings.values()))

    def keep(self, number: int, settings: bytes) -> None:
        """Keep settings under a number, replacing those that were kept there.

        Raises:
            ProtocolError: the number is too large.
        """
        if number >= self._most:
            raise ProtocolError(f"KEEP {number}: numbers must be below {self._most}")
        self._settings[number] = settings

    def find(self, number: int) -> bytes:
        """Return the settings kept under a number.

        Raises:
            ProtocolError: there are none.
        """
        settings = self._settings.get(number)
        if settings is None:
            raise ProtocolError(f"no settings are kept under number {number}")
        return settings

    def clear(self) -> None:
        """Forget all settings, for a new connection."""
        self._settings.clear()
