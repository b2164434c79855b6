"""Settings that one side of a connection keeps, so that they travel once and not with each request.

A file of certificate authorities alone may have hundreds of KiB. KEEP (docs/protocol.md#kept-settings) gives
settings a number for as long as the connection lives; groups then name the number. Sans-IO, and the same
between client and broker as between broker and worker.
"""

from __future__ import annotations

from . import wire
from .errors import ProtocolError


class SettingsSender:
    """The sender's end: which settings the peer keeps.

    Args:
        most: how many the peer said it keeps; 0 for one that knows no KEEP.
    """

    def __init__(self, most: int = 0) -> None:
        self._most = most
        self._numbers: dict[bytes, int] = {}
        self._fresh: list[tuple[int, bytes]] = []
        self._full = False

    def place(self, settings: bytes) -> int | None:
        """Return the number under which the peer keeps settings; None if they have to travel themselves.

        Small ones always do. What :meth:`take_fresh` returns must be sent before what names the number.
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
        """Return what is to be sent as KEEP: numbers and settings."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def end_turn(self) -> None:
        """All that names a number has been sent: start over if there was no room for more.

        Not before, or a number would mean other settings by the time its request is read.
        """
        if self._full:
            self._numbers.clear()
            self._full = False


class SettingsReceiver:
    """The receiver's end: settings by number.

    Args:
        most: how many it keeps at most.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._settings: dict[int, bytes] = {}

    @property
    def size_bytes(self) -> int:
        """Size of all that is kept. It is added up each time."""
        return sum(map(len, self._settings.values()))

    def keep(self, number: int, settings: bytes) -> None:
        """Keep settings under a number, in place of what was kept there.

        Raises:
            ProtocolError: if the number is over what was agreed.
        """
        if number >= self._most:
            raise ProtocolError(f"KEEP {number}: numbers must be below {self._most}")
        self._settings[number] = settings

    def find(self, number: int) -> bytes:
        """Return the settings kept under a number.

        Raises:
            ProtocolError: if there are none.
        """
        settings = self._settings.get(number)
        if settings is None:
            raise ProtocolError(f"no settings are kept under number {number}")
        return settings

    def clear(self) -> None:
        """A new connection: forget all."""
        self._settings.clear()
