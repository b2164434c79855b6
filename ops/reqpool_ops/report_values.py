"""Reading a report whose figures and names come from other processes, and may be anything.

Anyone who can connect can send a worker's sample or a session's name. A figure that is not a number counts as
unknown, and text is shown so that it cannot move a terminal's cursor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def number(value: Any) -> float | None:
    """Return the value if it is a finite number, otherwise None."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return value
    return None


def members(value: Any) -> Mapping[str, Any]:
    """Return the value if it is a map, otherwise an empty one."""
    return value if isinstance(value, Mapping) else {}


def maps(value: Any) -> list[Mapping[str, Any]]:
    """Return the maps in an array; empty if the value is not an array."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, (list, tuple)) else []


def text(value: Any) -> str:
    """Return a value as one line of text, its control characters as escapes (``\\x1b``); empty for None."""
    shown = "" if value is None else value if isinstance(value, str) else str(value)
    if shown.isprintable():
        return shown
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in shown
    )


def counted(number: int, what: str) -> str:
    """Return a number with its noun: ``1 worker``, ``2 workers``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def plain(value: Any) -> Any:
    """Return a value that JSON can express: ids in hex, NaN and infinity as null."""
    if isinstance(value, Mapping):
        return {text(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float):
        return number(value)
    return value if value is None or isinstance(value, (str, int)) else text(value)
