"""The client's session machine, by a fake clock."""

from __future__ import annotations

import itertools
from typing import Any

import msgpack
import pytest

from reqpool.results_window import BATCHES_PER_ACK
from reqpool.session_actions import (
    CompleteResults,
    EndSubmitted,
    Lost,
    Opened,
    OpenIntake,
    Send,
    Subscribe,
)
from reqpool.session_protocol import SessionProtocol
from reqpool.session_state import TRANSITIONS, Event, SessionState
from reqpool_contract import wire
from reqpool_contract.errors import Code, ProtocolError
from reqpool_contract.wire import Reject, Verb

WELCOME = {
    "epoch": 7,
    "results": "5571",
    "heartbeat_ms": 500,
    "liveness_ms": 2_500,
    "resumed": False,
    "generation": 3,
    "expiry_ms": 60_000,
    "watermark": b"%016d" % 1,
    "max_pending": 1000,
    "never_ran": [],
}


def make() -> SessionProtocol:
    return SessionProtocol(b"s" * 16, "test", 1, random_unit=lambda: 1.0)


def welcome(**changes: Any) -> bytes:
    return wire.encode(Verb.WELCOME, 1, {**WELCOME, **changes})


def opened(session: SessionProtocol, now_s: float = 0.0, **changes: Any) -> list[Any]:
    session.tick(now_s)
    session.received(welcome(**changes), now_s)
    return session.published(wire.encode(Verb.OPEN, changes.get("epoch", 7)), None, now_s)


def results(number: int, *flat: Any, epoch: int = 7) -> tuple[bytes, bytes]:
    return wire.encode(Verb.RESULTS, epoch, number, 0), wire.encode_blob(list(flat))


def heartbeat(
    number: int, seen: int, latest: int = 0, epoch: int = 7, acked: int = 0, watermark: bytes = b""
) -> bytes:
    return wire.encode(Verb.HEARTBEAT, epoch, number, seen, acked, latest, watermark)


def group(*seqs: int) -> tuple[Any, ...]:
    return "udp", ("udp://h:1",), 10, 0, 1, None, None, list(seqs), [b"x"] * len(seqs)


def redialled(session: SessionProtocol, now_s: float) -> dict[str, Any]:
    """Lose the connection by silence; return what the next HELLO says."""
    [lost] = session.tick(now_s)
    assert isinstance(lost, Lost)
    [dial] = session.tick(now_s + 1.0)
    assert isinstance(dial, OpenIntake)
    about: dict[str, Any] = wire.decode(dial.hello, wire.CLIENT_TO_BROKER)[1][2]
    return about


def sent(action: Any) -> tuple[Verb, list[Any]]:
    assert isinstance(action, Send)
    return wire.decode(action.frame, wire.CLIENT_TO_BROKER)


def test_first_connection_goes_through_every_state() -> None:
    session = make()
    [dial] = session.tick(0.0)
    assert isinstance(dial, OpenIntake)
    verb, (lowest, highest, about) = wire.decode(dial.hello, wire.CLIENT_TO_BROKER)
    assert (verb, lowest, highest) == (Verb.HELLO, wire.LOWEST_VERSION, wire.VERSION)
    assert about["session"] == b"s" * 16
    assert "epoch" not in about
    assert about["received"] == 0
    assert session.state.name == "GREETING"
    assert session.received(welcome(), 0.1) == [Subscribe("5571")]
    assert session.state.name == "SUBSCRIBING"
    assert session.published(wire.encode(Verb.OPEN, 7), None, 0.2) == [Opened(())]
    assert session.state.name == "OPEN"
    assert session.published(wire.encode(Verb.OPEN, 7), None, 0.2) == []


def test_a_lost_open_is_made_up_for_by_a_heartbeat() -> None:
    session = make()
    session.tick(0.0)
    session.received(welcome(), 0.0)
    assert session.published(heartbeat(1, 0), None, 0.1) == [Opened(())]


@pytest.mark.parametrize("state", [SessionState.GREETING, SessionState.SUBSCRIBING, SessionState.OPEN])
def test_silence_ends_every_connected_state(state: SessionState) -> None:
    session = make()
    session.tick(0.0)
    if state in (SessionState.SUBSCRIBING, SessionState.OPEN):
        session.received(welcome(), 0.0)
    if state is SessionState.OPEN:
        session.published(wire.encode(Verb.OPEN, 7), None, 0.0)
    assert not any(isinstance(action, Lost) for action in session.tick(2.4))
    [lost] = session.tick(2.5)
    assert isinstance(lost, Lost)
    assert session.state is SessionState.CLOSED


def test_seen_that_does_not_move_is_a_loss_though_the_broker_is_heard() -> None:
    session = make()
    opened(session)
    for step in range(1, 5):
        session.published(heartbeat(step, 0), None, step * 0.5)
        session.tick(step * 0.5)
    session.published(heartbeat(5, 0), None, 2.49)
    [lost] = session.tick(2.5)
    assert isinstance(lost, Lost)
    assert "not heard by the broker" in lost.text


def test_an_open_session_lives_as_long_as_both_ways_work() -> None:
    session = make()
    opened(session)
    for step in range(1, 100):
        now_s = step * 0.5
        actions = session.tick(now_s)
        assert sent(actions[0]) == (Verb.HEARTBEAT, [step, step - 1, 0])
        session.published(heartbeat(step, step), None, now_s)
    assert session.state is SessionState.OPEN


def test_backoff_grows_to_a_second_and_is_reset_by_success() -> None:
    session = make()
    now_s, spans = 0.0, []
    for _ in range(7):
        session.tick(now_s)
        session.received(wire.encode(Verb.REJECT, Reject.OVERLOADED, "full", {}), now_s)
        spans.append(session.due_s - now_s)
        assert session.tick(session.due_s - 0.001) == []
        now_s = session.due_s
    assert spans == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0])
    opened(session, now_s)
    session.received(wire.encode(Verb.REJECT, Reject.UNKNOWN, "who?", {}), now_s)
    assert session.due_s - now_s == pytest.approx(0.05)


def test_results_in_order_are_handed_on_and_repetitions_ignored() -> None:
    session = make()
    opened(session)
    assert session.published(*results(1, 5, 0, b"x"), 0.1) == [CompleteResults((5, 0, b"x"))]
    assert session.published(*results(1, 5, 0, b"x"), 0.1) == []
    assert session.results.repeated == 1


def test_a_gap_is_asked_for_once_then_again_after_a_heartbeat() -> None:
    session = make()
    opened(session)
    session.published(*results(1, 5, 0, b"x"), 0.1)
    [resend] = session.published(*results(3, 7, 0, b"z"), 0.2)
    assert sent(resend) == (Verb.RESEND, [1])
    assert session.published(*results(4, 8, 0, b"z"), 0.3) == []
    assert len(session.published(*results(5, 9, 0, b"z"), 0.8)) == 1
    assert session.published(*results(2, 6, 0, b"y"), 0.9) == [CompleteResults((6, 0, b"y"))]
    assert session.published(*results(3, 7, 0, b"z"), 0.9) == [CompleteResults((7, 0, b"z"))]


def test_a_heartbeat_shows_that_the_last_batch_is_missing() -> None:
    session = make()
    opened(session)
    [resend] = session.published(heartbeat(1, 0, latest=1), None, 0.1)
    assert sent(resend) == (Verb.RESEND, [0])


def test_a_heartbeat_is_answered_at_once_while_results_are_not_acknowledged() -> None:
    session = make()
    opened(session)
    session.published(*results(1, 1, 0, b""), 0.1)
    [beat] = session.published(heartbeat(1, 0, latest=1), None, 0.1)
    assert sent(beat) == (Verb.HEARTBEAT, [1, 1, 1])
    assert session.published(heartbeat(2, 1, latest=1), None, 0.1) == []


def test_batches_are_acknowledged_in_time() -> None:
    session = make()
    opened(session)
    for number in range(1, BATCHES_PER_ACK):
        assert len(session.published(*results(number, number, 0, b""), 0.1)) == 1
    actions = session.published(*results(BATCHES_PER_ACK, 99, 0, b""), 0.1)
    assert sent(actions[1])[1][2] == BATCHES_PER_ACK


def test_submits_are_numbered_and_carry_the_acknowledgement() -> None:
    session = make()
    opened(session)
    session.published(*results(1, 1, 0, b""), 0.1)
    for number in (1, 2):
        _, fields = wire.decode(session.submit([group(1)]), wire.CLIENT_TO_BROKER)
        assert fields[:2] == [number, 1]


def test_resuming_keeps_the_batch_number_and_starts_submits_anew() -> None:
    session = make()
    opened(session)
    session.submit([])
    session.published(*results(1, 1, 0, b""), 0.1)
    about = redialled(session, 3.0)
    assert (about["epoch"], about["generation"], about["received"]) == (7, 3, 1)
    session.received(welcome(resumed=True), 4.0)
    assert session.published(wire.encode(Verb.OPEN, 7), None, 4.0) == [Opened((), b"%016d" % 1)]
    assert session.published(*results(2, 2, 0, b""), 4.1) == [CompleteResults((2, 0, b""))]
    assert wire.decode(session.submit([]), wire.CLIENT_TO_BROKER)[1][0] == 1
    assert session.reconnects == 1


@pytest.mark.parametrize("changes", [{"epoch": 8}, {"epoch": 8, "resumed": True}, {"resumed": False}])
def test_a_new_life_counts_batches_from_one(changes: dict[str, Any]) -> None:
    session = make()
    opened(session)
    session.published(*results(1, 1, 0, b""), 0.1)
    session.tick(3.0)
    assert opened(session, 4.0, **changes) == [Opened((), b"%016d" % 1)]
    epoch = changes.get("epoch", 7)
    assert session.published(*results(1, 2, 0, b"", epoch=epoch), 4.1) == [CompleteResults((2, 0, b""))]


def test_what_never_ran_is_still_told_when_the_welcome_that_said_so_never_opened() -> None:
    session = make()
    opened(session)
    session.tick(3.0)
    session.tick(4.0)
    session.received(welcome(epoch=8, never_ran=[[3, 9]]), 4.0)
    session.tick(7.0)
    session.tick(8.0)
    session.received(welcome(epoch=8, resumed=True), 8.0)
    assert session.published(wire.encode(Verb.OPEN, 8), None, 8.0) == [Opened(((3, 9),), b"%016d" % 1)]


def test_a_submit_that_cannot_be_read_ends_what_was_submitted_and_the_connection() -> None:
    session = make()
    opened(session)
    session.submit([group(1)])
    lost, ended = session.received(wire.encode(Verb.REJECT, Reject.MALFORMED, "what?", {}), 0.2)
    assert isinstance(lost, Lost)
    assert ended == EndSubmitted("the broker could not read a message from this client: what?")
    assert session.state is SessionState.CLOSED
    session.tick(1.0)
    session.received(welcome(resumed=True), 1.0)
    assert session.published(wire.encode(Verb.OPEN, 7), None, 1.0) == [Opened((), b"%016d" % 1)]
    # What was sent on the lost connection does not count on this one.
    with pytest.raises(ProtocolError):
        session.received(wire.encode(Verb.REJECT, Reject.MALFORMED, "what?", {}), 1.1)


def test_a_refusal_for_malformed_without_a_submit_is_noted_and_changes_nothing() -> None:
    session = make()
    opened(session)
    session.submit([group(1)])
    session.published(heartbeat(1, 0, acked=1), None, 0.1)
    with pytest.raises(ProtocolError, match=r"what\?"):
        session.received(wire.encode(Verb.REJECT, Reject.MALFORMED, "what?", {}), 0.2)
    assert session.state is SessionState.OPEN


def test_who_cannot_read_hello_is_not_the_intake_of_a_broker() -> None:
    session = make()
    session.tick(0.0)
    reject = wire.encode(Verb.REJECT, Reject.MALFORMED, "expected an id", {})
    assert [type(action) for action in session.received(reject, 0.1)] == [Lost]
    assert session.refusal == "it cannot read HELLO (is it the broker's intake?): expected an id"


def test_what_cannot_be_encoded_takes_no_number() -> None:
    session = make()
    opened(session)
    with pytest.raises(TypeError):
        session.submit([(*group(1)[:8], [object()])])
    assert wire.decode(session.submit([group(1)]), wire.CLIENT_TO_BROKER)[1][0] == 1


def test_giving_up_a_dial_is_a_refusal_until_a_welcome() -> None:
    session = make()
    session.tick(0.0)
    [lost] = session.give_up(0.0, "cannot connect")
    assert isinstance(lost, Lost)
    assert session.refusal == "cannot connect"
    assert session.state is SessionState.CLOSED
    assert 0.0 < session.due_s < 1.0


def test_a_refusal_for_versions_names_both_ranges_and_is_lifted_by_a_welcome() -> None:
    session = make()
    session.tick(0.0)
    session.received(wire.encode(Verb.REJECT, Reject.VERSION, "", {"lowest": 4, "highest": 5}), 0.0)
    assert session.refusal == "it speaks protocol versions 4 to 5, this client 1 to 1"
    session.tick(1.0)
    session.received(welcome(), 1.0)
    assert session.refusal is None


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\xc1",
        wire.encode(Verb.OPEN, 8),
        wire.encode(Verb.WELCOME, 1, {}),
        wire.encode(Verb.RESULTS, 7, 1, 0),
        msgpack.packb((5, 7, "x", 0, 0, 0)),
    ],
)
def test_illegal_publications_are_counted_and_change_nothing(head: bytes) -> None:
    session = make()
    opened(session)
    with pytest.raises(ProtocolError):
        session.published(head, None, 1.0)
    assert session.ignored == 1
    assert session.state is SessionState.OPEN
    [lost] = session.tick(2.5)
    assert isinstance(lost, Lost)


@pytest.mark.parametrize("key", ["epoch", "results", "heartbeat_ms", "liveness_ms"])
def test_a_welcome_that_lacks_or_garbles_a_field_is_refused(key: str) -> None:
    for about in ({k: v for k, v in WELCOME.items() if k != key}, {**WELCOME, key: [1]}):
        session = make()
        session.tick(0.0)
        with pytest.raises(ProtocolError):
            session.received(wire.encode(Verb.WELCOME, 1, about), 0.0)
        assert session.state is SessionState.GREETING


def test_a_broken_blob_is_not_asked_for_for_ever() -> None:
    session = make()
    opened(session)
    assert session.published(wire.encode(Verb.RESULTS, 7, 1, 0), b"\x91\x01\x02", 0.1) == [
        CompleteResults(())
    ]
    assert session.ignored == 1
    half = wire.encode_blob([5, 0, b"x", 6, 0, "text"])
    (read,) = session.published(wire.encode(Verb.RESULTS, 7, 2, 0), half, 0.1)
    assert isinstance(read, CompleteResults)
    assert read.flat[:5] == (5, 0, b"x", 6, Code.PROTOCOL)
    assert session.published(*results(3, 7, 0, b"y"), 0.1) == [CompleteResults((7, 0, b"y"))]
    assert session.ignored == 2
    assert session.results.gaps == 0


def test_every_move_not_in_the_table_is_a_protocol_error() -> None:
    for state, event in itertools.product(SessionState, Event):
        session = make()
        session.state = state
        if (state, event) in TRANSITIONS:
            session._move(event)
            assert session.state is TRANSITIONS[state, event]
        else:
            with pytest.raises(ProtocolError):
                session._move(event)
            assert session.state is state
