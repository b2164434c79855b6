"""A server that refuses connections for a moment is waited for; one that is down for longer is said to be."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator

import pytest

from reqpool_contract.errors import Code
from reqpool_contract.wire import Verb
from reqpool_workers import reconnect_delay
from reqpool_workers.reconnect_delay import (
    FIRST_DELAY_S,
    FORGET_OUTAGE_S,
    LONGEST_DELAY_S,
    LONGEST_OUTAGE_S,
    ReconnectDelay,
)
from support.fake_worker_broker import FakeBroker
from support.leaks import no_leak
from support.lines import lines
from support.ports import HOST, free_port
from support.tcp_peer import TcpPeer, echo_until


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    with no_leak(), FakeBroker() as broker:
        yield broker


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Is released each time a connection was refused."""
    times = threading.Semaphore(0)
    goes_on = ReconnectDelay.goes_on

    def counted(seen: ReconnectDelay, now_s: float, random_unit: float) -> bool:
        times.release()
        return goes_on(seen, now_s, random_unit)

    monkeypatch.setattr(ReconnectDelay, "goes_on", counted)
    return times


# --- when ---------------------------------------------------------------------------------------------


def test_it_is_tried_again_after_ever_longer_delays_for_a_bounded_time() -> None:
    seen = ReconnectDelay()
    now_s, delays_s = 1_000.0, []
    while seen.goes_on(now_s, random.random()):
        delays_s.append(seen.retry_s - now_s)
        now_s = seen.retry_s
    assert FIRST_DELAY_S / 2 <= delays_s[0] <= FIRST_DELAY_S
    assert all(later > earlier / 2 for earlier, later in itertools.pairwise(delays_s))
    assert max(delays_s) <= LONGEST_DELAY_S
    assert LONGEST_OUTAGE_S <= now_s - 1_000 <= LONGEST_OUTAGE_S + LONGEST_DELAY_S


def test_many_connections_that_fail_together_are_one_try() -> None:
    seen = ReconnectDelay()
    assert seen.goes_on(1_000.0, random.random())
    retry_s = seen.retry_s
    assert all(seen.goes_on(1_000.0 + at / 1e6, random.random()) for at in range(64))
    assert seen.retry_s == retry_s


def test_what_is_down_for_longer_is_not_waited_for_until_it_served_or_was_left_alone() -> None:
    seen = ReconnectDelay()
    assert seen.goes_on(1_000.0, random.random())
    now_s = 1_000.0 + LONGEST_OUTAGE_S
    assert not seen.goes_on(now_s, random.random())
    assert not seen.goes_on(now_s + FORGET_OUTAGE_S, random.random())
    assert seen.goes_on(now_s + 2 * FORGET_OUTAGE_S + 1, random.random())
    seen.end()
    assert seen.retry_s < 0
    assert seen.goes_on(now_s + 2 * FORGET_OUTAGE_S + 1 + LONGEST_OUTAGE_S, random.random())


# --- who waits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [0, 1], ids=["not idempotent", "idempotent"])
def test_requests_wait_for_a_server_that_is_back_in_a_moment(
    broker: FakeBroker, refused: threading.Semaphore, flags: int
) -> None:
    port = free_port()
    origin = f"lines://{HOST}:{port}"
    with broker.worker(lines(4)):
        broker.welcome()
        broker.say(Verb.GRANT, origin, 1, 2, {})
        broker.lease("lines", origin, {seq: b"%d\n" % seq for seq in range(20)}, flags=flags)
        assert refused.acquire(timeout=10)
        with TcpPeer(echo_until(b"\n"), port) as peer:
            assert broker.results(20) == {seq: (0, b"%d" % seq) for seq in range(20)}
            assert peer.received.count(b"\n") == 20
    assert not [verb for verb, *_ in broker.heard if verb is Verb.RETRY]


def test_without_retries_no_server_is_waited_for(broker: FakeBroker, refused: threading.Semaphore) -> None:
    origin = f"lines://{HOST}:{free_port()}"
    with broker.worker(lines()):
        broker.welcome()
        broker.say(Verb.GRANT, origin, 1, 1, {"retries": 0})
        broker.lease("lines", origin, {1: b"one\n"})
        failed = broker.failure()
        assert (failed.code, failed.sent) == (Code.CONNECT_FAILED, False)
    assert not refused.acquire(blocking=False)


def test_who_has_no_time_to_wait_is_told_why_at_once(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconnect_delay, "FIRST_DELAY_S", 1_000.0)
    monkeypatch.setattr(reconnect_delay, "LONGEST_DELAY_S", 1_000.0)
    origin = f"lines://{HOST}:{free_port()}"
    with broker.worker(lines()):
        broker.welcome()
        broker.say(Verb.GRANT, origin, 1, 1, {})
        broker.lease("lines", origin, {1: b"one\n", 2: b"two\n"})
        failed = broker.next(Verb.RETRY)[2]
        assert sorted(seq for one in failed for seq in one.seqs) == [1, 2]
        assert {(one.code, one.sent) for one in failed} == {(Code.CONNECT_FAILED, False)}


def test_a_server_that_stays_down_is_said_to_be(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect_delay, "LONGEST_OUTAGE_S", 0.2)
    origin = f"lines://{HOST}:{free_port()}"
    with broker.worker(lines()):
        broker.welcome()
        broker.say(Verb.GRANT, origin, 1, 1, {})
        broker.lease("lines", origin, {1: b"one\n"})
        failed = broker.failure()
        assert (failed.seqs, failed.code, failed.sent) == ((1,), Code.CONNECT_FAILED, False)
