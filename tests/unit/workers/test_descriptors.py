"""A worker without a file descriptor left: requests wait for one, and nothing else suffers."""

from __future__ import annotations

import errno
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import psutil
import pytest

from reqpool_contract import wire
from reqpool_contract.errors import Code
from reqpool_contract.watched_file import CHECK_INTERVAL_S, WatchedFile
from reqpool_contract.wire import Verb
from reqpool_workers.event_loop import EventLoop
from reqpool_workers.sample import Sampler
from support.fake_worker_broker import SESSION, WORKER_ID, FakeBroker
from support.leaks import no_leak
from support.lines import lines
from support.tcp_peer import TcpPeer, answers, echo_until
from support.wait import wait_until

LINE = msgpack.packb([b"ask\n", b"\n", None, 1 << 20])


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    """A broker; what the test opened is closed when it is over."""
    with no_leak(), FakeBroker() as broker:
        yield broker


class Few:
    """Stands in for the socket module: there are so many sockets left.

    Attributes:
        refused: how many were asked for in vain.
    """

    def __init__(self, left: int) -> None:
        self.left = left
        self.refused = 0
        few = self

        class Counted(socket.socket):
            def close(self) -> None:
                few.left += self.fileno() >= 0
                super().close()

        self._counted = Counted

    def __getattr__(self, name: str) -> Any:
        return getattr(socket, name)

    def socket(self, *arguments: Any) -> socket.socket:
        if self.left <= 0:
            self.refused += 1
            raise OSError(errno.EMFILE, "Too many open files")
        self.left -= 1
        return self._counted(*arguments)


def few(monkeypatch: pytest.MonkeyPatch, left: int) -> Few:
    sockets = Few(left)
    monkeypatch.setattr("reqpool_workers.happy_eyeballs.socket", sockets)
    return sockets


def test_request_waits_for_a_file_descriptor(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    sockets = few(monkeypatch, 0)
    with TcpPeer(answers(b"yes\n")) as peer, broker.worker():
        broker.welcome()
        origin = f"tcp://{peer.address}"
        broker.say(Verb.GRANT, origin, 1, 2, {})
        broker.lease("tcp", origin, {1: LINE, 2: LINE}, flags=0)
        wait_until(lambda: sockets.refused >= 2)
        sockets.left = 1
        assert broker.results(2) == {1: (0, b"yes\n"), 2: (0, b"yes\n")}
    assert not [verb for verb, _, _ in broker.heard if verb in (Verb.RETRY, Verb.RETURN)]


@pytest.mark.parametrize("wait_ms", [None, 300], ids=["deadline", "queue timeout"])
def test_request_that_gets_none_in_time_ends_with_an_error_that_names_the_limit(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, wait_ms: int | None
) -> None:
    few(monkeypatch, 0)
    with TcpPeer(answers(b"yes\n")) as peer, broker.worker():
        broker.welcome()
        origin = f"tcp://{peer.address}"
        broker.say(Verb.GRANT, origin, 1, 2, {})
        span_ms = 300 if wait_ms is None else 10_000
        group = wire.LeaseGroup(SESSION, "tcp", origin, span_ms, 0, 1, None, None, (1,), (LINE,))
        broker.say(Verb.LEASE, [group._replace(wait_ms=wait_ms)])
        failed = broker.failure()
    assert (failed.code, failed.sent) == (Code.TIMEOUT, False)
    text = wire.decode_error(failed.details)["text"]
    assert f"at most {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} are allowed (RLIMIT_NOFILE)" in text


def test_idle_connection_of_another_origin_makes_room(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets = few(monkeypatch, 1)
    with TcpPeer(echo_until(b"\n")) as one, TcpPeer(echo_until(b"\n")) as other, broker.worker(lines()):
        broker.welcome()
        for seq, peer in ((1, one), (2, other)):
            broker.say(Verb.GRANT, f"lines://{peer.address}", 1, 2, {})
            broker.lease("lines", f"lines://{peer.address}", {seq: b"ask\n"}, flags=0)
            assert broker.results(1) == {seq: (0, b"ask")}
        one.wait_all_closed()
    assert sockets.refused == 1


def test_process_that_may_open_nothing_more_goes_on_and_recovers(broker: FakeBroker) -> None:
    command = [sys.executable, "-m", "reqpool_workers", "--broker", broker.url, "--id", WORKER_ID.hex()]
    with TcpPeer(answers(b"yes\n")) as peer, subprocess.Popen(command) as process:
        try:
            broker.welcome()
            _, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
            used = max(int(name) for name in os.listdir(f"/proc/{process.pid}/fd")) + 1
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (used, hard))
            origin = f"tcp://{peer.address}"
            broker.say(Verb.GRANT, origin, 1, 2, {})
            broker.lease("tcp", origin, {1: LINE}, flags=0)
            broker.lease("udp", f"udp://{peer.address}", {2: b"x"}, flags=0)
            assert broker.next(Verb.RETURN)[2] == [(SESSION, (2,), False)]
            while "fds" in broker.next(Verb.HEARTBEAT)[3]:
                broker.beat()
            broker.beat()
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (hard, hard))
            assert broker.results(1) == {1: (0, b"yes\n")}
            while "fds" not in broker.next(Verb.HEARTBEAT)[3]:
                broker.beat()
        finally:
            process.kill()


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), psutil.NoSuchProcess(1)])
def test_figures_that_cannot_be_read_are_left_out(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fails(*_: Any) -> None:
        raise error

    loop = EventLoop()
    try:
        sampler = Sampler(loop)
        monkeypatch.setattr(psutil.Process, "num_fds", fails)
        figures = sampler.take(1e9)
        assert "fds" not in figures
        assert figures["rss_bytes"] > 0
        assert "busy" in figures
    finally:
        loop.close()


def test_watched_file_for_which_there_is_no_descriptor_says_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "hosts"
    path.write_text("one")
    watched = WatchedFile(str(path), str)
    assert watched.get(0.0) == "one"
    path.write_text("another")

    def none_left(*_: Any, **__: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", none_left)
        assert watched.get(CHECK_INTERVAL_S) == "one"
    assert watched.get(2 * CHECK_INTERVAL_S) == "another"
