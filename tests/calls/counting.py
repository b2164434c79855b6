"""Counts Python calls, and says whose they are."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

GROUPS = 64
"""Groups of one request each in the second load."""
BATCH = 200
"""Requests of one group in the third."""
ROUNDS = 6
"""How often a load is counted: a heartbeat or a timer may fall into some, so the fewest count."""
_TESTS = f"{Path(__file__).parents[1]}{os.sep}"


class Counted:
    """Counts the Python calls that are made on this thread within the block.

    Code of the tests, and whatever it calls, is left out: it plays the peers. Each resumption of a generator
    is a call. Calls of functions in C, and of what Cython made of Python, are not seen.

    Attributes:
        calls: by code object.
    """

    def __init__(self) -> None:
        self.calls: Counter[CodeType] = Counter()
        self._outside: FrameType | None = None

    @property
    def total(self) -> int:
        """How many."""
        return self.calls.total()

    def __enter__(self) -> Counted:
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        self._outside = None

    def _note(self, frame: FrameType, event: str, _arg: Any) -> None:
        if self._outside is not None:
            if event == "return" and frame is self._outside:
                self._outside = None
        elif event == "call":
            if frame.f_code.co_filename.startswith(_TESTS):
                self._outside = frame
            else:
                self.calls[frame.f_code] += 1

    def listing(self) -> str:
        """Say what was called, by file and function, in the order of the first calls of each file."""
        files: dict[str, Counter[str]] = {}
        for code, count in self.calls.items():
            files.setdefault(_shown(code.co_filename), Counter())[code.co_qualname] += count
        lines = []
        for file, functions in files.items():
            lines.append(f"{functions.total():6} {file}")
            lines += [f"{count:13} {name}" for name, count in functions.items()]
        return "\n".join(lines)


class Load(NamedTuple):
    """Something that is counted.

    Attributes:
        name: what it is.
        units: of what there are how many in it.
        unit: what these are.
        most: the ceiling on the calls of all of it.
        run: does it once and counts.
    """

    name: str
    units: int
    unit: str
    most: int
    run: Callable[[], Counted]

    def fewest(self) -> Counted:
        """Count it several times; returns the round with the fewest calls."""
        return min((self.run() for _ in range(ROUNDS)), key=lambda counted: counted.total)

    def report(self, counted: Counted) -> str:
        """Say how many calls there were, how many there may be, and what they were."""
        each = f", {counted.total / self.units:.1f} per {self.unit}" if self.units > 1 else ""
        return f"{self.name}: {counted.total} calls of {self.most}{each}\n{counted.listing()}"

    def check(self) -> None:
        """Compare with the ceiling.

        Raises:
            AssertionError: if there are more; says what was called.
        """
        counted = self.fewest()
        assert counted.total <= self.most, self.report(counted)


def _shown(path: str) -> str:
    """The path from the package on."""
    folder = Path(path).parent
    while (folder / "__init__.py").exists():
        folder = folder.parent
    return path.removeprefix(f"{folder}{os.sep}")
