"""Callbacks on the I/O thread: what goes on while one of them takes long, and when it comes back."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import reqpool
from reqpool.dispatcher import CLOSE_SECONDS
from reqpool.relief import Relief
from reqpool.session_protocol import SessionProtocol
from support.fake_broker import FakeBroker, silence
from support.plain import KIND
from support.wait import wait_until


def ask(pool: reqpool.Pool, payload: bytes = b"x", **options: Any) -> Any:
    return pool.submit(KIND, "", payload, **options)


class Held:
    """A callback that does not return before :meth:`let_go`."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.thread = ""
        self._go = threading.Event()

    def __call__(self, _future: Any) -> None:
        self.thread = threading.current_thread().name
        self.entered.set()
        assert self._go.wait(20)

    def let_go(self) -> None:
        self._go.set()


@contextmanager
def held_up(pool: reqpool.Pool) -> Iterator[Held]:
    """The I/O thread is in a callback for as long as this lasts."""
    held = Held()
    ask(pool, callback=held)
    assert held.entered.wait(10)
    try:
        yield held
    finally:
        held.let_go()


def test_callbacks_run_on_the_io_thread(pool: reqpool.Pool) -> None:
    with held_up(pool) as held:
        assert held.thread == "reqpool-io"


def test_other_threads_are_served_while_a_callback_takes_long(pool: reqpool.Pool) -> None:
    with held_up(pool), concurrent.futures.ThreadPoolExecutor(4) as threads:
        answers = threads.map(lambda n: ask(pool, b"%d" % n).result(10), range(200))
        assert list(answers) == [b"%d" % n for n in range(200)]


def test_a_timeout_and_a_cancel_come_while_a_callback_takes_long(
    broker: FakeBroker, pool: reqpool.Pool
) -> None:
    with held_up(pool):
        broker.answer = silence
        late, unwanted = ask(pool, timeout=0.1), ask(pool, timeout=60)
        assert unwanted.cancel()
        with pytest.raises(reqpool.RequestTimeout):
            late.result(10)


def test_callbacks_keep_their_order_and_none_is_lost_when_one_takes_long(pool: reqpool.Pool) -> None:
    called: list[int] = []
    with held_up(pool):
        futures = [ask(pool, callback=lambda _, n=n: called.append(n)) for n in range(500)]
        assert not concurrent.futures.wait(futures, 10).not_done
        assert called == []
    wait_until(lambda: len(called) == 500, 10)
    assert called == list(range(500))


def test_the_io_thread_comes_back_to_its_loop(pool: reqpool.Pool) -> None:
    for round_ in range(20):
        with held_up(pool):
            assert ask(pool, b"%d" % round_).result(10) == b"%d" % round_
        threads: list[str] = []
        ask(pool, callback=lambda _, threads=threads: threads.append(threading.current_thread().name))
        wait_until(lambda threads=threads: threads, 10)
        assert threads == ["reqpool-io"]
    assert pool.stats().reconnects == 0


def test_closing_does_not_wait_for_a_callback_to_end_what_is_pending(
    broker: FakeBroker, pool: reqpool.Pool
) -> None:
    with held_up(pool):
        broker.answer = silence
        called = threading.Event()
        future = ask(pool, timeout=60, callback=lambda _: called.set())
        closing = threading.Thread(target=pool.close, kwargs={"drain": False})
        closing.start()
        with pytest.raises(reqpool.Cancelled):
            future.result(10)
        assert closing.is_alive(), "it waits for the callbacks"
        assert not called.is_set()
    closing.join(10)
    assert not closing.is_alive()
    assert called.is_set()


def test_a_stuck_callback_does_not_hold_up_the_interpreters_exit(broker: FakeBroker) -> None:
    code = (
        "import reqpool, sys, threading\n"
        "from support.plain import KIND\n"
        "entered = threading.Event()\n"
        f"pool = reqpool.Pool({broker.url!r})\n"
        "def stuck(_):\n"
        "    entered.set()\n"
        "    threading.Event().wait()\n"
        "pool.submit(KIND, '', b'x', callback=stuck)\n"
        "assert entered.wait(10)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (done.returncode, done.stderr) == (0, "")
    wait_until(lambda: any(verb.name == "GOODBYE" for verb, _ in broker.heads), 10)


def test_callbacks_of_answers_that_a_leading_thread_received_are_run(pool: reqpool.Pool) -> None:
    for number in range(200):
        called = threading.Event()
        lone = ask(pool, b"%d" % number)
        lone.add_done_callback(lambda _, called=called: called.set())
        assert lone.result(10) == b"%d" % number
        assert called.wait(10)


def test_waiting_for_many_at_once_does_not_stop_the_pool(pool: reqpool.Pool) -> None:
    """concurrent.futures.wait holds the conditions it has while it asks for the next one's."""
    switch_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(150):
            futures = [ask(pool, b"x", timeout=20) for _ in range(60)]
            assert not concurrent.futures.wait(futures, 10).not_done
    finally:
        sys.setswitchinterval(switch_s)


class Raises(logging.Handler):
    """A log's handler with a fault."""

    def handle(self, record: logging.LogRecord) -> bool:
        raise RuntimeError("a fault of the handler")


def test_a_fault_of_a_logs_handler_stops_nothing(pool: reqpool.Pool) -> None:
    handler = Raises()
    log = logging.getLogger("reqpool")
    log.addHandler(handler)
    try:
        called = threading.Event()
        for callback in (lambda _: 1 / 0, lambda _: called.set()):
            ask(pool, callback=callback)
        assert called.wait(10)
        assert ask(pool, b"y").result(10) == b"y"
    finally:
        log.removeHandler(handler)
    assert pool.stats().callback_errors == 2


@pytest.mark.parametrize("relieved", [False, True], ids=["on the I/O thread", "on the other"])
def test_a_fault_in_a_turn_ends_all_that_is_pending(
    pool: reqpool.Pool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, relieved: bool
) -> None:
    def fault(self: SessionProtocol, now_s: float) -> Any:
        raise SystemExit("a fault of a kind")

    with held_up(pool) if relieved else contextlib.nullcontext():
        if relieved:
            assert ask(pool).result(10) == b"x"
        monkeypatch.setattr(SessionProtocol, "tick", fault)
        with pytest.raises((reqpool.Cancelled, reqpool.UsageError)):
            ask(pool, timeout=60).result(10)
    pool.close()
    assert "I/O of a reqpool.Pool failed" in caplog.text


def test_a_pool_is_freed_without_the_collector_and_closes_its_files(broker: FakeBroker) -> None:
    gc.collect()
    gc.disable()
    try:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            with reqpool.Pool(broker.url) as pool:
                called = threading.Event()
                ask(pool, callback=lambda _, called=called: called.set())
                assert called.wait(10)
        del pool
        wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before, 10)
    finally:
        gc.enable()


def test_a_stuck_callback_costs_close_no_more_than_its_time(pool: reqpool.Pool) -> None:
    with held_up(pool):
        began_s = time.monotonic()
        pool.close(drain=False, timeout=0.5)
        assert time.monotonic() - began_s < 2 * CLOSE_SECONDS
        wait_until(lambda: not [t for t in threading.enumerate() if t.name == "reqpool-relief"], 10)


def test_closing_on_the_thread_that_relieves_does_not_deadlock(
    pool: reqpool.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a finalizer may, or a log's handler."""
    tick, closed = SessionProtocol.tick, threading.Event()

    def closes(self: SessionProtocol, now_s: float) -> Any:
        if threading.current_thread().name == "reqpool-relief" and not closed.is_set():
            pool.close(drain=False)
            closed.set()
        return tick(self, now_s)

    monkeypatch.setattr(SessionProtocol, "tick", closes)
    with held_up(pool):
        assert closed.wait(10)


def test_a_fork_in_a_callback_leaves_the_others_to_the_parent(broker: FakeBroker) -> None:
    code = (
        "import os, reqpool, sys, threading\n"
        "from support.plain import KIND\n"
        "ran = []\n"
        "def forks(_):\n"
        "    child = os.fork()\n"
        "    ran.append(child)\n"
        "    if child: os.waitpid(child, 0)\n"
        "def other(_):\n"
        "    if 0 in ran: os.write(1, b'in the child')\n"
        "    done.set()\n"
        "done = threading.Event()\n"
        f"pool = reqpool.Pool({broker.url!r})\n"
        "futures = [pool.submit(KIND, '', b'x', callback=forks)]\n"
        "futures += [pool.submit(KIND, '', b'x', callback=other) for _ in range(20)]\n"
        "assert done.wait(10)\n"
        "pool.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_relief_sleeps_while_there_are_no_callbacks() -> None:
    relieved = threading.Event()
    relief = Relief()
    relief.start(relieved.set)
    try:
        wait_until(lambda: relief._dormant, 10)
        for _ in range(3):
            with relief:
                assert relieved.wait(10)
            wait_until(lambda: relief._dormant, 10)
            relieved.clear()
    finally:
        relief.stop()
    assert not relieved.is_set()
