"""The pool against a scripted broker: requests, callbacks, limits, closing."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import reqpool
from reqpool import windowed
from reqpool.callback_runner import Handoff
from reqpool.future import Future
from reqpool.refused_future import refused
from reqpool_contract import wire
from reqpool_contract.errors import Code
from reqpool_contract.wire import Verb
from support.fake_broker import FakeBroker, echo, silence
from support.plain import ask
from support.wait import wait_until

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


def test_what_was_never_given_to_a_broker_was_not_sent(broker: FakeBroker, pool: reqpool.Pool) -> None:
    with reqpool.Pool("tcp://127.0.0.1:1") as unreached:
        futures = [ask(unreached, timeout=0.1), ask(unreached)]
        futures[1].cancel()
        for future in futures:
            with pytest.raises(reqpool.PoolError) as caught:
                future.result(5)
            assert caught.value.sent is False
    broker.answer = silence
    future = ask(pool)
    wait_until(lambda: broker.submitted)
    future.cancel()
    with pytest.raises(reqpool.Cancelled) as caught:
        future.result(5)
    assert caught.value.sent is None


def test_the_id_that_an_error_shows_says_nothing_of_the_session_s_secret(
    broker: FakeBroker, pool: reqpool.Pool
) -> None:
    broker.answer = lambda seq, payload: (Code.BAD_RESPONSE, wire.encode_error("no"))
    futures = [ask(pool), ask(pool)]
    shown = [future.exception(5).request_id for future in futures]
    (secret,) = {fields[2]["session"] for verb, fields in list(broker.heads) if verb is Verb.HELLO}
    names, numbers = zip(*[text.split("-") for text in shown], strict=True)
    assert set(names) == {wire.shown_id(secret)}
    assert numbers == tuple(str(future.seq) for future in futures)
    for text in (repr(futures[0]), repr(futures[0].exception()), str(futures[0].exception()), *shown):
        assert not any(secret.hex()[at : at + 6] in text for at in range(0, 26, 2))


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


@pytest.mark.parametrize("how", ["raises", "is not taken"])
def test_callbacks_that_fail_in_masses_are_counted_and_not_all_logged(
    broker: FakeBroker, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    executor = None
    if how == "is not taken":
        executor = concurrent.futures.ThreadPoolExecutor(1)
        executor.shutdown()
    with reqpool.Pool(broker.url, executor=executor) as pool, caplog.at_level(logging.ERROR, "reqpool"):
        for _ in range(200):
            ask(pool, callback=lambda f: 1 / 0)
        wait_until(lambda: pool.stats().callback_errors == 200, 5)
    # A few, and one in each span of ten seconds that a slow machine may need.
    assert 0 < len(caplog.records) < 10


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


def test_map_asks_for_less_at_a_time_while_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    room = 16
    running: deque[Future[Any]] = deque()
    ended: deque[Future[Any]] = deque()

    class Served(Handoff):
        """Ends what runs, one by one, whenever somebody waits."""

        def get(self, *_: Any) -> Future[Any]:
            return ended.popleft() if ended else running.popleft()

    def ask(number: int, **options: Any) -> Future[Any]:
        full = len(running) == room
        error: Any = reqpool.Overloaded("too late") if full else reqpool.UsageError("served")
        future: Future[Any] = refused(error)
        (ended if full else running).append(future)
        return future

    monkeypatch.setattr(windowed, "Handoff", Served)
    with reqpool.Pool("ipc:///nowhere/pool.sock") as pool:
        codes = Counter(future._code for _, future in pool.map(ask, range(5000), window=256))
    assert sum(codes.values()) == 5000
    assert codes[Code.OVERLOADED] < 256 - room + 5000 // 20


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


def test_what_closing_cancels_before_it_was_sent_is_not_sent_any_more(broker: FakeBroker) -> None:
    pool = reqpool.Pool(broker.url)
    late: list[reqpool.Future[bytes]] = []

    def close(future: Any) -> None:
        # On the thread that would send it.
        late.append(ask(pool, b"late"))
        pool.close(drain=False)

    ask(pool, callback=close)
    wait_until(lambda: broker.count(Verb.GOODBYE), 5)
    assert late[0].cancelled()
    assert late[0].seq not in broker.submitted
    with pytest.raises(reqpool.Cancelled) as caught:
        late[0].result()
    assert caught.value.sent is False


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
