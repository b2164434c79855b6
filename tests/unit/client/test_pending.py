"""Sweeping and grouping, by a fake clock."""

from __future__ import annotations

import math
import time
from collections import deque
from concurrent.futures._base import FINISHED
from typing import Any

import pytest

from reqpool.batching import next_batch
from reqpool.future import Future
from reqpool.kinds import Asked, Kind, Route
from reqpool.pending import SWEEP_INTERVAL_S, Pending, within
from reqpool.refused_future import NOBODY
from reqpool_contract import broker_url, wire
from reqpool_contract.cached_settings import SettingsSender
from reqpool_contract.errors import ProtocolError, UsageError
from reqpool_contract.grace import CLUSTER_GRACE_S


class Plain(Kind):
    name = "plain"

    def encode(self, target: Any, payload: Any, *args: Any, **options: Any) -> tuple[Route, bytes, Any]:
        return ONE, payload, None

    def decode(self, data: bytes, request: Asked) -> bytes:
        return data


ONE = Route(Plain(), ("plain://one",), False)
TWO = Route(Plain(), ("plain://two",), True)


def make(
    seq: int, deadline_s: float = 5.0, route: Route = ONE, payload: bytes = b"p", priority: int = 1
) -> Future[Any]:
    return Future(NOBODY, seq, route, payload, 0.0, deadline_s, priority, None)


def table(*futures: Future[Any]) -> Pending:
    pending = Pending()
    pending.futures.update((future.seq, future) for future in futures)
    return pending


def batch(*futures: Future[Any], connection: int = 1, now_s: float = 0.0) -> list[wire.SubmitGroup]:
    groups, *_ = next_batch(deque(futures), connection, now_s, SettingsSender(), 512, math.inf, deque())
    head = wire.encode(wire.Verb.SUBMIT, 1, 0, groups)
    decoded: list[wire.SubmitGroup] = wire.decode(head, wire.CLIENT_TO_BROKER)[1][2]
    return decoded


def test_a_sweep_takes_what_is_overdue_and_knows_when_to_come_again() -> None:
    pending = table(make(1, 1.0), make(2, 2.0), make(3, 9.0))
    now_s = 2.0 + CLUSTER_GRACE_S
    assert [future.seq for future in pending.sweep(now_s)] == [1, 2]
    assert list(pending.futures) == [3]
    assert pending.due_s == 9.0 + CLUSTER_GRACE_S


def test_nothing_is_taken_before_its_deadline_and_the_clusters_grace() -> None:
    pending = table(make(1, 1.0))
    assert pending.sweep(1.0 + CLUSTER_GRACE_S - 0.001) == []


def test_sweeps_keep_their_distance() -> None:
    pending = table(make(1, 1.0))
    pending.sweep(0.5)
    pending.expect(0.0)
    assert pending.due_s == pytest.approx(0.5 + SWEEP_INTERVAL_S)
    pending.expect(0.4)
    assert pending.due_s == pytest.approx(0.5 + SWEEP_INTERVAL_S)


def test_an_empty_table_is_never_due() -> None:
    pending = table()
    assert pending.due_s == math.inf
    pending.sweep(1.0)
    assert pending.due_s == math.inf


def test_requests_that_share_everything_share_a_group() -> None:
    groups = batch(
        make(1, 5.001),
        make(2, 5.002),
        make(3, 5.001, TWO),
        make(4, 5.001),
        make(5, 5.001, priority=0),
        make(6, 7.0),
    )
    assert [group.seqs for group in groups] == [(1, 2, 4), (3,), (5,), (6,)]
    assert [group.flags for group in groups] == [0, wire.Flag.IDEMPOTENT, 0, 0]
    assert [group.priority for group in groups] == [1, 1, 0, 1]


@pytest.mark.parametrize("deadline_s", [0.001, 0.5, 1.0, 4.999, 5.0, 3599.99, 86_400.0])
def test_a_span_is_never_too_short_and_at_most_a_bucket_too_long(deadline_s: float) -> None:
    [group] = batch(make(1, deadline_s))
    most = wire.MAX_SPAN_MS
    assert min(deadline_s * 1000, most) <= group.span_ms <= min(deadline_s * 1000 + 17, most)


def test_a_span_that_is_over_is_zero() -> None:
    assert batch(make(1, 1.0), now_s=3.0)[0].span_ms == 0


def test_a_batch_is_bounded_in_count() -> None:
    queue = deque(make(seq) for seq in range(1200))
    sizes = []
    while queue:
        groups, *_ = next_batch(queue, 1, 0.0, SettingsSender(), 512, math.inf, deque())
        sizes.append(sum(len(group[7]) for group in groups))
    assert sizes == [512, 512, 176]


def test_a_batch_is_bounded_in_bytes_and_a_larger_payload_travels_alone() -> None:
    sizes = [600_000, 400_000, 100_000, 5_000_000, 1]
    queue = deque(make(seq, payload=bytes(size)) for seq, size in enumerate(sizes))
    batches = []
    while queue:
        groups, *_ = next_batch(queue, 1, 0.0, SettingsSender(), 512, math.inf, deque())
        batches.append(list(groups[0][7]))
    assert batches == [[0, 1], [2], [3], [4]]


def test_what_has_ended_or_was_sent_on_this_connection_is_not_sent() -> None:
    ended, sent, other = make(1), make(2), make(3)
    ended.end(FINISHED, 0, b"", 0.0)
    sent.connection = 2
    other.connection = 1
    other.resubmitted = bytes(16)
    [group] = batch(ended, sent, other, connection=2)
    assert (group.seqs, group.flags, group.watermark) == ((3,), wire.Flag.RESUBMITTED, bytes(16))
    assert next_batch(deque([ended]), 2, 0.0, SettingsSender(), 512, math.inf, deque())[:2] == ([], math.inf)


def test_a_batch_is_as_small_as_is_asked() -> None:
    queue = deque(make(seq) for seq in range(3))
    assert [group[7] for group in next_batch(queue, 1, 0.0, SettingsSender(), 1, math.inf, deque())[0]] == [
        [0]
    ]
    assert [group[7] for group in next_batch(queue, 1, 0.0, SettingsSender(), 512, math.inf, deque())[0]] == [
        [1, 2]
    ]


@pytest.mark.parametrize(
    ("ranges", "inside"),
    [
        ((), set()),
        (((1, 3),), {2}),
        (((2, 2), (9, 9)), {2, 9}),
        (((5, 20), (3, 30), (7, 8)), {5, 7, 9}),
        (((9, 2),), set()),
        (((0, 2**64),), {2, 5, 7, 9}),
    ],
)
def test_what_lies_in_given_ranges_is_found(ranges: tuple[tuple[int, int], ...], inside: set[int]) -> None:
    futures = [make(seq) for seq in (9, 2, 7, 5)]
    assert within([future.seq for future in futures], ranges) == inside


def test_many_ranges_and_many_requests_do_not_multiply() -> None:
    began_s = time.process_time()
    seqs = range(0, 200_000, 2)
    ranges = tuple((seq, seq) for seq in range(1, 200_000))
    assert within(seqs, ranges) == set(seqs) - {0}
    assert time.process_time() - began_s < 5.0


@pytest.mark.parametrize(
    "url",
    [
        "tcp://127.0.0.1:5570",
        "tcp://[::1]:1",
        "tcp://broker.example:65535",
        "ipc:///run/r/intake",
        "ipc://x",
        "tcp://a_b-c.d:1",
        "tcp://[fe80::1%eth0]:1",
        "ipc:///tmp/ü",
        "ipc://@abstract",
        "ipc://" + "x" * 99,
    ],
)
def test_good_urls(url: str) -> None:
    assert broker_url.check(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "", "localhost:5570", "http://h:1", "tcp://", "tcp://h", "tcp://h:", "tcp://h:0", "tcp://h:65536", "tcp://h:x",
        "tcp://:5", "tcp://*:5", "tcp://::1:5", "tcp://a b:5", "tcp://u@h:5", "tcp://h/p:5", "tcp://h:٣", "ipc://",
        "ipc://" + "x" * 100, "inproc://x", "udp://h:1", 5, b"tcp://h:1", "tcp://über:1", "tcp://-a:1", "tcp://a!:1",
        "tcp://a,b:1", "tcp://[]:1", "tcp://[x]:1", "tcp://a[b:1", "ipc:///tmp/\udcff", "ipc://@", "tcp://\udcff:1",
    ],
)  # fmt: skip
def test_bad_urls_are_refused(url: Any) -> None:
    with pytest.raises(UsageError):
        broker_url.check(url)


@pytest.mark.parametrize("url", ["tcp://127.0.0.1", "tcp://broker", "tcp://[::1]"])
def test_a_url_without_a_port_is_told_so(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        broker_url.check(url)
    assert str(caught.value) == f"{url!r} has no port: use tcp://host:port"


@pytest.mark.parametrize(
    ("dialled", "results", "derived"),
    [
        ("tcp://h:5570", "5571", "tcp://h:5571"),
        ("tcp://[::1]:5570", "5571", "tcp://[::1]:5571"),
        ("ipc:///run/r/intake", "results", "ipc:///run/r/results"),
        ("ipc://intake", "results", "ipc://results"),
        ("tcp://h:5570", "tcp://other:9", "tcp://other:9"),
        ("ipc://" + "x" * 99, "x" * 99 + ".results", "ipc://" + "x" * 99 + ".results"),
    ],
)
def test_the_results_socket_is_found_from_the_one_url(dialled: str, results: str, derived: str) -> None:
    assert broker_url.results_url(dialled, results) == derived


@pytest.mark.parametrize(
    ("dialled", "results"),
    [
        ("tcp://h:1", "x"),
        ("ipc:///r/i", "../x"),
        ("ipc:///r/i", "inproc://x"),
        ("ipc:///r/i", "x" * 106),
        ("tcp://h:1", "tcp://über:1"),
    ],
)
def test_a_results_socket_that_makes_no_url_is_an_illegal_welcome(dialled: str, results: str) -> None:
    with pytest.raises(ProtocolError):
        broker_url.results_url(dialled, results)
