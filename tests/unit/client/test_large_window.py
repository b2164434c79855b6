"""Large payloads go to the broker in a window: nothing else waits behind more than that."""

from __future__ import annotations

from typing import Any

import pytest

from reqpool.kinds import Route
from reqpool_contract import wire
from reqpool_contract.errors import Code, RequestTimeout
from reqpool_contract.wire import SubmitGroup, Verb
from support.client_conversation import Talk
from support.fake_peers import UPSTREAM, Desk
from support.plain import KIND

WINDOW_BYTES = 1 << 20
HALF = b"h" * (WINDOW_BYTES // 2)
WHOLE = b"w" * WINDOW_BYTES


class Windowed(Talk):
    """A conversation with a broker that confirms what is large."""

    def __init__(self, *, apart: bool = True) -> None:
        super().__init__()
        self.apart = apart
        self.beats = 0

    def welcome(self, now_s: float, epoch: int = 7) -> None:
        about = {
            "epoch": epoch,
            "results": "5571",
            "heartbeat_ms": 500,
            "liveness_ms": 2_500,
            "apart": self.apart,
            "window_bytes": WINDOW_BYTES,
            "watermark": b"w" * 16,
        }
        self.conversation.take([(True, [wire.encode(Verb.WELCOME, wire.VERSION, about)])], now_s)

    def confirm(self, submits: int, now_s: float, epoch: int = 7, watermark: bytes = b"") -> None:
        self.beats += 1
        self.publish(now_s, wire.encode(Verb.HEARTBEAT, epoch, self.beats, 0, submits, 0, watermark))
        self.conversation.turn(now_s)

    def sent(self) -> list[bytes]:
        """The first byte of each payload that went out, in order."""
        return [
            bytes(payload[:1])
            for groups in self.transport.submits()
            for group in groups
            for payload in group.payloads
        ]


def opened(*payloads: bytes, apart: bool = True) -> Windowed:
    talk = Windowed(apart=apart)
    talk.open(1.0)
    for payload in payloads:
        talk.submit(payload, 1.0)
    talk.conversation.turn(1.0)
    return talk


def test_large_payloads_wait_for_room_and_small_ones_pass_them() -> None:
    talk = opened(WHOLE, b"A" + HALF, b"B" + HALF, b"C" + HALF, b"small")
    assert talk.sent() == [b"w", b"s"]
    assert not talk.conversation.turn(1.0)
    talk.submit(b"later", 1.1)
    talk.conversation.turn(1.1)
    assert talk.sent() == [b"w", b"s", b"l"]
    talk.confirm(len(talk.transport.submits()), 1.2)
    assert talk.sent() == [b"w", b"s", b"l", b"A", b"B"]
    talk.confirm(len(talk.transport.submits()) - 1, 1.3)
    assert talk.sent()[5:] == [b"C"]


def test_a_submit_that_is_not_confirmed_takes_room() -> None:
    talk = opened(WHOLE, HALF)
    for now_s in (1.1, 1.2, 1.3):
        talk.confirm(0, now_s)
    assert talk.sent() == [b"w"]


def test_one_payload_over_the_window_travels_alone() -> None:
    talk = opened(b"1" + WHOLE + WHOLE, b"2" + WHOLE)
    assert talk.sent() == [b"1"]
    talk.confirm(1, 1.1)
    assert talk.sent() == [b"1", b"2"]


def test_a_broker_that_takes_no_frames_of_their_own_gets_all_at_once() -> None:
    assert opened(WHOLE, WHOLE, WHOLE, apart=False).sent() == [b"w"] * 3


def test_a_request_that_finds_no_room_ends_in_time() -> None:
    talk = opened(WHOLE)
    late = talk.submit(HALF, 1.0, timeout_s=0.5)
    talk.conversation.turn(1.0)
    assert talk.conversation.due_s(1.0) < 1.9
    talk.conversation.turn(2.0)
    assert isinstance(late.exception(), RequestTimeout)
    talk.confirm(1, 2.1)
    assert talk.sent() == [b"w"]


def test_a_cancelled_request_that_found_no_room_is_not_sent() -> None:
    talk = opened(WHOLE)
    gone, next_one = talk.submit(b"A" + HALF, 1.0), talk.submit(b"B" + HALF, 1.0)
    talk.conversation.turn(1.0)
    assert talk.conversation.cancel(gone, 1.1)
    talk.confirm(1, 1.2)
    assert not next_one.done()
    assert talk.sent() == [b"w", b"B"]


def test_what_waits_is_sent_on_the_next_connection_and_was_never_sent_before() -> None:
    talk = opened(b"A" + WHOLE, b"B" + WHOLE)
    talk.conversation.lose("cut", False, 1.5)
    talk.open(9.0, epoch=8)
    talk.conversation.turn(9.0)
    talk.confirm(1, 9.1, epoch=8)
    groups = [group for groups in talk.transport.submits() for group in groups]
    assert talk.sent() == [b"A", b"B"]
    assert [bool(group.flags & wire.Flag.RESUBMITTED) for group in groups] == [True, False]


def test_a_watermark_covers_what_was_sent_again_only_once_all_of_that_has_gone_out() -> None:
    talk = Windowed()
    talk.open(1.0)
    talk.submit(b"A" + HALF, 1.0)
    talk.submit(b"B" + HALF, 1.0)
    talk.conversation.turn(1.0)
    talk.conversation.lose("cut", False, 1.5)
    talk.submit(b"first on the next", 1.6)
    talk.open(9.0, epoch=8)
    talk.session.submits.room_bytes = len(HALF)
    talk.conversation.turn(9.0)
    assert talk.session.resubmission.under_way
    talk.confirm(len(talk.transport.submits()), 9.1, epoch=8)
    assert not talk.session.resubmission.under_way


def lost_and_found(*payloads: bytes) -> Windowed:
    """These are sent, not to be repeated; their broker and a worker are killed, the next has just come."""
    talk = opened()
    for payload in payloads:
        talk.submit(payload, 1.0)
        while talk.conversation.turn(1.0):
            pass
        talk.confirm(len(talk.transport.submits()), 1.0)
    talk.conversation.lose("cut", False, 1.5)
    talk.open(9.0, epoch=8)
    return talk


def again_after_a_planned_stop(talk: Windowed, seq: int, latest: int) -> list[int]:
    """The broker ends, and says that nothing of what was submitted to it has run; returns the flags of a
    request when it goes to the next."""
    acked = len(talk.transport.submits())
    talk.publish(9.1, wire.encode(Verb.GOODBYE, 8, "it stops", acked, latest, True))
    talk.open(12.0, epoch=9)
    for _ in range(5):
        while talk.conversation.turn(12.0):
            pass
        talk.confirm(len(talk.transport.submits()), 12.1, epoch=9)
    return [group.flags for groups in talk.transport.submits() for group in groups if seq in group.seqs]


def test_what_is_new_does_not_hide_that_a_large_request_was_not_submitted_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("reqpool.send_queues.BATCHES_PER_TURN", 1)
    talk = lost_and_found(b"W" + WHOLE, b"small", b"X" + WHOLE)
    seq = max(talk.conversation.pending)
    talk.submit(b"Y" + WHOLE, 9.0)
    while talk.conversation.turn(9.0):
        pass
    assert again_after_a_planned_stop(talk, seq, 0) == [wire.Flag.RESUBMITTED]


def test_a_redirect_does_not_hide_that_a_large_request_was_not_submitted_again() -> None:
    talk = lost_and_found(b"W" + WHOLE, b"A" + WHOLE, b"B" + WHOLE)
    first, redirected, last = talk.conversation.pending.values()
    talk.conversation.turn(9.0)
    seq = redirected.seq
    redirected.route = Route(Redirected(), redirected.route.origins, False)
    talk.publish(9.05, wire.encode(Verb.RESULTS, 8, 1, 0), wire.encode_blob([seq, int(Code.AGAIN), b"go"]))
    talk.conversation.turn(9.05)
    assert redirected.seq > last.seq > first.seq
    assert again_after_a_planned_stop(talk, last.seq, 1) == [wire.Flag.RESUBMITTED]


class Redirected(type(KIND)):  # type: ignore[misc]  # the class of an instance
    """Each answer asks for another request."""

    def follow(self, data: bytes, request: Any) -> tuple[Route, bytes, Any, str]:
        return request.route, b"next", None, "step"


def test_a_broker_that_ends_before_anything_was_submitted_to_it_says_nothing_of_it() -> None:
    talk = opened(b"X")
    talk.conversation.lose("cut", False, 1.5)
    talk.conversation.turn(9.0)
    talk.welcome(9.0, epoch=8)
    talk.publish(9.1, wire.encode(Verb.GOODBYE, 8, "it stops", 0, 0, True))
    talk.open(12.0, epoch=9)
    talk.conversation.turn(12.0)
    assert [groups[0].flags for groups in talk.transport.submits()] == [wire.Flag.RESUBMITTED]


def test_a_window_of_nothing_still_lets_one_payload_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.WINDOW_BYTES", 0)
    assert opened(WHOLE, WHOLE).sent() == [b"w"]


def test_large_payloads_submitted_later_do_not_keep_it_from_being_settled() -> None:
    talk = opened(b"A" + WHOLE)
    talk.conversation.lose("cut", False, 1.5)
    talk.open(9.0, epoch=8)
    talk.submit(b"B" + WHOLE, 9.0)
    talk.conversation.turn(9.0)
    assert not talk.session.resubmission.under_way
    assert talk.sent() == [b"A"]


@pytest.mark.parametrize("frames", [0, 1])
def test_the_broker_confirms_a_large_payload_in_the_turn_in_which_it_came(frames: int) -> None:
    desk = Desk()
    client = desk.client()
    assert client.welcome["window_bytes"] == wire.WINDOW_BYTES
    before = desk.broker.sessions[client.id].heartbeats_sent
    payload = b"x" * (wire.LARGE_MESSAGE_BYTES + 1) if frames else None
    group = SubmitGroup(
        "dns",
        (UPSTREAM,),
        5_000,
        1,
        1,
        None,
        None,
        (1,),
        (None if frames else b"small",),  # type: ignore[arg-type]
    )
    client.say_groups([group], [payload] if frames else [])
    assert desk.broker.sessions[client.id].heartbeats_sent == before + frames
