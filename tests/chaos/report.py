"""The table that a run ends with, and the same as JSON."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from reqpool_ops.status import table

from .recovery import TARGETS_S, quantile
from .run import Result


def render(result: Result) -> str:
    """Return the result as people read it."""
    verdict = result.verdict
    done = Counter(fault.fault for fault in result.faults)
    good = verdict.outcomes.get("good", 0)
    errors = ", ".join(
        f"{name} {count:,}" for name, count in verdict.outcomes.most_common() if name != "good"
    )
    parts = [
        f"seed {result.seed}, {result.seconds:g} s: {verdict.requests:,} requests, {good:,} answered, "
        f"{len(result.faults):,} faults",
        f"errors: {errors or 'none'}",
    ]
    parts += [f"LEFT OUT: {line}" for line in result.missing]
    parts.append(
        table(("what has to be 0", "found"), [*verdict.found.items(), ("leaks", len(result.leaks)),
                                              ("other failures", len(result.failures))])
    )  # fmt: skip
    rows = []
    for name in sorted({*done, *result.in_vain}):
        spans = result.recoveries.get(name, [])
        figures = [f"{quantile(spans, part):.2f}" for part in (0.5, 0.99, 1.0)] if spans else [""] * 3
        target = TARGETS_S.get(name)
        missed = target is not None and bool(spans) and quantile(spans, 0.5) >= target
        shown = "" if target is None else f"< {target:g}{' MISSED' if missed else ''}"
        rows.append((name, done[name], result.in_vain[name], len(spans), *figures, shown))
    parts.append(table(("fault", "done", "in vain", "alone", "median s", "p99 s", "max s", "target"), rows))
    for what, examples in verdict.evidence.items():
        parts.append("\n  ".join([f"{what}:", *examples]))
    for what, lines in (("leaks", result.leaks), ("other failures", result.failures)):
        if lines:
            parts.append("\n  ".join([f"{what}:", *lines]))
    parts.append("All zeros hold." if result.holds else "NOT all zeros hold.")
    return "\n\n".join(part for part in parts if part)


def as_json(result: Result) -> str:
    """Return the result for programs."""
    verdict = result.verdict
    whole: dict[str, Any] = {
        "seed": result.seed,
        "seconds": result.seconds,
        "holds": result.holds,
        "requests": verdict.requests,
        "outcomes": verdict.outcomes,
        "found": verdict.found,
        "evidence": verdict.evidence,
        "faults": Counter(fault.fault for fault in result.faults),
        "in_vain": result.in_vain,
        "recovery_s": result.recoveries,
        "leaks": result.leaks,
        "failures": result.failures,
        "missing": result.missing,
    }
    return json.dumps(whole, indent=1) + "\n"
