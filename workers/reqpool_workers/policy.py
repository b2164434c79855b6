"""How an upstream's connections are treated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from reqpool_contract import checks


class Policy(NamedTuple):
    """How an upstream's connections are treated, as GRANT says it; docs/protocol.md#policy.

    Attributes:
        connect_s: longest time until a connection is ready; a request's own deadline may be sooner.
        read_s: longest wait for an answer, from the request, or from the answer before it; None: no such
            bound.
        idle_s: how long a connection is kept with nothing to do.
        lifetime_s: after so long it takes no more requests: servers move, and addresses with them.
        max_bytes: largest answer; None: the kind's limit.
        pin_idle_s: how long a held connection may have nothing to do.
        retries: 0: nothing that was sent is sent again, even where a stale connection is the likely cause,
            and no server is waited for.
    """

    connect_s: float = 5.0
    read_s: float | None = None
    idle_s: float = 30.0
    lifetime_s: float = 600.0
    max_bytes: int | None = None
    pin_idle_s: float = 60.0
    retries: int = 2

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> Self:
        """Read the fields of a GRANT; what is absent has its default.

        Raises:
            ProtocolError: if one is not an unsigned integer.
        """
        spans = {
            name.removesuffix("_ms") + "_s": checks.uint(value) / 1000
            for name, value in about.items()
            if name in ("connect_ms", "read_ms", "idle_ms", "lifetime_ms", "pin_idle_ms")
        }
        counts = {name: checks.uint(about[name]) for name in ("max_bytes", "retries") if name in about}
        return cls(**spans, **counts)  # type: ignore[arg-type]  # spans are floats, counts are not
