"""Attempts to connect, side by side: on sockets and a loop that do what the test says, and no clock."""

from __future__ import annotations

import errno
import itertools
import socket
from collections.abc import Callable
from typing import Any

import pytest

from reqpool_workers import happy_eyeballs
from reqpool_workers.event_loop import WRITABLE
from reqpool_workers.happy_eyeballs import NEXT_ADDRESS_S, HappyEyeballs
from reqpool_workers.protocols import Address

_FDS = itertools.count(1000)


def address(number: int) -> Address:
    return Address(socket.AF_INET, (f"192.0.2.{number}", 80))


class FakeSocket:
    """A socket; ``outcome`` is what SO_ERROR says, ``connect_ex`` returns what the world says."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.fd = next(_FDS)
        self.address: Any = None
        self.outcome = 0
        self.closed = False

    def fileno(self) -> int:
        return self.fd

    def setsockopt(self, *_: Any) -> None:
        pass

    def connect_ex(self, sockaddr: Any) -> int:
        self.address = sockaddr
        return self._world.at_once.get(sockaddr[0], errno.EINPROGRESS)

    def getsockopt(self, *_: Any) -> int:
        return self.outcome

    def close(self) -> None:
        assert self.fd not in self._world.watched, "closed while it is watched"
        self.closed = True


class World:
    """The loop, and every socket that was made.

    Attributes:
        at_once: what ``connect_ex`` returns, by host; EINPROGRESS for others.
        watched: fd to handler.
        timers: due seconds and timer, in the order they were set.
    """

    def __init__(self) -> None:
        self.now_s = 100.0
        self.at_once: dict[str, int] = {}
        self.sockets: list[FakeSocket] = []
        self.watched: dict[int, Callable[[int], None]] = {}
        self.timers: list[tuple[float, Callable[[float], float | None]]] = []
        self.outcomes: list[Any] = []

    def socket(self, *_: Any) -> FakeSocket:
        self.sockets.append(FakeSocket(self))
        return self.sockets[-1]

    def register(self, fd: int, handler: Callable[[int], None], events: int) -> None:
        assert events == WRITABLE
        self.watched[fd] = handler

    def unregister(self, fd: int) -> None:
        del self.watched[fd]

    def at(self, due_s: float, timer: Callable[[float], float | None]) -> None:
        self.timers.append((due_s, timer))

    def dial(self, *numbers: int) -> HappyEyeballs:
        made = HappyEyeballs(
            self,  # type: ignore[arg-type]
            [address(number) for number in numbers],
            lambda made, address: self.outcomes.append((made, address)),
            lambda why, codes: self.outcomes.append(why),
        )
        made.start()
        return made

    def skip(self, span_s: float) -> None:
        """Let time pass."""
        self.now_s += span_s
        due, self.timers = (
            [one for one in self.timers if one[0] <= self.now_s],
            [one for one in self.timers if one[0] > self.now_s],
        )
        for _, timer in due:
            assert timer(self.now_s) is None

    def end(self, number: int, code: int = 0) -> None:
        """An attempt is over."""
        (made,) = (one for one in self.open if one.address[0] == f"192.0.2.{number}")
        made.outcome = code
        self.watched[made.fd](WRITABLE)

    @property
    def open(self) -> list[FakeSocket]:
        return [one for one in self.sockets if not one.closed]

    @property
    def tried(self) -> list[str]:
        return [one.address[0].rpartition(".")[2] for one in self.sockets]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(happy_eyeballs.socket, "socket", world.socket)
    return world


def test_the_delay_is_that_of_rfc_8305() -> None:
    assert NEXT_ADDRESS_S == 0.25


def test_a_slow_address_is_not_given_up_for_one_that_refuses(world: World) -> None:
    world.dial(1, 2)
    world.skip(NEXT_ADDRESS_S)
    world.end(2, errno.ECONNREFUSED)
    assert world.outcomes == []
    world.end(1)
    assert world.outcomes == [(world.sockets[0], address(1))]
    assert world.open == world.sockets[:1]


def test_a_further_address_is_tried_every_quarter_of_a_second(world: World) -> None:
    world.dial(1, 2, 3)
    world.skip(NEXT_ADDRESS_S - 0.01)
    assert world.tried == ["1"]
    world.skip(0.01)
    assert world.tried == ["1", "2"]
    world.skip(NEXT_ADDRESS_S)
    assert world.tried == ["1", "2", "3"]
    world.skip(10.0)
    assert world.tried == ["1", "2", "3"]


def test_a_refused_address_is_followed_by_the_next_at_once(world: World) -> None:
    world.dial(1, 2, 3)
    world.end(1, errno.ECONNREFUSED)
    assert world.tried == ["1", "2"]
    world.skip(NEXT_ADDRESS_S)  # the first one's time is nobody's, the second one's is over
    assert world.tried == ["1", "2", "3"]


def test_the_first_that_stands_is_taken_and_the_others_are_closed(world: World) -> None:
    world.dial(1, 2, 3)
    world.skip(NEXT_ADDRESS_S)
    world.skip(NEXT_ADDRESS_S)
    world.end(2)
    assert world.outcomes == [(world.sockets[1], address(2))]
    assert world.open == [world.sockets[1]]
    assert not world.watched
    world.skip(10.0)
    assert world.tried == ["1", "2", "3"]


def test_an_address_that_fails_at_once_is_passed_over(world: World) -> None:
    world.at_once = {"192.0.2.1": errno.ENETUNREACH}
    world.dial(1, 2)
    assert world.tried == ["1", "2"]
    world.end(2)
    assert world.outcomes == [(world.sockets[1], address(2))]


def test_when_all_have_failed_each_is_named_once(world: World) -> None:
    world.at_once = {"192.0.2.3": errno.ENETUNREACH}
    world.dial(1, 2, 3)
    world.skip(NEXT_ADDRESS_S)
    world.end(2, errno.ECONNREFUSED)
    assert world.outcomes == []
    world.end(1, errno.EHOSTUNREACH)
    assert world.outcomes == [
        "cannot connect: 192.0.2.2:80: Connection refused; 192.0.2.3:80: Network is unreachable; "
        "192.0.2.1:80: No route to host"
    ]
    assert not world.open
    assert not world.watched


def test_the_only_address_is_not_named(world: World) -> None:
    world.dial(1)
    world.end(1, errno.ECONNREFUSED)
    assert world.outcomes == ["cannot connect: Connection refused"]
    assert not world.timers


def test_after_a_close_nothing_is_open_and_nobody_is_told(world: World) -> None:
    made = world.dial(1, 2, 3)
    world.skip(NEXT_ADDRESS_S)
    made.close()
    assert not world.open
    assert not world.watched
    world.skip(10.0)
    assert world.tried == ["1", "2"]
    assert world.outcomes == []
