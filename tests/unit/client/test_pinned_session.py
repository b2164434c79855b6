"""Held connections on the client's side: one caller's sequence of requests, against a scripted broker."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest

import reqpool
from reqpool.kinds import Route
from reqpool.pinned_session import MysqlSession, PinnedSession
from reqpool_contract import wire
from reqpool_contract.errors import Code
from reqpool_contract.wire import Flag, Verb
from support.fake_broker import FakeBroker, silence
from support.plain import KIND
from support.wait import wait_until

OPENS = int(Flag.OPENS)


def route(pin: int, opens: bool) -> Route:
    return Route(KIND, ("plain://once",), False, b"", pin, opens)


def asked(broker: FakeBroker) -> list[tuple[bytes, int | None, int]]:
    """Payload, pin and flags of every request that came."""
    return [
        (payload, group.pin, group.flags)
        for verb, fields in list(broker.heads)
        if verb is Verb.SUBMIT
        for group in fields[2]
        for payload in group.payloads
    ]


def let_go(broker: FakeBroker) -> list[int]:
    """The pins that UNPIN named, in order."""
    return [fields[0] for verb, fields in list(broker.heads) if verb is Verb.UNPIN]


def test_the_first_request_takes_the_connection_and_the_others_have_it(
    broker: FakeBroker, pool: reqpool.Pool
) -> None:
    with PinnedSession(pool, route) as one, PinnedSession(pool, route) as two:
        for held in (one, two):
            for payload in (b"1", b"2", b"3"):
                assert held.submit(payload).result(5) == payload
    assert asked(broker) == [
        (b"1", 1, OPENS), (b"2", 1, 0), (b"3", 1, 0),
        (b"1", 2, OPENS), (b"2", 2, 0), (b"3", 2, 0),
    ]  # fmt: skip
    wait_until(lambda: let_go(broker) == [2, 1])


def test_a_wrong_url_is_said_where_the_session_is_made(pool: reqpool.Pool) -> None:
    for make in (pool.mysql_session, pool.redis_session):
        with pytest.raises(reqpool.UsageError, match="is not a URL that begins with"):
            make("http://h/")


def test_requests_go_one_after_the_other(broker: FakeBroker, pool: reqpool.Pool) -> None:
    broker.answer = silence
    held = PinnedSession(pool, route)
    first = held.submit(b"1")
    with pytest.raises(reqpool.UsageError, match="one request at a time"):
        held.submit(b"2")
    wait_until(lambda: broker.submitted)
    broker.finish(next(iter(broker.submitted)))
    assert first.result(5) == b"late"
    broker.answer = lambda seq, payload: (0, payload)
    assert held.submit(b"2").result(5) == b"2"
    held.close()


def test_a_callback_may_ask_the_next_one(broker: FakeBroker, pool: reqpool.Pool) -> None:
    held = PinnedSession(pool, route)
    done = threading.Event()
    seen: list[bytes] = []

    def further(future: Any) -> None:
        seen.append(future.result())
        if len(seen) < 5:
            held.submit(b"%d" % len(seen), callback=further)
        else:
            done.set()

    held.submit(b"0", callback=further)
    assert done.wait(10)
    held.close()
    assert seen == [b"0", b"1", b"2", b"3", b"4"]


def test_a_closed_session_takes_nothing_more(broker: FakeBroker, pool: reqpool.Pool) -> None:
    with PinnedSession(pool, route) as held:
        held.submit(b"1").result(5)
    held.close()
    with pytest.raises(reqpool.UsageError, match="this session is closed"):
        held.submit(b"2")
    wait_until(lambda: let_go(broker))
    assert let_go(broker) == [1]


def test_closing_cancels_what_runs_and_lets_go(broker: FakeBroker, pool: reqpool.Pool) -> None:
    broker.answer = silence
    held = PinnedSession(pool, route)
    running = held.submit(b"1")
    wait_until(lambda: broker.submitted)
    held.close()
    assert running.cancelled()
    wait_until(lambda: let_go(broker) == [1] and broker.count(Verb.CANCEL) == 1)


def test_a_session_that_was_never_used_says_nothing(broker: FakeBroker, pool: reqpool.Pool) -> None:
    with PinnedSession(pool, route):
        pass
    pool.udp("127.0.0.1:9", b"x").result(5)
    assert let_go(broker) == []


def test_an_error_in_the_block_lets_go_as_well(broker: FakeBroker, pool: reqpool.Pool) -> None:
    def use() -> None:
        with PinnedSession(pool, route) as held:
            held.submit(b"1").result(5)
            raise KeyError

    with pytest.raises(KeyError):
        use()
    wait_until(lambda: let_go(broker) == [1])


def test_what_was_let_go_of_is_said_again_after_a_reconnect(broker: FakeBroker, pool: reqpool.Pool) -> None:
    with PinnedSession(pool, route) as held:
        held.submit(b"1").result(5)
    wait_until(lambda: let_go(broker) == [1])
    broker.restart()
    wait_until(lambda: let_go(broker) == [1, 1])  # it may have been lost with the connection
    with PinnedSession(pool, route) as held:
        held.submit(b"2").result(5)
    wait_until(lambda: let_go(broker) == [1, 1, 2])


def test_letting_go_while_there_is_no_broker_is_said_to_the_next(
    broker: FakeBroker, pool: reqpool.Pool
) -> None:
    held = PinnedSession(pool, route)
    held.submit(b"1").result(5)
    broker.reject = (wire.Reject.OVERLOADED, "not now", {})
    broker.restart()
    wait_until(lambda: pool.stats().state != "open")
    held.close()
    broker.reject = None
    wait_until(lambda: let_go(broker) == [1])
    broker.restart()
    wait_until(lambda: let_go(broker) == [1, 1])


def test_a_request_that_was_refused_here_has_taken_nothing(broker: FakeBroker) -> None:
    with reqpool.Pool(broker.url, max_pending=1) as pool:
        held = PinnedSession(pool, route)
        with pytest.raises(reqpool.UsageError, match="timeout"):
            held.submit(b"1", timeout=-1)
        broker.answer = silence
        other = pool.submit(KIND, "once", b"other")
        with pytest.raises(reqpool.Overloaded):
            held.submit(b"2")
        other.cancel()
        broker.answer = lambda seq, payload: (0, payload)
        assert held.submit(b"3").result(5) == b"3"
        assert held.submit(b"4").result(5) == b"4"
        held.close()
    assert [ask for ask in asked(broker) if ask[1] is not None] == [(b"3", 3, OPENS), (b"4", 3, 0)]


def test_a_session_ends_with_its_pool(broker: FakeBroker) -> None:
    pool = reqpool.Pool(broker.url)
    held = PinnedSession(pool, route)
    held.submit(b"1").result(5)
    pool.close()
    with pytest.raises(reqpool.UsageError, match="closed"):
        held.submit(b"2")
    held.close()


FORK = """
import os, signal, sys, warnings
warnings.simplefilter("ignore")
import reqpool
sys.path.insert(0, sys.argv[2])
from support.plain import KIND
from reqpool.pinned_session import PinnedSession
from reqpool.kinds import Route

def route(pin, opens):
    return Route(KIND, ("plain://once",), False, b"", pin, opens)

pool = reqpool.Pool(sys.argv[1])
used, unused = PinnedSession(pool, route), PinnedSession(pool, route)
assert used.submit(b"parent").result() == b"parent"
pid = os.fork()
if pid == 0:
    signal.alarm(10)
    try:
        used.submit(b"wrong")
    except reqpool.UsageError as error:
        assert "another process" in str(error), error
    else:
        raise SystemExit("it was taken")
    used.close()
    with unused:
        assert unused.submit(b"child").result() == b"child"
    pool.close()
    os._exit(0)
_, status = os.waitpid(pid, 0)
assert status == 0, status
assert used.submit(b"parent again").result() == b"parent again"
assert unused.submit(b"parent's own").result() == b"parent's own"
used.close()
unused.close()
pool.close()
print("fine")
"""


def test_a_session_belongs_to_the_process_that_used_it_first(broker: FakeBroker) -> None:
    tests = (
        sys.path[0] if sys.path[0].endswith("tests") else next(p for p in sys.path if p.endswith("/tests"))
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORK, broker.url, tests],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("fine\n", "")
    assert [payload for payload, *_ in asked(broker)] == [
        b"parent", b"child", b"parent again", b"parent's own",
    ]  # fmt: skip
    # The child's, under a session of its own, and the parent's two: they come through two connections.
    wait_until(lambda: sorted(let_go(broker)) == [1, 1, 2])


# --- a transaction ----------------------------------------------------------------------------------


def transaction(pool: reqpool.Pool) -> MysqlSession:
    return MysqlSession(pool, route, lambda sql, params: (sql.encode(), None))


def fails(what: bytes) -> Any:
    def answer(seq: int, payload: bytes) -> tuple[int, bytes]:
        return (Code.UPSTREAM, wire.encode_error("no")) if payload == what else (0, payload)

    return answer


def test_leaving_the_block_commits(broker: FakeBroker, pool: reqpool.Pool) -> None:
    with transaction(pool) as session:
        session.query("INSERT").result(5)
    assert [payload for payload, *_ in asked(broker)] == [b"INSERT", b"COMMIT"]


def test_leaving_the_block_waits_for_what_nobody_has_looked_at(
    broker: FakeBroker, pool: reqpool.Pool
) -> None:
    broker.answer = lambda seq, payload: None if payload == b"INSERT" else (0, payload)
    timer = threading.Timer(0.05, lambda: broker.finish(next(iter(broker.submitted))))
    with transaction(pool) as session:
        session.query("INSERT")
        wait_until(lambda: broker.submitted)
        timer.start()
    timer.join()
    assert [payload for payload, *_ in asked(broker)] == [b"INSERT", b"COMMIT"]


def test_without_it_nothing_is_committed(broker: FakeBroker, pool: reqpool.Pool) -> None:
    broker.answer = fails(b"INSERT")
    with pytest.raises(reqpool.UpstreamError, match="no"), transaction(pool) as session:
        session.query("INSERT")
    wait_until(lambda: let_go(broker) == [1])
    assert [payload for payload, *_ in asked(broker)] == [b"INSERT"]


def test_an_error_that_came_before_the_end_and_that_nobody_has_looked_at_hinders_the_commit(
    broker: FakeBroker, pool: reqpool.Pool
) -> None:
    broker.answer = fails(b"INSERT")
    session = transaction(pool)
    wait_until(session.query("INSERT").done)
    with pytest.raises(reqpool.UpstreamError, match="no"), session:
        pass
    assert [payload for payload, *_ in asked(broker)] == [b"INSERT"]


def test_an_error_that_nobody_has_looked_at_is_raised_by_the_next_statement(
    broker: FakeBroker, pool: reqpool.Pool
) -> None:
    broker.answer = fails(b"INSERT")
    with transaction(pool) as session:
        looked_at = session.query("INSERT")
        assert "no" in str(looked_at.exception(5))
        session.query("UPDATE").result(5)
        wait_until(session.query("INSERT").done)
        with pytest.raises(reqpool.UpstreamError, match="no"):
            session.query("DELETE")
        session.query("DELETE").result(5)  # it has been said
    sent = [payload for payload, *_ in asked(broker)]
    assert sent == [b"INSERT", b"UPDATE", b"INSERT", b"DELETE", b"COMMIT"]


@pytest.mark.parametrize("code", [Code.OUTCOME_UNKNOWN, Code.TIMEOUT, Code.CANCELLED])
def test_after_a_statement_that_may_or_may_not_have_run_nothing_is_committed(
    broker: FakeBroker, pool: reqpool.Pool, code: Code
) -> None:
    broker.answer = lambda seq, payload: (code, wire.encode_error("who knows"))
    session = transaction(pool)
    with pytest.raises(reqpool.PoolError, match="who knows"):
        session.query("INSERT").result(5)
    with pytest.raises(reqpool.ConnectionLost, match="may or may not have run"):
        session.commit()
    with pytest.raises(reqpool.ConnectionLost), session:
        pass
    wait_until(lambda: let_go(broker) == [1])
    assert [payload for payload, *_ in asked(broker)] == [b"INSERT"]


def test_an_error_that_the_caller_dealt_with_does_not_hinder_the_commit(
    broker: FakeBroker, pool: reqpool.Pool
) -> None:
    broker.answer = fails(b"INSERT")
    with transaction(pool) as session:
        assert isinstance(session.query("INSERT").exception(5), reqpool.UpstreamError)
    assert [payload for payload, *_ in asked(broker)] == [b"INSERT", b"COMMIT"]


@pytest.mark.parametrize("used", [True, False])
def test_nothing_is_committed_after_an_error_or_where_nothing_was_done(
    broker: FakeBroker, pool: reqpool.Pool, used: bool
) -> None:
    def use() -> None:
        with transaction(pool) as session:
            if used:
                session.query("INSERT").result(5)
            raise KeyError

    with pytest.raises(KeyError):
        use()
    with transaction(pool):
        pass
    pool.udp("127.0.0.1:9", b"x").result(5)
    assert b"COMMIT" not in [payload for payload, *_ in asked(broker)]


def test_a_commit_that_fails_is_raised_and_the_connection_let_go_of(
    broker: FakeBroker, pool: reqpool.Pool
) -> None:
    broker.answer = fails(b"COMMIT")
    with pytest.raises(reqpool.UpstreamError, match="no"), transaction(pool) as session:
        session.query("INSERT").result(5)
    wait_until(lambda: let_go(broker) == [1])
