"""The report of a worker that has no socket or file for a request, for no fault of the upstream."""

from __future__ import annotations

import errno
import logging
import os
import resource

from reqpool_contract.counted_log import CountedLog

log = CountedLog(logging.getLogger(__name__))


def report_shortage(code: int) -> str:
    """Describe one of :data:`reqpool_contract.descriptors.SHORTAGES` for display, and log it."""
    if code == errno.EMFILE:
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        text = f"its worker is out of file descriptors; at most {most} are allowed (RLIMIT_NOFILE)"
    elif code == errno.ENFILE:
        text = "its worker's machine is out of file descriptors (fs.file-max)"
    else:
        text = f"its worker's machine has no memory for a socket: {os.strerror(code)}"
    log.warning("a request waits: %s", text)
    return text
