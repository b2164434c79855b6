"""The pool's connections by upstream, summed from the origins that the broker and its workers report.

Limits are counted by upstream (scheme, host and port). An upstream has an origin for each database, user and
so on, and an origin's connections are spread over workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reqpool_contract.origin_names import upstream_of

from .report_values import maps, members, number, text

COUNTS = ("in_flight", "in_use", "idle", "waiting", "overflowed", "pinned")
"""The counts that a worker's sample has for an origin, in order: docs/protocol.md#the-workers-sample"""
LEVELS = ("limit", "granted", "reserved")
"""The figures that the broker reports of an origin."""


def pools(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the connections of the whole pool by upstream.

    Args:
        report: the broker's STATUS report.

    Returns:
        For each upstream its ``names`` in the configuration, a list; :data:`LEVELS`; the sums of
        :data:`COUNTS` over its workers' samples, which are at most half a second old; ``open``: connections
        in use and idle.
    """
    found: dict[str, dict[str, Any]] = {}
    origins = members(report.get("origins"))

    def pool(origin: Any) -> dict[str, Any]:
        upstream = members(origins.get(origin)).get("upstream")
        key = upstream if isinstance(upstream, str) else upstream_of(text(origin))
        return found.setdefault(key, {"names": [], "open": 0, **dict.fromkeys((*LEVELS, *COUNTS), 0)})

    for origin, reported in origins.items():
        summed, about = pool(origin), members(reported)
        names = about.get("names")
        if isinstance(names, (list, tuple)):
            summed["names"] = [text(name) for name in names]
        summed["limit"] = max(summed["limit"], whole(about.get("limit")))
        summed["granted"] += whole(about.get("granted"))
        summed["reserved"] += whole(about.get("reserved"))
    for worker in maps(report.get("workers")):
        for origin, counts in members(members(worker.get("sample")).get("origins")).items():
            summed = pool(origin)
            counted = counts if isinstance(counts, (list, tuple)) else ()
            for key, figure in zip(COUNTS, counted, strict=False):
                summed[key] += whole(figure)
    for summed in found.values():
        summed["open"] = summed["in_use"] + summed["idle"]
    return dict(sorted(found.items()))


def whole(value: Any) -> int:
    """Return a figure as a whole number, 0 if it is not a number."""
    return round(number(value) or 0)
