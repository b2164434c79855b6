"""A real server of Debian's packages in a temporary folder: what all of them have in common."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

from .wait import wait_until

START_WITHIN_S = 30.0
STOP_WITHIN_S = 15.0


class Server(ABC):
    """A server process with a folder of its own; a context manager.

    Attributes:
        program: its name, on the path or where Debian has it for root.
        package: Debian's.
    """

    program: ClassVar[str]
    package: ClassVar[str]

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._command: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command_line(self, program: str) -> list[str]:
        """Prepare :attr:`folder` and return the command line that runs ``program`` in the foreground."""

    @abstractmethod
    def answers(self) -> bool:
        """Does it answer yet? Asked until it does; what is to be prepared then belongs here, too."""

    @classmethod
    def find(cls) -> str | None:
        """Return the path of the program; /usr/sbin is not on every user's path."""
        return shutil.which(cls.program) or shutil.which(cls.program, path="/usr/sbin:/usr/local/sbin")

    @property
    def folder(self) -> Path:
        """Its folder.

        Raises:
            RuntimeError: if it is not running.
        """
        if self._folder is None:
            raise RuntimeError(f"{self.program} is not running")
        return Path(self._folder.name)

    @property
    def pid(self) -> int:
        """The process id.

        Raises:
            RuntimeError: if it is not running.
        """
        if self._process is None:
            raise RuntimeError(f"{self.program} is not running")
        return self._process.pid

    def __enter__(self) -> Self:
        """Start it, and wait until it answers.

        Raises:
            RuntimeError: if it is not installed or does not start; the text has its log.
        """
        program = self.find()
        if program is None:
            raise RuntimeError(f"{self.program} is not installed (Debian: apt-get install {self.package})")
        self._folder = tempfile.TemporaryDirectory(prefix=f"reqpool-{self.program}-")
        try:
            self._command = self.command_line(program)
            self.start_again()
            wait_until(self._is_up, START_WITHIN_S, f"{self.program} answers")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        """Stop it and remove its folder."""
        self.stop()
        if self._folder is not None:
            self._folder.cleanup()

    def stop(self) -> None:
        """Stop it as its administrator would: it may say good-bye to its clients."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def kill(self) -> None:
        """Kill it: what it has not written to its folder is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def start_again(self) -> None:
        """Start one that is not running, in its folder and at its address; it may take a while to answer."""
        with (self.folder / "log").open("ab") as log:
            # setpriv (util-linux): it ends with this process however that ends, prctl(2) PDEATHSIG.
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def log(self) -> str:
        """Return what it has logged; empty if it is not running."""
        return (self.folder / "log").read_text(errors="replace") if self._folder is not None else ""

    def _is_up(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"{self.program} did not start:\n{self.log()}")
        return self.answers()
