"""Limits of the product, and of this model, that a seed may make small, so that they are reached soon.

They stand in modules, by a name that is the same wherever it is imported: a limit is set in every module
that has its name, for as long as a run takes.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

PACKAGES = (__package__, "reqpool", "reqpool_contract", "reqpool_broker", "reqpool_workers")

Limit = tuple[tuple[str, int], ...]
"""Names, and what they are in a run: of one limit, or of some that only make sense together."""

LARGE = {
    "LARGE_BYTES": (30, 600),
    "ONE_LARGE_IN": (1, 4),
    "LARGE_MESSAGE_BYTES": (10, 40),
    "PIECE_BYTES": (41, 100),  # a piece is a large message, or it is not answered at once
    "PIECES_BYTES": (41, 200),
    "WINDOW_BYTES": (50, 800),
    "RESULTS_WINDOW_BYTES": (50, 800),
    "LARGE_READ_BYTES": (20, 200),
}
"""How large large bodies are here, how many there are, what counts as one, and what may be on its way:
between what each is drawn, ends included. All of these are small, or none is."""

SMALL = {
    # Messages.
    "MAX_BATCH_REQUESTS": (1, 8),
    "MAX_BATCH_BYTES": (10, 400),
    "BATCHES_PER_TURN": (1, 4),
    "BATCHES_PER_ACK": (1, 8),
    "MESSAGES_PER_TURN": (1, 4),
    # Turns of sessions in a queue.
    "QUANTUM": (1, 4),
    "QUANTUM_BYTES": (10, 400),
    "EMPTIED_LIMIT": (0, 4),
    # Results that are not acknowledged, at the broker and at workers.
    "ROOM_BATCHES": (1, 8),
    "ROOM_BYTES": (10, 100),
    "MAX_UNACKED_BATCHES": (20, 60),
    "CONFIRM_BYTES": (10, 100),
    "RETAINED_RESULTS_BYTES": (10, 200),
}
"""The same of limits that are small or not, each by itself."""

REFUSING = {
    "MAX_PENDING": (2, 40),
    "MAX_QUEUED_BYTES": (20, 2_000),
    "MAX_ALL_PENDING": (2, 40),
    "MAX_ALL_QUEUED_BYTES": (20, 2_000),
    "MAX_MESSAGES_PER_S": (2, 40),
    "MAX_ALL_UNREAD_BYTES": (20, 2_000),
    "SMALL_BYTES": (10, 200),
    "MAX_SESSIONS": (2, 4),
}
"""The same of limits at which requests end with an error."""

CRAMPING = {
    "RETAINED_RESULTS_BYTES", "MAX_PENDING", "MAX_QUEUED_BYTES", "MAX_ALL_PENDING", "MAX_ALL_QUEUED_BYTES",
    "MAX_ALL_UNREAD_BYTES",
}  # fmt: skip
"""Where these are small, what an earlier broker knew may end with ``OutcomeUnknown``, for want of room."""


def draw_limits(draw: random.Random, *, refusing: bool) -> tuple[Limit, ...]:
    """Draw small limits, about half of all there are.

    Args:
        draw: where from.
        refusing: those of :data:`REFUSING`, too.
    """
    alone = {**SMALL, **REFUSING} if refusing else SMALL
    sets = [{name: span} for name, span in alone.items() if draw.random() < 0.4]
    if draw.random() < 0.6:
        sets.append(LARGE)
    return tuple(
        tuple(
            (name, round(math.exp(draw.uniform(math.log(low + 1), math.log(high + 1)))) - 1)
            for name, (low, high) in ranges.items()
        )
        for ranges in sets
    )


@contextmanager
def in_force(limits: Iterable[Limit]) -> Iterator[None]:
    """Have limits hold while the context lasts; those that are not named are as they are."""
    small = list(chain.from_iterable(limits))
    before: list[tuple[dict[str, Any], str, int]] = []
    tables = [
        vars(module) for name, module in sys.modules.items() if small and name.partition(".")[0] in PACKAGES
    ]
    try:
        for name, value in small:
            having = [table for table in tables if name in table]
            assert having, f"nothing has a limit {name}"
            for table in having:
                before.append((table, name, table[name]))
                table[name] = value
        yield
    finally:
        for table, name, value in before:
            table[name] = value
