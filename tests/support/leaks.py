"""What a process holds: to see that it holds no more afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import psutil

from .wait import wait_until


class Holdings(NamedTuple):
    """Counts of one process: open file descriptors and children (of any depth)."""

    fds: int
    children: int


def holdings(pid: int | None = None) -> Holdings:
    """Count what a process holds; None for this one."""
    process = psutil.Process(pid)
    return Holdings(process.num_fds(), len(process.children(recursive=True)))


@contextmanager
def no_leak(pid: int | None = None, timeout_s: float = 5.0) -> Iterator[Callable[[], Holdings]]:
    """Fail if the process holds more fds or children after the block than before it.

    Args:
        pid: whose; None for this process.
        timeout_s: how long closing may take.

    Raises:
        AssertionError: if so.
    """
    before = holdings(pid)

    def look() -> Holdings:
        return holdings(pid)

    yield look

    def settled() -> bool:
        now = look()
        return now.fds <= before.fds and now.children <= before.children

    try:
        wait_until(settled, timeout_s)
    except AssertionError:
        raise AssertionError(f"before {before}, after {look()}") from None
