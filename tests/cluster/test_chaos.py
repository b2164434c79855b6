"""The fault run, ops/chaos.sh: a short one here, a long one with --long."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from chaos.faults import FAULTS, has_rolling
from chaos.report import render
from chaos.run import Result, run


def chaos(seed: int, seconds: float, rate_per_s: float = 300.0) -> Result:
    faults = {name: fault for name, fault in FAULTS.items() if name != "rolling" or has_rolling()}
    with tempfile.TemporaryDirectory(prefix="rp-chaos-") as folder:
        result = run(Path(folder), seed, seconds, faults, rate_per_s)
    print(render(result))
    if result.missing and not os.environ.get("REQPOOL_NO_INSTALL"):
        pytest.fail(f"not installed: {result.missing}")
    return result


def test_all_zeros_hold_in_a_short_run() -> None:
    result = chaos(seed=23, seconds=40.0)
    assert result.holds
    assert len(result.faults) > 5
    assert result.verdict.requests > 5_000


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_all_zeros_hold_in_a_long_run() -> None:
    result = chaos(seed=1, seconds=1200.0)
    assert result.holds
    assert len(result.faults) > 300


def test_the_list_names_every_fault() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "chaos", "--list"], capture_output=True, text=True, timeout=30, check=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    ).stdout  # fmt: skip
    assert [line.split()[0] for line in said.splitlines()] == list(FAULTS)
