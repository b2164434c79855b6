"""A client's conversation with a scripted transport, by a fake clock: no socket, no thread."""

from __future__ import annotations

import errno
from concurrent.futures._base import FINISHED, PENDING

import pytest

import reqpool
from reqpool.outage import WARN_AFTER_S
from reqpool.session_state import SessionState
from reqpool_contract import wire
from reqpool_contract.wire import Verb
from support.client_conversation import URL, Talk


def test_a_request_is_sent_when_the_session_opens_and_ends_with_its_result() -> None:
    talk = Talk()
    future = talk.submit(b"ask", 0.0)
    talk.conversation.turn(0.0)
    assert talk.transport.dials == [URL]
    assert talk.transport.submits() == []
    talk.open(0.1)
    assert talk.transport.subscribed == "tcp://cluster:5571"
    talk.conversation.turn(0.1)
    [[group]] = talk.transport.submits()
    assert (group.seqs, group.payloads) == ((future.seq,), (b"ask",))
    talk.publish(0.2, wire.encode(Verb.RESULTS, 7, 1, 1), wire.encode_blob([future.seq, 0, b"answer"]))
    assert future._state is FINISHED
    assert (future.result(), future.elapsed_s) == (b"answer", 0.2)
    assert talk.conversation.pending == {}


def resubmitted(talk: Talk) -> dict[int, bool]:
    """Of each request in the only SUBMIT: is it marked as submitted again?"""
    [groups] = talk.transport.submits()
    return {seq: bool(group.flags & wire.Flag.RESUBMITTED) for group in groups for seq in group.seqs}


def test_a_new_broker_is_sent_again_what_the_lost_one_had() -> None:
    talk = Talk()
    talk.open(0.0)
    sent = talk.submit(b"sent", 0.0)
    talk.conversation.turn(0.0)
    # Nothing is heard for longer than the liveness span.
    talk.conversation.turn(2.5)
    assert talk.session.state is SessionState.CLOSED
    unsent = talk.submit(b"unsent", 2.5)
    talk.open(3.0, epoch=8)
    talk.conversation.turn(3.0)
    assert resubmitted(talk) == {
        sent.seq: True,
        unsent.seq: False,
    }


def test_what_a_broker_names_as_doubtful_when_it_ends_is_sent_again_and_the_rest_as_new() -> None:
    talk = Talk()
    talk.open(0.0)
    leased, queued = talk.submit(b"leased", 0.0), talk.submit(b"queued", 0.0)
    talk.conversation.turn(0.0)
    doubtful = [(leased.seq, leased.seq)]
    talk.publish(0.1, wire.encode(Verb.GOODBYE, 7, "the broker is stopping", 1, 0, False, doubtful))
    talk.open(1.0, epoch=8)
    talk.conversation.turn(1.0)
    assert resubmitted(talk) == {
        leased.seq: True,
        queued.seq: False,
    }


def test_a_request_that_nobody_answers_ends_one_grace_after_its_timeout() -> None:
    talk = Talk()
    talk.open(0.0)
    future = talk.submit(b"ask", 0.0, timeout_s=1.0)
    talk.conversation.turn(0.0)
    assert talk.conversation.due_s(0.0) <= 1.0 + wire.CLUSTER_GRACE_MS / 1000
    talk.conversation.turn(1.0)
    assert future._state is PENDING
    talk.conversation.turn(1.0 + wire.CLUSTER_GRACE_MS / 1000)
    error = future.exception()
    assert isinstance(error, reqpool.RequestTimeout)
    assert error.phase == "cluster"


def test_with_nothing_pending_a_deadline_that_has_passed_is_not_due_for_ever() -> None:
    talk = Talk()
    talk.open(0.0)
    future = talk.submit(b"ask", 0.0, timeout_s=1.0)
    talk.conversation.turn(0.0)
    talk.publish(0.1, wire.encode(Verb.RESULTS, 7, 1, 1), wire.encode_blob([future.seq, 0, b"answer"]))
    assert not talk.conversation.pending
    talk.conversation.turn(2.0)
    assert talk.conversation.due_s(2.0) > 2.0, "the loop would never sleep"


def test_a_request_that_the_broker_has_no_room_for_ends_in_time_all_the_same() -> None:
    talk = Talk()
    talk.open(0.0)
    talk.transport.blocked = True  # the broker is frozen, and what it does not read fills the pipe
    future = talk.submit(b"ask", 0.0, timeout_s=1.0)
    talk.conversation.turn(0.0)
    talk.conversation.turn(0.1)
    assert talk.conversation.due_s(0.1) <= 1.0 + wire.CLUSTER_GRACE_MS / 1000
    talk.conversation.turn(1.0 + wire.CLUSTER_GRACE_MS / 1000)
    error = future.exception(0)
    assert isinstance(error, reqpool.RequestTimeout)
    assert error.sent is False


def test_a_client_that_slept_for_longer_than_its_session_lasts_sends_nothing_on_its_old_connection() -> None:
    talk = Talk()
    talk.open(0.0)
    talk.submit(b"ask", 70.0)
    # What the broker had sent while nobody read, before it forgot the session.
    talk.publish(70.0, wire.encode(Verb.HEARTBEAT, 7, 9, 0, 0, 0))
    assert talk.session.state is SessionState.CLOSED
    talk.conversation.turn(70.0)
    assert talk.transport.submits() == []
    talk.open(71.0)
    talk.conversation.turn(71.0)
    [[group]] = talk.transport.submits()
    assert not group.flags & wire.Flag.RESUBMITTED


def test_a_cancelled_request_is_taken_back() -> None:
    talk = Talk()
    talk.open(0.0)
    future = talk.submit(b"ask", 0.0)
    talk.conversation.turn(0.0)
    assert talk.conversation.cancel(future, 0.1)
    assert not talk.conversation.cancel(future, 0.1)
    talk.conversation.turn(0.1)
    assert future.cancelled()
    assert talk.transport.sent[-1] == (Verb.CANCEL, [(future.seq,)])


def test_an_end_is_never_before_its_beginning() -> None:
    # The turn's clock was read before another thread submitted this one.
    talk = Talk()
    future = talk.submit(b"ask", 0.5)
    talk.conversation.cancel_all("closed", 0.4)
    assert future.elapsed_s == 0.0


def test_a_transport_that_cannot_dial_ends_what_waits_and_says_why() -> None:
    talk = Talk()
    talk.transport.cannot_dial = OSError(22, "Invalid argument")
    future = talk.submit(b"ask", 0.0)
    talk.conversation.turn(0.0)
    error = future.exception()
    assert isinstance(error, reqpool.BrokerUnavailable)
    assert f"the broker at {URL}: cannot connect: Invalid argument" in str(error)


def test_a_client_that_starts_before_its_cluster_waits_for_it() -> None:
    talk = Talk()
    future = talk.submit(b"ask", 0.0, timeout_s=20.0)
    now_s = 0.0
    while now_s < 15.0 or talk.session.state is not SessionState.GREETING:
        talk.conversation.turn(now_s)
        assert talk.conversation.due_s(now_s) > now_s
        now_s = talk.conversation.due_s(now_s)
    now_s -= 0.01
    assert future._state is PENDING
    talk.open(now_s)
    talk.conversation.turn(now_s)
    assert [group.seqs for group in talk.transport.submits()[0]] == [(future.seq,)]


def test_a_request_that_no_broker_took_ends_with_its_own_timeout_and_says_why() -> None:
    talk = Talk()
    future = talk.submit(b"ask", 0.0, timeout_s=20.0)
    talk.conversation.turn(0.0)
    assert talk.conversation.table.due_s == 20.0 + wire.CLUSTER_GRACE_MS / 1000
    talk.conversation.turn(talk.conversation.table.due_s)
    error = future.exception()
    assert isinstance(error, reqpool.RequestTimeout)
    assert (error.phase, error.sent) == ("cluster", False)
    assert f"no broker answers at {URL}" in str(error)
    assert "is `reqpool up` running there?" in str(error)


def test_that_nobody_answers_is_logged_once_after_two_seconds(caplog: pytest.LogCaptureFixture) -> None:
    talk = Talk()
    talk.submit(b"one", 0.0)
    talk.submit(b"two", 0.0)
    for now_s in (0.0, WARN_AFTER_S - 0.1):
        talk.conversation.turn(now_s)
    assert caplog.messages == []
    assert talk.conversation.due_s(WARN_AFTER_S - 0.1) == WARN_AFTER_S
    for now_s in (WARN_AFTER_S, 3.0, 4.0, 9.0):
        talk.conversation.turn(now_s)
    [message] = caplog.messages
    assert message == (
        f"requests wait until their timeouts (2): no broker answers at {URL}: is `reqpool up` running there?"
    )


def test_each_outage_is_logged_and_not_one_during_which_nothing_is_asked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    talk = Talk()
    talk.open(0.0)
    talk.conversation.lose("it broke", False, 0.1)
    talk.conversation.turn(5.0)
    assert caplog.messages == []
    assert talk.conversation.due_s(5.0) > 5.0
    talk.submit(b"one", 5.0)
    talk.conversation.turn(5.0)
    assert len(caplog.messages) == 1
    talk.open(6.0)
    talk.conversation.lose("it broke again", False, 7.0)
    talk.conversation.turn(8.9)
    assert len(caplog.messages) == 1
    talk.conversation.turn(9.0)
    assert [f"the connection to the broker at {URL} was lost" in message for message in caplog.messages] == [
        True,
        True,
    ]


def test_a_broker_replaced_in_time_is_not_logged_above_info(caplog: pytest.LogCaptureFixture) -> None:
    talk = Talk()
    talk.open(0.0)
    talk.submit(b"one", 0.0)
    talk.conversation.lose("it broke", False, 0.1)
    talk.open(1.9)
    talk.conversation.turn(3.0)
    assert caplog.messages == []


def test_what_is_wrong_for_certain_ends_what_waits_until_an_attempt_ends_otherwise() -> None:
    talk = Talk()
    first = talk.submit(b"first", 0.0)
    talk.conversation.turn(0.0)
    talk.conversation.lose("what listens there says 'HTTP/1.1 400'", True, 0.1)
    talk.conversation.turn(0.1)
    error = first.exception()
    assert isinstance(error, reqpool.BrokerUnavailable)
    assert f"the broker at {URL}: what listens there says 'HTTP/1.1 400'" in str(error)
    assert error.sent is False
    second = talk.submit(b"second", 0.2)
    talk.conversation.turn(0.2)
    assert isinstance(second.exception(), reqpool.BrokerUnavailable)
    # Dialled again, and now nobody is there at all: that may change.
    talk.conversation.turn(1.0)
    talk.conversation.turn(3.5)
    third = talk.submit(b"third", 3.6)
    talk.conversation.turn(3.6)
    assert third._state is PENDING


def test_a_place_where_no_broker_can_be_is_said_unless_one_answers() -> None:
    talk = Talk()
    future = talk.submit(b"ask", 0.0)
    talk.conversation.turn(0.0)
    talk.conversation.refuse("no such host: 'cluster'")
    talk.conversation.turn(0.1)
    assert "no such host: 'cluster'" in str(future.exception())
    talk.open(0.2)
    late = talk.submit(b"late", 0.2)
    talk.conversation.refuse("no such host: 'cluster'")
    talk.conversation.turn(0.3)
    assert late._state is PENDING


def test_where_a_broker_has_been_another_is_waited_for_whoever_listens_meanwhile() -> None:
    talk = Talk()
    talk.open(0.0)
    future = talk.submit(b"ask", 0.0)
    talk.conversation.turn(0.0)
    talk.conversation.lose("what listens there says 'HTTP/1.1 400'", True, 0.1)
    talk.conversation.turn(0.2)
    assert future._state is PENDING


@pytest.mark.parametrize("shortage", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_a_process_that_is_short_of_files_dials_again_later(shortage: int) -> None:
    talk = Talk()
    talk.transport.cannot_dial = OSError(shortage, "short")
    future = talk.submit(b"ask", 0.0)
    talk.conversation.turn(0.0)
    talk.conversation.turn(0.01)
    assert future._state is PENDING
    talk.transport.cannot_dial = None
    talk.open(1.0)
    talk.conversation.turn(1.0)
    assert len(talk.transport.submits()) == 1


def test_a_process_that_is_short_of_files_is_not_asked_whether_a_broker_runs() -> None:
    talk = Talk()
    talk.transport.cannot_dial = OSError(errno.EMFILE, "short of files")
    future = talk.submit(b"ask", 0.0)
    talk.conversation.turn(0.0)
    talk.conversation.turn(talk.conversation.table.due_s)
    assert future._state is FINISHED
    assert f"cannot connect to the broker at {URL}: short of files" in str(future.exception())
    assert "running there" not in str(future.exception())


def test_messages_that_cannot_be_read_are_counted_and_not_all_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    talk = Talk()
    talk.open(0.0)
    for _ in range(1_000):
        talk.publish(0.0, b"gibberish")
    assert talk.session.ignored == 1_000
    assert 0 < len(caplog.messages) <= 5
