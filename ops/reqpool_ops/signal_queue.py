"""The signals that a supervisor takes: handlers only queue them, and wake its poll."""

from __future__ import annotations

import collections
import contextlib
import signal
import socket

from . import early_signals
from .restart import RESTART_SIGNAL

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Not SIGTTIN and SIGTTOU, which other servers use: the kernel also sends them to a background process that
# reads or writes its terminal (termios(3)).
SCALE_SIGNALS = {signal.SIGUSR1: 1, signal.SIGUSR2: -1}


class SignalQueue:
    """Signals that have come and have not been taken.

    Args:
        embedded: ignore all but SIGTERM: a terminal's Ctrl-C is for the parent, which decides what becomes of
            its embedded cluster.

    Attributes:
        readable: readable when one has come.
    """

    def __init__(self, *, embedded: bool) -> None:
        self.readable, self._wake_in = socket.socketpair()
        for end in (self.readable, self._wake_in):
            end.setblocking(False)
        self._embedded = embedded
        self._queue: collections.deque[int] = collections.deque()

    def catch(self) -> None:
        """Install the handlers; signals that were held back come now. Main thread only."""
        for number in (*STOP_SIGNALS, *SCALE_SIGNALS, RESTART_SIGNAL):
            ignored = self._embedded and number != signal.SIGTERM
            signal.signal(number, signal.SIG_IGN if ignored else self._put)
        early_signals.let_through()

    def _put(self, number: int, _frame: object) -> None:
        self._queue.append(number)
        with contextlib.suppress(BlockingIOError):  # full of wake-ups already
            self._wake_in.send(b"\0")

    def take(self) -> int | None:
        """Return the oldest signal, None if there is none."""
        with contextlib.suppress(BlockingIOError):
            self.readable.recv(4096)
        return self._queue.popleft() if self._queue else None

    def close(self) -> None:
        """Close the sockets. The handlers stay."""
        self.readable.close()
        self._wake_in.close()
