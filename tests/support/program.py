"""A Python program beside the test: a producer that may be killed, stopped or forked."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from .wait import wait_until


class Program:
    """A running program.

    Attributes:
        process: the program; its stdout and stderr are pipes of text.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    @property
    def pid(self) -> int:
        return self.process.pid

    def line(self) -> str:
        """Return the next line it prints; the program must flush it. A program that ends ends the wait."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"the program ended: {self.end()}")
        return line.rstrip("\n")

    def say(self, text: str = "") -> None:
        """Send a line to its stdin."""
        assert self.process.stdin is not None
        print(text, file=self.process.stdin, flush=True)

    def end(self, timeout_s: float = 20.0) -> tuple[int, str, str]:
        """Wait for its end; return exit status, the rest of stdout, and stderr."""
        out, err = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, out, err


@contextlib.contextmanager
def program(script: str, *arguments: str, **environment: str) -> Iterator[Program]:
    """Run ``script`` with warnings as errors, and kill it at exit if it still runs.

    Args:
        script: Python source; ``sys.argv[1:]`` are the arguments.
        arguments: see there.
        environment: added to this process's.
    """
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    ) as process:
        try:
            yield Program(process)
        finally:
            process.kill()


def wait_stopped(pid: int) -> None:
    """Wait until every thread of a process that was sent SIGSTOP stands still."""

    def stopped() -> bool:
        # proc(5): the state is the field after the name in parentheses; T is stopped.
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] not in ("T", "Z"):
                    return False
        return True

    wait_until(stopped, 5.0, f"process {pid} is stopped")
