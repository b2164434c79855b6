"""The command's first act: signals wait while it imports, which takes most of its start."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

SCRIPT = """
import importlib, signal, sys
class AtImport:
    def find_spec(self, name, *_):
        if name == "reqpool_ops.cli":
            print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())), "argparse" in sys.modules)
            sys.exit(0)
module, _, name = sys.argv[1].partition(":")
sys.meta_path.insert(0, AtImport())
sys.argv = ["reqpool", "up"]
getattr(importlib.import_module(module), name)()
"""


def test_the_console_script_holds_signals_before_it_imports_anything_large() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    command = [sys.executable, "-c", SCRIPT, project["project"]["scripts"]["reqpool"]]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    for name in ("SIGHUP", "SIGUSR1", "SIGUSR2"):
        assert name in said
    assert said.endswith("False\n")
