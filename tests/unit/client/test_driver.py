"""Who turns the I/O loop: lone requests led by their own thread, and every way out of that."""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
import signal
import threading
import time
from types import FrameType
from typing import Any

import pytest

import reqpool
from reqpool.driver import Driver
from reqpool.entry import RequestEntry
from reqpool.io_loop import IoLoop
from reqpool.send_queues import FRESH_S, SendQueues
from reqpool.session_state import SessionState
from reqpool.stub import Stub
from reqpool_contract.wire import Verb
from support.client_conversation import ROUTE
from support.fake_broker import FakeBroker, silence
from support.plain import KIND
from support.wait import wait_until


class Turns:
    """Notes which threads turn the loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads: list[str] = []
        lead = IoLoop.lead

        def noted(loop: IoLoop, entry: RequestEntry, until_s: float) -> None:
            self.threads.append(threading.current_thread().name)
            lead(loop, entry, until_s)

        monkeypatch.setattr(IoLoop, "lead", noted)


def ask(pool: reqpool.Pool, payload: bytes = b"x", **options: Any) -> Any:
    return pool.submit(KIND, "", payload, **options)


def lone(pool: reqpool.Pool, times: int = 1) -> None:
    for number in range(times):
        assert ask(pool, b"%d" % number).result(10) == b"%d" % number


def led(pool: reqpool.Pool, turns: Turns) -> None:
    """Bring the pool to where this thread leads."""

    def leads() -> bool:
        lone(pool)
        return threading.current_thread().name in turns.threads

    wait_until(leads, 10, "this thread to lead")
    turns.threads.clear()


def test_lone_requests_are_led_by_the_thread_that_waits(
    pool: reqpool.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = Turns(monkeypatch)
    led(pool, turns)
    lone(pool, 50)
    assert len(turns.threads) >= 25
    assert set(turns.threads) == {threading.current_thread().name}


def test_a_callback_after_lone_requests_comes_without_anybody_waiting(
    pool: reqpool.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    led(pool, Turns(monkeypatch))
    for number in range(20):
        lone(pool)
        called = threading.Event()
        ask(pool, b"%d" % number, callback=lambda _, called=called: called.set())
        assert called.wait(10)


@pytest.mark.parametrize("look", ["done", "wait", "await", "callback"])
def test_ends_are_seen_however_one_looks(
    pool: reqpool.Pool, monkeypatch: pytest.MonkeyPatch, look: str
) -> None:
    led(pool, Turns(monkeypatch))
    for _ in range(10):
        lone(pool)
        future = ask(pool)
        if look == "done":
            wait_until(future.done, 10)
        elif look == "wait":
            assert concurrent.futures.wait([future], 10).done == {future}
        elif look == "await":

            async def awaited(future: Any = future) -> Any:
                return await future

            asyncio.run(awaited())
        else:
            called = threading.Event()
            future.add_done_callback(lambda _, called=called: called.set())
            assert called.wait(10)


def test_the_session_stays_alive_after_the_last_lone_request(
    broker: FakeBroker, pool: reqpool.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    led(pool, Turns(monkeypatch))

    def heartbeats() -> int:
        return sum(verb is Verb.HEARTBEAT for verb, _ in broker.heads)

    before = heartbeats()
    wait_until(lambda: heartbeats() > before + 3 * broker.liveness_ms / broker.heartbeat_ms, 10)
    lone(pool)
    assert pool.stats().reconnects == 0


def test_a_leader_that_gives_up_leaves_its_request_to_the_thread(
    broker: FakeBroker, pool: reqpool.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    led(pool, Turns(monkeypatch))
    broker.answer = silence
    future = ask(pool, timeout=0.5)
    with pytest.raises(TimeoutError, match="not ended after"):
        future.result(0.05)
    called = threading.Event()
    future.add_done_callback(lambda _: called.set())
    assert called.wait(10)
    with pytest.raises(reqpool.RequestTimeout):
        future.result()


def test_a_leader_serves_what_other_threads_submit(
    broker: FakeBroker, pool: reqpool.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = Turns(monkeypatch)
    led(pool, turns)
    answer = broker.answer
    broker.answer = lambda seq, payload: None if payload == b"slow" else answer(seq, payload)
    slow = ask(pool, b"slow", timeout=20)

    def wait() -> None:
        with pytest.raises(reqpool.Cancelled):
            slow.result()

    leader = threading.Thread(target=wait, name="leader")
    leader.start()
    wait_until(lambda: "leader" in turns.threads or slow._made_condition is not None, 10)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        answers = threads.map(lambda n: ask(pool, b"%d" % n).result(10), range(100))
        assert list(answers) == [b"%d" % n for n in range(100)]
    slow.cancel()
    leader.join(10)
    assert not leader.is_alive()


def test_a_lone_request_is_not_sent_on_a_connection_whose_loss_was_not_looked_at_yet(
    broker: FakeBroker, pool: reqpool.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.heartbeat_ms, broker.liveness_ms = 2_000, 10_000  # the I/O thread stays away for long
    led(pool, Turns(monkeypatch))
    stub: Any = pool._dispatcher._stub
    session = stub._conversation.session
    broker.vanish()

    def is_lost() -> bool:
        # What the loop sleeps on has news; or the I/O thread is back and has seen it.
        return bool(stub._loop._sockets._epoll.poll(0)) or session.state is not SessionState.OPEN

    wait_until(lambda: is_lost() and time.monotonic() - session.heard_s > FRESH_S)
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        asked = threads.submit(ask, pool, b"x", timeout=20)
        future = asked.result(10)
        broker.restart()
        assert future.result(10) == b"x"
    assert broker.submitted[future.seq] == [0], "marked as submitted again"


def test_a_burst_after_lone_requests_is_left_to_the_io_thread_which_gathers_it(
    broker: FakeBroker, pool: reqpool.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.heartbeat_ms, broker.liveness_ms = 2_000, 10_000
    monkeypatch.setattr(IoLoop, "park_s", lambda _: 60.0)
    led(pool, Turns(monkeypatch))
    sent = pool.stats().batches_out
    unparked: list[Driver] = []
    with monkeypatch.context() as patch:
        patch.setattr(Driver, "unpark", lambda self: unparked.append(self))
        futures = [ask(pool) for _ in range(10)]
        assert pool.stats().batches_out == sent + 1
        assert len(unparked) == 9
    assert [future.result(10) for future in futures] == [b"x"] * 10


def test_closing_ends_a_leaders_wait(
    broker: FakeBroker, pool: reqpool.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = Turns(monkeypatch)
    led(pool, turns)
    broker.answer = silence
    future = ask(pool, timeout=60)
    outcome: list[BaseException] = []

    def wait() -> None:
        with pytest.raises(reqpool.Cancelled) as raised:
            future.result()
        outcome.append(raised.value)

    leader = threading.Thread(target=wait, name="leader")
    leader.start()
    wait_until(lambda: "leader" in turns.threads, 10)
    pool.close(drain=False)
    leader.join(10)
    assert len(outcome) == 1


class Alarm(Exception):
    """Raised by a signal handler, as timeouts in some servers are."""


# A handler may strike inside somebody's weakref callback, where Python can only report what it raises.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_handler_that_raises_while_leading_loses_nothing(
    pool: reqpool.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    led(pool, Turns(monkeypatch))
    armed = False

    def ring(signum: int, frame: FrameType | None) -> None:
        if armed:
            raise Alarm

    chance = random.Random(11)
    before = signal.signal(signal.SIGALRM, ring)
    waiting = []
    rung = 0
    try:
        give_up_s = time.monotonic() + 30
        while rung < 60 and time.monotonic() < give_up_s:
            payload = b"%d" % len(waiting)
            future = ask(pool, payload)
            waiting.append((payload, future))
            try:
                armed = True
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.00002, 0.0008))
                future.result(10)
                armed = False
            except (Alarm, RuntimeError):
                # RuntimeError: the standard library's Condition, struck between giving its lock back and
                # waiting, complains of the lock instead.
                armed = False
                rung += 1
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert rung >= 10
    for payload, future in waiting:
        assert future.result(10) == payload
    stats = pool.stats()
    assert stats.pending == 0
    lone(pool, 20)


def test_nothing_is_sent_after_an_interruption_until_things_are_in_order(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A SUBMIT acknowledges what has been received; what was cut short has not reached its future yet."""
    stub = Stub(broker.url, embedded=None, max_pending=9, executor=None)  # no thread takes its turns
    sent: list[RequestEntry] = []
    monkeypatch.setattr(SendQueues, "submit_one", lambda queues, entry, now_s: sent.append(entry) or True)
    conversation = stub._conversation
    stub._driver.parked = True
    first = stub.submit(ROUTE, b"x", None, 9.0, None, 1, False)
    assert sent == [first]
    stub._driver.cut_short()
    stub.pending.clear()  # so that the next one is alone, too
    second = stub.submit(ROUTE, b"x", None, 9.0, None, 1, False)
    assert sent == [first]
    assert list(conversation.queues.outbox) == [second]
    assert conversation.session.connection == 0


def test_a_request_that_comes_as_the_loop_ends_takes_no_turn(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = Stub(broker.url, embedded=None, max_pending=9, executor=None)
    loop, driver = stub._loop, stub._driver

    class Late:
        """Got just after the I/O thread's last turn."""

        def acquire(self, blocking: bool) -> bool:
            loop.begin_close(0.0)
            loop.work()
            return True

        def release(self) -> None:
            pass

    driver.parked = True
    monkeypatch.setattr(driver, "turning", Late())
    future = stub.submit(ROUTE, b"x", None, 9.0, None, 1, False)
    assert loop.stopped
    assert future is not None
    assert future.cancelled()
    assert not stub.pending


def test_a_child_forked_in_the_turn_before_a_request_is_sent_touches_no_socket(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = Stub(broker.url, embedded=None, max_pending=9, executor=None)
    monkeypatch.setattr(stub._loop, "turn", lambda until_s: stub.abandon())  # as the handler of a fork does
    stub._driver.parked = True
    future = stub.submit(ROUTE, b"x", None, 9.0, None, 1, False)
    assert stub._conversation.session.connection == 0
    assert future is not None
    with pytest.raises(reqpool.PoolError, match="fork"):
        future.result(0)
