"""Threads that wait for room in the table."""

from __future__ import annotations

import threading
import time

import pytest

from reqpool.room import Room


def never() -> None:
    raise AssertionError("this thread does not wait")


def test_where_there_is_room_nobody_waits() -> None:
    assert Room().wait(lambda: True, 0.0, never)


def test_a_wait_that_is_over_at_once_is_none() -> None:
    assert not Room().wait(lambda: False, 0.0, never)


def test_a_thread_that_waits_looks_again_when_it_is_told() -> None:
    room, free, waits = Room(), threading.Event(), threading.Event()
    found: list[bool] = []
    thread = threading.Thread(
        target=lambda: found.append(room.wait(free.is_set, time.monotonic() + 10, waits.set))
    )
    thread.start()
    assert waits.wait(10)
    free.set()
    assert room.wanted
    room.tell()
    thread.join(10)
    assert found == [True]


def test_a_thread_that_must_not_wait_does_not() -> None:
    with pytest.raises(AssertionError, match="does not wait"):
        Room().wait(lambda: False, time.monotonic() + 10, never)
