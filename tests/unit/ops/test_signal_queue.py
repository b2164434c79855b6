"""Signals on their way to the supervisor's poll."""

from __future__ import annotations

import select
import signal
from collections.abc import Iterator

import pytest

from reqpool_ops.restart import RESTART_SIGNAL
from reqpool_ops.signal_queue import SCALE_SIGNALS, STOP_SIGNALS, SignalQueue

CAUGHT = (*STOP_SIGNALS, *SCALE_SIGNALS, RESTART_SIGNAL)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Restore handlers and mask: the queue is made for a process of its own.

    The tests raise signals in this thread: other threads of the process do not block them.
    """
    before = {number: signal.getsignal(number) for number in CAUGHT}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def test_signals_wake_the_poll_and_are_taken_in_order() -> None:
    queue = SignalQueue(embedded=False)
    queue.catch()
    for number in CAUGHT:
        signal.raise_signal(number)
    assert select.select([queue.readable], [], [], 5)[0]
    assert [queue.take() for _ in CAUGHT] == list(CAUGHT)
    assert queue.take() is None
    assert not select.select([queue.readable], [], [], 0)[0]
    queue.close()


def test_an_embedded_cluster_takes_only_sigterm() -> None:
    queue = SignalQueue(embedded=True)
    queue.catch()
    for number in CAUGHT:
        signal.raise_signal(number)
    assert queue.take() == signal.SIGTERM
    assert queue.take() is None
    queue.close()


def test_signals_that_were_held_back_come_once_there_are_handlers() -> None:
    queue = SignalQueue(embedded=False)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    signal.raise_signal(signal.SIGUSR1)
    assert queue.take() is None
    queue.catch()
    assert queue.take() == signal.SIGUSR1
    queue.close()
