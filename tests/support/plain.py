"""A kind with nothing to it: the payload goes out as it is, the answer is its bytes."""

from __future__ import annotations

from typing import Any

from reqpool.kinds import Kind, Route


class Plain(Kind):
    """Of a target ``"repeatable"`` a request may run more than once."""

    name = "plain"

    def encode(self, target: Any, payload: Any, *args: Any, **options: Any) -> tuple[Route, bytes]:
        if options:
            raise TypeError("no options")
        return (REPEATABLE if target == "repeatable" else ONCE), payload

    def decode(self, data: bytes) -> bytes:
        return data


KIND = Plain()
ONCE = Route(KIND, ("plain://once",), False)
REPEATABLE = Route(KIND, ("plain://repeatable",), True)
