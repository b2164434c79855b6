"""Whatever happens to a broker: each request ends once, runs as often as it may, and the books are right."""

from __future__ import annotations

import pytest

from support.broker_mutations import MUTATIONS, Mutation
from support.storm import MIXES, Mix, Storm

SEEDS = range(16)
MOST_SEEDS = range(100)
"""One of these has to find a fault that is put in; most are found by the first."""


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: mix.name)
def test_nothing_is_lost_or_ends_or_runs_twice_and_the_books_are_right(mix: Mix, seed: int) -> None:
    Storm(seed, mix).run()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.what)
def test_a_fault_that_is_put_in_is_found(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    (mix,) = (mix for mix in MIXES if mix.name == mutation.mix)
    mutation.put_in(monkeypatch)
    for seed in MOST_SEEDS:
        try:
            Storm(seed, mix).run()
        except AssertionError:
            return
    pytest.fail(f"not found by seeds {MOST_SEEDS}")
