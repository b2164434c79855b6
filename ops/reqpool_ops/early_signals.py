"""Signals that tell a supervisor something are held back until it can take them.

By default each would end the process (signal(7)), and with it the cluster. A blocked signal waits, and is
delivered when it is let through. Imports little: it is called before anything else is imported.
"""

import signal

HELD = frozenset({signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGRTMIN})


def hold() -> None:
    """Have them wait."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)


def let_through() -> None:
    """Let every signal through, also what our parent blocked: children inherit the mask."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
