"""Deferred submissions: what they take, and what is left of them when some have ended."""

from __future__ import annotations

from reqpool_broker.deferred import DeferredGroups, group_bytes
from reqpool_contract.wire import SubmitGroup


def group(*seqs: int, settings: bytes = b"", kept: int | None = None) -> SubmitGroup:
    payloads = tuple(b"%d" % seq * 10 for seq in seqs)
    return SubmitGroup("dns", ("dns://h:53",), 1_000, 2, 1, None, None, seqs, payloads, settings, kept)


def test_settings_count_unless_they_are_cached() -> None:
    assert group_bytes(group(1, 2)) == 20
    assert group_bytes(group(1, settings=b"tls")) == 13
    assert group_bytes(group(1, settings=b"tls", kept=0)) == 10


def test_what_has_ended_is_dropped_and_the_rest_stays_in_its_order_with_its_deadline() -> None:
    deferred = DeferredGroups()
    deferred.add(group(1, 2, 3), 5.0)
    deferred.add(group(4), 6.0)
    deferred.add(group(5), 7.0)
    deferred.drop([2, 4, 99])
    assert deferred.seqs == [1, 3, 5]
    assert deferred.size_bytes == 30
    taken = deferred.take()
    assert [(left.seqs, left.payloads[0][:1], deadline_s) for left, deadline_s in taken] == [
        ((1, 3), b"1", 5.0),
        ((5,), b"5", 7.0),
    ]
    assert (deferred.groups, deferred.size_bytes) == ([], 0)
