"""docs/reliability.md names a test for each promise: they exist."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[2]
NAMED = re.compile(r"`([\w/]+\.py)(?:::(test_\w+))?`")


def test_every_test_that_is_named_exists() -> None:
    text = (TESTS.parent / "docs/reliability.md").read_text()
    named = [(file, test) for file, test in NAMED.findall(text) if (TESTS / file.partition("/")[0]).is_dir()]
    assert len(named) > 20
    missing = [
        f"{file}::{test}"
        for file, test in named
        if not (TESTS / file).exists() or (test and f"def {test}(" not in (TESTS / file).read_text())
    ]
    assert not missing
    assert "`…::" not in text
