"""Regular expressions of the product: read from the sources, nothing is run.

Before 3.11.5 (gh-106052) Python, Debian 12's 3.11.2 for example, gets possessive and atomic groups wrong:
``(?:…)*+``, ``(?>…)``. Possessive repeats of one character or set, ``[^a]*+``, it gets right.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

POSSESSIVE_GROUP = re.compile(r"\(\?>|\)(?:[*+?]|\{[0-9,]+\})\+")


def expressions(path: Path) -> list[str]:
    """The texts and bytes in a file that have a group in them that only an expression has."""
    values = [
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
    ]
    texts = [value.decode("latin-1") if isinstance(value, bytes) else value for value in values]
    return [text for text in texts if isinstance(text, str) and "(?" in text]


@pytest.mark.parametrize("folder", ["client", "broker", "workers", "ops"])
def test_no_expression_needs_more_than_the_oldest_python_gets_right(folder: str) -> None:
    read = [(path, text) for path in (ROOT / folder).rglob("*.py") for text in expressions(path)]
    assert read or folder == "broker"
    assert not [(path, text) for path, text in read if POSSESSIVE_GROUP.search(text)]


@pytest.mark.parametrize("text", ["(?:a|b)*+", "(?:ab)++", "(?:ab)?+", "(?:ab){1,2}+", "(?>ab)"])
def test_a_possessive_group_is_seen(text: str) -> None:
    assert POSSESSIVE_GROUP.search(text)
