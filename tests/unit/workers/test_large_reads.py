"""In which order large answers are read."""

from __future__ import annotations

import pytest

from reqpool_workers.large_reads import LargeReads


class Answer:
    """So many pieces of an answer have come and are not read, or of several: one with each ``every`` pieces.

    Attributes:
        read: names of all that were read from, in order.
    """

    def __init__(self, name: str, pieces: int, read: list[str], every: int = 1_000) -> None:
        self.answers = 0
        self.pieces = pieces
        self._every = every
        self._name = name
        self._read = read

    def read_on(self) -> bool:
        self._read.append(self._name)
        self.pieces -= 1
        self.answers += self.pieces % self._every == 0
        return self.pieces > 0


@pytest.fixture
def read() -> list[str]:
    return []


def order(inflow: LargeReads, read: list[str]) -> str:
    """Read all that waits, in turns; returns what was read in which."""
    turns = []
    while inflow.waiting:
        inflow.read_on()
        turns.append("".join(read))
        read.clear()
    return " ".join(turns)


def test_long_ones_are_read_one_after_the_other(read: list[str]) -> None:
    inflow = LargeReads()
    for name in "abc":
        inflow.wait(Answer(name, 4, read))
    assert order(inflow, read) == "a ab ac a b b b c c c"


def test_one_with_little_more_does_not_wait_for_long_ones(read: list[str]) -> None:
    inflow = LargeReads()
    inflow.wait(Answer("a", 9, read))
    inflow.read_on()
    inflow.wait(Answer("b", 1, read))
    inflow.read_on()
    assert read == ["a", "a", "b"]


def test_a_stream_of_short_ones_does_not_keep_a_long_one_waiting(read: list[str]) -> None:
    inflow = LargeReads()
    inflow.wait(Answer("a", 9, read))
    for _ in range(9):
        inflow.wait(Answer("b", 1, read))
        inflow.read_on()
    assert read.count("a") == 9


def test_one_that_goes_on_with_another_answer_lets_others_be_read_first(read: list[str]) -> None:
    inflow = LargeReads()
    inflow.wait(Answer("a", 12, read, every=4))
    inflow.wait(Answer("b", 4, read))
    assert order(inflow, read) == "a ab a a ba b b a a a a a a a"


def test_one_of_which_nothing_more_has_come_gives_way_and_comes_back(read: list[str]) -> None:
    inflow = LargeReads()
    slow = Answer("a", 2, read)
    inflow.wait(slow)
    inflow.wait(Answer("b", 2, read))
    assert order(inflow, read) == "a ab b"
    slow.pieces = 2
    inflow.wait(slow)
    assert order(inflow, read) == "a a"


def test_one_that_says_again_that_it_waits_is_read_no_more_often(read: list[str]) -> None:
    inflow = LargeReads()
    long = Answer("a", 3, read)
    inflow.wait(long)
    inflow.wait(long)
    inflow.read_on()
    inflow.wait(long)
    inflow.read_on()
    assert read == ["a", "a"]
