"""A file that is read again when it has changed."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Generic, TypeVar

CHECK_INTERVAL_S = 1.0
"""How long a look at the file's metadata is good for."""

T = TypeVar("T")


class WatchedFile(Generic[T]):
    """What a small local file says, parsed.

    Args:
        path: need not exist: then it says what an empty file does.
        parse: makes something of its text; must not raise.
    """

    def __init__(self, path: str, parse: Callable[[str], T]) -> None:
        self._path = path
        self._parse = parse
        self._value = parse("")
        self._version: tuple[int, int, int] | None = None
        self._check_at_s = float("-inf")

    def get(self, now_s: float) -> T:
        """Return what it says; the same object as long as the file is the same.

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
            # Editors and container engines replace the file: its time alone would not tell.
            version = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if version == self._version:
                return
            with open(self._path, encoding="utf-8", errors="replace") as file:
                text = file.read()
        except OSError as error:
            if self._version is None or error.errno in (errno.EMFILE, errno.ENFILE):
                return  # in the latter case it is there, and is read when there is a descriptor for it
            version = None
        self._version = version
        self._value = self._parse(text)
