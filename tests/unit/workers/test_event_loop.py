"""The epoll loop: stale reports, timers, wake-ups."""

from __future__ import annotations

import itertools
import os
import threading
from functools import partial
from types import SimpleNamespace

import pytest

from reqpool_workers.event_loop import READABLE, EventLoop


def turns(loop: EventLoop, count: int) -> None:
    """Run so many turns without sleeping."""
    left = count

    def end_turn() -> bool:
        nonlocal left
        if not left:
            loop.stop()
        left -= 1
        return True

    loop.run(end_turn)


@pytest.fixture
def loop() -> object:
    loop = EventLoop()
    yield loop
    loop.close()


def test_an_fd_closed_in_this_turn_is_not_dispatched_to_its_numbers_next_owner(loop: EventLoop) -> None:
    pipes = [os.pipe() for _ in range(2)]
    called: list[str] = []
    news: list[int] = []

    def close_the_other(mine: int, _mask: int) -> None:
        read_end, write_end = pipes[1 - mine]
        called.append(f"first {mine}")
        for one, _ in pipes:
            loop.unregister(one)
        os.close(read_end)
        # An eventfd takes the lowest free number: the one that was just closed, whose report is still due.
        fresh = os.eventfd(0)
        news.append(fresh)
        assert fresh == read_end
        os.close(write_end)
        os.close(pipes[mine][0])
        os.close(pipes[mine][1])
        loop.register(fresh, lambda mask: called.append("stale"), READABLE)

    for mine, (read_end, write_end) in enumerate(pipes):
        os.write(write_end, b"x")
        loop.register(read_end, partial(close_the_other, mine), READABLE)
    turns(loop, 3)
    assert len(called) == 1
    assert loop.fds == 1
    loop.unregister(news[0])
    os.close(news[0])


def test_timers_run_in_order_and_again_when_they_say_so(
    loop: EventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    again = iter([loop.now_s, None])
    start_s, ticks = loop.now_s, itertools.count()
    # However slow the machine is, the second timer is not due in the first turn.
    clock = SimpleNamespace(monotonic=lambda: start_s + next(ticks) * 0.001)
    monkeypatch.setattr("reqpool_workers.event_loop.time", clock)

    def repeat(now_s: float) -> float | None:
        called.append("repeat")
        return next(again)

    def last(now_s: float) -> None:
        called.append("last")
        loop.stop()

    loop.at(loop.now_s + 0.03, last)
    loop.at(loop.now_s + 0.01, lambda now_s: called.append("second"))
    loop.at(loop.now_s, repeat)
    loop.run(lambda: False)
    assert called == ["repeat", "repeat", "second", "last"]


def test_a_timer_that_is_always_due_runs_once_a_turn(loop: EventLoop) -> None:
    called: list[float] = []

    def due(now_s: float) -> float:
        called.append(now_s)
        return now_s

    loop.at(0.0, due)
    turns(loop, 3)
    assert len(called) <= 3


def test_another_thread_wakes_the_loop(loop: EventLoop) -> None:
    threads: list[str] = []

    def note() -> None:
        threads.append(threading.current_thread().name)
        loop.stop()

    waker = threading.Thread(target=loop.wake, args=(note,))
    waker.start()
    loop.run(lambda: False)
    waker.join()
    assert threads == [threading.current_thread().name]


def test_times_tell_the_longest_turn_and_start_anew(loop: EventLoop) -> None:
    turns(loop, 2)
    first = loop.times()
    assert first.longest_turn_s > 0
    assert 0 <= first.busy <= 1
    assert loop.times().longest_turn_s == 0


def test_a_turn_begins_before_its_first_handler(loop: EventLoop) -> None:
    begun: list[float] = []
    seen: list[int] = []
    readable, writable = os.pipe()

    def on_data(_mask: int) -> None:
        seen.append(len(begun))
        loop.stop()

    loop.register(readable, on_data, READABLE)
    os.write(writable, b"x")
    loop.run(lambda: False, begun.append)
    loop.unregister(readable)
    os.close(readable)
    os.close(writable)
    assert seen == [1]
    assert begun == [loop.now_s]
