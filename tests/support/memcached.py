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

from .ports import HOST, free_port
from .server import Server

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "reqpool-memcached"
"""The package that docs/kinds.md shows; not installed with reqpool."""
SOURCES = EXAMPLE / "src"


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


class MemcachedServer(Server):
    """A running memcached.

    Attributes:
        address: ``"127.0.0.1:port"``.
    """

    program = package = "memcached"

    def __init__(self) -> None:
        super().__init__()
        self._port = 0

    @property
    def address(self) -> str:
        return f"{HOST}:{self._port}"

    def command_line(self, program: str) -> list[str]:
        """See :class:`Server`."""
        self._port = free_port()
        # Without -u it does not run as root.
        user = getpass.getuser()
        return [program, "-u", user, "-l", HOST, "-p", str(self._port), "-U", "0", "-m", "64", "-t", "1"]

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

    def answers(self) -> bool:
        """See :class:`Server`."""
        try:
            return self.exchange(b"version\r\n", b"\r\n").startswith(b"VERSION ")
        except OSError:  # nobody listens yet
            return False
