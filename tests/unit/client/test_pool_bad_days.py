"""A pool's session on bad days: messages lost, repeated, unreadable; brokers that come late, new or never."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import zmq

import reqpool
from reqpool import url_check
from reqpool.kinds import Route
from reqpool_contract import broker_url, wire
from reqpool_contract.wire import Flag, Reject, Verb
from support.fake_broker import FakeBroker, echo, silence
from support.plain import Plain, ask
from support.wait import wait_until


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
    assert about["epoch"] == 1


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
def test_what_the_broker_cannot_read_ends_all_that_was_submitted_once(
    broker: FakeBroker, pool: reqpool.Pool, target: str
) -> None:
    ask(pool).result(5)
    broker.unreadable = {b"bad"}
    broker.answer = silence
    earlier = ask(pool, b"good", target, timeout=30)
    wait_until(lambda: earlier.seq in broker.submitted, 5)
    bad = ask(pool, b"bad", target, timeout=30)
    for future in (earlier, bad):
        with pytest.raises(reqpool.ProtocolError, match="gibberish") as caught:
            future.result(10)
        assert caught.value.sent is None
    broker.answer = echo
    assert ask(pool).result(5) == b"hello"
    assert pool.stats().reconnects == 1
    assert broker.count(Verb.SUBMIT) == 4


class Renamed(Plain):
    """A third party's kind whose name becomes one that msgpack cannot pack after its route was checked."""

    name = "renamed"


def test_a_route_has_the_name_that_its_kind_had_when_it_was_checked(
    broker: FakeBroker, pool: reqpool.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = Renamed()
    route = Route(kind, ("renamed://x",), False)
    monkeypatch.setattr(kind, "encode", lambda target, payload: (route, payload, None))
    monkeypatch.setattr(Renamed, "name", "re\udcffnamed")
    assert pool.submit(kind, "x", b"x").result(5) == b"x"
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


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:1", "ipc:///nowhere/reqpool/intake"])
def test_a_broker_that_does_not_run_is_waited_for_until_the_timeout(url: str) -> None:
    with reqpool.Pool(url) as pool:
        with pytest.raises(reqpool.RequestTimeout, match=f"no broker answers at {url}.*reqpool up") as caught:
            ask(pool, timeout=0.1).result(5)
        assert (caught.value.phase, caught.value.sent) == ("cluster", False)


def test_a_url_that_is_wrong_for_certain_is_said_within_two_seconds(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with reqpool.Pool(f"ipc://{file}") as pool:
        began_s = time.monotonic()
        with pytest.raises(reqpool.BrokerUnavailable, match=f"ipc://{file}: .*is not a socket") as caught:
            ask(pool, timeout=30).result(5)
        assert time.monotonic() - began_s < 2.0
        assert caught.value.sent is False


def test_a_host_that_is_entered_late_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeBroker() as broker:
        url = broker.url
    monkeypatch.setattr(url_check, "fault", lambda url: "no such host: 'cluster'")
    with reqpool.Pool(url) as pool:
        with pytest.raises(reqpool.BrokerUnavailable, match="no such host: 'cluster'"):
            ask(pool, timeout=30).result(5)
        monkeypatch.undo()
        with FakeBroker(port=int(url.rpartition(":")[2])):
            wait_until(lambda: ask(pool, timeout=10).exception(10) is None, 10)


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
    check = broker_url.check
    monkeypatch.setattr(broker_url, "check", lambda url: url)
    with reqpool.Pool("tcp://über:1") as pool:
        for _ in range(2):
            with pytest.raises(reqpool.BrokerUnavailable, match=r"tcp://über:1.*Invalid argument"):
                ask(pool, timeout=30).result(5)
    monkeypatch.setattr(broker_url, "check", check)
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
