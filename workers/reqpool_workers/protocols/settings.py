"""A route's settings, as the worker half of a kind gets them."""

from __future__ import annotations

from typing import Any

from reqpool_contract import checks, wire
from reqpool_contract.errors import ProtocolError, UsageError


def settings_of(packed: bytes) -> dict[str, Any]:
    """Decode a route's settings (:mod:`reqpool_contract.origin_names`).

    Raises:
        UsageError: if they are not a msgpack map with string keys.
    """
    try:
        return checks.fields(wire.unpack(packed)) if packed else {}
    except ProtocolError as error:
        raise UsageError(f"malformed settings: {error.text}") from error
