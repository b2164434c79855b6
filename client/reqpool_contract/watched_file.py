"""A file that is read again when it has changed."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Generic, TypeVar

CHECK_INTERVAL_S = 1.0
"""Interval of checks of the file's metadata."""

T = TypeVar("T")


class WatchedFile(Generic[T]):
    """The parsed contents of a small local file.

    Args:
        path: the file; one that does not exist counts as empty.
        parse: parses its text; must not raise.
    """

    def __init__(self, path: str, parse: Callable[[str], T]) -> None:
        self._path = path
        self._parse = parse
        self._value = parse("")
        self._version: tuple[int, int, int] | None = None
        self._check_at_s = float("-inf")

    def get(self, now_s: float) -> T:
        """Return the parsed contents: the same object as long as the file is unchanged.

        Args:
            now_s: monotonic seconds.
        """
        if now_s >= self._check_at_s:
            self._check_at_s = now_s + CHECK_INTERVAL_S
            self._refresh()
        return self._value

    def _refresh(self) -> None:
        text, version = "", None
        try:
            stat = os.stat(self._path)
            # Editors and container engines replace the file: its time alone is not enough.
            version = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if version == self._version:
                return
            with open(self._path, encoding="utf-8", errors="replace") as file:
                text = file.read()
        except OSError as error:
            if self._version is None or error.errno in (errno.EMFILE, errno.ENFILE):
                return  # if short of descriptors, the file exists and is read later
            version = None
        self._version = version
        self._value = self._parse(text)
