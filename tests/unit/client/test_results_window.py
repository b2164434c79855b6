"""Result batches in order, repeated, and missing."""

from __future__ import annotations

from reqpool.results_window import ResultsWindow


def test_only_the_next_batch_is_accepted() -> None:
    window = ResultsWindow()
    assert [window.accept(number) for number in (1, 1, 3, 2, 3)] == [True, False, False, True, True]
    assert (window.received, window.repeated) == (3, 1)


def test_a_missing_batch_is_asked_for_once_in_each_pause_and_at_once_when_another_is_missing() -> None:
    window = ResultsWindow()
    assert [window.asks_again(now_s, 0.5) for now_s in (1.0, 1.4, 1.5)] == [True, False, True]
    assert window.accept(1)
    assert window.asks_again(1.6, 0.5)
    assert window.gaps == 3
