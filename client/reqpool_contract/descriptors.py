"""Passing shortages: a process or its machine is out of file descriptors, or of memory for sockets.

Linux returns EMFILE at the limit of the process (RLIMIT_NOFILE, getrlimit(2)), ENFILE at that of the machine
(fs.file-max, proc(5)), ENOBUFS or ENOMEM when the kernel has no memory for a socket (socket(2)).
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Iterator

from .errors import Overloaded

SPARE_FDS = 16
"""File descriptors that must be free before a step that cannot be undone. A socket takes six, with its
monitor and its connection, and the context's threads five; the rest is for other threads meanwhile."""
SHORTAGES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS))
RETRY_AFTER_S = 1.0
"""``retry_after_s`` of ``Overloaded``: files are closed when something else ends."""


def raise_file_limit() -> None:
    """Raise this process's limit of file descriptors to the highest that it may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check_spare() -> None:
    """Check that :data:`SPARE_FDS` file descriptors are free.

    Raises:
        OSError: fewer are free; its ``strerror`` contains the limit, and how to raise it.
    """
    held: list[int] = []
    try:
        held.append(os.eventfd(0))
        while len(held) < SPARE_FDS:
            held.append(os.dup(held[0]))
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        text = (
            f"this process has fewer than {SPARE_FDS} file descriptors left: RLIMIT_NOFILE is {soft}, "
            f"and `ulimit -n` can raise it to {hard}"
        )
        raise OSError(errno.EMFILE, text) from error
    finally:
        for fd in held:
            os.close(fd)


@contextlib.contextmanager
def as_overloaded() -> Iterator[None]:
    """Turn errors of the shortages into Overloaded, for steps of submitting a request."""
    try:
        yield
    except OSError as error:
        if error.errno not in SHORTAGES:
            raise
        text = str(error.strerror)
        try:
            check_spare()
        except OSError as why:
            text = str(why.strerror)
        raise Overloaded(text, sent=False, retry_after_s=RETRY_AFTER_S) from error
