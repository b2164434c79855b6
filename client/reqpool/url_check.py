"""Is what a broker's URL names there at all? Asked on a thread of its own: a look-up of a name may block.

A broker that does not run yet is waited for. What stays wrong when one is started is told instead: a name
that no host has, a path where there can be no socket. Who it is that listens there is another question.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import stat
import threading
from collections.abc import Callable

FIRST_S = 0.5
"""How long a broker may take to answer before its URL is looked at."""
AGAIN_S = 2.0
"""How often the URL is looked at after that: a name may be entered, a file removed."""

_NO_SUCH_NAME = frozenset((socket.EAI_NONAME, socket.EAI_NODATA))
"""As opposed to a name server that does not answer: getaddrinfo(3)."""


def fault(url: str) -> str | None:
    """Return what is certainly wrong with the place that a URL names, or None. Blocks."""
    scheme, _, rest = url.partition("://")
    return _path_fault(rest) if scheme == "ipc" else _name_fault(rest.rpartition(":")[0])


def _name_fault(host: str) -> str | None:
    try:
        # As bytes it is not taken for an international name, which libzmq does not know either.
        socket.getaddrinfo(host.strip("[]").encode(), None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in _NO_SUCH_NAME:
            return f"no such host: {host!r}"
    except OSError:
        pass  # the look-up itself is what fails
    return None


def _path_fault(path: str) -> str | None:
    if path.startswith("@"):
        return None  # the abstract namespace: unix(7)
    try:
        mode = os.stat(path).st_mode
    except (NotADirectoryError, PermissionError) as error:
        return f"cannot reach a socket at this path: {error.strerror}"
    except OSError:
        return None  # the cluster makes the socket when it starts, and its folder
    return None if stat.S_ISSOCK(mode) else "the file at this path is not a socket"


class Lookup:
    """Looks for faults of one URL, now and then.

    Attributes:
        fault: what was found last; see :func:`fault`.
        due_s: when to call :meth:`turn` next, monotonic.
    """

    def __init__(self, url: str, told: Callable[[], None]) -> None:
        """Begin without a look.

        Args:
            url: the broker's.
            told: called on the thread that looks when ``fault`` may have changed.
        """
        self.fault: str | None = None
        self.due_s = -math.inf
        self._url = url
        self._told = told
        self._begun = False
        self._thread: threading.Thread | None = None

    def turn(self, now_s: float) -> None:
        """Look if it is time to."""
        if now_s < self.due_s:
            return
        self.due_s = now_s + (AGAIN_S if self._begun else FIRST_S)
        if self._begun and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(target=self._run, name="reqpool-lookup", daemon=True)
            with contextlib.suppress(RuntimeError):  # no more threads for now
                self._thread.start()
        self._begun = True

    def _run(self) -> None:
        self.fault = fault(self._url)
        self._told()
