"""Whatever happens to a broker: each request ends once, runs as often as it may, and the books are right."""

from __future__ import annotations

import pytest

from support.storm import MIXES, Mix, Storm

SEEDS = 12


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: mix.name)
def test_nothing_is_lost_or_ends_or_runs_twice_and_the_books_are_right(mix: Mix, seed: int) -> None:
    Storm(seed, mix).run()
