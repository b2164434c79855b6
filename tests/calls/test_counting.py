"""That calls are counted, and that one too many is told of."""

from __future__ import annotations

import re
import textwrap

import pytest

from .counting import Counted, Load


def wrap() -> Counted:
    with Counted() as counted:
        textwrap.dedent("  text")
        scripted()
    return counted


def scripted() -> str:
    return textwrap.dedent("  text")


def test_calls_are_counted_but_not_those_of_the_tests_and_what_they_call() -> None:
    by_name = {code.co_qualname: count for code, count in wrap().calls.items()}
    assert by_name["dedent"] == 1
    assert "scripted" not in by_name


def test_nothing_is_counted_behind_the_block() -> None:
    counted = wrap()
    total = counted.total
    textwrap.dedent("  text")
    assert counted.total == total


def test_one_call_over_the_ceiling_fails_and_names_what_was_called() -> None:
    most = wrap().total
    Load("wrap", 1, "text", most, wrap).check()
    expected = re.compile(rf"wrap: {most} calls of {most - 1}\n.* textwrap\.py\n +1 dedent", re.S)
    with pytest.raises(AssertionError, match=expected):
        Load("wrap", 1, "text", most - 1, wrap).check()
