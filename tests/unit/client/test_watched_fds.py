"""What a loop sleeps on: file descriptors with something to call, and a wake-up."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from reqpool.watched_fds import WatchedFds


@pytest.fixture
def watched() -> Iterator[WatchedFds]:
    watched = WatchedFds()
    yield watched
    watched.epoll.close()


def hear(watched: WatchedFds, span_s: float = 0.0) -> int:
    """Call whatever has news; return how many that were."""
    told = watched.epoll.poll(span_s)
    for fd, _ in told:
        watched.on_news[fd]()
    return len(told)


def test_a_wake_up_ends_one_sleep_from_any_thread_however_often_it_is_sent(watched: WatchedFds) -> None:
    assert hear(watched) == 0
    for _ in range(3):
        thread = threading.Thread(target=watched.wake)
        thread.start()
        thread.join()
    assert hear(watched, 10.0) == 1
    assert hear(watched) == 0


def test_a_file_descriptor_is_reported_until_it_is_removed(watched: WatchedFds) -> None:
    reading, writing = os.pipe()
    heard: list[bytes] = []
    watched.add(reading, lambda: heard.append(os.read(reading, 9)))
    os.write(writing, b"one")
    assert hear(watched, 10.0) == 1
    watched.remove(reading)
    os.write(writing, b"two")
    assert hear(watched) == 0
    assert heard == [b"one"]
    os.close(reading)
    os.close(writing)


def test_its_file_descriptors_are_closed_with_the_last_reference() -> None:
    before = set(os.listdir("/proc/self/fd"))
    watched = WatchedFds()
    watched.epoll.close()
    del watched
    assert set(os.listdir("/proc/self/fd")) <= before
