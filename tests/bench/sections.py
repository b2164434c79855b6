"""What all benchmarks share: contestants in alternating rounds, rows and bars, the command line."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil

from . import processes, report, revision
from .cluster import Cluster
from .report import Bar, Row, Section
from .run import Figures, Load, LoadFailed, Watch, measure

OURS = ("producer", "broker", "workers")
ROOT = Path(__file__).resolve().parents[2]

Contestant = Callable[[], Figures]


@dataclass(frozen=True)
class Service:
    """A running upstream.

    Attributes:
        target: where it is, as the loads take it: ``host:port`` for dns, else its URL.
        pids: of all its processes.
    """

    target: str
    pids: list[int]

    @property
    def port(self) -> int:
        return int(self.target.rpartition(":")[2].partition("/")[0])


@dataclass(frozen=True)
class Bench:
    """What a section needs to know.

    Attributes:
        service: what is asked.
        workers: of the shared cluster.
        warm_s, measure_s: of each measurement.
        old_python: the interpreter that another revision is installed for, if one is measured, too.
    """

    service: Service
    rounds: int
    workers: int
    warm_s: float
    measure_s: float
    quick: bool
    old_python: str | None = None

    def rounds_of(self, contestants: Mapping[str, Contestant]) -> dict[str, Figures]:
        """Measure all contestants in turn, ``rounds`` times; return the medians."""
        measured: dict[str, list[Figures]] = {name: [] for name in contestants}
        for number in range(self.rounds):
            for name, contestant in contestants.items():
                progress(f"round {number + 1}/{self.rounds}: {name}")
                measured[name].append(contestant())
        progress("")
        return {name: report.median(rounds) for name, rounds in measured.items()}

    def ours(
        self,
        where: Cluster,
        mode: str,
        subject: str,
        *arguments: object,
        producers: int = 1,
        watch: Watch | None = None,
    ) -> Figures:
        """Measure reqpool: ``producers`` processes of :mod:`bench.load` at one cluster."""
        words = (mode, "--url", where.url, "--subject", subject, "--producers", producers, *arguments)
        return self._together("load", words, producers, where.roles, watch, where.python)

    def producer(self, where: Cluster, mode: str, subject: str, *arguments: object) -> Load:
        """Start one process of :mod:`bench.load`, to be spoken with line by line."""
        where_to = ("--url", where.url, "--server", self.service.target)
        return Load("load", mode, *where_to, "--subject", subject, *arguments, python=where.python)

    def peer(
        self,
        module: str,
        client: str,
        subject: str,
        *arguments: object,
        producers: int = 1,
        watch: Watch | None = None,
    ) -> Figures:
        """Measure a library: processes of :mod:`bench.async_load` or :mod:`bench.thread_load`."""
        words = (client, "--subject", subject, *arguments)
        return self._together(module, words, producers, {}, watch)

    def floor(
        self, what: str, *arguments: object, producers: int = 1, roles: processes.Roles | None = None
    ) -> Figures:
        """Measure one of :mod:`bench.floor`."""
        return self._together("floor", (what, *arguments), producers, roles or {}, None)

    def _together(
        self,
        module: str,
        arguments: tuple[object, ...],
        producers: int,
        roles: processes.Roles,
        watch: Watch | None,
        python: str = sys.executable,
    ) -> Figures:
        with ExitStack() as stack:
            loads = []
            for number in range(producers):
                # Each starts elsewhere, so that they do not ask for the same in lockstep.
                share = ("--share", number / producers) if producers > 1 else ()
                load = Load(module, *arguments, "--server", self.service.target, *share, python=python)
                loads.append(stack.enter_context(load))
            roles = {**roles, "server": self.service.pids}
            return measure(loads, roles, warm_s=self.warm_s, measure_s=self.measure_s, watch=watch)


def progress(text: str) -> None:
    """Show what is being measured, where somebody watches."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def rows(figures: Mapping[str, Figures], reference: str) -> list[Row]:
    """Make table rows; the ratio is that of the reference's rate to the row's."""
    rate_per_s = figures[reference].rate_per_s
    return [
        Row(name, one, name.startswith("reqpool"), rate_per_s / one.rate_per_s if one.rate_per_s else None)
        for name, one in figures.items()
    ]


def at_least(text: str, value: float, limit: float, counts: bool = True) -> Bar:
    """Return a bar that ``value`` has to reach."""
    return Bar(text, value, limit, True, counts)


def at_most(text: str, value: float, limit: float, counts: bool = True) -> Bar:
    """Return a bar that ``value`` must not pass."""
    return Bar(text, value, limit, False, counts)


def nothing_lost(section: Section) -> Section:
    """Add the bar that holds everywhere."""
    lost = sum(row.figures.lost for row in section.rows if row.ours)
    submitted = sum(row.figures.submitted for row in section.rows if row.ours)
    section.bars.append(at_most(f"lost of {submitted:,}", lost, 0))
    return section


@dataclass(frozen=True)
class Benchmark:
    """One of the benchmarks of ``ops/bench.sh``.

    Attributes:
        kind: its name there.
        about: one line.
        sections: by name, each a function that measures it.
        programs: what it runs, each with its Debian package.
        serve: runs the upstream.
        compares: can another revision be measured beside this one?
        header: makes the table's head.
    """

    kind: str
    about: str
    sections: Mapping[str, Callable[[Bench], Section]]
    programs: Mapping[str, str]
    serve: Callable[[], AbstractContextManager[Service]]
    compares: bool = False
    header: Callable[[], list[str]] = report.header

    def main(self) -> int:
        """Run it; exit status 0 if every bar holds, 1 if not, 2 if it cannot run."""
        options = self._options()
        missing = [program for program in self.programs if shutil.which(program) is None]
        if missing:
            packages = " ".join(self.programs[program] for program in missing)
            print(f"not installed: {', '.join(missing)} (Debian: {packages})", file=sys.stderr)
            return 2
        sections = []
        with ExitStack() as stack:
            old_python = None
            if self.compares and options.against:
                progress(f"installing {options.against}")
                try:
                    old_python = stack.enter_context(revision.installed(ROOT, options.against))
                except revision.NoRevision as error:
                    print(error, file=sys.stderr)
                    return 2
            service = stack.enter_context(self.serve())
            bench = Bench(
                service=service,
                rounds=options.rounds,
                workers=options.workers,
                warm_s=0.7 if options.quick else 1.5,
                measure_s=1.5 if options.quick else 4.0,
                quick=options.quick,
                old_python=old_python,
            )
            print("\n".join(self.header()))
            for name in options.only or self.sections:
                section = self.measured(name, bench)
                print("\n".join(section.lines()), flush=True)
                sections.append(section)
        about = {
            "rounds": options.rounds,
            "quick": options.quick,
            "workers": options.workers,
            "cores": os.cpu_count(),
            "against": options.against if self.compares else None,
            "load_average": os.getloadavg(),
        }
        return 0 if report.finish(sections, about, ROOT / f"bench-{self.kind}.json") else 1

    def _options(self) -> argparse.Namespace:
        parser = argparse.ArgumentParser(prog=f"ops/bench.sh {self.kind}", description=self.about)
        parser.add_argument("--quick", action="store_true", help="shorter measurements, fewer requests")
        parser.add_argument(
            "--rounds", type=int, default=3, metavar="N", help="alternating rounds (default 3)"
        )
        names = ", ".join(self.sections)
        parser.add_argument(
            "--only", nargs="+", choices=list(self.sections), metavar="SECTION", help=f"of {names}"
        )
        parser.add_argument("--workers", type=int, default=2, metavar="N", help="of the cluster (default 2)")
        if self.compares:
            about = "measure this revision, too, beside the code that is here"
            parser.add_argument("--against", metavar="REV", help=about)
        return parser.parse_args()

    def measured(self, name: str, bench: Bench) -> Section:
        """Measure a section; one that cannot be measured (a process died, say) fails, the others go on."""
        try:
            return self.sections[name](bench)
        except (LoadFailed, RuntimeError, OSError, psutil.Error, subprocess.SubprocessError) as error:
            progress("")
            why = f"{type(error).__name__}: {error}"
            return Section(name, "not measured", bars=[at_most("could not be measured", 1, 0)], notes=[why])
