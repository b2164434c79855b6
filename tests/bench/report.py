"""The result: one table with ratios and bars for people, the same as JSON for programs."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .run import Figures

ROLES = {"producer": 9, "broker": 8, "workers": 8, "server": 8}
"""Columns of CPU µs and their widths."""
_WIDTH = 120


def median(rounds: Sequence[Figures]) -> Figures:
    """Return the median of each figure over the rounds; losses and errors are summed up."""
    p50s_us = [figures.p50_us for figures in rounds if figures.p50_us is not None]
    p99s_us = [figures.p99_us for figures in rounds if figures.p99_us is not None]
    errors: dict[str, int] = {}
    for figures in rounds:
        for text, count in figures.errors.items():
            errors[text] = errors.get(text, 0) + count
    return Figures(
        rate_per_s=statistics.median(figures.rate_per_s for figures in rounds),
        cpu_us={
            role: statistics.median(figures.cpu_us[role] for figures in rounds) for role in rounds[0].cpu_us
        },
        idle=statistics.median(figures.idle for figures in rounds),
        submitted=sum(figures.submitted for figures in rounds),
        lost=sum(figures.lost for figures in rounds),
        p50_us=statistics.median(p50s_us) if p50s_us else None,
        p99_us=statistics.median(p99s_us) if p99s_us else None,
        errors=errors,
    )


@dataclass(frozen=True)
class Row:
    """One contestant in one section.

    Attributes:
        ours: does reqpool run it? Then its losses count for the bar.
        ratio: rate of the section's reference row divided by this one's; None: not compared.
    """

    name: str
    figures: Figures
    ours: bool
    ratio: float | None = None


@dataclass(frozen=True)
class Bar:
    """One figure and what it has to be.

    Attributes:
        at_least: is ``limit`` the least (else the most) that ``value`` may be?
        counts: does missing it fail the benchmark, or is it told for comparison?
    """

    text: str
    value: float
    limit: float
    at_least: bool
    counts: bool = True

    @property
    def passed(self) -> bool:
        """Does the figure hold?"""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def verdict(self) -> str:
        """``"PASS"`` or ``"FAIL"``; ``"told"`` if it does not count."""
        return ("PASS" if self.passed else "FAIL") if self.counts else "told"

    @property
    def wanted(self) -> str:
        """The limit and its side, e.g. ``">= 2"``."""
        return f"{'>=' if self.at_least else '<='} {_plain(self.limit)}"

    def line(self) -> str:
        """Return its line in the table."""
        return f"  {self.verdict}  {self.text}: {_plain(self.value)} (must be {self.wanted})"


@dataclass(frozen=True, kw_only=True)
class Goal(Bar):
    """A bar with the figures that it is made of: a line of the table of goals.

    Attributes:
        new: the figure of this code; ``value`` is its ratio to ``peer``, or the figure itself.
        old: the same of another revision.
        peer, old_peer: what the two are divided by.
    """

    new: float
    old: float | None = None
    peer: float | None = None
    old_peer: float | None = None

    @property
    def old_value(self) -> float | None:
        """What ``value`` is with the other revision."""
        if self.old is None or self.peer is None:
            return self.old
        return self.old / self.old_peer if self.old_peer else None

    def line(self) -> str:
        """Return its line in the table."""
        cells = [f"{'' if value is None else _plain(value):>10}" for value in (self.old, self.new, self.peer)]
        if self.peer is None:
            cells.append(" " * 18)
        else:
            cells += [
                f"{'' if value is None else f'{value:.2f}':>9}" for value in (self.old_value, self.value)
            ]
        end = f"{self.wanted:>9}  {self.verdict}" if self.counts else ""
        return f"{self.text:<58}{''.join(cells)}{end}".rstrip()


@dataclass
class Section:
    """One part of the table."""

    name: str
    title: str
    rows: list[Row] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> Iterable[str]:
        """Yield the section's lines."""
        yield f"{self.name}: {self.title}"
        for row in self.rows:
            yield _row_line(row)
            for text, count in row.figures.errors.items():
                yield f"      {count} x {text}"
        for bar in self.bars:
            yield bar.line()
        for note in self.notes:
            yield f"  note  {note}"


class Goals(Section):
    """A section whose bars are lines of the table of goals: of the rest it shows only what is wrong."""

    def lines(self) -> Iterable[str]:
        """Yield the section's lines."""
        for bar in self.bars:
            if isinstance(bar, Goal) or not bar.passed:
                yield bar.line()
        for row in self.rows:
            for text, count in row.figures.errors.items():
                yield f"  {row.name}: {count} x {text}"


def _row_line(row: Row) -> str:
    figures = row.figures
    cells = [f"  {row.name:<36}", f"{figures.rate_per_s:>9,.0f}"]
    cells.append(f"{row.ratio:>7.2f}" if row.ratio is not None else " " * 7)
    for role, width in ROLES.items():
        cells.append(f"{figures.cpu_us[role]:>{width}.1f}" if role in figures.cpu_us else " " * width)
    cells.append(f"{sum(figures.cpu_us.values()):>8.1f}")
    cells.append(f"{figures.idle * 100:>6.0f}")
    cells.append(f"{figures.p50_us:>8.0f}" if figures.p50_us is not None else " " * 8)
    cells.append(f"{figures.p99_us:>8.0f}" if figures.p99_us is not None else " " * 8)
    cells.append(f"{figures.lost:>6}")
    return "".join(cells)


def _plain(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def header() -> list[str]:
    """Return the table's head."""
    cells = (
        f"  {'':<36}{'req/s':>9}{'ratio':>7}{'producer':>9}{'broker':>8}{'workers':>8}{'server':>8}{'sum':>8}"
    )
    return [
        f"{'ratio: req/s of reqpool : of the row':<52}{'CPU µs per request':^42}",
        f"{cells}{'idle%':>6}{'p50 µs':>8}{'p99 µs':>8}{'lost':>6}",
        "-" * _WIDTH,
    ]


def goals_header() -> list[str]:
    """Return the head of the table of goals."""
    ratios = f"{'old:peer':>9}{'new:peer':>9}"
    return [f"{'':<58}{'old':>10}{'new':>10}{'peer':>10}{ratios}{'wanted':>9}", "-" * _WIDTH]


def finish(sections: Sequence[Section], about: dict[str, Any], path: Path) -> bool:
    """Print the verdict, write the JSON, and return whether every bar that counts holds."""
    bars = [bar for section in sections for bar in section.bars if bar.counts]
    failed = [bar for bar in bars if not bar.passed]
    print("-" * _WIDTH)
    print(f"{len(bars) - len(failed)} of {len(bars)} bars hold; figures are medians")
    document = {
        "about": {**about, "python": platform.python_version(), "machine": platform.platform()},
        "passed": not failed,
        "sections": [
            {
                **asdict(section),
                "bars": [{**asdict(bar), "passed": bar.passed} for bar in section.bars],
            }
            for section in sections
        ],
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path.name}")
    return not failed
