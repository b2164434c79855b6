"""What a new life of the broker makes of requests that an earlier one had leased: fake clock, no sockets."""

from __future__ import annotations

import pytest

from reqpool_broker.broker import Broker
from reqpool_contract.errors import Code
from reqpool_contract.wire import Flag
from support.fake_peers import REIGN, Desk, FakeClient, FakeWorker

ONCE = Flag(0)
AGAIN = Flag.RESUBMITTED


def restarted(*seqs: int, flags: Flag = ONCE) -> tuple[Desk, FakeWorker, FakeWorker, FakeClient]:
    """A broker's successor. Of two workers the first holds what was submitted; nobody has called yet."""
    old = Desk(predecessors=frozenset())
    holder, client = old.worker(), old.client()
    client.submit(*seqs, flags=flags)
    other = old.worker()
    desk = Desk(epoch=78, predecessors=frozenset({holder.id, other.id}))
    holder.desk = other.desk = client.desk = desk
    return desk, holder, other, client


def test_what_is_answered_while_it_is_held_back_does_not_run_again() -> None:
    desk, holder, other, client = restarted(1, 2)
    client.hello(epoch=77)
    client.submit(1, 2, flags=ONCE | AGAIN)
    holder.reconnect()
    holder.answer(1)
    client.acknowledge()  # so the broker no longer knows that 1 has ended, when the other worker reports
    other.reconnect()
    holder.answer()
    assert other.held() == []
    assert [client.code(seq) for seq in (1, 2)] == [0, 0]
    assert [seq for _, seq in desk.executions] == [1, 2]
    desk.check_books()


@pytest.mark.parametrize("told_first", [True, False])
def test_a_worker_that_dies_without_a_report_leaves_the_outcome_unknown(told_first: bool) -> None:
    desk, holder, other, client = restarted(1)
    desk.workers[holder.route] = holder
    other.reconnect()
    if told_first:
        holder.die()
    client.hello(epoch=77)
    client.submit(1, flags=ONCE | AGAIN)
    client.submit(2, flags=Flag.IDEMPOTENT | AGAIN)
    if not told_first:
        holder.die()
    client.submit(3, flags=ONCE)
    assert client.code(1) == Code.OUTCOME_UNKNOWN
    assert other.held() == [2, 3]
    desk.check_books()


@pytest.mark.parametrize("held_back", [True, False])
def test_a_worker_that_dies_after_its_report_leaves_the_outcome_unknown(held_back: bool) -> None:
    desk, holder, other, client = restarted(1, 2)
    if held_back:
        client.hello(epoch=77)
        client.submit(1, flags=ONCE | AGAIN)
        client.submit(2, 3, flags=Flag.IDEMPOTENT | AGAIN)
    holder.reconnect()
    holder.die()
    other.reconnect()
    if not held_back:
        client.hello(epoch=77)
        client.submit(1, flags=ONCE | AGAIN)
        client.submit(2, 3, flags=Flag.IDEMPOTENT | AGAIN)
    assert client.code(1) == Code.OUTCOME_UNKNOWN
    assert other.held() == [2, 3]
    desk.check_books()


def test_a_failed_attempt_is_judged_when_its_client_says_what_it_was() -> None:
    desk, holder, other, client = restarted(1, 2, 3)
    holder.reconnect()
    other.reconnect()
    holder.fail(1, 2, code=Code.CONNECTION_LOST, sent=True)
    holder.fail(3, code=Code.CONNECTION_LOST, sent=False)
    client.hello(epoch=77)
    client.submit(1, 3, flags=ONCE | AGAIN)
    client.submit(2, flags=Flag.IDEMPOTENT | AGAIN)
    assert client.code(1) == Code.OUTCOME_UNKNOWN
    assert sorted(holder.held() + other.held()) == [2, 3]
    desk.check_books()


def test_the_supervisors_list_of_workers_counts_where_there_is_one() -> None:
    desk, holder, other, client = restarted(1)
    desk.broker = Broker("5571", desk.now_s, epoch=78, predecessors=frozenset({holder.id}), reign=REIGN)
    other.reconnect()
    client.hello(
        epoch=77, workers=(b"long dead".ljust(16),)
    )  # its WELCOME was before the present workers came
    client.watermarks[2] = client.watermarks[1]  # submitted together, and the broker died with it
    client.submit(1, flags=ONCE | AGAIN)
    client.submit(2, flags=ONCE | AGAIN)
    assert other.held() == []
    holder.reconnect()
    assert sorted(holder.held() + other.held()) == [1, 2]
    desk.check_books()


def test_without_any_name_of_the_old_workers_nothing_is_certain() -> None:
    desk, holder, other, client = restarted(1, 2)
    client.hello(epoch=77)
    client.submit(1, 2, flags=ONCE | AGAIN)
    assert client.outcomes == {}  # there is time for whoever holds them to report
    other.reconnect()
    desk.pass_time(desk.broker.liveness_s + 1.5)
    assert [client.code(seq) for seq in (1, 2)] == [Code.OUTCOME_UNKNOWN] * 2
    assert other.held() == []
    assert holder.held() == [1, 2]


def test_what_is_submitted_again_after_a_resume_and_answered_meanwhile_does_not_run_again() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, flags=ONCE)
    client.hello(epoch=77, received=0)
    worker.answer(1)
    client.submit(1, flags=ONCE | AGAIN)
    assert worker.held() == []
    assert client.code(1) == Code.OK
