"""How long a queue may be for one client, beside the others."""

from __future__ import annotations

import pytest

from reqpool_broker.overload_control import fair_place


@pytest.mark.parametrize(
    ("most", "waiting", "own", "place"),
    [
        (100, [], 0, 100),
        (100, [30], 30, 100),  # its own
        (100, [5000], 0, 50),  # a turn each
        (100, [5000, 5000, 5000], 0, 25),
        (100, [10, 5000], 0, 45),  # who wants less than its share leaves the rest
        (100, [10, 20], 0, 70),
        (100, [10, 20, 60], 60, 70),
        (-5, [10], 0, -2.5),
    ],
)  # fmt: skip
def test_before_its_nth_request_each_other_client_has_n_served(
    most: float, waiting: list[int], own: int, place: float
) -> None:
    assert fair_place(most, waiting, own) == pytest.approx(place)
