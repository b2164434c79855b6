"""This code beside another revision of it and beside its peers: what the table of goals is made of."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from .cluster import Cluster, cluster
from .report import Goal, Goals
from .run import Figures
from .sections import Bench, Contestant, rows

NEW, OLD = "reqpool", "old reqpool"
"""The contestants that are ours; the case of a load follows, if there are several."""

Pick = Callable[[Figures], float]
"""Takes one figure from a measurement."""


@dataclass(frozen=True)
class Ours:
    """One load of ours: processes of :mod:`bench.load`.

    Attributes:
        case: tells it from the others of its section.
    """

    mode: str
    subject: str
    in_flight: int = 1
    producers: int = 1
    case: str = ""

    def contestant(self, bench: Bench, where: Cluster) -> Contestant:
        """Return what measures it at a cluster."""
        arguments = ("--window", self.in_flight, "--look")
        return partial(bench.ours, where, self.mode, self.subject, *arguments, producers=self.producers)


@dataclass(frozen=True)
class Measured:
    """The medians of a section, by contestant."""

    figures: Mapping[str, Figures]

    def goal(
        self,
        text: str,
        pick: Pick,
        limit: float | None = None,
        *,
        case: str = "",
        beside: str | None = None,
        peer: str | float | None = None,
        least: bool = True,
    ) -> Goal:
        """Make a line.

        Args:
            text: what it is.
            pick: takes the figure from a measurement.
            limit: what it has to be; None: it is told for comparison.
            case: which load of ours.
            beside: another load of ours, with which each revision is compared; None: with ``peer``.
            peer: a contestant, or a figure, with which all revisions are compared; None: with nothing.
            least: is ``limit`` the least (else the most) that it may be?
        """

        def figure(name: str) -> float | None:
            return pick(self.figures[name]) if name in self.figures else None

        new, old = pick(self.figures[NEW + case]), figure(OLD + case)
        if beside is not None:
            new_peer, old_peer = figure(NEW + beside), figure(OLD + beside)
        else:
            new_peer = old_peer = figure(peer) if isinstance(peer, str) else peer
        return Goal(
            text=text,
            value=new if new_peer is None else new / new_peer,
            limit=limit or 0.0,
            at_least=least,
            counts=limit is not None,
            new=new,
            old=old,
            peer=new_peer,
            old_peer=old_peer,
        )

    def section(self, name: str, *goals: Goal) -> Goals:
        """Return the section of these lines."""
        first = next(iter(self.figures))
        return Goals(name, "", rows(self.figures, first), [*goals])


def rate(figures: Figures) -> float:
    """Return requests a second."""
    return figures.rate_per_s


def cpu(role: str) -> Pick:
    """Return what takes the CPU µs per request of a role."""
    return lambda figures: figures.cpu_us[role]


def p50(figures: Figures) -> float:
    """Return the median latency.

    Raises:
        RuntimeError: if the load does not take it.
    """
    if figures.p50_us is None:
        raise RuntimeError("no latency was taken")
    return figures.p50_us


@contextmanager
def clusters(bench: Bench, config: str | None) -> Iterator[dict[str, Cluster]]:
    """Run a cluster of this code and, if there is one, of the old revision."""
    pythons = {NEW: sys.executable}
    if bench.old_python is not None:
        pythons[OLD] = bench.old_python
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(cluster(bench.workers, config, python))
            for name, python in pythons.items()
        }


def measure(
    bench: Bench, loads: Sequence[Ours], peers: Mapping[str, Contestant], config: str | None = None
) -> Measured:
    """Measure each load with each revision, and the peers, in alternating rounds."""
    with clusters(bench, config) as running:
        contestants = {
            f"{name}{load.case}": load.contestant(bench, where)
            for load in loads
            for name, where in running.items()
        }
        return Measured(bench.rounds_of({**contestants, **peers}))
