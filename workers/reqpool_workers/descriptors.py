"""What a worker does not get a socket or a file for, though nothing is wrong with the upstream: it is short.

Linux gives EMFILE at the limit of the process (RLIMIT_NOFILE, getrlimit(2)), ENFILE at that of the machine
(fs.file-max, proc(5)), ENOBUFS or ENOMEM when the kernel has no memory for a socket (socket(2)).
"""

from __future__ import annotations

import errno
import logging
import os
import resource

from reqpool_contract.counted_log import CountedLog

log = CountedLog(logging.getLogger(__name__))

OUT_OF_FDS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def shortage(code: int) -> str:
    """Say what is short, for people, and log it."""
    if code == errno.EMFILE:
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        text = f"its worker is out of file descriptors; at most {most} are allowed (RLIMIT_NOFILE)"
    elif code == errno.ENFILE:
        text = "its worker's machine is out of file descriptors (fs.file-max)"
    else:
        text = f"its worker's machine has no memory for a socket: {os.strerror(code)}"
    log.warning("a request waits: %s", text)
    return text
