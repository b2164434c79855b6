"""The start of a command: signals wait while it imports, and it imports no more than it needs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

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


LOADED = """
import sys
from reqpool_ops import cli
try:
    cli.main(sys.argv[1:])
except SystemExit:
    pass
print(*(name for name in ("reqpool", "reqpool_broker.server", "ssl", "zmq") if name in sys.modules))
"""


@pytest.mark.parametrize(
    ("command", "loaded"), [("--version", ""), ("up --check", "zmq"), ("status --url ipc:///no/pool", "zmq")]
)
def test_commands_without_requests_start_without_the_client(command: str, loaded: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *command.split()],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == loaded
