"""The pool against a scripted broker: bad days, and the host process's own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

import reqpool
from reqpool import address, wire
from reqpool.embedded import Embedded
from reqpool.errors import Code
from reqpool.kinds import Route
from reqpool.wire import Flag, Reject, Verb
from support.fake_broker import FakeBroker, echo, silence
from support.plain import KIND, Plain
from support.wait import wait_until


def ask(pool: reqpool.Pool, payload: bytes = b"hello", target: str = "repeatable", **options: Any) -> Any:
    return pool.submit(KIND, target, payload, **options)


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    with FakeBroker() as broker:
        yield broker


@pytest.fixture
def pool(broker: FakeBroker) -> Iterator[reqpool.Pool]:
    with reqpool.Pool(broker.url) as pool:
        yield pool
        pool.close(drain=False)


@pytest.fixture(autouse=True)
def _no_threads_left() -> Iterator[None]:
    yield
    names = ("reqpool-io", "reqpool-delivery", "fake-broker")
    wait_until(lambda: not [t for t in threading.enumerate() if t.name in names], 10, "threads to end")


# --- requests ---------------------------------------------------------------------------------------


def test_a_request_comes_back_with_its_answer(pool: reqpool.Pool) -> None:
    assert ask(pool, b"hello").result(5) == b"hello"


def test_the_built_in_kinds_go_through_the_same_door(broker: FakeBroker, pool: reqpool.Pool) -> None:
    broker.answer = lambda seq, payload: (0, b"answer")
    assert pool.udp("127.0.0.1:5555", b"x").result(5) == b"answer"
    assert pool.tcp("127.0.0.1:5555", b"x", until=b"\n", max_bytes=10, idempotent=True).result(5) == b"answer"
    assert isinstance(
        pool.dns("example.com", "AAAA", server="127.0.0.1:53").exception(5), reqpool.BadResponse
    )
    assert [flags for times in broker.submitted.values() for flags in times] == [0, 1, 1]


def test_idempotent_overrides_what_the_kind_says(broker: FakeBroker, pool: reqpool.Pool) -> None:
    for target, idempotent in (("once", None), ("once", True), ("repeatable", False), ("repeatable", None)):
        ask(pool, target=target, idempotent=idempotent).result(5)
    assert [flags for times in broker.submitted.values() for flags in times] == [0, 1, 0, 1]


def test_many_threads_share_a_pool(broker: FakeBroker, pool: reqpool.Pool) -> None:
    def work(number: int) -> bool:
        return all(
            ask(pool, b"%d-%d" % (number, turn)).result(10) == b"%d-%d" % (number, turn) for turn in range(50)
        )

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(8)))
    assert pool.stats().completed == 400


def test_awaiting_works_in_any_loop(pool: reqpool.Pool) -> None:
    async def look() -> list[bytes]:
        return list(await asyncio.gather(*(ask(pool, b"%d" % n) for n in range(20))))

    assert asyncio.run(look()) == [b"%d" % n for n in range(20)]


def test_an_error_of_the_cluster_is_raised(broker: FakeBroker, pool: reqpool.Pool) -> None:
    broker.answer = lambda seq, payload: (Code.CONNECT_FAILED, wire.encode_error("refused", phase="connect"))
    with pytest.raises(reqpool.ConnectFailed, match="refused"):
        ask(pool).result(5)
    assert pool.stats().failed == 1


def test_what_the_cluster_never_answers_times_out_here(broker: FakeBroker, pool: reqpool.Pool) -> None:
    broker.answer = silence
    began_s = time.monotonic()
    with pytest.raises(reqpool.RequestTimeout) as caught:
        ask(pool, timeout=0.1).result(5)
    assert 0.1 + 0.2 <= time.monotonic() - began_s < 1.0
    assert caught.value.phase == "cluster"
    assert caught.value.sent is None
    assert pool.stats().timeouts == 1


@pytest.mark.parametrize(
    "timeout", [0, -1, float("nan"), float("inf"), 86_401, "soon", "5", b"5", True, None, []]
)
def test_a_timeout_is_checked_where_it_is_given(timeout: Any) -> None:
    with pytest.raises(reqpool.UsageError):
        reqpool.Pool("tcp://127.0.0.1:1", timeout=timeout)
    if timeout is not None:
        with reqpool.Pool("tcp://127.0.0.1:1") as pool, pytest.raises(reqpool.UsageError):
            ask(pool, timeout=timeout)


def test_bad_options_are_refused_at_the_call() -> None:
    for options in ({"max_pending": 0}, {"workers": 2}, {"max_pending": "x"}, {"executor": 5}):
        with pytest.raises(reqpool.UsageError):
            reqpool.Pool("tcp://127.0.0.1:1", **options)
    with pytest.raises(reqpool.UsageError):
        reqpool.Pool("nonsense")
    with reqpool.Pool("tcp://127.0.0.1:1") as pool:
        calls: tuple[Callable[[], Any], ...] = (
            lambda: ask(pool, bytes(wire.MAX_PAYLOAD_BYTES + 1)),
            lambda: ask(pool, priority=3),
            lambda: ask(pool, priority=-1),
            lambda: ask(pool, priority=1.0),
            lambda: ask(pool, priority=0.0),
            lambda: ask(pool, priority=True),
            lambda: ask(pool, priority=False),
            lambda: ask(pool, callback=5),
            lambda: ask(pool, idempotent="yes"),
            lambda: ask(pool, "text"),  # type: ignore[arg-type]
            lambda: pool.submit("nonsense", "x", b""),
            lambda: list(pool.map(pool.dns, [], window=0)),
        )
        for call in calls:
            with pytest.raises(reqpool.UsageError):
                call()
        assert pool.stats().state == "unused"


def test_the_url_is_taken_from_the_environment(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQPOOL_URL", broker.url)
    with reqpool.Pool() as pool:
        assert ask(pool).result(5) == b"hello"
        assert pool.stats().url == broker.url


# --- callbacks --------------------------------------------------------------------------------------


def test_callbacks_get_the_ended_future(pool: reqpool.Pool) -> None:
    seen: list[Any] = []
    future = ask(pool, callback=seen.append)
    wait_until(lambda: seen, 5)
    assert seen == [future]


def test_a_raising_callback_is_logged_and_counted_and_stops_nothing(
    pool: reqpool.Pool, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []
    with caplog.at_level(logging.ERROR, "reqpool"):
        ask(pool, callback=lambda f: 1 / 0)
        ask(pool, callback=lambda f: sys.exit(3))
        ask(pool, callback=seen.append)
        wait_until(lambda: seen, 5)
    assert pool.stats().callback_errors == 2
    assert "ZeroDivisionError" in caplog.text


def test_waiting_inside_a_callback_raises_instead_of_deadlocking(
    broker: FakeBroker, pool: reqpool.Pool
) -> None:
    broker.answer = lambda seq, payload: echo(seq, payload) if payload == b"hello" else None
    other = ask(pool, b"never", timeout=20)
    seen: list[Any] = []

    def callback(future: Any) -> None:
        seen.append(future.result())
        for wait in (other.result, other.exception, lambda: next(pool.map(lambda item, **o: other, [1]))):
            try:
                wait()
            except reqpool.UsageError as error:
                seen.append(error)

    ask(pool, callback=callback)
    wait_until(lambda: len(seen) == 4, 5)
    assert seen[0] == b"hello"


def test_block_inside_a_callback_raises_when_there_is_no_room(broker: FakeBroker) -> None:
    broker.answer = lambda seq, payload: echo(seq, payload) if payload == b"hello" else None
    seen: list[Any] = []
    with reqpool.Pool(broker.url, max_pending=2) as pool:

        def callback(future: Any) -> None:
            ask(pool, b"never")
            try:
                ask(pool, b"never", block=True)
            except reqpool.UsageError as error:
                seen.append(error)

        ask(pool, b"never")
        ask(pool, callback=callback)
        wait_until(lambda: seen, 5)
        pool.close(drain=False)


def test_a_slow_callback_does_not_stop_the_heartbeats(broker: FakeBroker, pool: reqpool.Pool) -> None:
    go_on = threading.Event()
    ask(pool, callback=lambda f: go_on.wait(20))
    before = broker.count(Verb.HEARTBEAT)
    wait_until(lambda: broker.count(Verb.HEARTBEAT) > before + 12, 5)
    assert ask(pool).result(5) == b"hello"
    assert pool.stats().reconnects == 0
    go_on.set()


def test_an_executor_runs_the_callbacks(broker: FakeBroker, caplog: pytest.LogCaptureFixture) -> None:
    names: list[str] = []
    executor = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="mine")
    with reqpool.Pool(broker.url, executor=executor) as pool:
        ask(pool, callback=lambda f: names.append(threading.current_thread().name))
        wait_until(lambda: names, 5)
        assert names[0].startswith("mine")
        executor.shutdown()
        ask(pool, callback=lambda f: names.append("never"))
        wait_until(lambda: pool.stats().callback_errors, 5)
        assert len(list(pool.map(lambda item, **options: ask(pool, item, **options), [b"a", b"b"]))) == 2


# --- limits, cancel, map ----------------------------------------------------------------------------


def test_a_full_table_is_overloaded_at_once_and_block_waits_for_room(broker: FakeBroker) -> None:
    broker.answer = silence
    with reqpool.Pool(broker.url, max_pending=3) as pool:
        futures = [ask(pool, timeout=20) for _ in range(3)]
        with pytest.raises(reqpool.Overloaded) as caught:
            ask(pool)
        assert caught.value.retry_after_s
        with pytest.raises(reqpool.Overloaded):
            ask(pool, block=True, timeout=0.05)
        blocked: list[Any] = []
        thread = threading.Thread(target=lambda: blocked.append(ask(pool, block=True, timeout=20)))
        thread.start()
        wait_until(lambda: len(broker.submitted) == 3, 5)
        broker.finish(futures[1].seq)
        thread.join(5)
        assert blocked
        assert pool.stats().pending == 3
        futures[0].cancel()
        ask(pool)
        pool.close(drain=False)


def test_closing_refuses_those_who_wait_for_room(broker: FakeBroker) -> None:
    broker.answer = silence
    pool = reqpool.Pool(broker.url, max_pending=1)
    ask(pool, timeout=20)
    outcome: list[BaseException] = []

    def wait() -> None:
        try:
            ask(pool, block=True, timeout=20)
        except reqpool.UsageError as error:
            outcome.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: broker.submitted, 5)
    pool.close(drain=False)
    thread.join(5)
    assert outcome


def test_cancel_ends_the_request_here_and_tells_the_cluster(broker: FakeBroker, pool: reqpool.Pool) -> None:
    broker.answer = silence
    seen: list[Any] = []
    future = ask(pool, callback=seen.append)
    wait_until(lambda: broker.submitted, 5)
    assert future.cancel()
    with pytest.raises(reqpool.Cancelled):
        future.result()
    wait_until(lambda: seen and broker.count(Verb.CANCEL), 5)
    [seqs] = [fields[0] for verb, fields in broker.heads if verb is Verb.CANCEL]
    assert seqs == (future.seq,)
    broker.finish(future.seq)
    assert ask(pool, b"x", timeout=0.05).exception(5)
    assert len(seen) == 1
    assert pool.stats().cancelled == 1


def test_map_keeps_its_window_and_yields_everything_in_order_of_completion(
    broker: FakeBroker, pool: reqpool.Pool
) -> None:
    most = 0

    def items() -> Iterator[bytes]:
        nonlocal most
        for number in range(1000):
            most = max(most, pool.stats().pending)
            yield b"%d" % number

    def method(item: bytes, **options: Any) -> Any:
        return ask(pool, item, **options)

    seen = {}
    for item, future in pool.map(method, items(), window=50):
        assert future.done()
        seen[item] = future.result()
    assert seen == {b"%d" % n: b"%d" % n for n in range(1000)}
    assert most <= 50


def test_map_goes_on_after_an_item_that_is_refused(broker: FakeBroker, pool: reqpool.Pool) -> None:
    broker.answer = lambda seq, payload: (0, b"x" * 12)
    names = ["a.example", "a..b", "b.example"]
    errors = {
        name: type(future.exception()) for name, future in pool.map(pool.dns, names, server="127.0.0.1")
    }
    assert errors["a..b"] is reqpool.UsageError
    assert set(errors) == set(names)


def test_leaving_map_early_cancels_what_is_in_flight(broker: FakeBroker, pool: reqpool.Pool) -> None:
    broker.answer = lambda seq, payload: echo(seq, payload) if payload == b"0" else None
    generator = pool.map(lambda item, **o: ask(pool, item, **o), [b"0", b"1", b"2", b"3"], window=3)
    item, _ = next(generator)
    assert item == b"0"
    generator.close()
    wait_until(lambda: pool.stats().cancelled == 2, 5)
    assert pool.stats().pending == 0


# --- the session on bad days ------------------------------------------------------------------------


def test_a_lost_open_is_made_up_for(broker: FakeBroker, pool: reqpool.Pool) -> None:
    broker.open_to_lose = 1
    assert ask(pool).result(5) == b"hello"
    assert broker.count(Verb.HELLO) == 2


def test_a_missing_batch_is_asked_for_and_comes(broker: FakeBroker, pool: reqpool.Pool) -> None:
    broker.batches_to_lose = {2, 5}
    for number in range(1, 8):
        assert ask(pool, b"%d" % number).result(5) == b"%d" % number
    assert broker.count(Verb.RESEND) >= 2
    assert pool.stats().gaps >= 2


def test_repeated_batches_are_ignored(broker: FakeBroker, pool: reqpool.Pool) -> None:
    broker.repeat = True
    seen: list[Any] = []
    for _ in range(20):
        ask(pool, callback=seen.append).result(5)
    wait_until(lambda: pool.stats().batches_repeated == 20 and len(seen) >= 20, 5)
    assert len(seen) == pool.stats().completed == 20


def test_acknowledgements_come_without_further_requests(broker: FakeBroker, pool: reqpool.Pool) -> None:
    ask(pool).result(5)
    wait_until(lambda: any(v is Verb.HEARTBEAT and f[2] == 1 for v, f in list(broker.heads)), 5)


def test_a_new_epoch_gets_everything_pending_again_marked(broker: FakeBroker, pool: reqpool.Pool) -> None:
    broker.answer = silence
    sent = [ask(pool, b"x", timeout=20) for _ in range(3)]
    wait_until(lambda: len(broker.submitted) == 3, 5)
    broker.do(lambda: setattr(broker, "answer", echo))
    broker.restart()
    fresh = ask(pool, b"fresh", timeout=20)
    for future in (*sent, fresh):
        future.result(10)
    resubmitted = Flag.IDEMPOTENT | Flag.RESUBMITTED
    assert [broker.submitted[f.seq] for f in sent] == [[1, resubmitted]] * 3
    # Marked or not: it may have been sent towards the old one.
    assert len(broker.submitted[fresh.seq]) == 1
    assert pool.stats().reconnects == 1
    about = [fields[2] for verb, fields in broker.heads if verb is Verb.HELLO][-1]
    assert (about["epoch"], about["workers"]) == (1, (b"w" * 16,))


def test_a_broker_that_knows_the_session_gets_everything_again_marked(
    broker: FakeBroker, pool: reqpool.Pool
) -> None:
    broker.answer = silence
    future = ask(pool, timeout=20)
    wait_until(lambda: broker.submitted, 5)
    broker.do(lambda: setattr(broker, "answer", echo))
    broker.restart(keep_epoch=True)
    assert future.result(10) == b"hello"
    assert broker.submitted[future.seq] == [1, Flag.IDEMPOTENT | Flag.RESUBMITTED]


def test_what_a_forgetful_broker_says_never_ran_is_not_marked(broker: FakeBroker, pool: reqpool.Pool) -> None:
    broker.answer = silence
    futures = [ask(pool, timeout=20) for _ in range(3)]
    wait_until(lambda: len(broker.submitted) == 3, 5)
    broker.never_ran = [(futures[0].seq, futures[1].seq)]
    broker.do(lambda: setattr(broker, "answer", echo))
    broker.restart()
    for future in futures:
        future.result(10)
    assert [broker.submitted[future.seq][1] for future in futures] == [1, 1, 3]


@pytest.mark.parametrize("target", ["repeatable", "once"])
def test_only_the_request_that_the_broker_cannot_read_ends(
    broker: FakeBroker, pool: reqpool.Pool, target: str
) -> None:
    ask(pool).result(5)
    broker.unreadable = {b"bad", b"worse"}
    payloads = [b"%d" % n for n in range(30)] + [b"bad"] + [b"%d" % n for n in range(30)] + [b"worse"]
    futures = [ask(pool, payload, target, timeout=30) for payload in payloads]
    for payload, future in zip(payloads, futures, strict=True):
        if payload in broker.unreadable:
            with pytest.raises(reqpool.ProtocolError, match="gibberish") as caught:
                future.result(10)
            assert caught.value.sent is False
        else:
            assert future.result(10) == payload
    assert pool.stats().reconnects <= 5
    assert ask(pool).result(5) == b"hello"


def test_what_is_submitted_while_a_bad_request_is_looked_for_goes_on(
    broker: FakeBroker, pool: reqpool.Pool
) -> None:
    ask(pool).result(5)
    broker.unreadable = {b"bad"}
    bad = ask(pool, b"bad", timeout=30)
    answered = 0
    while not bad.done():
        assert ask(pool, b"good", timeout=10).result(10) == b"good"
        answered += 1
    assert isinstance(bad.exception(0), reqpool.ProtocolError)
    assert answered


class Broken(Plain):
    """A kind of somebody else's that makes what msgpack cannot pack."""

    name = "bro\udcffken"


BROKEN = Route(Broken(), ("broken://x",), False)


def test_a_request_that_cannot_be_encoded_ends_alone(
    broker: FakeBroker, pool: reqpool.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = Broken()
    monkeypatch.setattr(kind, "encode", lambda target, payload: (BROKEN, payload, None))
    broker.answer = lambda seq, payload: echo(seq, payload) if payload != b"never" else None
    ask(pool, b"never", timeout=30)
    futures = [pool.submit(kind, "x", b"x"), ask(pool, timeout=30), pool.submit(kind, "x", b"x")]
    for broken in futures[::2]:
        with pytest.raises(reqpool.ProtocolError, match="surrogate"):
            broken.result(5)
    assert futures[1].result(5) == b"hello"
    assert pool.stats().reconnects == 0


def test_reject_and_goodbye_make_a_new_connection(broker: FakeBroker, pool: reqpool.Pool) -> None:
    ask(pool).result(5)
    broker.publish(Verb.GOODBYE, broker.epoch, "planned")
    assert ask(pool).result(5) == b"hello"
    broker.lose_a_submit()
    assert ask(pool).result(5) == b"hello"
    assert pool.stats().reconnects == 2


def test_garbage_from_the_broker_is_counted_and_ignored(broker: FakeBroker, pool: reqpool.Pool) -> None:
    ask(pool).result(5)
    for junk in (b"", b"\xc1", wire.encode(Verb.RESULTS, 1, 2, 0), wire.encode(Verb.LEASE, 1, 1, [])):
        broker.send_junk(junk)
    wait_until(lambda: pool.stats().ignored == 8, 5)
    assert ask(pool).result(5) == b"hello"


def test_a_dead_url_is_said_within_two_seconds() -> None:
    began_s = time.monotonic()
    with reqpool.Pool("tcp://127.0.0.1:1") as pool:
        with pytest.raises(reqpool.BrokerUnavailable, match=r"tcp://127.0.0.1:1.*reqpool up") as caught:
            ask(pool, timeout=30).result(5)
        assert time.monotonic() - began_s < 2.0
        assert caught.value.sent is False
        with pytest.raises(reqpool.RequestTimeout, match="no broker answers"):
            ask(pool, timeout=0.1).result(5)


def test_a_broker_that_comes_late_is_found() -> None:
    with FakeBroker() as broker:
        url = broker.url
    with reqpool.Pool(url) as pool:
        early = ask(pool, timeout=10)
        with FakeBroker(port=int(url.rpartition(":")[2])):
            assert early.result(5) == b"hello"


def test_a_version_mismatch_is_said_at_once_with_both_ranges(broker: FakeBroker) -> None:
    broker.reject = (Reject.VERSION, "no", {"lowest": 7, "highest": 9})
    with reqpool.Pool(broker.url) as pool:
        for _ in range(2):
            with pytest.raises(reqpool.BrokerUnavailable, match=r"7 to 9.*1 to 1"):
                ask(pool, timeout=30).result(1)


def test_a_socket_that_cannot_be_dialled_ends_what_is_pending_and_not_the_thread(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    check = address.check
    monkeypatch.setattr(address, "check", lambda url: url)
    with reqpool.Pool("tcp://über:1") as pool:
        for _ in range(2):
            with pytest.raises(reqpool.BrokerUnavailable, match=r"tcp://über:1.*Invalid argument"):
                ask(pool, timeout=30).result(5)
    monkeypatch.setattr(address, "check", check)
    broker.results_port = "tcp://über:1"
    with reqpool.Pool(broker.url) as pool:
        with pytest.raises(reqpool.BrokerUnavailable, match=r"tcp://127.*tcp://über:1"):
            ask(pool, timeout=30).result(5)
        port = str(broker.do(lambda: broker._results.get_string(zmq.LAST_ENDPOINT))).rpartition(":")[2]
        broker.results_port = port
        wait_until(lambda: ask(pool, timeout=5).exception(5) is None, 5)
    assert "I/O thread" not in caplog.text


def test_once_reached_a_lost_broker_is_waited_for_until_the_deadline() -> None:
    with FakeBroker() as broker, reqpool.Pool(broker.url) as pool:
        ask(pool).result(5)
        broker.__exit__(None, None, None)
        with pytest.raises(reqpool.RequestTimeout) as caught:
            ask(pool, timeout=2.0).result(10)
        assert caught.value.elapsed_s is not None
        assert caught.value.elapsed_s >= 2.0


# --- closing ----------------------------------------------------------------------------------------


def test_close_drains_and_says_goodbye(broker: FakeBroker) -> None:
    seen: list[Any] = []
    pool = reqpool.Pool(broker.url)
    futures = [ask(pool, callback=seen.append) for _ in range(100)]
    pool.close()
    assert [future.result(0) for future in futures] == [b"hello"] * 100
    assert len(seen) == 100
    wait_until(lambda: broker.count(Verb.GOODBYE), 5)
    assert pool.stats().state == "closed"
    pool.close()
    with pytest.raises(reqpool.UsageError, match="closed"):
        ask(pool)


def test_close_without_draining_cancels_at_once(broker: FakeBroker) -> None:
    broker.answer = silence
    pool = reqpool.Pool(broker.url)
    seen: list[Any] = []
    future = ask(pool, timeout=60, callback=seen.append)
    pool.close(drain=False)
    with pytest.raises(reqpool.Cancelled, match="closed"):
        future.result(0)
    assert seen == [future]


def test_close_drains_no_longer_than_it_is_told(broker: FakeBroker) -> None:
    broker.answer = silence
    pool = reqpool.Pool(broker.url)
    future = ask(pool, timeout=60)
    began_s = time.monotonic()
    pool.close(timeout=0.1)
    assert time.monotonic() - began_s < 3
    assert future.cancelled()


def test_close_inside_a_callback_does_not_deadlock(broker: FakeBroker) -> None:
    pool = reqpool.Pool(broker.url)
    closed = threading.Event()

    def close(future: Any) -> None:
        pool.close()
        closed.set()

    ask(pool, callback=close)
    assert closed.wait(5)


def test_an_error_in_the_with_block_does_not_wait(broker: FakeBroker) -> None:
    broker.answer = silence
    began_s = time.monotonic()

    def leave() -> None:
        with reqpool.Pool(broker.url) as pool:
            ask(pool, timeout=60)
            raise KeyError

    with pytest.raises(KeyError):
        leave()
    assert time.monotonic() - began_s < 3


def test_a_pool_that_was_never_used_closes_and_stays_closed() -> None:
    pool = reqpool.Pool("tcp://127.0.0.1:1")
    pool.close()
    with pytest.raises(reqpool.UsageError):
        ask(pool)


def test_a_dropped_pool_ends_after_its_last_request(broker: FakeBroker) -> None:
    assert ask(reqpool.Pool(broker.url)).result(5) == b"hello"
    wait_until(lambda: broker.count(Verb.GOODBYE), 5)


def test_no_fd_is_left(broker: FakeBroker) -> None:
    def fds() -> int:
        return len(os.listdir("/proc/self/fd"))

    def use() -> None:
        with reqpool.Pool(broker.url) as pool:
            ask(pool).result(5)

    use()
    before = fds()
    for _ in range(5):
        use()
    wait_until(lambda: fds() <= before + 2, 5)


# --- the host process -------------------------------------------------------------------------------


def test_making_a_pool_starts_nothing() -> None:
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    pool = reqpool.Pool()
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before
    assert pool.stats().state == "unused"


def run_script(script: str, url: str) -> subprocess.CompletedProcess[str]:
    prelude = "import os, sys, time, threading, reqpool, signal\npool = reqpool.Pool(sys.argv[1])\n"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", prelude + script, url],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip


FORK = """
def ask(data):
    return pool.udp("127.0.0.1:9", data, timeout=10)
assert ask(b"one").result() == b"one"
held = ask(b"hold")
pid = os.fork()
if pid == 0:
    signal.alarm(10)
    try:
        held.result()
    except reqpool.ClusterError as error:
        assert "parent" in str(error), error
    assert ask(b"child").result() == b"child"
    pool.close()
    os._exit(0)
_, status = os.waitpid(pid, 0)
assert status == 0, status
assert not held.done()
assert ask(b"two").result() == b"two"
held.cancel()
pool.close()
print("fine")
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_futures_in_flight_at_a_fork_belong_to_the_parent_and_the_child_has_its_own_session(
    broker: FakeBroker,
) -> None:
    broker.answer = lambda seq, payload: None if payload == b"hold" else (0, payload)
    done = run_script("import warnings; warnings.simplefilter('ignore')\n" + FORK, broker.url)
    assert (done.stdout, done.stderr) == ("fine\n", "")


HOLD = "pool.udp('127.0.0.1:9', b'hold', timeout=60, callback=print)"
FLOOD = "for _ in range(5000): pool.udp('127.0.0.1:9', b'x', callback=lambda f: None)"
STUCK = "pool.udp('127.0.0.1:9', b'x', callback=lambda f: time.sleep(60)).result()"


@pytest.mark.parametrize(
    ("script", "alive"),
    [
        (HOLD, True),
        (HOLD, False),
        (HOLD + "\ntime.sleep(0.2)", True),
        (HOLD + "\ntime.sleep(0.2)", False),
        (FLOOD, True),
        (FLOOD, False),
        (STUCK, True),
    ],
)
def test_exit_with_requests_in_flight_neither_hangs_nor_prints(
    broker: FakeBroker, script: str, alive: bool
) -> None:
    broker.answer = lambda seq, payload: None if payload == b"hold" else (0, payload)
    began_s = time.monotonic()
    done = run_script(script, broker.url if alive else "tcp://127.0.0.1:1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - began_s < 8


def test_gevents_patches_get_a_clear_error() -> None:
    pytest.importorskip("gevent")
    script = (
        "from gevent import monkey; monkey.patch_all()\nimport reqpool\n"
        "try: reqpool.Pool('tcp://127.0.0.1:1')\nexcept reqpool.UsageError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
    )
    assert "patch_all(thread=False" in done.stdout, done.stderr


def test_an_embedded_pool_without_the_server_extra_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("REQPOOL_URL", raising=False)
    monkeypatch.setattr("reqpool.embedded.find_spec", lambda name: None if name == "psutil" else object())
    with reqpool.Pool() as pool, pytest.raises(reqpool.UsageError, match=r"reqpool\[server\]"):
        ask(pool)


def test_an_embedded_pool_in_a_folder_too_deep_for_a_socket_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.delenv("REQPOOL_URL", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with reqpool.Pool() as pool, pytest.raises(reqpool.UsageError, match="TMPDIR"):
        ask(pool)
    assert not list(deep.iterdir())


def test_an_embedded_cluster_that_dies_at_once_is_said_with_its_exit_status(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("REQPOOL_URL", raising=False)
    monkeypatch.setattr("reqpool.embedded.sys.executable", "/bin/false")
    with reqpool.Pool() as pool, pytest.raises(reqpool.BrokerUnavailable, match="exit status 1"):
        ask(pool, timeout=30).result(5)


def test_an_embedded_cluster_is_stopped_and_its_folder_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sleeper = tmp_path / "sleeper"
    sleeper.write_text("#!/bin/sh\nexec sleep 60\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr("reqpool.embedded.sys.executable", str(sleeper))
    embedded = Embedded(1)
    folder = embedded.url.removeprefix("ipc://").removesuffix("/intake")
    assert os.stat(folder).st_mode & 0o777 == 0o700
    assert embedded.exit_text() is None
    embedded.stop()
    embedded.stop()
    assert not os.path.exists(folder)
    assert embedded.exit_text() == "the embedded cluster was ended by SIGTERM"
