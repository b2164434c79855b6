"""Large payloads travel in frames of their own, from the client through the broker to a worker."""

from __future__ import annotations

from typing import Any

import pytest
import zmq

from reqpool_contract import errors, wire
from reqpool_contract.errors import Code
from reqpool_contract.wire import LeaseGroup, Reject, SubmitGroup, Verb
from support.client_conversation import Talk
from support.fake_peers import UPSTREAM, Desk
from support.pinned import ORIGIN, opened
from support.worker_conversation import SESSION
from support.worker_conversation import Talk as WorkerTalk

LARGE = b"L" * (wire.LARGE_MESSAGE_BYTES + 1)
MOST = b"M" * wire.LARGE_MESSAGE_BYTES
GROUP = SubmitGroup("dns", (UPSTREAM,), 5_000, 1, 1, None, None, (1, 2, 3), (b"a", LARGE, MOST))
LEASE = LeaseGroup(b"s" * 16, "dns", UPSTREAM, 5_000, 1, 1, None, None, (1, 2), (LARGE, b"b"))
HEADS = {
    Verb.SUBMIT: ((1, 0), [GROUP, GROUP], wire.CLIENT_TO_BROKER),
    Verb.LEASE: ((7, 0), [LEASE, LEASE], wire.BROKER_TO_WORKER),
}


def told(verb: Verb, *, apart: bool = True) -> tuple[bytes, list[Any]]:
    before, groups, _ = HEADS[verb]
    parted, frames = wire.set_apart(groups, wire.PAYLOADS_AT[verb]) if apart else (groups, [])
    return wire.encode(verb, *before, parted), frames


@pytest.mark.parametrize("verb", HEADS)
def test_head_has_none_of_the_large_payloads_and_is_read_as_if_it_had(verb: Verb) -> None:
    head, frames = told(verb)
    assert len(head) < 2 * len(MOST) + 500
    assert frames == [LARGE, LARGE]
    assert wire.decode(head, HEADS[verb][2], frames)[1][2] == HEADS[verb][1]


def test_what_libzmq_holds_is_not_copied_when_it_is_read() -> None:
    head, frames = told(Verb.SUBMIT)
    held = [zmq.Frame(frame) for frame in frames]
    _, (_, _, groups) = wire.decode(head, wire.CLIENT_TO_BROKER, held)
    assert [group.payloads[1] for group in groups] == held


@pytest.mark.parametrize("verb", HEADS)
@pytest.mark.parametrize("count", [1, 3])
def test_as_many_frames_must_come_as_payloads_are_missing(verb: Verb, count: int) -> None:
    head, _ = told(verb)
    with pytest.raises(errors.ProtocolError, match=f"2 separate payload frames, got {count}"):
        wire.decode(head, HEADS[verb][2], [LARGE] * count)


@pytest.mark.parametrize("groups", [None, 7, (None,), ((),), (("dns",),), ((1,) * 8 + (None,),)])
def test_frames_behind_what_is_no_group_are_malformed(groups: object) -> None:
    with pytest.raises(errors.ProtocolError, match=r"frames|array"):
        wire.decode(wire.encode(Verb.SUBMIT, 1, 0, groups), wire.CLIENT_TO_BROKER, [LARGE])


def test_frames_behind_another_verb_are_malformed() -> None:
    with pytest.raises(errors.ProtocolError, match="HEARTBEAT came with 1 further frame"):
        wire.decode(wire.encode(Verb.HEARTBEAT, 1, 0, 0), wire.CLIENT_TO_BROKER, [LARGE])


def test_payload_over_the_bound_ends_alone_though_it_is_a_frame_of_its_own() -> None:
    desk = Desk()
    worker, client = desk.worker(apart=True), desk.client()
    ask = [GROUP._replace(seqs=(seq,), payloads=(None,)) for seq in (1, 2)]
    client.say_groups(ask, [bytes(wire.MAX_PAYLOAD_BYTES + 1), LARGE])
    assert worker.held() == [2]
    assert client.code(1) == Code.PROTOCOL
    assert "16 MiB" in client.error(1)["text"]
    desk.check_books()


@pytest.mark.parametrize("count", [0, 2])
def test_broker_takes_nothing_of_a_submit_with_frames_missing_or_left_over(count: int) -> None:
    desk = Desk()
    worker, client = desk.worker(apart=True), desk.client()
    client.say_groups([GROUP._replace(seqs=(1,), payloads=(None,))], [LARGE] * count)
    assert not worker.held()
    if count:
        assert client.replies[-1][1][0] == Reject.MALFORMED
    else:
        assert client.code(1) == Code.PROTOCOL
    desk.check_books()


def test_broker_hands_a_large_payload_on_as_it_came() -> None:
    desk = Desk()
    desk.worker(apart=True)
    client = desk.client()
    assert client.welcome["apart"] is True
    frame = zmq.Frame(LARGE)
    client.submitted = 1
    client.send(Verb.SUBMIT, 1, 0, [GROUP._replace(seqs=(1,), payloads=(None,))], payloads=[frame])
    desk.broker.flush(desk.now_s)
    *_, (_, head, payload) = desk.broker.outbox.workers
    assert payload is frame
    assert len(head) < 200
    desk.check_books()


def test_large_payload_of_an_attempt_that_came_to_nothing_is_handed_on_again() -> None:
    desk = Desk()
    first, client = desk.worker(apart=True), desk.client()
    client.say_groups([GROUP._replace(seqs=(1,), payloads=(None,))], [zmq.Frame(LARGE)])
    assert first.held() == [1]
    first.die()
    second = desk.worker(apart=True)
    assert [lease.payloads[0].bytes for lease in second.leases] == [LARGE]
    desk.check_books()


def test_worker_and_client_of_an_earlier_version_are_served_whole_messages() -> None:
    desk = Desk()
    worker, client = desk.worker(apart=False), desk.client()
    client.say_groups([GROUP._replace(seqs=(1,), payloads=(None,))], [zmq.Frame(LARGE)])
    client.say_groups([GROUP._replace(seqs=(2,), payloads=(LARGE,))])
    assert [lease.payloads for lease in worker.leases] == [(LARGE,), (LARGE,)]
    desk.check_books()


def test_large_payload_for_a_held_connection_reaches_its_worker() -> None:
    desk, holder, client = opened()
    asked = GROUP._replace(kind="tcp", origins=(ORIGIN,), flags=0, pin=1, seqs=(2,), payloads=(None,))
    client.say_groups([asked], [zmq.Frame(LARGE)])
    assert list(map(wire.as_bytes, holder.leases[-1].payloads)) == [LARGE]
    desk.check_books()


@pytest.mark.parametrize("apart", [True, False])
def test_client_sends_frames_to_a_broker_that_takes_them(apart: bool) -> None:
    talk = Talk()
    sent: list[tuple[bytes, ...]] = []
    send = talk.transport.send
    talk.transport.send = lambda *frames: bool(sent.append(frames)) or send(*frames)  # type: ignore[method-assign]
    talk.submit(LARGE, 0.0)
    talk.submit(b"small", 0.0)
    talk.conversation.turn(0.0)
    about = {"epoch": 7, "results": "1", "heartbeat_ms": 500, "liveness_ms": 2_500, "apart": apart}
    talk.conversation.take([(True, [wire.encode(Verb.WELCOME, wire.VERSION, about)])], 0.0)
    talk.publish(0.0, wire.encode(Verb.OPEN, 7))
    talk.conversation.turn(0.0)
    assert [group.payloads for group in talk.transport.submits()[0]] == [(LARGE, b"small")]
    assert [frames[1:] for frames in sent if frames[1:]] == ([(LARGE,)] if apart else [])


def test_worker_takes_frames_and_says_at_once_that_it_has_read_them() -> None:
    talk = WorkerTalk()
    assert talk.welcome()["apart"] is True
    talk.heard(Verb.HEARTBEAT)
    talk.say(Verb.LEASE, [LEASE._replace(session=SESSION, kind="x", origin="x://y", payloads=(None, b"b"))],
             payloads=[zmq.Frame(LARGE)])  # fmt: skip
    held = talk.conversation.ledger.find(SESSION, (1, 2))
    assert [(type(request.payload), request.payload) for request in held] == [(bytes, LARGE), (bytes, b"b")]
    assert len(talk.heard(Verb.HEARTBEAT)) == 1
