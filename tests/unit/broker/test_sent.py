"""``sent`` and ``attempts`` through the broker: once possibly sent, always possibly sent."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from reqpool_contract import wire
from reqpool_contract.errors import Code
from reqpool_contract.wire import Flag, Verb
from support.fake_peers import TCP, Desk, FakeClient, FakeWorker

ONCE = Flag(0)
AGAIN = Flag.RESUBMITTED
TWO_SERVERS = ("dns://127.0.0.1:53", "dns://127.0.0.2:53")


def marked(worker: FakeWorker) -> list[bool]:
    """Return of each lease whether the worker is told of an earlier attempt that may have been sent."""
    return [bool(lease.flags & Flag.SENT) for lease in worker.leases]


def connection_lost(desk: Desk, worker: FakeWorker) -> None:
    worker.fail(1, code=Code.CONNECTION_LOST, sent=True)


def worker_dies(desk: Desk, worker: FakeWorker) -> None:
    worker.die()


def worker_falls_silent(desk: Desk, worker: FakeWorker) -> None:
    worker.awake = False
    desk.pass_time(desk.broker.liveness_s + 0.5)


def handed_back_after_it_was_sent(desk: Desk, worker: FakeWorker) -> None:
    worker.give_back(1, sent=True)


def retry_lost_with_the_connection(desk: Desk, worker: FakeWorker) -> None:
    worker.leases.clear()
    worker.hello(epoch=worker.epoch, held=[])


@pytest.mark.parametrize(
    "event",
    [
        connection_lost,
        worker_dies,
        worker_falls_silent,
        handed_back_after_it_was_sent,
        retry_lost_with_the_connection,
    ],
)
def test_a_later_attempt_is_told_that_an_earlier_one_may_have_been_sent(
    event: Callable[[Desk, FakeWorker], None],
) -> None:
    desk = Desk()
    first, client = desk.worker(), desk.client()
    client.submit(1)
    assert marked(first) == [False]
    second = desk.worker()
    event(desk, first)
    assert sorted(marked(first)[-1:] + marked(second))[-1:] == [True]
    desk.check_books()


@pytest.mark.parametrize("sent", [True, False])
def test_what_waits_for_its_next_attempt_until_its_time_is_up_knows_of_the_first(sent: bool) -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, span_ms=2000)
    if sent:
        worker.die()
    else:
        worker.give_back(1)
        worker.send(Verb.GOODBYE, worker.epoch, worker.seen)
    desk.pass_time(2.5)
    assert client.code(1) == Code.TIMEOUT
    error = client.error(1)
    assert (error["sent"], error["attempts"]) == (sent, int(sent))


def test_what_never_left_the_queue_was_not_sent() -> None:
    desk = Desk()
    client = desk.client()
    client.submit(1, span_ms=500)
    desk.pass_time(1.0)
    assert client.code(1) == Code.TIMEOUT
    assert client.error(1)["sent"] is False


@pytest.mark.parametrize("sent", [True, False])
def test_the_next_server_is_told_whether_the_first_may_have_the_request(sent: bool) -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, origins=TWO_SERVERS)
    worker.fail(1, code=Code.TIMEOUT if sent else Code.CONNECT_FAILED, sent=sent)
    assert marked(worker) == [sent]
    desk.check_books()


def test_what_workers_were_lost_with_was_possibly_sent() -> None:
    desk = Desk()
    client = desk.client()
    client.submit(1)
    client.submit(2, flags=ONCE)
    worker = desk.worker()
    worker.die()
    assert (client.code(2), client.error(2)["sent"]) == (Code.OUTCOME_UNKNOWN, True)
    for _ in range(2):
        desk.worker().die()
    assert (client.code(1), client.error(1)["sent"]) == (Code.WORKER_LOST, True)
    assert client.error(1)["attempts"] == 3


def test_a_new_broker_tells_of_what_an_earlier_one_may_have_sent() -> None:
    old = Desk(predecessors=frozenset())
    holder, client = old.worker(), old.client()
    client.submit(1, 2, flags=Flag.IDEMPOTENT)
    desk = Desk(epoch=78, predecessors=frozenset({holder.id}))
    holder.desk = client.desk = desk
    holder.leases.clear()  # answered, and the old broker had the results
    holder.hello(epoch=77, held=[])
    client.hello(epoch=77)
    client.submit(1, 2, flags=Flag.IDEMPOTENT | AGAIN)
    client.submit(3, flags=Flag.IDEMPOTENT)
    assert marked(holder) == [True, False]
    desk.check_books()


def test_a_name_that_a_new_broker_does_not_know_says_what_an_earlier_one_may_have_done() -> None:
    old = Desk(predecessors=frozenset())
    holder, client = old.worker(), old.client()
    client.submit(1, flags=Flag.IDEMPOTENT)
    desk = Desk(epoch=78, predecessors=frozenset({holder.id}))
    holder.desk = client.desk = desk
    holder.leases.clear()
    holder.hello(epoch=77, held=[])
    client.hello(epoch=77)
    client.submit(1, origins=("@gone",), flags=Flag.IDEMPOTENT | AGAIN)
    client.submit(2, origins=("@gone",), flags=Flag.IDEMPOTENT)
    assert [client.code(seq) for seq in (1, 2)] == [Code.USAGE] * 2
    assert [client.error(seq)["sent"] for seq in (1, 2)] == [True, False]


def test_what_must_not_be_repeated_and_is_known_not_to_have_run_was_not_sent() -> None:
    old = Desk(predecessors=frozenset())
    holder, client = old.worker(), old.client()
    client.submit(1, flags=ONCE)
    desk = Desk(epoch=78, predecessors=frozenset({holder.id}))
    holder.desk = client.desk = desk
    holder.leases.clear()  # the lease never arrived
    holder.hello(epoch=77, held=[])
    client.hello(epoch=77)
    client.submit(1, flags=ONCE | AGAIN)
    assert marked(holder) == [False]


def test_answers_of_a_later_attempt_say_how_many_there_were() -> None:
    desk = Desk()
    first, client = desk.worker(), desk.client()
    client.submit(1, 2)
    first.fail(1, code=Code.CONNECTION_LOST, sent=True)
    client.submit(3)
    first.answer()
    assert client.attempts == {1: 2}
    assert [client.code(seq) for seq in (1, 2, 3)] == [Code.OK] * 3
    desk.check_books()


def test_they_say_so_again_when_they_are_published_again() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1)
    worker.give_back(1)
    worker.heartbeat()  # it has room again
    client.submit(2)
    worker.fail(2, code=Code.CONNECTION_LOST, sent=True)
    worker.answer()
    client.attempts.clear()
    client.hello(epoch=77, received=0)
    assert client.attempts == {2: 2}, "handed back is not an attempt"


def test_a_late_answer_of_the_first_worker_counts_the_attempts_so_far() -> None:
    desk = Desk()
    first, client = desk.worker(TCP), desk.client()
    origin = ("tcp://127.0.0.1:9",)
    client.submit(1, origins=origin, kind="tcp")
    worker_falls_silent(desk, first)
    second = desk.worker(TCP)
    desk.settle()
    first.awake = True
    first.reconnect()
    first.answer(1)
    assert client.code(1) == Code.OK
    assert client.attempts.get(1, 1) == 1 + len(second.held())


@pytest.fixture
def client() -> FakeClient:
    return Desk().client()


def test_status_shows_a_name_of_the_session_and_not_its_secret(client: FakeClient) -> None:
    (session,) = client.desk.broker.status.make(client.desk.now_s)["sessions"]
    assert session["id"] not in client.id.hex()
    assert client.id.hex()[:8] not in session["id"]


LARGE = bytes(wire.UNTOLD_SETTINGS_BYTES + 1)


def test_a_later_worker_that_cannot_take_it_does_not_undo_that_it_was_sent() -> None:
    desk = Desk()
    first, client = desk.worker(keeps=8), desk.client()
    client.submit(1, settings=LARGE)
    assert first.held() == [1]
    desk.worker()  # of an older version, which takes no settings of that size
    first.die()
    assert client.code(1) == Code.USAGE
    assert (client.error(1)["sent"], client.error(1)["attempts"]) == (True, 1)
    desk.check_books()


def test_an_answer_outlasts_a_later_worker_that_cannot_take_the_request() -> None:
    desk = Desk()
    first, client = desk.worker(keeps=8), desk.client()
    client.submit(1, settings=LARGE, origins=TWO_SERVERS)
    assert first.held() == [1]
    desk.worker()
    first.send(Verb.DRAIN, first.epoch, first.seen)
    first.fail(1, code=Code.OK, sent=True, details=b"SERVFAIL")
    assert client.outcomes[1] == [(Code.OK, b"SERVFAIL")]
    desk.check_books()
