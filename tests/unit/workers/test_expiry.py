"""The one timer that ends what a worker holds for a limited time."""

from __future__ import annotations

from reqpool_workers.event_loop import Timer
from reqpool_workers.expiry import EVERY_S, Expiry


def test_all_is_looked_at_in_order_and_again_and_again() -> None:
    seen: list[tuple[str, float]] = []

    class Held:
        def __init__(self, name: str) -> None:
            self.name = name

        def tend(self, now_s: float) -> None:
            seen.append((self.name, now_s))

    timers: list[tuple[float, Timer]] = []
    expiry = Expiry(
        lambda due_s, timer: timers.append((due_s, timer)),
        (Held("ports"), Held("origins")),
        lambda: seen.append(("then", 0.0)),
    )
    expiry.begin(10.0)
    due_s, look = timers[0]
    assert due_s == 10.0 + EVERY_S
    assert look(due_s) == due_s + EVERY_S
    assert seen == [("ports", due_s), ("origins", due_s), ("then", 0.0)]
