"""A real memcached on a free loopback port, and the example package that speaks to it.

with MemcachedServer() as memcached:
    pool.submit("memcached", memcached.address, ("get", "k"))
"""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from .ports import HOST, free_port
from .wait import wait_until

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "reqpool-memcached"
"""The package that docs/kinds.md shows; not installed with reqpool."""
SOURCES = EXAMPLE / "src"

START_WITHIN_S = 15.0
STOP_WITHIN_S = 10.0


def find_memcached() -> str | None:
    """Return the path of memcached."""
    return shutil.which("memcached")


def install_example(folder: Path) -> Path:
    """Build the example's wheel and unpack it, which is what installing it comes to.

    Args:
        folder: an empty one.

    Returns:
        What to put on PYTHONPATH.
    """
    package = folder / "package"  # a copy: a build leaves nothing in the sources
    shutil.copytree(EXAMPLE, package)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")],
        cwd=package,
        check=True,
        capture_output=True,
    )
    (wheel,) = (folder / "dist").glob("*.whl")
    installed = folder / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    return installed


class MemcachedServer:
    """A running memcached; a context manager.

    Attributes:
        address: ``"127.0.0.1:port"``.
    """

    def __init__(self) -> None:
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"{HOST}:{self._port}"

    def __enter__(self) -> MemcachedServer:
        """Start it, and wait until it answers.

        Raises:
            RuntimeError: if memcached is not installed or does not start.
        """
        program = find_memcached()
        if program is None:
            raise RuntimeError("memcached is not installed (Debian: apt-get install memcached)")
        self._port = free_port()
        # Without -u it does not run as root. setpriv (util-linux): it ends when this process does.
        self._process = subprocess.Popen(
            [
                "setpriv", "--pdeathsig", "KILL", program, "-u", getpass.getuser(), "-l", HOST,
                "-p", str(self._port), "-U", "0", "-m", "64", "-t", "1",
            ],
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            wait_until(self._answers, START_WITHIN_S, "memcached answers")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        """Stop it."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def exchange(self, command: bytes, ends: bytes) -> bytes:
        """Send a command as it is on a connection of its own; return what comes, up to its last line.

        Raises:
            OSError: if nobody answers.
        """
        with socket.create_connection((HOST, self._port), 1.0) as sock:
            sock.sendall(command)
            answer = b""
            while not answer.endswith(ends) and (more := sock.recv(65_536)):
                answer += more
        return answer

    def connections(self) -> int:
        """Return how many connections it has now, but for the one that asks.

        Raises:
            OSError: if it does not answer.
        """
        words = self.exchange(b"stats\r\n", b"END\r\n").split()
        return int(words[words.index(b"curr_connections") + 1]) - 1

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError("memcached did not start; its own words are above")
        try:
            return self.exchange(b"version\r\n", b"\r\n").startswith(b"VERSION ")
        except OSError:  # nobody listens yet
            return False
