"""Connections: counted, and turned away before the broker itself is short of file descriptors."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import zmq

from reqpool_broker import connection_gate
from reqpool_broker.client_limits import ClientLimits
from reqpool_broker.config import Config
from reqpool_broker.connection_gate import UNNOTICED, ConnectionGate
from reqpool_broker.server import BrokerServer
from support.raw_broker import RawBroker, RawSession, report
from support.wait import wait_until

FEW = 4_700
"""File descriptors of a process that is short of them."""
MANY = 3_000
"""Connections that are too many for it."""
MOST_STRANGE = ClientLimits().max_refused_subscriptions


@pytest.fixture
def few(tmp_path: Path) -> Iterator[RawBroker]:
    """A broker that can have no more than :data:`FEW`."""
    broker = RawBroker(tmp_path, lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, FEW)))
    yield broker
    broker.close()


@pytest.fixture(autouse=True, scope="module")
def files() -> Iterator[None]:
    """This process may open as many as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < FEW:
        pytest.skip(f"needs {FEW} file descriptors (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def connections(url: str, count: int) -> Iterator[list[socket.socket]]:
    """Open so many that say nothing."""
    opened = []
    try:
        for _ in range(count):
            made = socket.socket(socket.AF_UNIX)
            opened.append(made)
            made.connect(url.removeprefix("ipc://"))
        yield opened
    finally:
        for made in opened:
            made.close()


@pytest.mark.parametrize("door", ["intake", "results", "workers"])
def test_broker_short_of_file_descriptors_serves_who_is_there(few: RawBroker, door: str) -> None:
    session = RawSession(few)
    with connections(few.urls[door], MANY):
        session.ask(1)
        wait_until(lambda: psutil.Process(few.process.pid).num_fds() < FEW // 2, what="the surplus is closed")
        session.ask(2)
    assert few.process.poll() is None


def test_clients_come_again_once_there_is_room(few: RawBroker) -> None:
    before = RawSession(few)
    with connections(few.urls["intake"], MANY):
        before.ask(1)
    RawSession(few).ask(1)
    wait_until(lambda: report(few)["broker"].get("connections", {}).get("refused"), what="they are counted")
    shown = report(few)["broker"]["connections"]
    assert shown["fd_limit"] == FEW
    assert shown["open"] <= shown["limit"] < FEW


def test_soft_limit_is_raised_to_the_hard_one(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 200), hard))
    try:
        broker = RawBroker(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    RawSession(broker).ask(1)
    assert psutil.Process(broker.process.pid).rlimit(psutil.RLIMIT_NOFILE) == (hard, hard)
    broker.close()


class Bound:
    """A gate with a socket for clients and one for workers, and no broker behind them."""

    def __init__(self, folder: Path, files: int, most_of_one: int) -> None:
        self.gate = ConnectionGate(files, ClientLimits(max_connections=most_of_one))
        self.context = zmq.Context()
        self.urls = []
        self._sockets = []
        self.fds = []
        for name in ("clients", "workers"):
            made = self.context.socket(zmq.ROUTER)
            made.setsockopt(zmq.BACKLOG, self.gate.backlog)
            self.fds.append(self.gate.watch(made, clients=name == "clients"))
            made.bind(f"ipc://{folder}/{name}")
            self.urls.append(f"ipc://{folder}/{name}")
            self._sockets.append(made)

    def take(self) -> ConnectionGate:
        for fd in self.fds:
            self.gate.take(fd)
        return self.gate

    def close(self) -> None:
        self.gate.close(*self._sockets)
        for made in self._sockets:
            made.close(0)
        self.context.term()


def closed(connection: socket.socket) -> bool:
    """Has the other end closed it? (It has said its greeting first.)"""
    try:
        while connection.recv(1000, socket.MSG_DONTWAIT):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        pass
    return True


def test_workers_come_in_where_clients_have_taken_all_there_is(tmp_path: Path) -> None:
    bound = Bound(tmp_path, 100, 1_000)
    most = bound.gate.most
    with connections(bound.urls[0], most + 9) as clients:
        wait_until(lambda: bound.take().refused == 9, what="nine are too many")
        wait_until(lambda: sum(map(closed, clients)) == 9, what="they are closed")
        with connections(bound.urls[1], 2) as workers:
            wait_until(lambda: bound.take().open == most + 2, what="two workers are in")
            assert not any(map(closed, workers))
    wait_until(lambda: bound.take().open == 0, what="all are gone")
    assert "9 connections" in bound.gate.news(1.0)
    assert bound.gate.news(2.0) == ""
    bound.close()


def test_one_process_has_its_share_of_connections(tmp_path: Path) -> None:
    bound = Bound(tmp_path, 100, 5)
    code = f"import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect({str(tmp_path / 'clients')!r})"
    code += "; print(s.recv(1), flush=True); sys.stdin.read()"
    with connections(bound.urls[0], 8):
        wait_until(lambda: bound.take().refused == 3, what="three are too many")
        other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert other.stdin
        assert other.stdout
        assert other.stdout.readline() == b"b'\\xff'\n", "it is greeted, not closed"
        wait_until(lambda: bound.take().open == 6, what="another process has its own")
        assert bound.gate.refused == 3
        other.communicate()
    bound.close()


def test_a_new_limit_of_connections_holds_for_those_that_come_then(tmp_path: Path) -> None:
    bound = Bound(tmp_path, 100, 5)
    with connections(bound.urls[0], 4) as before:
        wait_until(lambda: bound.take().open == 4, what="they are in")
        bound.gate.reconfigure(ClientLimits(max_connections=2))
        with connections(bound.urls[0], 1) as after:
            wait_until(lambda: bound.take().refused == 1, what="another is too many")
            wait_until(lambda: closed(after[0]), what="it is closed")
        assert not any(map(closed, before))
    assert bound.gate.report()["limit_of_one"] == 2
    bound.close()


def test_a_broker_takes_the_limits_of_its_file_and_of_a_reload(tmp_path: Path) -> None:
    server = BrokerServer(f"ipc://{tmp_path}/intake", config=Config(clients=ClientLimits(max_connections=6)))
    configs = iter([Config(clients=ClientLimits(max_connections=8))])
    turns = iter([False, True])
    assert server._gate.most_of_one == 6
    server.run(lambda: next(turns), lambda: next(configs, None))
    assert server._gate.most_of_one == 8
    server.close()


def test_a_descriptor_that_another_listener_uses_again_stays_counted(tmp_path: Path) -> None:
    bound = Bound(tmp_path, 100, 1_000)
    clients, workers = bound.fds
    before = len(os.listdir("/proc/self/fd"))
    with connections(bound.urls[0], 1) as gone:
        gone[0].recv(1)  # it is greeted once the monitor has been told
        bound.gate.take(clients)
    wait_until(lambda: len(os.listdir("/proc/self/fd")) == before, what="its descriptor is free")
    with connections(bound.urls[1], 1) as stays:
        stays[0].recv(1)
        bound.gate.take(workers)
        bound.gate.take(clients)  # its end is only read now
        assert bound.gate.open == 1
    wait_until(lambda: bound.take().open == 0, what="all are gone")
    bound.close()


def test_what_is_not_a_connection_any_more_costs_no_descriptor(tmp_path: Path) -> None:
    gate = ConnectionGate(100, ClientLimits())
    before = len(os.listdir("/proc/self/fd"))
    with open(tmp_path / "other", "w") as other:
        gate._enter((0, other.fileno()), True)
    assert len(os.listdir("/proc/self/fd")) == before
    assert gate.open == 0


def test_only_so_many_connections_come_in_unnoticed(tmp_path: Path) -> None:
    bound = Bound(tmp_path, 10_000, 10_000)
    most = UNNOTICED + bound.gate.backlog
    with contextlib.ExitStack() as opened:
        for _ in range(most + 1):
            if not came_in(opened.enter_context(socket.socket(socket.AF_UNIX)), bound.urls[0]):
                break
        else:
            pytest.fail("none is held up")
        wait_until(lambda: bound.take().open > UNNOTICED // 2, what="they are noticed")
    wait_until(lambda: bound.take().open == 0, what="all are gone")
    bound.close()


def came_in(connection: socket.socket, url: str) -> bool:
    """Has the kernel room for it, perhaps in a moment?"""
    connection.setblocking(False)
    for _ in range(300):
        with contextlib.suppress(BlockingIOError):
            connection.connect(url.removeprefix("ipc://"))
            return True
        time.sleep(0.001)
    return False


FLOOD = """
import sys, zmq
flood = zmq.Context().socket(zmq.XSUB)
flood.linger = 0
with flood.get_monitor_socket(zmq.EVENT_DISCONNECTED) as ended:
    flood.connect(sys.argv[1])
    number = 0
    while not ended.poll(0):
        number += 1
        try:
            flood.send(b"\\x01%016d" % number, zmq.NOBLOCK)
        except zmq.Again:
            pass
    flood.disable_monitor()
print(number, flush=True)
again = zmq.Context().socket(zmq.DEALER)
with again.get_monitor_socket(zmq.EVENT_DISCONNECTED) as ended:
    again.connect(sys.argv[2])
    print(ended.poll(10_000), flush=True)
    again.disable_monitor()
again.close(0)
flood.close(0)
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RawBroker]:
    made = RawBroker(tmp_path)
    yield made
    made.close()


def test_who_floods_with_subscriptions_is_cut_off_and_kept_away_and_others_go_on(broker: RawBroker) -> None:
    session = RawSession(broker)
    code = [sys.executable, "-c", FLOOD, broker.urls["results"], broker.urls["intake"]]
    flood = subprocess.Popen(code, stdout=subprocess.PIPE)
    assert flood.stdout
    assert int(flood.stdout.readline()) >= MOST_STRANGE
    session.ask(1)
    assert int(flood.stdout.readline()), "its process comes in again"
    flood.communicate()
    session.ask(2)
    wait_until(lambda: report(broker)["broker"].get("connections", {}).get("refused"), what="it is counted")


def test_clients_that_connect_again_and_again_are_never_taken_for_a_flood(broker: RawBroker) -> None:
    for seq in range(1, 2 * MOST_STRANGE):
        stray = broker.socket(zmq.SUB, "results")
        stray.subscribe(os.urandom(16))  # as before a new HELLO
        RawSession(broker).ask(seq)
        stray.close(0)
    RawSession(broker).ask(1)


def test_a_flood_that_has_gone_does_not_cut_off_who_has_its_descriptor_now(tmp_path: Path) -> None:
    bound = Bound(tmp_path, 100, 1_000)
    with connections(bound.urls[0], 1) as stays:
        wait_until(lambda: bound.take().open == 1, what="it is there")
        ((_, fd),) = bound.gate._peers
        for _ in range(2 * MOST_STRANGE):
            bound.gate.note_strange(fd, "localhost:0:0:1")
        assert bound.gate.refused == 0
        for _ in range(MOST_STRANGE):
            bound.gate.note_strange(fd, f"localhost:0:0:{os.getpid()}")
        wait_until(lambda: closed(stays[0]), what="this one is meant")
    bound.close()


def test_a_gate_closes_while_more_wait_than_a_monitor_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_gate, "EVENTS_PER_TURN", 1)
    bound = Bound(tmp_path, 10_000, 10_000)
    with connections(bound.urls[0], 50) as clients:
        bound.close()
        wait_until(lambda: all(map(closed, clients)), what="they are closed")


def test_the_brokers_sample_stands_while_no_file_descriptor_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_process: psutil.Process) -> int:
        raise OSError(24, "Too many open files")

    server = BrokerServer(f"ipc://{tmp_path}/intake")
    server._take_sample()
    monkeypatch.setattr(psutil.Process, "num_fds", fail)
    server._take_sample()
    assert server.broker.status.sample["fds"] > 0
    server.close()
