"""Futures without a lock of their own: nothing is lost, nothing happens twice."""

from __future__ import annotations

import asyncio
import concurrent.futures
import pickle
import threading
from collections.abc import Callable
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED
from typing import Any

import pytest

import reqpool
from reqpool.entry import RequestEntry
from reqpool.future import Future
from reqpool.kinds import Asked, Kind, Route
from reqpool_contract import wire
from reqpool_contract.errors import BY_CODE, Code, PoolError
from support.interleaved import interleaved


class Reversed(Kind):
    name = "reversed"
    decoded = 0

    def encode(self, target: Any, payload: Any, *args: Any, **options: Any) -> tuple[Route, bytes, Any]:
        return ROUTE, payload, None

    def decode(self, data: bytes, request: Asked) -> bytes:
        self.decoded += 1
        if data == b"bad":
            raise reqpool.BadResponse("cannot be read")
        if data == b"bug":
            raise KeyError("bug")
        return data[::-1]


KIND = Reversed()
ROUTE = Route(KIND, ("reversed://host:1",), False)


class Owner:
    """As the stub ends requests, without its threads."""

    def __init__(self) -> None:
        self.session_label = "ab" * 8
        self.pending: dict[int, Future[Any]] = {}
        self.errors: list[int] = []

    def make(self, seq: int = 1, callback: Callable[[Any], object] | None = None) -> Future[Any]:
        future: Future[Any] = Future(self, seq, ROUTE, b"p", 10.0, 15.0, 1, callback)
        self.pending[seq] = future
        return future

    def end(
        self,
        future: Future[Any],
        code: int = 0,
        data: Any = b"abc",
        state: str = FINISHED,
        now_s: float = 12.0,
    ) -> bool:
        if self.pending.pop(future.seq, None) is None:
            return False
        future.end(state, code, data, 12.0)
        future.run_callbacks()
        return True

    def cancel(self, future: Future[Any]) -> bool:
        return self.end(future, Code.CANCELLED, wire.encode_error("cancelled"), CANCELLED_AND_NOTIFIED)

    def wait(self, future: Future[Any], until_s: float) -> None:
        pass

    def watch(self) -> None:
        pass

    def end_if_abandoned(self, future: Future[Any]) -> None:
        pass

    def report_callback_error(self, entry: RequestEntry) -> None:
        self.errors.append(entry.seq)


def in_thread(call: Callable[[], Any]) -> concurrent.futures.Future[Any]:
    outcome: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome


def test_the_answer_is_decoded_on_first_look_and_once() -> None:
    owner = Owner()
    future = owner.make()
    before = KIND.decoded
    owner.end(future)
    assert KIND.decoded == before
    assert future.result() == b"cba"
    assert future.result() == b"cba"
    assert future.exception() is None
    assert KIND.decoded == before + 1


@pytest.mark.parametrize("code", [0, Code.TIMEOUT])
def test_threads_that_look_at_the_same_time_get_the_same(code: int) -> None:
    def ended() -> Future[Any]:
        owner = Owner()
        future = owner.make()
        owner.end(future, code, wire.encode_error("late") if code else b"abc")
        return future

    def look(future: Future[Any]) -> object:
        return future.exception() if code else future.result()

    orders = 0
    for one, other in interleaved(ended, look, look):
        orders += 1
        assert one is other
        assert isinstance(one, reqpool.RequestTimeout) if code else one == b"cba"
    assert orders > 10


def test_an_answer_that_cannot_be_read_is_an_error_that_knows_its_request() -> None:
    owner = Owner()
    future = owner.make()
    owner.end(future, data=b"bad")
    with pytest.raises(reqpool.BadResponse) as caught:
        future.result()
    assert caught.value.request_id == "ab" * 8 + "-1"
    assert future.exception() is caught.value


def test_a_kind_that_fails_to_decode_gives_an_error_of_the_tree() -> None:
    owner = Owner()
    future = owner.make()
    owner.end(future, data=b"bug")
    error = future.exception()
    assert isinstance(error, reqpool.BadResponse)
    assert isinstance(error.__cause__, KeyError)


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_an_error_carries_what_is_known_and_pickles(code: int) -> None:
    owner = Owner()
    future = owner.make()
    data = wire.encode_error("went wrong", phase="read", attempts=2, sent=True, retry_after_ms=250)
    owner.end(future, code, data)
    error = future.exception()
    assert isinstance(error, PoolError)
    copy = pickle.loads(pickle.dumps(error))
    for seen in (error, copy):
        assert type(seen) is BY_CODE[code]
        assert seen.text == "went wrong"
        assert seen.origin == "reversed://host:1"
        assert (seen.phase, seen.attempts, seen.sent, seen.retry_after_s) == ("read", 2, True, 0.25)
        assert seen.elapsed_s == pytest.approx(2.0)
        assert seen.request_id == future.request_id
    with pytest.raises(type(error)):
        future.result()


@pytest.mark.parametrize(("code", "data"), [(99, wire.encode_error("new")), (20, b"\xc1"), (20, b"")])
def test_an_unknown_code_or_unreadable_details_are_still_an_error(code: int, data: bytes) -> None:
    owner = Owner()
    future = owner.make()
    owner.end(future, code, data)
    assert isinstance(future.exception(), PoolError)


def test_waiting_gives_up_after_its_own_timeout_and_the_request_goes_on() -> None:
    future = Owner().make()
    for timeout in (0, 0.01):
        with pytest.raises(TimeoutError) as caught:
            future.result(timeout)
        assert not isinstance(caught.value, PoolError)
    assert not future.done()


def test_cancelled_is_seen_by_everybody_as_what_it_is() -> None:
    future = Owner().make()
    assert future.cancel()
    assert future.cancelled()
    assert future.done()
    assert future.cancel()
    with pytest.raises(reqpool.Cancelled):
        future.result()
    with pytest.raises(concurrent.futures.CancelledError):
        future.exception()


def test_an_ended_request_cannot_be_cancelled_or_ended_again() -> None:
    owner = Owner()
    future = owner.make()
    owner.end(future)
    assert not future.cancel()
    assert not owner.end(future, 20, b"")
    assert future.result() == b"cba"
    with pytest.raises(reqpool.UsageError):
        future.set_result(1)
    with pytest.raises(reqpool.UsageError):
        future.set_exception(ValueError())


def test_callbacks_run_in_order_once_and_a_raising_one_stops_none() -> None:
    owner = Owner()
    seen: list[str] = []
    future = owner.make(callback=lambda f: seen.append("first"))
    future.add_done_callback(lambda f: 1 / 0)
    future.add_done_callback(lambda f: seen.append("second"))
    owner.end(future)
    future.add_done_callback(lambda f: seen.append("late"))
    future.run_callbacks()
    assert seen == ["first", "second", "late"]
    assert owner.errors == [1]


def test_concurrent_futures_wait_and_as_completed_take_them() -> None:
    owner = Owner()
    futures = [owner.make(seq) for seq in range(1, 5)]
    owner.end(futures[0])
    done, not_done = concurrent.futures.wait(futures, timeout=0.01)
    assert (done, not_done) == ({futures[0]}, set(futures[1:]))
    waiting = in_thread(lambda: list(concurrent.futures.as_completed(futures, 10)))
    for future in futures[1:]:
        owner.end(future)
    assert set(waiting.result(10)) == set(futures)
    first = [owner.make(9), owner.make(10)]
    waiting = in_thread(lambda: concurrent.futures.wait(first, 10, concurrent.futures.FIRST_COMPLETED))
    owner.end(first[1], 20, b"\x80")
    assert waiting.result(10).done == {first[1]}


def test_asyncio_awaits_wraps_and_cancels_them() -> None:
    owner = Owner()
    ended, awaited, wrapped, cancelled, failing = (owner.make(seq) for seq in range(1, 6))
    owner.end(ended)

    async def look() -> None:
        assert await ended == b"cba"
        threading.Timer(0.01, owner.end, (awaited,)).start()
        assert await awaited == b"cba"
        threading.Timer(0.01, owner.end, (wrapped,)).start()
        assert await asyncio.wrap_future(wrapped) == b"cba"
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(_await(cancelled), 0.01)
        assert cancelled.cancelled()
        owner.end(failing, 20, b"\x80")
        with pytest.raises(reqpool.RequestTimeout):
            await failing

    async def _await(future: Future[Any]) -> Any:
        return await future

    asyncio.run(look())


def race(
    rounds: int, make: Callable[[], tuple[list[Callable[[], Any]], Callable[[list[Any]], None]]]
) -> None:
    """Let calls of each round start at one moment, then check what they returned."""
    for _ in range(rounds):
        calls, check = make()
        barrier = threading.Barrier(len(calls))

        def at_once(call: Callable[[], Any], barrier: threading.Barrier = barrier) -> Any:
            barrier.wait()
            return call()

        waiting = [in_thread(lambda call=call: at_once(call)) for call in calls]  # type: ignore[misc]
        check([outcome.result(10) for outcome in waiting])


@pytest.fixture
def _fast_switches() -> Any:
    import sys

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_fast_switches")
def test_no_waiter_misses_an_end_that_comes_at_the_same_moment() -> None:
    def make() -> Any:
        owner = Owner()
        a, b = owner.make(1), owner.make(2)

        def check(outcomes: list[Any]) -> None:
            assert outcomes[2:4] == [b"cba", b"cba"]
            assert outcomes[4].done == {a, b}
            assert outcomes[5] == {a, b}

        return [
            lambda: owner.end(a),
            lambda: owner.end(b),
            lambda: a.result(5),
            lambda: b.result(5),
            lambda: concurrent.futures.wait([a, b], 5),
            lambda: set(concurrent.futures.as_completed([a, b], 5)),
        ], check

    race(300, make)


@pytest.mark.usefixtures("_fast_switches")
def test_cancel_and_end_at_the_same_moment_end_it_once_and_run_callbacks_once() -> None:
    def make() -> Any:
        owner = Owner()
        ran: list[int] = []
        future = owner.make(1, lambda f: ran.append(1))

        def check(outcomes: list[Any]) -> None:
            assert outcomes.count(True) == 1
            assert future.cancelled() is outcomes[0]
            assert sorted(ran) == [1, 2, 3]

        return [
            lambda: owner.cancel(future),
            lambda: owner.end(future),
            lambda: future.add_done_callback(lambda f: ran.append(2)),
            lambda: future.add_done_callback(lambda f: ran.append(3)),
        ], check

    race(300, make)
