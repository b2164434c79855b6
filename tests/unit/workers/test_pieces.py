"""A large payload comes to a worker in pieces, ahead of its LEASE."""

from __future__ import annotations

import pytest

from reqpool_contract import wire
from reqpool_contract.errors import ProtocolError
from reqpool_contract.wire import LeaseGroup, Verb
from reqpool_workers.pieces import Pieces
from support.worker_conversation import SESSION, Talk

LARGE = b"L" * (wire.LARGE_MESSAGE_BYTES + 1)
GROUP = LeaseGroup(SESSION, "x", "x://y", 5_000, 1, 1, None, None, (1,), (None,))  # type: ignore[arg-type]


def payload_of(talk: Talk, seq: int) -> bytes:
    (request,) = talk.conversation.ledger.find(SESSION, (seq,))
    return request.payload


def lease(talk: Talk, seq: int, rest: bytes, ahead: int = 0) -> None:
    talk.say(Verb.LEASE, [GROUP._replace(seqs=(seq,))], ahead, payloads=[rest])


def welcomed() -> Talk:
    talk = Talk()
    talk.welcome()
    talk.heard(Verb.HEARTBEAT)
    return talk


def test_payload_is_what_came_in_pieces_and_the_rest() -> None:
    talk = welcomed()
    talk.say(Verb.PIECE, 0, b"a" * 9)
    talk.say(Verb.PIECE, 9, b"b" * 9)
    assert not any(talk.conversation.ledger.running())
    lease(talk, 1, LARGE, ahead=18)
    lease(talk, 2, LARGE)
    assert payload_of(talk, 1) == b"a" * 9 + b"b" * 9 + LARGE
    assert payload_of(talk, 2) == LARGE


def test_worker_says_at_once_that_it_has_read_a_piece() -> None:
    talk = welcomed()
    talk.say(Verb.PIECE, 0, LARGE)
    assert len(talk.heard(Verb.HEARTBEAT)) == 1


def test_heartbeat_is_not_answered_at_once_however_much_it_says() -> None:
    talk = welcomed()
    talk.beat(0, range(wire.LARGE_MESSAGE_BYTES))
    assert not talk.heard(Verb.HEARTBEAT)


def test_small_lease_between_the_pieces_is_taken_by_itself() -> None:
    talk = welcomed()
    talk.say(Verb.PIECE, 0, LARGE)
    talk.say(Verb.LEASE, [GROUP._replace(seqs=(2,), payloads=(b"small",))])
    lease(talk, 1, LARGE, ahead=len(LARGE))
    assert payload_of(talk, 2) == b"small"
    assert payload_of(talk, 1) == LARGE * 2


@pytest.mark.parametrize("piece", [b"", LARGE])
def test_piece_at_offset_0_drops_what_came_before(piece: bytes) -> None:
    talk = welcomed()
    talk.say(Verb.PIECE, 0, b"cancelled")
    talk.say(Verb.PIECE, 0, piece)
    lease(talk, 1, LARGE, ahead=len(piece))
    assert payload_of(talk, 1) == piece + LARGE


def test_connection_on_which_a_piece_is_missing_is_given_up() -> None:
    talk = welcomed()
    talk.say(Verb.PIECE, 0, b"a" * 9)
    talk.say(Verb.PIECE, 10, b"c" * 9)
    lease(talk, 1, LARGE)
    assert not any(talk.conversation.ledger.running())
    talk.pass_s(5.0)
    assert len(talk.hellos) > 1


@pytest.mark.parametrize("ahead", [0, 8, 10])
def test_payload_of_which_another_part_came_ahead_is_not_run(ahead: int) -> None:
    talk = welcomed()
    talk.say(Verb.PIECE, 0, b"a" * 9)
    lease(talk, 1, LARGE, ahead)
    assert not any(talk.conversation.ledger.running())
    talk.pass_s(5.0)
    assert len(talk.hellos) > 1


def test_payload_whose_pieces_were_lost_is_not_run() -> None:
    talk = welcomed()
    lease(talk, 1, LARGE, ahead=9)
    assert not any(talk.conversation.ledger.running())


def test_pieces_of_an_earlier_connection_are_no_part_of_a_payload() -> None:
    talk = welcomed()
    talk.say(Verb.PIECE, 0, b"a" * 9)
    talk.conversation.lose("cut", talk.now_s)
    talk.pass_s(1.0)
    talk.welcome()
    lease(talk, 1, LARGE)
    assert payload_of(talk, 1) == LARGE


def test_payload_over_the_bound_is_not_gathered() -> None:
    pieces = Pieces()
    pieces.take(0, bytes(wire.MAX_PAYLOAD_BYTES))
    with pytest.raises(ProtocolError, match="more than 16777216 bytes"):
        pieces.take(wire.MAX_PAYLOAD_BYTES, b"x")


@pytest.mark.parametrize(("slots", "runs"), [(0, False), (1, True)])
def test_lease_that_a_grant_has_overtaken_is_handed_back(slots: int, runs: bool) -> None:
    talk = welcomed()
    talk.say(Verb.PIECE, 0, LARGE)
    talk.upstreams.slots_granted = slots
    lease(talk, 1, LARGE, ahead=len(LARGE))
    assert bool(list(talk.conversation.ledger.running())) is runs
    returned = [(SESSION, (1,), False)]
    assert [fields[2] for fields in talk.heard(Verb.RETURN)] == ([] if runs else [returned])
