"""docs/architecture.md names every module of the product, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.sources import product

DOCUMENT = (Path(__file__).parents[3] / "docs" / "architecture.md").read_text()
MODULES = product()
PACKAGES = sorted({module.package for module in MODULES.values()})


def section(package: str) -> str:
    """Return the part of "Where to look" that is about a package."""
    found = re.search(rf"^### [^\n]*/{package}`$(.*?)(?=^##|\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found, f"docs/architecture.md has no heading for {package}"
    return found[1]


def files(package: str) -> Iterator[str]:
    """Name the files of a package, by their paths in it."""
    for module in MODULES.values():
        if module.package == package:
            path = module.file.partition(f"{package}/")[2]
            if not path.endswith(("__init__.py", "__main__.py")):
                yield path


@pytest.mark.parametrize("package", PACKAGES)
def test_every_file_is_where_a_newcomer_looks_for_it(package: str) -> None:
    named = set(re.findall(r"`([\w/]+\.py)`", section(package)))
    there = set(files(package))
    assert named == there, f"not named: {sorted(there - named)}; not there: {sorted(named - there)}"


def test_what_is_named_elsewhere_is_there() -> None:
    there = {path for package in PACKAGES for path in files(package)} | {"__init__.py", "__main__.py"}
    known = there | {path.rpartition("/")[2] for path in there}
    named = set(re.findall(r"`(?:[\w]+/)?(?:reqpool_\w+/)?([\w/]+\.py)`", DOCUMENT))
    named = {name for name in named if not name.startswith("tests/")}
    assert named <= known, f"not there: {sorted(named - known)}"
