"""What no peer can make grow without bound, and what it cannot break: fake clock, no sockets."""

from __future__ import annotations

import pytest

from reqpool import wire
from reqpool.errors import Code
from reqpool.wire import Flag, Reject, Verb
from reqpool_broker import origins as origins_module
from reqpool_broker import session as session_module
from support.fake_peers import UPSTREAM, Desk

ONCE = Flag(0)


def test_one_sessions_silence_keeps_back_only_its_own_results() -> None:
    desk = Desk()
    worker, slow, quick = desk.worker(), desk.client(), desk.client()
    slow.submit(1)
    worker.answer()
    for seq in (1, 2, 3):
        quick.submit(seq)
        worker.answer()
    quick.acknowledge()
    desk.pass_time(0.6)
    assert worker.undelivered == [1]


def test_worker_without_room_is_leased_nothing_until_it_says_otherwise() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, 2, flags=ONCE, span_ms=60_000)
    for _ in range(5):
        worker.give_back(*worker.held())
        desk.settle()
        assert worker.held() == []
        desk.pass_time(0.6)  # its next heartbeat says that it has room
        assert worker.held() == [1, 2]
    assert worker.leases[0].attempt == 1
    desk.check_books()


def test_kind_that_nobody_serves_blocks_no_other_kind_of_the_same_upstream() -> None:
    desk = Desk()
    client, other = desk.client(), desk.client()
    client.submit(1, kind="bogus", span_ms=60_000)
    worker = desk.worker()
    other.submit(1)
    assert worker.held() == [1]
    assert worker.leases[0].session == other.id


def test_cancelled_requests_leave_nothing_behind() -> None:
    desk = Desk()
    client = desk.client()
    for seq in range(2000):
        client.submit(seq, span_ms=60_000)
        client.send(Verb.CANCEL, (seq,))
    (session,) = desk.broker.sessions.values()
    (origin,) = desk.broker.ledger.origins
    assert session.queued_bytes == 0
    assert session.open == {}
    assert len(list(origin.queue)) < 200
    client.submit(5000)
    assert desk.worker().held() == [5000]
    desk.check_books()


def test_million_servers_are_not_remembered() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    for seq in range(3000):
        client.submit(seq, origins=(f"dns://10.0.{seq // 250}.{seq % 250}:53",))
        worker.answer()
        client.acknowledge()
    assert len(desk.broker.ledger.origins) <= origins_module.MAX_IDLE + 1
    desk.check_books()


def test_client_that_never_acknowledges_is_not_served_verdicts_for_ever() -> None:
    desk = Desk()
    desk.worker()
    client = desk.client()
    for seq in range(2000):
        client.submit(seq, kind="bogus")
    (session,) = desk.broker.sessions.values()
    assert len(session.unacked) <= session_module.MAX_UNACKED_BATCHES + 1
    assert Reject.OVERLOADED in {values[0] for _, values in client.replies}


def test_malformed_hello_changes_nothing() -> None:
    desk = Desk()
    client = desk.client()
    for about in (
        {"session": b"short"},
        {"session": b"n" * 16, "name": 5},
        {"session": b"n" * 16, "pid": -1},
        {"session": b"n" * 16, "workers": [b"%016d" % n for n in range(10_001)]},
    ):
        client.send(Verb.HELLO, 1, 1, about)
    desk.settle()
    assert [values[0] for _, values in client.replies[-4:]] == [Reject.MALFORMED] * 4
    assert set(desk.broker.sessions) == {client.id}
    client.submit(1, kind="bogus")
    assert client.replies[-1][0] is Verb.REJECT


@pytest.mark.parametrize(
    "kind", [("dns", False, 256, 0), ("dns", False, 0, 1), ("dns", True, 2**63, 1), ("dns", 1, 256, 1)]
)
def test_worker_with_absurd_kinds_is_refused(kind: tuple[object, ...]) -> None:
    desk = Desk()
    worker = desk.worker(kind)
    assert worker.rejects == [Reject.MALFORMED]
    assert desk.broker.ledger.workers == {}


def test_second_hello_on_a_route_ends_the_first_session_there() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.send(Verb.HELLO, 1, 1, {"session": b"n" * 16})
    desk.settle()
    assert set(desk.broker.sessions) == {b"n" * 16}
    other = desk.client()
    other.submit(1)
    worker.answer()
    assert other.code(1) == Code.OK


@pytest.mark.parametrize("count", [513, 100_000])
def test_submit_with_too_many_requests_is_malformed(count: int) -> None:
    desk = Desk()
    client = desk.client()
    groups = [("dns", (UPSTREAM,), 1000, 1, 1, None, None, (seq,), (b"?",)) for seq in range(count)]
    client.send(Verb.SUBMIT, 1, 0, groups)
    desk.settle()
    assert client.replies[-1][1][0] == Reject.MALFORMED
    assert desk.broker.ledger.submitted == 0


def test_payload_over_the_limit_is_malformed() -> None:
    desk = Desk()
    client = desk.client()
    large = bytes(wire.MAX_PAYLOAD_BYTES + 1)
    client.send(Verb.SUBMIT, 1, 0, [("dns", (UPSTREAM,), 1000, 1, 1, None, None, (1,), (large,))])
    desk.settle()
    assert client.replies[-1][1][0] == Reject.MALFORMED


def test_failures_that_workers_report_are_counted_as_failures() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, 2, 3)
    blob = wire.encode_blob([1, 0, b"", 2, 32, b"\x80", 3, 32, b"\x80"])
    worker.send(Verb.RESULTS, worker.epoch, worker.seen, 1, [(client.id, (1, 2, 3), 2)], blobs=(blob,))
    desk.settle()
    report = desk.broker.report(desk.now_s)
    assert report["counters"]["done"] == 1
    assert report["counters"]["failed"] == {"upstream": 2}
    assert report["origins"][UPSTREAM]["failed"] == 2


def test_clients_are_told_when_workers_come_and_go() -> None:
    desk = Desk()
    client = desk.client()
    first, second = desk.worker(), desk.worker()
    assert set(client.workers) == {first.id, second.id}
    first.die()
    assert client.workers == (second.id,)


def test_many_ranges_that_never_ran_are_searched_quickly() -> None:
    session = session_module.Session(b"s" * 16, 0.0)
    session.never_ran = [(n, n + 1) for n in range(0, 4_000_000, 4)]
    session.epoch_changed = session.nameless = True
    assert [session.may_have_run(seq) for seq in (0, 1, 2, 3, 4, 2_000_001, 2_000_003, 9_999_999)] == [
        False, False, True, True, False, False, True, True,
    ]  # fmt: skip


def test_seq_that_its_client_names_twice_is_claimed_once() -> None:
    desk = Desk()
    client = desk.client()
    worker = desk.worker(epoch=5, held=[(client.id, (1,))])
    client.submit(1, 1, flags=Flag.IDEMPOTENT | Flag.RESUBMITTED)
    desk.check_books()
    worker.send(Verb.RESULTS, worker.epoch, worker.seen, 1, [(client.id, (1,), 0)], blobs=(
        wire.encode_blob([1, 0, b"answer"]),
    ))  # fmt: skip
    desk.settle()
    assert client.code(1) == Code.OK


def test_requests_of_a_client_that_is_gone_do_not_run_again() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, 2, span_ms=600_000)
    client.send(Verb.GOODBYE)
    worker.die()
    other = desk.worker()
    desk.pass_time(1.1)
    assert other.held() == []
    assert desk.broker.sessions == {}
    desk.check_books()
