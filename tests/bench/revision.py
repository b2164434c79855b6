"""Another revision of reqpool, to be measured beside this one by the same benchmarks."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class NoRevision(RuntimeError):
    """The revision could not be checked out or installed."""


@contextmanager
def installed(repository: Path, revision: str) -> Iterator[str]:
    """Check a revision out and install it in a venv of its own; gives the path of that venv's interpreter.

    What runs with this interpreter imports the revision's client, broker, workers and command line, and finds
    the kinds that it declares. Checkout and venv are removed at the end.

    Raises:
        NoRevision: if there is no such revision, or it cannot be installed.
    """
    with checked_out(repository, revision) as folder:
        # Of the same Python, or two Pythons would be compared.
        env = {**os.environ, "PYTHON": os.path.realpath(sys.executable)}
        _run(
            "bash",
            "-c",
            '. "$0"; ensure_venv server',
            str(repository / "ops" / "venv.sh"),
            cwd=folder,
            env=env,
        )
        python = str(folder / ".venv" / "bin" / "python")
        where = _run(python, "-P", "-c", "import reqpool; print(reqpool.__file__)", cwd=folder, env=env)
        if not where.startswith(f"{folder}/"):
            raise NoRevision(f"{python} imports {where.strip()}, which is not in {folder}")
        yield python


@contextmanager
def checked_out(repository: Path, revision: str) -> Iterator[Path]:
    """Check a revision out as a temporary worktree; gives its folder.

    Raises:
        NoRevision: if there is no such revision.
    """
    with tempfile.TemporaryDirectory(prefix="reqpool-revision-") as parent:
        folder = Path(parent).resolve() / "tree"
        git = ("git", "-C", str(repository), "worktree")
        _run(*git, "add", "--detach", str(folder), revision)
        try:
            yield folder
        finally:
            _run(*git, "remove", "--force", str(folder))


def _run(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoRevision(f"{' '.join(command[:4])} failed: {done.stderr.strip()}")
    return done.stdout
