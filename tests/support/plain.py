"""A kind with nothing to it: the payload goes out as it is, the answer is its bytes."""

from __future__ import annotations

from typing import Any

import reqpool
from reqpool.kinds import Asked, Kind, Route
from reqpool_contract.errors import RequestFacts


class Plain(Kind):
    """Of a target ``"repeatable"`` a request may run more than once."""

    name = "plain"

    def encode(self, target: Any, payload: Any, *args: Any, **options: Any) -> tuple[Route, bytes, Any]:
        if options:
            raise TypeError("no options")
        return (REPEATABLE if target == "repeatable" else ONCE), payload, None

    def decode(self, data: bytes, request: Asked) -> bytes:
        return data


class Decoded:
    """A request to decode an answer for, where the kind wants to know nothing of it."""

    note: Any = None
    trail: tuple[Any, ...] = ()
    elapsed_s = 0.0
    route: Any = None
    facts = RequestFacts("ab", 7, "plain://once", 1, 0.0)


ASKED = Decoded()
KIND = Plain()
ONCE = Route(KIND, ("plain://once",), False)
REPEATABLE = Route(KIND, ("plain://repeatable",), True)


def ask(pool: reqpool.Pool, payload: bytes = b"hello", target: str = "repeatable", **options: Any) -> Any:
    """Submit a request of this kind."""
    return pool.submit(KIND, target, payload, **options)
