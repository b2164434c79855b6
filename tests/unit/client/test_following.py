"""Requests that go on: an answer asks for a further one under the same future. Against a scripted broker."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import reqpool
from reqpool.callback_runner import CallbackRunner
from reqpool.completions import Completions
from reqpool.entry import RequestEntry
from reqpool.future import Future
from reqpool.kinds import Asked, Followed, Kind, Route
from reqpool.room import Room
from reqpool_contract import wire
from reqpool_contract.errors import Code
from reqpool_contract.wire import Flag, Verb
from support.fake_broker import FakeBroker
from support.plain import KIND as PLAIN
from support.wait import wait_until


class Steps(Kind):
    """The payload says how many further requests its answer asks for: ``b"3"`` asks for ``b"2"``."""

    name = "steps"

    def __init__(self) -> None:
        self.in_between: Callable[[], None] = lambda: None

    def encode(self, target: Any, payload: Any, *args: Any, **options: Any) -> tuple[Route, bytes, Any]:
        return Route(self, ("steps://first",), True), payload, 0

    def follow(self, data: bytes, request: Asked) -> Followed:
        self.in_between()
        if data == b"large":
            return Followed(Route(self, ("steps://next",), True), bytes(wire.MAX_PAYLOAD_BYTES + 1), 0, data)
        return Followed(Route(self, ("steps://next",), True), data, request.note + 1, data)

    def decode(self, data: bytes, request: Asked) -> tuple[bytes, tuple[Any, ...], int]:
        return data, request.trail, request.note


def counts_down(seq: int, payload: bytes) -> tuple[int, bytes] | None:
    number = int(payload)
    return (Code.AGAIN, b"%d" % (number - 1)) if number else (0, b"done")


def stops_at(payload: bytes) -> Callable[[int, bytes], tuple[int, bytes] | None]:
    """As :func:`counts_down`, and this one is never answered."""
    return lambda seq, asked: None if asked == payload else counts_down(seq, asked)


@pytest.fixture
def steps() -> Steps:
    return Steps()


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    with FakeBroker(counts_down) as broker:
        yield broker


def groups(broker: FakeBroker) -> list[wire.SubmitGroup]:
    return [group for verb, fields in list(broker.heads) if verb is Verb.SUBMIT for group in fields[2]]


def test_the_future_stays_the_same_and_knows_its_way(
    broker: FakeBroker, pool: reqpool.Pool, steps: Steps
) -> None:
    ended: list[Any] = []
    future = pool.submit(steps, None, b"3", callback=ended.append)
    assert future.result(5) == (b"done", (b"2", b"1", b"0"), 3)
    wait_until(lambda: ended == [future])
    asked = groups(broker)
    assert [group.payloads for group in asked] == [(b"3",), (b"2",), (b"1",), (b"0",)]
    assert [group.origins for group in asked] == [("steps://first",)] + [("steps://next",)] * 3
    assert [group.flags for group in asked] == [Flag.IDEMPOTENT] * 4
    numbers = [group.seqs[0] for group in asked]
    assert sorted(set(numbers)) == numbers
    stats = pool.stats()
    assert (stats.submitted, stats.completed, stats.pending) == (1, 1, 0)


def test_many_go_on_beside_each_other(pool: reqpool.Pool, steps: Steps) -> None:
    futures = [pool.submit(steps, None, b"%d" % (n % 5)) for n in range(500)]
    for n, future in enumerate(futures):
        assert future.result(10)[2] == n % 5
    assert pool.stats().completed == 500


def test_the_deadline_is_that_of_the_whole(broker: FakeBroker, pool: reqpool.Pool, steps: Steps) -> None:
    broker.answer = stops_at(b"0")
    steps.in_between = lambda: time.sleep(0.1)  # the way takes its time, on the thread that does the I/O
    with pytest.raises(reqpool.RequestTimeout) as caught:
        pool.submit(steps, None, b"2", timeout=0.5).result(5)
    first, second, third = (group.span_ms for group in groups(broker))
    assert second <= first - 100
    assert third <= second - 100
    assert caught.value.elapsed_s is not None
    assert caught.value.elapsed_s < 2.0
    assert pool.stats().timeouts == 1
    assert caught.value.sent is True
    assert caught.value.attempts >= 2


def test_cancel_ends_it_wherever_it_is(broker: FakeBroker, pool: reqpool.Pool, steps: Steps) -> None:
    broker.answer = stops_at(b"1")
    ended: list[Any] = []
    future = pool.submit(steps, None, b"3", callback=ended.append)
    wait_until(lambda: len(groups(broker)) == 3)
    assert future.cancel()
    assert future.cancelled()
    wait_until(lambda: broker.count(Verb.CANCEL) == 1)
    (cancelled,) = [fields[0] for verb, fields in broker.heads if verb is Verb.CANCEL]
    assert cancelled == groups(broker)[-1].seqs
    broker.finish(cancelled[0])
    assert pool.submit(PLAIN, "once", b"0").result(5) == b"done"
    wait_until(lambda: ended == [future])
    assert pool.stats().cancelled == 1


def test_cancel_in_between_two_requests_waits_for_the_next_and_ends_that(
    broker: FakeBroker, pool: reqpool.Pool, steps: Steps
) -> None:
    there, go = threading.Event(), threading.Event()

    def wait() -> None:
        there.set()
        assert go.wait(10)

    steps.in_between = wait
    ended: list[Any] = []
    future = pool.submit(steps, None, b"1", callback=ended.append)
    assert there.wait(10)
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        cancelling = threads.submit(future.cancel)
        assert not future.done()
        go.set()
        assert cancelling.result(10) is True
    assert future.cancelled()
    wait_until(lambda: ended == [future])
    assert pool.stats().pending == 0


def test_cancelling_at_any_moment_ends_it_once(pool: reqpool.Pool, steps: Steps) -> None:
    ended: list[Any] = []
    futures = []
    for n in range(200):
        future = pool.submit(steps, None, b"3", callback=ended.append)
        futures.append(future)
        until_s = time.monotonic() + n * 0.00001
        while time.monotonic() < until_s:
            pass
        if not future.cancel():
            assert future.result(5)[0] == b"done"
    wait_until(lambda: len(ended) >= len(futures))
    assert sorted(map(id, ended)) == sorted(map(id, futures))
    stats = pool.stats()
    assert stats.pending == 0
    assert stats.cancelled == sum(future.cancelled() for future in futures)
    assert stats.completed == len(futures) - stats.cancelled


def test_who_waits_in_between_is_told(pool: reqpool.Pool, steps: Steps) -> None:
    steps.in_between = lambda: time.sleep(0.02)
    waited = pool.submit(steps, None, b"3")
    done, _ = concurrent.futures.wait([waited], 10)
    assert done == {waited}
    several = [pool.submit(steps, None, b"2") for _ in range(3)]
    assert set(concurrent.futures.as_completed(several, 10)) == set(several)

    async def awaits() -> Any:
        return await pool.submit(steps, None, b"2")

    assert asyncio.run(awaits())[0] == b"done"
    looked = pool.submit(steps, None, b"2")
    while not looked.done():
        time.sleep(0.001)
    assert looked.result()[0] == b"done"


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (reqpool.BadResponse("too many of them"), reqpool.BadResponse, "too many of them"),
        (reqpool.UsageError("not there"), reqpool.UsageError, "not there"),
        (KeyError("a fault"), reqpool.BadResponse, "cannot continue: KeyError"),
    ],
)
def test_a_kind_that_cannot_go_on_ends_it(
    pool: reqpool.Pool, steps: Steps, error: Exception, kind: type[Exception], text: str
) -> None:
    def fail() -> None:
        raise error

    steps.in_between = fail
    ended: list[Any] = []
    future = pool.submit(steps, None, b"1", callback=ended.append)
    with pytest.raises(kind, match=text) as caught:
        future.result(5)
    assert caught.value.sent is True  # type: ignore[attr-defined]  # what came before was
    wait_until(lambda: ended == [future])
    assert pool.submit(PLAIN, "once", b"0").result(5) == b"done"


def test_a_further_request_that_is_too_large_ends_it(
    broker: FakeBroker, pool: reqpool.Pool, steps: Steps
) -> None:
    broker.answer = lambda seq, payload: (Code.AGAIN, b"large")
    with pytest.raises(reqpool.BadResponse, match="too large"):
        pool.submit(steps, None, b"1").result(5)


def test_a_kind_that_knows_of_no_further_request_says_so(broker: FakeBroker, pool: reqpool.Pool) -> None:
    with pytest.raises(reqpool.BadResponse, match="'plain' has no follow-up requests"):
        pool.submit(PLAIN, "once", b"1").result(5)


@pytest.mark.parametrize("keep_epoch", [True, False])
def test_a_broker_that_comes_back_is_asked_for_what_is_open_now(
    broker: FakeBroker, pool: reqpool.Pool, steps: Steps, keep_epoch: bool
) -> None:
    broker.answer = stops_at(b"1")
    future = pool.submit(steps, None, b"2", timeout=20)
    wait_until(lambda: len(broker.submitted) == 2)
    first, second = broker.submitted
    broker.answer = counts_down
    broker.restart(keep_epoch=keep_epoch)
    assert future.result(10) == (b"done", (b"1", b"0"), 2)
    assert broker.submitted[first] == [Flag.IDEMPOTENT]  # that one has had its answer
    assert broker.submitted[second] == [Flag.IDEMPOTENT, Flag.IDEMPOTENT | Flag.RESUBMITTED]


def test_an_answer_that_comes_twice_is_followed_once(
    broker: FakeBroker, pool: reqpool.Pool, steps: Steps
) -> None:
    broker.repeat = True
    assert pool.submit(steps, None, b"4").result(5)[2] == 4
    assert len(broker.submitted) == 5


def test_closing_waits_until_all_has_been_followed(broker: FakeBroker, steps: Steps) -> None:
    pool = reqpool.Pool(broker.url)
    steps.in_between = lambda: time.sleep(0.01)
    futures = [pool.submit(steps, None, b"4") for _ in range(3)]
    pool.close(drain=True)
    assert [future.result(0)[0] for future in futures] == [b"done"] * 3


def test_closing_at_once_ends_it_in_between(broker: FakeBroker, steps: Steps) -> None:
    pool = reqpool.Pool(broker.url)
    there, go = threading.Event(), threading.Event()

    def wait() -> None:
        there.set()
        assert go.wait(10)

    steps.in_between = wait
    future = pool.submit(steps, None, b"1", callback=lambda f: None)
    assert there.wait(10)
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        closing = threads.submit(pool.close, drain=False)
        go.set()
        closing.result(10)
    assert future.cancelled()


def test_what_an_interruption_left_in_hand_is_pending_again() -> None:
    class Owner:
        pending: dict[int, RequestEntry]

    owner: Any = Owner()
    owner.pending = {}
    ends = Completions(owner.pending, CallbackRunner(None), Room())
    futures = []
    for seq in (1, 2, 3):
        future: Future[Any] = Future(
            owner, seq, Route(Steps(), ("steps://x",), True), b"1", 0.0, 9.0, 1, None
        )
        owner.pending[seq] = future
        futures.append(future)
    ends.complete((1, int(Code.AGAIN), b"0", 2, 0, b"done"), 1.0)
    assert set(owner.pending) == {3}
    assert [future.seq for future, _ in ends.again] == [1]
    ends.recover()
    assert set(owner.pending) == {1, 3}
    assert ends.again == []
    assert futures[1]._state != futures[0]._state
