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
            sign = ">=" if bar.at_least else "<="
            verdict = ("PASS" if bar.passed else "FAIL") if bar.counts else "told"
            yield f"  {verdict}  {bar.text}: {_plain(bar.value)} (must be {sign} {_plain(bar.limit)})"
        for note in self.notes:
            yield f"  note  {note}"


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
        f"{'':<52}{'CPU µs per request':^42}",
        f"{cells}{'idle%':>6}{'p50 µs':>8}{'p99 µs':>8}{'lost':>6}",
        "-" * _WIDTH,
    ]


def finish(sections: Sequence[Section], about: dict[str, Any], path: Path) -> bool:
    """Print the verdict, write the JSON, and return whether every bar that counts holds."""
    bars = [bar for section in sections for bar in section.bars if bar.counts]
    failed = [bar for bar in bars if not bar.passed]
    print("-" * _WIDTH)
    print(f"{len(bars) - len(failed)} of {len(bars)} bars hold; ratio = reqpool's req/s : the row's; medians")
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
