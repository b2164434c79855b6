"""The process around the pools: it forks, exits, and may be patched by gevent.

A ZeroMQ context cannot be used after fork(), and the parent's threads do not exist in the child, so each
process has its own context, made when it is first needed.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from typing import Protocol

import zmq

from reqpool_contract import zmq_sockets
from reqpool_contract.errors import UsageError

EXIT_SECONDS = 1.0
"""Longest time that each stub may take to say goodbye at interpreter exit."""
MAX_SOCKETS = 8_192
"""ZMQ_MAX_SOCKETS: a pool has four, two of them monitors, and a fifth while it probes the listener."""


class Running(Protocol):
    """A stub with threads."""

    def abandon(self) -> None:
        """End all futures, in a forked child: the threads and sockets are the parent's."""

    def shut_down(self, timeout_s: float) -> None:
        """End all futures without callbacks, and the I/O thread, at exit; log what is lost."""


class _Host:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.context: zmq.Context[zmq.Socket[bytes]] | None = None
        self.running: set[Running] = set()
        self.is_finalized = False


_host = _Host()


def start_lock() -> threading.Lock:
    """Return the lock under which stubs are started; a forked child has a fresh one."""
    return _host.lock


def context() -> zmq.Context[zmq.Socket[bytes]]:
    """Return this process's ZeroMQ context. Hold :func:`start_lock`.

    Raises:
        OSError: there is no file descriptor left for it.
    """
    if _host.context is None:
        with zmq_sockets.os_errors():
            _host.context = zmq.Context()
        _host.context.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
    return _host.context


def started(stub: Running) -> None:
    """Register a stub whose threads run. Hold :func:`start_lock`."""
    _host.running.add(stub)
    multiprocessing = sys.modules.get("multiprocessing.process")
    if _host.is_finalized or multiprocessing is None or multiprocessing.parent_process() is None:
        return
    # A child that multiprocessing forked exits by os._exit(), which does not run atexit's functions.
    from multiprocessing.util import Finalize

    _host.is_finalized = True
    Finalize(None, _at_exit, exitpriority=0)


def stopped(stub: Running) -> None:
    """Unregister a stub."""
    _host.running.discard(stub)


def check_unpatched() -> None:
    """Raise UsageError if gevent has replaced the threads."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None:
        return
    patched = [name for name in ("threading", "select", "queue") if monkey.is_module_patched(name)]
    if patched:
        raise UsageError(
            f"gevent has patched {', '.join(patched)}, and a pool needs real threads: use "
            "gevent.monkey.patch_all(thread=False, select=False, queue=False), or a process without gevent"
        )


def _in_child() -> None:
    global _host
    parents = _host
    _host = _Host()
    for stub in list(parents.running):
        stub.abandon()
    # pyzmq closes neither sockets nor contexts of another pid: dropping them here is safe.


def _at_exit() -> None:
    for stub in list(_host.running):
        with contextlib.suppress(Exception):  # a log handler may raise, and the other stubs must end, too
            stub.shut_down(EXIT_SECONDS)


os.register_at_fork(after_in_child=_in_child)
atexit.register(_at_exit)
