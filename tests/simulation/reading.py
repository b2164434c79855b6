"""A large answer on its way from an upstream into a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reqpool_workers.connection_io import LARGE_READ_BYTES

if TYPE_CHECKING:
    from .worker import Wire


class Reading:
    """It has come, and is read as its turn comes; see :class:`reqpool_workers.large_reads.Source`."""

    answers = 0

    def __init__(self, wire: Wire, key: bytes, size_bytes: int) -> None:
        self._wire = wire
        self._key = key
        self._left_bytes = size_bytes

    def read_on(self) -> bool:
        if self._wire.closed:
            return False
        self._left_bytes -= LARGE_READ_BYTES
        if self._left_bytes > 0:
            return True
        self._wire.site.answered(self._wire, self._key)
        self._wire.site.assign()
        return False
