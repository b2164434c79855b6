"""What a producer writes down of each request, and reading it back.

A record is one line of JSON, written by a single write(2) and never buffered: what a killed process has
written is in the page cache and so survives it. A request is written down before it is submitted.

    ["s", number, pool, stream, timeout_s, at_s]             it is about to be submitted
    ["e", number, at_s, outcome, sent, phase, text]          it ended; written once per call of its callback

Instants are seconds of CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GOOD = "good"
"""The outcome of a request whose answer is the one to its own question."""
WRONG = "wrong"
"""The outcome of a request whose answer belongs to another question."""


@dataclass(frozen=True, slots=True)
class End:
    """One end of a request.

    Attributes:
        at_s: when the callback was called.
        outcome: :data:`GOOD`, :data:`WRONG`, or the name of the error's class.
        sent: of the error: could the upstream have acted on it?
        phase: of the error.
        text: of the error, or the wrong answer; shortened.
    """

    at_s: float
    outcome: str
    sent: bool | None = None
    phase: str | None = None
    text: str = ""


@dataclass(slots=True)
class Request:
    """A request as its producer saw it.

    Attributes:
        number: unique in the run; what the upstream counts.
        pool: index of the producer's pool.
        stream: name of its :class:`~.work.Stream`.
        timeout_s: as submitted.
        at_s: when it was submitted.
        ends: every end, one if all is well.
    """

    number: str
    pool: int
    stream: str
    timeout_s: float
    at_s: float
    ends: list[End] = field(default_factory=list)


class Journal:
    """Writes one producer's records; from any thread."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def submit(self, number: str, pool: int, stream: str, timeout_s: float) -> None:
        """Write down that a request is about to be submitted."""
        self._write("s", number, pool, stream, timeout_s, time.monotonic())

    def end(
        self, number: str, outcome: str, sent: bool | None = None, phase: str | None = None, text: str = ""
    ) -> None:
        """Write down that a request has ended."""
        self._write("e", number, time.monotonic(), outcome, sent, phase, text[:200])

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)

    def _write(self, *record: Any) -> None:
        os.write(self._fd, json.dumps(record).encode() + b"\n")


def read(lines: Iterable[str]) -> list[Request]:
    """Read a journal.

    Args:
        lines: its lines; the last one of a killed producer may be cut short.

    Returns:
        The requests in the order of their submission.
    """
    requests: dict[str, Request] = {}
    for record in _records(lines):
        if record[0] == "s":
            _, number, pool, stream, timeout_s, at_s = record
            requests[number] = Request(number, pool, stream, timeout_s, at_s)
        else:
            requests[record[1]].ends.append(End(*record[2:]))
    return list(requests.values())


def _records(lines: Iterable[str]) -> Iterator[list[Any]]:
    for line in lines:
        if line.endswith("\n"):
            yield json.loads(line)
