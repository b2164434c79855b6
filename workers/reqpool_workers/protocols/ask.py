"""A request as a protocol sees it."""

from __future__ import annotations

from typing import Any


class Ask:
    """What is asked of an upstream.

    Attributes:
        payload: what the client half encoded.
        key: for use by the protocol that has the request, such as a datagram's id.
        note: likewise.
    """

    __slots__ = ("key", "note", "payload")

    payload: bytes
    key: Any
    note: Any
