"""A lone request on the short way, out and back, and everything that goes the long one instead."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from concurrent.futures._base import FINISHED, PENDING
from typing import Any

import pytest

import reqpool
from reqpool.future import Future
from reqpool.kinds import Route
from reqpool.refused_future import NOBODY
from reqpool_contract import wire
from reqpool_contract.errors import Code
from reqpool_contract.wire import Verb
from support.client_conversation import ROUTE, Talk
from support.plain import KIND
from support.wait import wait_until

TOPIC = b"s" * 16


def lone(talk: Talk, payload: bytes = b"ask", route: Route = ROUTE, timeout_s: float = 20.0) -> Future[Any]:
    conversation = talk.conversation
    seq = conversation.next_seq()
    future: Future[Any] = Future(NOBODY, seq, route, payload, 0.0, timeout_s, 2, None)
    conversation.pending[seq] = future
    return future


def opened() -> Talk:
    talk = Talk()
    talk.open(0.0)
    return talk


@pytest.mark.parametrize("settings", [b"", b"secret"])
def test_a_lone_request_is_sent_as_a_group_of_one_is(settings: bytes) -> None:
    route = Route(KIND, ("plain://one", "plain://two"), True, settings, 3, opens=True)
    talk = opened()
    assert talk.conversation.queues.submit_one(lone(talk, route=route), 0.0)
    talk.conversation.queues.outbox.append(lone(talk, route=route))
    talk.conversation.turn(0.0)
    [[short], [long]] = talk.transport.submits()
    assert (short.seqs, short.span_ms) == ((1,), 20_001)
    assert short._replace(seqs=(2,), span_ms=long.span_ms) == long
    assert talk.conversation.queues.batches_out == 2


def test_a_lone_request_that_is_not_answered_ends_in_time() -> None:
    talk = opened()
    future = lone(talk, timeout_s=1.0)
    assert talk.conversation.queues.submit_one(future, 0.0)
    assert talk.conversation.due_s(0.0) <= 1.0 + wire.CLUSTER_GRACE_MS / 1000
    talk.conversation.turn(1.0 + wire.CLUSTER_GRACE_MS / 1000)
    assert future._state is FINISHED


def wait_in_the_outbox(talk: Talk) -> None:
    talk.submit(b"other", 0.0)


def wait_in_the_backlog(talk: Talk) -> None:
    talk.conversation.queues.backlog.append(talk.submit(b"other", 0.0))
    talk.conversation.queues.outbox.clear()


def have_cancelled_one(talk: Talk) -> None:
    assert talk.conversation.cancel(talk.submit(b"other", 0.0), 0.0)
    talk.conversation.queues.outbox.clear()


def have_released_a_pin(talk: Talk) -> None:
    talk.conversation.queues.unpins.append(1)


def be_full(talk: Talk) -> None:
    talk.transport.blocked = True


def have_lost_the_connection(talk: Talk) -> None:
    talk.conversation.lose("cut", False, 0.0)


def be_submitting_again(talk: Talk) -> None:
    talk.session.resubmission.under_way = True


@pytest.mark.parametrize(
    "reason",
    [
        wait_in_the_outbox,
        wait_in_the_backlog,
        have_cancelled_one,
        have_released_a_pin,
        be_full,
        have_lost_the_connection,
        be_submitting_again,
    ],
)
def test_a_request_does_not_pass_others_nor_a_connection_in_doubt(reason: Callable[[Talk], None]) -> None:
    talk = opened()
    reason(talk)
    future = lone(talk)
    assert not talk.conversation.queues.submit_one(future, 0.0)
    assert talk.transport.submits() == []
    assert future.connection == 0


@pytest.mark.parametrize(
    ("payload", "settings"),
    [(bytes(wire.LARGE_MESSAGE_BYTES + 1), b""), (b"ask", bytes(wire.KEPT_FROM_BYTES))],
    ids=["a large payload", "settings that the broker keeps"],
)
def test_what_takes_further_messages_goes_the_long_way(payload: bytes, settings: bytes) -> None:
    talk = opened()
    future = lone(talk, payload, Route(KIND, ("plain://one",), False, settings))
    assert not talk.conversation.queues.submit_one(future, 0.0)
    assert talk.transport.sent[-1][0] is not Verb.SUBMIT


def test_a_client_that_was_suspended_submits_nothing_on_its_old_connection() -> None:
    talk = opened()
    future = lone(talk)
    assert not talk.conversation.queues.submit_one(future, 70.0)
    talk.conversation.queues.outbox.append(future)
    talk.conversation.send(70.0)
    assert talk.transport.submits() == []


def test_what_lay_in_the_socket_does_not_prove_that_the_broker_hears_a_client_that_was_suspended() -> None:
    talk = opened()
    talk.conversation.take_one(results(1), 10.0)
    future = lone(talk)
    assert not talk.conversation.queues.submit_one(future, 10.0)
    assert talk.transport.submits() == []
    assert future.connection == 0


def results(number: int, *flat: Any, epoch: int = 7) -> list[bytes]:
    return [TOPIC, wire.encode(Verb.RESULTS, epoch, number, 1), wire.encode_blob(flat)]


def test_the_next_outcome_ends_its_request() -> None:
    talk = opened()
    future = lone(talk)
    talk.conversation.queues.submit_one(future, 0.0)
    talk.conversation.take_one(results(1, future.seq, 0, b"answer"), 0.2)
    assert (future.result(0), future.elapsed_s) == (b"answer", 0.2)
    assert talk.conversation.pending == {}
    assert not talk.session.submits.unacked
    # It was settled: an interrupted turn does not have it sent again.
    talk.conversation.put_in_order(0.3)
    assert talk.session.results.received == 1


@pytest.mark.parametrize(
    ("frames", "counted"),
    [
        (results(2, 1, 0, b"answer"), "gaps"),
        (results(0, 1, 0, b"answer"), "repeated"),
        (results(1, 1, 0, b"answer", epoch=6), "ignored"),
        ([TOPIC, b"?", b"?"], "ignored"),
    ],
)
def test_a_message_that_is_not_the_next_outcome_is_taken_as_ever(frames: list[bytes], counted: str) -> None:
    talk = opened()
    future = lone(talk)
    talk.conversation.queues.submit_one(future, 0.0)
    talk.conversation.take_one(frames, 0.2)
    assert future._state is PENDING
    assert getattr(talk.session if counted == "ignored" else talk.session.results, counted) == 1


def test_every_eighth_outcome_is_acknowledged_at_once() -> None:
    talk = opened()
    for number in range(1, 9):
        talk.conversation.take_one(results(number, number, 0, b"answer"), 0.1)
    assert talk.transport.sent[-1] == (Verb.HEARTBEAT, [1, 0, 8])


def test_an_outcome_that_came_alone_wakes_those_who_wait_and_has_callbacks_run() -> None:
    talk = opened()
    future = lone(talk)
    ended: list[Any] = []
    future.add_done_callback(ended.append)
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(concurrent.futures.wait, [future], 10)
        wait_until(lambda: future._made_condition is not None)
        talk.conversation.take_one(results(1, future.seq, 0, b"answer"), 0.2)
        assert future in waiting.result(10).done
    talk.delivery.run()
    assert ended == [future]


def test_an_error_that_comes_alone_ends_its_request() -> None:
    talk = opened()
    future = lone(talk)
    failure = wire.encode_error("refused", phase="connect")
    talk.conversation.take_one(results(1, future.seq, int(Code.CONNECT_FAILED), failure), 0.2)
    with pytest.raises(reqpool.ConnectFailed, match="refused"):
        future.result(0)
    assert talk.conversation.ends.failed == 1


def test_an_interruption_amid_an_outcome_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    talk = opened()
    future = lone(talk)
    ends = talk.conversation.ends

    class Interrupted:
        wanted = True

        def tell(self) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(ends, "_room", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        talk.conversation.take_one(results(1, future.seq, 0, b"answer"), 0.2)
    monkeypatch.undo()
    talk.conversation.put_in_order(0.3)
    # It has ended; that the broker publishes it again does no harm.
    assert talk.session.results.received == 0
    talk.open(1.0)
    talk.conversation.take_one(results(1, future.seq, 0, b"answer"), 1.0)
    assert (future.result(0), ends.completed) == (b"answer", 1)


def test_a_request_whose_sending_was_interrupted_counts_as_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    talk = opened()
    future = lone(talk)

    def interrupted(head: bytes) -> bool:
        talk.transport.send(head)
        raise KeyboardInterrupt

    monkeypatch.setattr(talk.transport, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        talk.conversation.queues.submit_one(future, 0.0)
    talk.conversation.put_in_order(0.1)
    talk.open(1.0)
    talk.conversation.turn(1.0)
    [[group]] = talk.transport.submits()
    assert (group.seqs, group.flags & wire.Flag.RESUBMITTED) == ((future.seq,), wire.Flag.RESUBMITTED)
