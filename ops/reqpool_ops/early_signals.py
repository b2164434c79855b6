"""Signals for the supervisor are held back until it can handle them.

By default each would end the process (signal(7)), and with it the cluster. A blocked signal waits, and is
delivered when it is unblocked. Imports little, as it is called before everything else is imported.
"""

import signal

HELD = frozenset({signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGRTMIN})


def hold() -> None:
    """Block the signals, so that they wait."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)


def let_through() -> None:
    """Unblock every signal, also those that the parent blocked: children inherit the mask."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
