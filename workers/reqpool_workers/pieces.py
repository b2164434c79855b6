"""A large payload that comes in pieces, ahead of the LEASE that it belongs to. Sans-IO."""

from __future__ import annotations

from reqpool_contract.errors import ProtocolError
from reqpool_contract.wire import MAX_PAYLOAD_BYTES


class Pieces:
    """The beginning of one payload, as far as it has come through one connection."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size_bytes = 0

    def take(self, offset: int, piece: bytes) -> None:
        """Take the next piece; at offset 0 it begins a payload, and what was there before is dropped.

        Raises:
            ProtocolError: if it does not continue what is there, or the payload gets too large. What is there
                cannot be used then: the connection has to be given up.
        """
        if offset == 0:
            self._pieces, self._size_bytes = [], 0
        if offset != self._size_bytes:
            raise ProtocolError(f"a piece for offset {offset}, after {self._size_bytes} bytes")
        if offset + len(piece) > MAX_PAYLOAD_BYTES:
            raise ProtocolError(f"a payload of more than {MAX_PAYLOAD_BYTES} bytes in pieces")
        if piece:
            self._pieces.append(piece)
            self._size_bytes += len(piece)

    def complete(self, frames: list[bytes]) -> tuple[list[bytes], int]:
        """Put what has come before the first of a LEASE's frames, which is the rest.

        Returns:
            The frames, and how many bytes were put before the first.
        """
        ahead_bytes = self._size_bytes
        if self._pieces:
            frames = [b"".join((*self._pieces, frames[0])), *frames[1:]]
            self._pieces, self._size_bytes = [], 0
        return frames, ahead_bytes
