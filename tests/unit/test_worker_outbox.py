"""Results: numbered, cut to size, kept until they have arrived."""

from __future__ import annotations

from typing import Any

from reqpool import wire
from reqpool.wire import MAX_BATCH_BYTES, MAX_BATCH_REQUESTS
from reqpool_workers.outbox import Outbox

A, B = b"a" * 16, b"b" * 16


def flat(*seqs: int, data: bytes = b"x") -> list[Any]:
    return [value for seq in seqs for value in (seq, 0, data)]


def held(outbox: Outbox) -> dict[bytes, set[int]]:
    found: dict[bytes, set[int]] = {}
    for session, seqs in outbox.held():
        found.setdefault(session, set()).update(seqs)
    return found


def test_one_turns_results_are_one_numbered_batch() -> None:
    outbox = Outbox(1 << 20)
    (first,) = outbox.pack([(A, flat(1, 2), True), (B, flat(1), False)])
    (second,) = outbox.pack([(A, flat(3), True)])
    assert (first.number, second.number) == (1, 2)
    assert [(part.session, part.seqs) for part in first.parts] == [(A, (1, 2)), (B, (1,))]
    assert wire.decode_blob(first.parts[0].blob) == (1, 0, b"x", 2, 0, b"x")
    assert held(outbox) == {A: {1, 2, 3}, B: {1}}


def test_batches_are_bounded_in_count_and_in_bytes() -> None:
    outbox = Outbox(64 << 20)
    many = outbox.pack([(A, flat(*range(2_000)), True)])
    parts = [part for batch in many for part in batch.parts]
    assert max(len(part.seqs) for part in parts) <= MAX_BATCH_REQUESTS
    assert [seq for part in parts for seq in part.seqs] == list(range(2_000))
    large = outbox.pack([(A, flat(*range(2_000, 2_006), data=bytes(MAX_BATCH_BYTES // 2)), True)])
    assert len(large) >= 3
    (alone,) = outbox.pack([(A, flat(3_000, data=bytes(3 * MAX_BATCH_BYTES)), True)])
    assert alone.parts[0].seqs == (3_000,)


def test_repeatable_results_go_when_received_the_others_when_delivered() -> None:
    outbox = Outbox(1 << 20)
    outbox.pack([(A, flat(1), True), (A, flat(2), False)])
    outbox.pack([(A, flat(3), True)])
    outbox.received(1)
    assert held(outbox) == {A: {2, 3}}
    outbox.received(2)
    assert held(outbox) == {A: {2}}
    outbox.undelivered([1])
    assert held(outbox) == {A: {2}}
    outbox.undelivered([])
    assert held(outbox) == {}
    assert outbox.kept_bytes == 0


def test_one_slow_client_keeps_only_its_own_results() -> None:
    outbox = Outbox(1 << 20)
    for session in (A, B):
        outbox.pack([(session, flat(1), False)])
    outbox.received(2)
    outbox.undelivered([1])
    assert held(outbox) == {A: {1}}


def test_failures_are_counted_for_the_broker() -> None:
    (batch,) = Outbox(1 << 20).pack([(A, [1, 0, b"", 2, 32, b"", 3, 20, b""], True)])
    assert batch.parts[0].failed == 2


def test_what_is_kept_is_numbered_anew_in_the_next_connection() -> None:
    outbox = Outbox(1 << 20)
    outbox.pack([(A, flat(1), False)])
    outbox.received(1)
    outbox.pack([(A, flat(2), True)])
    outbox.pack([(B, flat(3), True)])
    outbox.restart()
    again = outbox.renumbered()
    assert [(batch.number, batch.parts[0].seqs) for batch in again] == [(1, (1,)), (2, (2,)), (3, (3,))]
    assert outbox.pack([(A, flat(4), True)])[0].number == 4
    outbox.received(4)
    outbox.undelivered([])
    assert outbox.kept_bytes == 0


def test_over_the_bound_only_what_must_not_be_repeated_fills_it() -> None:
    outbox = Outbox(1_000)
    outbox.pack([(A, flat(1, data=bytes(900)), True)])
    outbox.pack([(A, flat(2, data=bytes(900)), False)])
    assert held(outbox) == {A: {2}}
    assert not outbox.full
    outbox.pack([(A, flat(3, data=bytes(900)), False)])
    assert held(outbox) == {A: {2, 3}}
    assert outbox.full
    outbox.received(3)
    outbox.undelivered([])
    assert not outbox.full
