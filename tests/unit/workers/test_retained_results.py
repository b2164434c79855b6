"""Results: numbered, cut to size, kept until they have arrived."""

from __future__ import annotations

import random
from typing import Any

from reqpool_contract import wire
from reqpool_contract.errors import Code
from reqpool_contract.wire import MAX_BATCH_BYTES, MAX_BATCH_REQUESTS
from reqpool_workers.lease import SessionResults
from reqpool_workers.reports import WorkerReports
from reqpool_workers.retained_results import FEW_SESSIONS, SMALL_ANSWER_BYTES, RetainedResults

A, B = b"a" * 16, b"b" * 16
LATER = 1_000.0


def flat(*seqs: int, data: bytes = b"x") -> list[Any]:
    return [value for seq in seqs for value in (seq, 0, data)]


def held(outbox: RetainedResults) -> dict[bytes, set[int]]:
    found: dict[bytes, set[int]] = {}
    for session, seqs in outbox.retained():
        found.setdefault(session, set()).update(seqs)
    return found


def test_one_turns_results_are_one_numbered_batch() -> None:
    outbox = RetainedResults(1 << 20)
    (first,) = outbox.pack([(A, flat(1, 2), None), (B, flat(1), LATER)])
    (second,) = outbox.pack([(A, flat(3), None)])
    assert (first.number, second.number) == (1, 2)
    assert [(part.session, part.seqs) for part in first.parts] == [(A, (1, 2)), (B, (1,))]
    assert wire.decode_blob(first.parts[0].blob) == (1, 0, b"x", 2, 0, b"x")
    assert held(outbox) == {A: {1, 2, 3}, B: {1}}


def test_batches_are_bounded_in_count_and_in_bytes() -> None:
    outbox = RetainedResults(64 << 20)
    many = outbox.pack([(A, flat(*range(2_000)), None)])
    parts = [part for batch in many for part in batch.parts]
    assert max(len(part.seqs) for part in parts) <= MAX_BATCH_REQUESTS
    assert [seq for part in parts for seq in part.seqs] == list(range(2_000))
    large = outbox.pack([(A, flat(*range(2_000, 2_006), data=bytes(MAX_BATCH_BYTES // 2)), None)])
    assert len(large) >= 3
    (alone,) = outbox.pack([(A, flat(3_000, data=bytes(3 * MAX_BATCH_BYTES)), None)])
    assert alone.parts[0].seqs == (3_000,)


def test_repeatable_results_go_when_received_the_others_when_delivered() -> None:
    outbox = RetainedResults(1 << 20)
    outbox.pack([(A, flat(1), None), (A, flat(2), LATER)])
    outbox.pack([(A, flat(3), None)])
    outbox.received(1)
    assert held(outbox) == {A: {2, 3}}
    outbox.received(2)
    assert held(outbox) == {A: {2}}
    outbox.undelivered([1])
    assert held(outbox) == {A: {2}}
    outbox.undelivered([])
    assert held(outbox) == {}
    assert outbox.retained_bytes == 0


def test_one_slow_client_keeps_only_its_own_results() -> None:
    outbox = RetainedResults(1 << 20)
    for session in (A, B):
        outbox.pack([(session, flat(1), LATER)])
    outbox.received(2)
    outbox.undelivered([1])
    assert held(outbox) == {A: {1}}


def test_failures_are_counted_for_the_broker() -> None:
    (batch,) = RetainedResults(1 << 20).pack([(A, [1, 0, b"", 2, 32, b"", 3, 20, b""], None)])
    assert batch.parts[0].failed == 2


def test_what_is_kept_is_numbered_anew_in_the_next_connection() -> None:
    outbox = RetainedResults(1 << 20)
    outbox.pack([(A, flat(1), LATER)])
    outbox.received(1)
    outbox.pack([(A, flat(2), None)])
    outbox.pack([(B, flat(3), None)])
    outbox.restart()
    again = outbox.renumbered()
    assert [(batch.number, batch.parts[0].seqs) for batch in again] == [(1, (1,)), (2, (2,)), (3, (3,))]
    assert outbox.pack([(A, flat(4), None)])[0].number == 4
    outbox.received(4)
    outbox.undelivered([])
    assert outbox.retained_bytes == 0


def test_over_the_bound_what_may_be_repeated_goes_first_of_what_the_broker_has_not_received() -> None:
    outbox = RetainedResults(1_000)
    outbox.pack([(A, flat(1, data=bytes(900)), None)])
    outbox.pack([(A, flat(2, data=bytes(900)), LATER)])
    assert held(outbox) == {A: {2}}
    assert not outbox.full
    outbox.pack([(A, flat(3, data=bytes(900)), LATER)])
    assert held(outbox) == {A: {2, 3}}
    assert outbox.full
    outbox.received(3)
    outbox.undelivered([])
    assert not outbox.full


def again(outbox: RetainedResults) -> dict[int, tuple[int, bytes]]:
    """What is sent in the next connection: seq to code and data."""
    outbox.restart()
    found: dict[int, tuple[int, bytes]] = {}
    for batch in outbox.renumbered():
        for part in batch.parts:
            flat = wire.decode_blob((part if part.blob else part.verdicts()).blob)
            found |= dict(zip(flat[0::3], zip(flat[1::3], flat[2::3], strict=True), strict=True))
    return found


def test_clients_that_acknowledge_nothing_never_fill_it() -> None:
    outbox = RetainedResults(1_000)
    for number in range(1, 1_001):
        outbox.pack([(A, flat(number, data=bytes(500)), LATER)])
        assert not outbox.full
        outbox.received(number)
        outbox.undelivered(range(1, number + 1))
        assert outbox.retained_bytes <= 1_100
    assert held(outbox) == {A: set(range(1, 1_001))}
    assert outbox.unacknowledged == 1_000


def test_of_an_answer_without_room_the_verdict_is_kept_the_longest_unacknowledged_first() -> None:
    outbox = RetainedResults(1_000)
    for number, session in enumerate((A, B, A), start=1):
        outbox.pack([(session, flat(number, data=bytes(450)), LATER)])
        outbox.received(number)
    outbox.undelivered([1, 2, 3])
    sent = again(outbox)
    assert [seq for seq, (code, _) in sent.items() if code == 0] == [2, 3]
    code, details = sent[1]
    assert code == Code.OUTCOME_UNKNOWN
    assert wire.decode_error(details)["sent"] is True
    assert "dropped" in wire.decode_error(details)["text"]


def test_a_verdict_stays_one_until_it_is_acknowledged() -> None:
    outbox = RetainedResults(1_000)
    for number in (1, 2, 3):
        outbox.pack([(A, flat(number, data=bytes(450)), LATER)])
        outbox.received(number)
    for _ in range(2):
        assert again(outbox)[1][0] == Code.OUTCOME_UNKNOWN
        outbox.received(3)
        outbox.undelivered([1, 2, 3])
    outbox.undelivered([2])
    assert held(outbox) == {A: {2}}
    assert outbox.unacknowledged == 1


def test_outcomes_are_kept_until_nobody_can_ask_for_them_again() -> None:
    outbox = RetainedResults(1_000)
    outbox.pack([(A, flat(1), 10.0), (B, flat(2), 20.0)])
    outbox.pack([(A, flat(3), 30.0)])
    outbox.received(2)
    outbox.undelivered([1, 2])
    outbox.expire(9.9)
    assert held(outbox) == {A: {1, 3}, B: {2}}
    outbox.expire(10.0)
    assert held(outbox) == {A: {3}, B: {2}}
    outbox.expire(20.0)
    assert held(outbox) == {A: {3}}
    outbox.expire(30.0)
    assert held(outbox) == {}
    assert outbox.retained_bytes == 0


def test_what_may_be_repeated_outlives_what_was_sent_with_it() -> None:
    outbox = RetainedResults(1_000)
    outbox.pack([(A, flat(1, data=bytes(100)), None), (B, flat(2, data=bytes(300)), 10.0)])
    outbox.pack([(B, flat(3), 20.0)])
    retained_bytes = outbox.retained_bytes
    outbox.expire(10.0)
    assert held(outbox) == {A: {1}, B: {3}}
    assert outbox.retained_bytes <= retained_bytes - 300
    outbox.expire(20.0)
    assert held(outbox) == {A: {1}}
    assert 100 <= outbox.retained_bytes < 200
    outbox.received(2)
    assert held(outbox) == {}
    assert outbox.retained_bytes == 0


# --- a few small answers ---------------------------------------------------------------------------


def drawn(chance: random.Random) -> list[SessionResults]:
    """Sessions with results, nearly always small ones."""
    sessions = []
    for number in range(chance.choice([1, 1, 2, 5, FEW_SESSIONS, FEW_SESSIONS + 1])):
        session = SessionResults(number.to_bytes(16))
        for flat in chance.choice(
            [[session.ready], [session.ready_once], [session.ready, session.ready_once]]
        ):
            for _ in range(chance.choice([1, 1, 3, 30])):
                code = chance.choice([Code.OK, 0, Code.AGAIN, Code.TIMEOUT])
                size = chance.choice(
                    [0, 9, SMALL_ANSWER_BYTES, SMALL_ANSWER_BYTES + chance.choice([0, 0, 1])]
                )
                data = bytes(size) if chance.random() < 0.999 else bytearray(size)
                flat += (chance.randrange(1 << 40), code, data)
        session.until_s = float(chance.randrange(1, 50)) if session.ready_once else 0.0
        sessions.append(session)
    return sessions


def test_a_few_small_answers_are_packed_as_any_others_are() -> None:
    packed = 0
    for seed in range(400):
        sessions = drawn(random.Random(seed))
        reports = WorkerReports()
        reports.dirty = sessions
        small = RetainedResults(1 << 16)
        message = small.pack_small(sessions)
        if message is None:
            assert not list(small.retained())
            assert small.arrived
        else:
            packed += 1
            outbox = RetainedResults(1 << 16)
            assert [message] == outbox.pack(reports.take_results())
            assert list(small.retained()) == list(outbox.retained())
            assert (small.retained_bytes, small.full) == (outbox.retained_bytes, outbox.full)
            assert small.renumbered() == outbox.renumbered()
    assert 100 < packed < 400
