"""The broker's loop: what one turn may take, and that to be busy is not to be frozen."""

from __future__ import annotations

import itertools
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from reqpool_broker.freeze_detector import FreezeDetector
from reqpool_broker.process import ServerProcess
from reqpool_broker.server import BYTES_PER_TURN, MESSAGES_PER_TURN, SLEPT_EXIT, BrokerServer, _drain
from reqpool_contract import wire, zmq_sockets
from reqpool_contract.wire import Verb
from reqpool_contract.zmq_sockets import SEVERAL

SHORT_S = 0.1
"""A liveness span for these tests."""


def work(span_s: float) -> None:
    """Use the CPU for so long."""
    end_s = time.thread_time() + span_s
    while time.thread_time() < end_s:
        pass


def sleep(span_s: float) -> None:
    """Do nothing for so long, as a process does that is stopped."""
    select.select([], [], [], span_s)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BrokerServer]:
    made = BrokerServer(f"ipc://{tmp_path}/intake")
    made.broker.liveness_s = SHORT_S
    yield made
    made.close()


@pytest.fixture
def client(server: BrokerServer) -> Iterator[zmq.Socket[bytes]]:
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.connect(server.urls["intake"])
    yield socket
    socket.close()
    context.term()


def until(done: Callable[[], bool]) -> Callable[[], bool]:
    """Stop the server when something has been done, or after 10 s in any case."""
    end_s = time.monotonic() + 10
    return lambda: done() or time.monotonic() > end_s


def once(act: Callable[[], None], server: BrokerServer, client: zmq.Socket[bytes]) -> int:
    """Let the server do something in the turn that takes a HELLO; returns its exit status."""
    take = server.broker.client_messages.message
    taken = []

    def message(route: bytes, frames: list[bytes], now_s: float) -> None:
        take(route, frames, now_s)
        taken.append(now_s)
        act()

    server.broker.client_messages.message = message  # type: ignore[method-assign]
    client.send(wire.encode(Verb.HELLO, 1, 1, {"session": bytes(16)}))
    turns = itertools.count()
    return server.run(until(lambda: bool(taken) and next(turns) > 2), lambda: None)


def test_broker_with_a_long_turn_is_busy_and_goes_on(server: BrokerServer, client: zmq.Socket[bytes]) -> None:
    assert once(lambda: work(4 * SHORT_S), server, client) == 0
    assert client.poll(10_000)


def test_broker_that_is_frozen_in_the_middle_of_a_turn_ends_and_says_nothing(
    server: BrokerServer, client: zmq.Socket[bytes]
) -> None:
    assert once(lambda: sleep(4 * SHORT_S), server, client) == SLEPT_EXIT
    assert server.broker.outbox.intake, "WELCOME was sent"


def turns_of(server: BrokerServer, client: zmq.Socket[bytes], messages: list[bytes]) -> list[int]:
    """Send all of these, let the server read them, and count what it reads in each turn."""
    turns = [0]
    server.broker.client_messages.message = (  # type: ignore[method-assign]
        lambda _route, _frames, _now_s: turns.__setitem__(-1, turns[-1] + 1)
    )
    flush = server.broker.flush

    def end_turn(now_s: float) -> None:
        flush(now_s)
        turns.append(0)

    server.broker.flush = end_turn  # type: ignore[method-assign]
    for message in messages:
        client.send(message)
    assert server.run(until(lambda: sum(turns) == len(messages)), lambda: None) == 0
    assert sum(turns) == len(messages)
    return turns


@pytest.mark.parametrize("count", [0, 1, 2, SEVERAL, SEVERAL + 5])
def test_all_that_lies_in_a_socket_is_read_and_it_says_that_nothing_is_left(count: int) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router, context.socket(zmq.DEALER) as dealer:
        router.bind("inproc://intake")
        dealer.connect("inproc://intake")
        sent = [b"%d" % number for number in range(count)]
        for message in sent:
            dealer.send(message)
        taken: list[bytes] = []
        assert not _drain(router, lambda _route, frames, _now_s: taken.extend(frames), time.monotonic())
        assert taken == sent
        assert not zmq_sockets.readable(router)


def test_turn_is_bounded_in_messages(server: BrokerServer, client: zmq.Socket[bytes]) -> None:
    assert max(turns_of(server, client, [b"x"] * 500)) <= MESSAGES_PER_TURN


def test_turn_is_bounded_in_bytes(server: BrokerServer, client: zmq.Socket[bytes]) -> None:
    size = BYTES_PER_TURN // 2 - 100
    assert max(turns_of(server, client, [bytes(size)] * 12)) <= 3


def test_turn_is_bounded_in_time(
    server: BrokerServer, client: zmq.Socket[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reqpool_broker.server.READ_S", 0.0)
    assert max(turns_of(server, client, [b"x"] * 100)) == 1


def test_an_orphaned_broker_leases_nothing_more_from_the_turn_in_which_it_hears_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reqpool_broker.server.READ_S", 0.0)  # one message a turn
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    parent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    server = BrokerServer(f"ipc://{tmp_path}/intake")
    turns = []

    def message(_route: bytes, _frames: list[bytes], _now_s: float) -> None:
        if parent.returncode is None:
            parent.kill()
            parent.wait()

    server.broker.client_messages.message = message  # type: ignore[method-assign]
    server.broker.leasing.lease = lambda now_s: turns.append(  # type: ignore[method-assign]
        parent.returncode is not None
    )
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(server.urls["intake"])
        for _ in range(500):
            socket.send(b"x")
        assert ServerProcess(server, os.pidfd_open(parent.pid), None).run() == 0
    assert parent.stdin is not None
    parent.stdin.close()
    assert turns.count(True) <= 1, "no more than that of the turn in which it died"


def test_who_was_busy_was_not_asleep_and_who_waited_was() -> None:
    freezes = FreezeDetector(SHORT_S)
    began_s = time.monotonic()
    work(4 * SHORT_S)
    assert not freezes.slept(time.monotonic() - began_s)
    freezes.note()
    began_s = time.monotonic()
    work(4 * SHORT_S)
    sleep(4 * SHORT_S)
    assert freezes.slept(time.monotonic() - began_s)
    freezes.close()


def test_where_the_kernel_keeps_no_account_time_on_the_cpu_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reqpool_broker.freeze_detector._PATH", "/nowhere")
    freezes = FreezeDetector(SHORT_S)
    began_s = time.monotonic()
    sleep(2 * SHORT_S)
    assert freezes.slept(time.monotonic() - began_s)
    freezes.close()
