"""Kinds looked for by a process short of file descriptors: it says so, and finds all of them later."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import importlib.metadata, os, resource, sys
{imports}
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
held = []
while True:
    try: held.append(os.dup(0))
    except OSError: break
importlib.metadata.entry_points(group="reqpool.kinds")  # finds none, and remembers that
try: print(find())
except Exception as error: print(error)
for fd in held: os.close(fd)
print(find())
"""
WORKER = """
from reqpool_workers.protocols import load
def find(): return sorted(load())
"""
BROKER = """
from reqpool_ops import config_file
def find(): return sorted(kind.name for kind in config_file.installed().kinds)
"""


@pytest.mark.parametrize("imports", [WORKER, BROKER], ids=["worker", "broker"])
def test_kinds_are_found_once_there_are_file_descriptors_again(imports: str) -> None:
    script = SCRIPT.format(imports=imports)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    refused, then = done.stdout.splitlines()
    assert "fewer than 16 file descriptors left: RLIMIT_NOFILE is 64" in refused
    assert "'redis'" in then
