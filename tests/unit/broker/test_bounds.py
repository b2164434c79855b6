"""What no peer can make grow without bound, and what it cannot break: fake clock, no sockets."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from reqpool_broker import origin_table as origins_module
from reqpool_broker import session as session_module
from reqpool_broker import settings_budget
from reqpool_contract import wire
from reqpool_contract.errors import Code
from reqpool_contract.wire import Flag, Reject, SubmitGroup, Verb
from support.fake_peers import UPSTREAM, Desk

ONCE = Flag(0)


def test_one_sessions_silence_keeps_back_only_its_own_results() -> None:
    desk = Desk()
    worker, slow, quick = desk.worker(), desk.client(), desk.client()
    slow.submit(1)
    worker.answer()
    for seq in (1, 2, 3):
        quick.submit(seq)
        worker.answer()
    quick.acknowledge()
    desk.pass_time(0.6)
    assert worker.undelivered == [1]


def test_worker_without_room_is_leased_nothing_until_it_says_otherwise() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, 2, flags=ONCE, span_ms=60_000)
    for _ in range(5):
        worker.give_back(*worker.held())
        desk.settle()
        assert worker.held() == []
        desk.pass_time(0.6)  # its next heartbeat says that it has room
        assert worker.held() == [1, 2]
    assert worker.leases[0].attempt == 1
    desk.check_books()


def test_kind_that_nobody_serves_blocks_no_other_kind_of_the_same_upstream() -> None:
    desk = Desk()
    client, other = desk.client(), desk.client()
    client.submit(1, kind="bogus", span_ms=60_000)
    worker = desk.worker()
    other.submit(1)
    assert worker.held() == [1]
    assert worker.leases[0].session == other.id


def test_cancelled_requests_leave_nothing_behind() -> None:
    desk = Desk()
    client = desk.client()
    for seq in range(2000):
        client.submit(seq, span_ms=60_000)
        client.send(Verb.CANCEL, (seq,))
    (session,) = desk.broker.sessions.values()
    (origin,) = desk.broker.records.origins
    assert session.queued_bytes == 0
    assert session.open == {}
    assert len(list(origin.queue)) < 200
    client.submit(5000)
    assert desk.worker().held() == [5000]
    desk.check_books()


def test_million_servers_are_not_remembered() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    for seq in range(3000):
        client.submit(seq, origins=(f"dns://10.0.{seq // 250}.{seq % 250}:53",))
        worker.answer()
        client.acknowledge()
    assert len(desk.broker.records.origins) <= origins_module.MAX_IDLE + 1
    desk.check_books()


def test_client_that_never_acknowledges_is_not_served_verdicts_for_ever() -> None:
    desk = Desk()
    desk.worker()
    client = desk.client()
    for seq in range(2000):
        client.submit(seq, kind="bogus")
    (session,) = desk.broker.sessions.values()
    assert len(session.unacked) <= session_module.MAX_UNACKED_BATCHES + 1
    assert Reject.OVERLOADED in {values[0] for _, values in client.replies}


def test_malformed_hello_changes_nothing() -> None:
    desk = Desk()
    client = desk.client()
    for about in (
        {"session": b"short"},
        {"session": b"n" * 16, "name": 5},
        {"session": b"n" * 16, "pid": -1},
        {"session": b"n" * 16, "generation": -1},
    ):
        client.send(Verb.HELLO, 1, 1, about)
    desk.settle()
    assert [values[0] for _, values in client.replies[-4:]] == [Reject.MALFORMED] * 4
    assert set(desk.broker.sessions) == {client.id}
    client.submit(1, kind="bogus")
    assert client.replies[-1][0] is Verb.REJECT


@pytest.mark.parametrize(
    "kind",
    [
        ("dns", False, 256, 0),
        ("dns", False, 0, 1),
        ("dns", True, 2**63, 1),
        ("dns", 1, 256, 1),
        ("dns", True, 256, 1, 1),
        ("dns", True, 256, 1, True, b"alone"),
    ],
)
def test_worker_with_absurd_kinds_is_refused(kind: tuple[object, ...]) -> None:
    desk = Desk()
    worker = desk.worker(kind)
    assert worker.rejects == [Reject.MALFORMED]
    assert desk.broker.records.workers == {}


def test_second_hello_on_a_route_ends_the_first_session_there() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.send(Verb.HELLO, 1, 1, {"session": b"n" * 16})
    desk.settle()
    assert set(desk.broker.sessions) == {b"n" * 16}
    other = desk.client()
    other.submit(1)
    worker.answer()
    assert other.code(1) == Code.OK


def test_submit_with_too_many_groups_runs_as_many_as_may_be_in_it() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.say_groups([GROUP._replace(seqs=(seq,), payloads=(b"?",)) for seq in range(514)])
    worker.answer()
    assert [client.code(seq) for seq in (0, 255, 512, 513)] == [0, 0, Code.PROTOCOL, Code.PROTOCOL]
    assert "512 requests" in client.error(512)["text"]
    assert client.error(513)["sent"] is False
    desk.check_books()


@pytest.mark.parametrize("count", [513, 100_000])
def test_submit_that_names_more_requests_than_can_be_refused_is_malformed(count: int) -> None:
    desk = Desk()
    client = desk.client()
    too_many = wire.MAX_REFUSED_REQUESTS // 512 + 2
    size = count if count > wire.MAX_REFUSED_REQUESTS else 512
    groups = [
        GROUP._replace(seqs=tuple(range(n * size, (n + 1) * size)), payloads=(b"?",) * size)
        for n in range(too_many)
    ]
    client.say_groups(groups)
    assert client.replies[-1][1][0] == Reject.MALFORMED
    assert desk.broker.records.submitted == 0


GROUP = SubmitGroup("dns", (UPSTREAM,), 60_000, 1, 1, None, None, (9,), (b"?",))
BAD_GROUPS = [
    ({"kind": "k" * 65}, Code.USAGE, "64 characters"),
    ({"kind": b"dns"}, Code.PROTOCOL, "a string"),
    ({"origins": ()}, Code.PROTOCOL, "1 to 8 origins"),
    ({"origins": (UPSTREAM,) * 9}, Code.PROTOCOL, "1 to 8 origins"),
    ({"origins": ("x" * 1_025,)}, Code.PROTOCOL, "1024 characters"),
    ({"origins": ("",)}, Code.PROTOCOL, "1024 characters"),
    ({"span_ms": wire.MAX_SPAN_MS + 1}, Code.PROTOCOL, "24 h"),
    ({"flags": -1}, Code.PROTOCOL, "unsigned"),
    ({"priority": 3}, Code.PROTOCOL, "priority"),
    ({"pin": "1"}, Code.PROTOCOL, "unsigned"),
    ({"trace": bytes(4_097)}, Code.USAGE, "4096 bytes"),
    ({"trace": "text"}, Code.PROTOCOL, "bytes"),
    ({"payloads": (bytes(wire.MAX_PAYLOAD_BYTES + 1),)}, Code.PROTOCOL, "16 MiB"),
    ({"payloads": (b"a", b"b")}, Code.PROTOCOL, "differ in length"),
    ({"settings": bytes(wire.MAX_SETTINGS_BYTES + 1)}, Code.PROTOCOL, "1048576"),
    ({"settings": "text"}, Code.PROTOCOL, "bytes"),
    ({"kept": 0}, Code.PROTOCOL, "no settings are kept under number 0"),
    ({"kept": -1}, Code.PROTOCOL, "unsigned"),
    ({"seqs": tuple(range(1000, 1513)), "payloads": (b"",) * 513}, Code.PROTOCOL, "512"),
]


@pytest.mark.parametrize(("change", "code", "says"), BAD_GROUPS, ids=lambda value: str(value)[:40])
def test_group_over_a_bound_ends_alone(change: dict[str, Any], code: int, says: str) -> None:
    desk = Desk()
    worker, neighbour, client = desk.worker(), desk.client(), desk.client(epoch=5)
    bad = GROUP._replace(**change)
    neighbour.submit(1)
    client.say_groups([GROUP._replace(seqs=(1,)), bad, GROUP._replace(seqs=(2,))])
    worker.answer()
    assert [client.code(1), client.code(2), neighbour.code(1)] == [0, 0, 0]
    for seq in bad.seqs:
        assert client.code(seq) == code
        assert says in client.error(seq)["text"]
        # With flags that cannot be read it may be one that was sent before.
        assert client.error(seq)["sent"] is ("flags" in change)
    assert Verb.REJECT not in {verb for verb, _ in client.replies}
    desk.check_books()


def test_bounds_themselves_are_taken() -> None:
    desk = Desk()
    kind = "k" * 64
    worker, client = desk.worker((kind, False, 1_000_000, 1), keeps=8), desk.client()
    largest = GROUP._replace(
        kind=kind, origins=("x" * 1_024,) * 8, span_ms=wire.MAX_SPAN_MS, flags=2**64 - 1 - 2 - 4, priority=2,
        trace=bytes(4_096), seqs=(2**64 - 1,), payloads=(bytes(wire.MAX_PAYLOAD_BYTES),),
        settings=bytes(wire.MAX_SETTINGS_BYTES),
    )  # fmt: skip
    client.say_groups([largest])
    assert worker.held() == [2**64 - 1]
    worker.answer()
    assert client.code(2**64 - 1) == Code.OK
    desk.check_books()


def test_requests_that_run_already_are_not_ended_by_a_bad_group_that_names_them() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, flags=ONCE)
    client.say_groups([GROUP._replace(seqs=(1, 2), payloads=(b"?", b"?"), priority=3)])
    assert 1 not in client.outcomes
    assert client.code(2) == Code.PROTOCOL
    worker.answer()
    assert client.code(1) == Code.OK
    desk.check_books()


def test_bad_group_that_may_have_run_in_an_earlier_life_does_not_say_that_it_never_did() -> None:
    desk = Desk()
    client = desk.client(epoch=5)
    client.say_groups([GROUP._replace(flags=int(Flag.RESUBMITTED), priority=3)])
    assert client.error(9)["sent"] is True


def test_payloads_over_the_bound_of_a_submit_end_alone() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    large = (bytes(wire.MAX_PAYLOAD_BYTES),)
    client.say_groups(
        [GROUP._replace(seqs=(seq,), payloads=large) for seq in (1, 2, 3)] + [GROUP._replace(seqs=(4,))]
    )
    worker.answer()
    assert [client.code(seq) for seq in (1, 2, 3, 4)] == [0, 0, Code.PROTOCOL, Code.PROTOCOL]
    assert "32 MiB" in client.error(3)["text"]


# --- settings that are kept ------------------------------------------------------------------------

LARGE = bytes(220_000)


def test_settings_travel_to_a_worker_once_for_a_connection() -> None:
    desk = Desk()
    client = desk.client()
    worker = desk.worker(keeps=wire.WORKER_KEEPS)
    for seq in (1, 2):
        client.submit(seq, settings=LARGE)
        worker.answer()
    assert worker.kept == [(0, LARGE)]
    worker.reconnect(keeps=wire.WORKER_KEEPS)
    client.submit(3, settings=LARGE)
    client.submit(4, settings=b"small")
    assert worker.kept == [(0, LARGE)] * 2
    assert [(lease.settings, lease.kept) for lease in worker.leases] == [(b"", 0), (b"small", None)]


def test_worker_that_takes_another_ones_place_is_told_the_settings_anew() -> None:
    desk = Desk()
    client = desk.client()
    first = desk.worker(keeps=wire.WORKER_KEEPS)
    client.submit(1, settings=LARGE)
    first.die()
    second = desk.worker(keeps=wire.WORKER_KEEPS)
    assert second.held() == [1]
    assert second.kept == [(0, LARGE)]


def test_more_settings_than_a_worker_keeps_each_go_to_their_own_requests() -> None:
    desk = Desk()
    client = desk.client()
    worker = desk.worker(keeps=2)
    many = [bytes([n]) * 2_000 for n in range(5)]
    for _ in range(3):
        groups = [
            GROUP._replace(seqs=(client.submitted * 10 + n,), settings=settings)
            for n, settings in enumerate(many)
        ]
        client.say_groups(groups)
    assert len(worker.leases) == 15
    for lease in worker.leases:
        assert worker.settings_of(lease) == many[lease.seqs[0] % 10]


def test_worker_of_an_older_version_is_leased_no_settings_that_it_would_not_take() -> None:
    desk = Desk()
    client = desk.client()
    worker = desk.worker()
    client.submit(1, settings=bytes(wire.UNTOLD_SETTINGS_BYTES))
    client.submit(2, settings=bytes(wire.UNTOLD_SETTINGS_BYTES + 1))
    assert worker.leases[0].settings == bytes(wire.UNTOLD_SETTINGS_BYTES)
    assert worker.held() == [1]
    assert client.code(2) == Code.USAGE
    assert "65537 bytes" in client.error(2)["text"]
    desk.check_books()


def test_groups_may_name_settings_that_their_session_keeps() -> None:
    desk = Desk()
    worker, client, other = desk.worker(keeps=8), desk.client(), desk.client()
    assert client.welcome["keeps"] == wire.SESSION_KEEPS
    client.send(Verb.KEEP, 3, LARGE)
    client.say_groups([GROUP._replace(kept=3)])
    assert worker.settings_of(worker.leases[0]) == LARGE
    other.say_groups([GROUP._replace(kept=3)])
    assert other.code(9) == Code.PROTOCOL  # not its own
    client.hello()
    client.say_groups([GROUP._replace(seqs=(10,), kept=3)])
    assert client.code(10) == Code.PROTOCOL  # of an earlier connection
    client.send(Verb.KEEP, wire.SESSION_KEEPS, LARGE)
    desk.settle()
    assert client.replies[-1][1][0] == Reject.MALFORMED
    client.send(Verb.KEEP, 0, bytes(wire.MAX_SETTINGS_BYTES + 1))
    desk.settle()
    assert client.replies[-1][1][0] == Reject.MALFORMED
    desk.check_books()


def test_waiting_requests_share_the_settings_that_are_kept() -> None:
    desk = Desk()
    client = desk.client()
    client.send(Verb.KEEP, 0, LARGE)
    for seq in range(2_000):
        client.say_groups([GROUP._replace(seqs=(seq,), kept=0)])
    (session,) = desk.broker.sessions.values()
    assert session.queued_bytes == 2_000
    assert not client.outcomes
    desk.check_books()


def test_sessions_keep_no_more_in_all_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_budget, "MAX_ALL_CACHED_BYTES", 8 * wire.MAX_SETTINGS_BYTES)
    desk = Desk()
    first, second = desk.client(), desk.client()
    assert [first.welcome["keeps"], second.welcome["keeps"]] == [8, 8]
    for number in range(8):
        first.send(Verb.KEEP, number, bytes(wire.MAX_SETTINGS_BYTES))
    second.send(Verb.KEEP, 0, LARGE)
    desk.settle()
    assert second.replies[-1][1][0] == Reject.OVERLOADED
    second.hello()
    assert second.welcome["keeps"] == 0
    first.send(Verb.GOODBYE)
    second.hello()
    assert second.welcome["keeps"] == 8


# --- what workers say ------------------------------------------------------------------------------


def test_bad_group_of_a_workers_results_ends_alone() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, 2, 3, flags=ONCE, span_ms=60_000)
    groups = [(client.id, (1,), 0), (client.id, (2,), None), (client.id, None, 0), (client.id, (3,), 0)]
    blobs = tuple(wire.encode_blob([seq, 0, b"answer"]) for seq in (1, 2, 2, 3))
    worker.send(Verb.RESULTS, worker.epoch, worker.seen, 1, groups, blobs=blobs)
    desk.settle()
    assert [client.code(seq) for seq in (1, 2, 3)] == [Code.OK, Code.PROTOCOL, Code.OK]
    assert client.error(2)["sent"] is True
    assert worker.rejects == []
    assert desk.broker.malformed["workers"] == 2
    desk.check_books()


@pytest.mark.parametrize("verb", [Verb.RETURN, Verb.RETRY])
def test_bad_group_of_what_a_worker_gives_up_ends_alone(verb: Verb) -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, 2, 3, flags=ONCE, span_ms=60_000)
    good = (20, False, wire.encode_error("late")) if verb is Verb.RETRY else ()
    groups = [
        (client.id, (1,), *good),
        (client.id, (), *good),
        (b"short", (2,), *good),
        None,
        (client.id, (3,), *good),
    ]
    worker.send(verb, worker.epoch, worker.seen, groups)
    desk.settle()
    assert worker.rejects == []
    if verb is Verb.RETRY:
        assert [client.code(seq) for seq in (1, 3)] == [Code.TIMEOUT, Code.TIMEOUT]
    assert 2 not in client.outcomes
    assert desk.broker.malformed["workers"] == 3
    desk.check_books()


def test_an_errors_details_that_are_too_large_are_not_repeated_for_each_request() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    seqs = tuple(range(512))
    client.submit(*seqs, flags=ONCE)
    held = worker.held()
    details = msgpack.packb({"text": "x" * wire.MAX_ERROR_BYTES})
    worker.send(
        Verb.RETRY,
        worker.epoch,
        worker.seen,
        [(client.id, held, int(Code.BAD_RESPONSE), True, details)],
    )
    desk.settle()
    assert {client.code(seq) for seq in held} == {Code.BAD_RESPONSE}
    (session,) = desk.broker.sessions.values()
    assert session.unacked_bytes < 1 << 20


def test_status_report_that_is_too_large_leaves_samples_out() -> None:
    desk = Desk()
    client = desk.client()
    for n in range(3):
        worker = desk.worker()
        sample = {"cpu_percent": 1.0, "origins": {"x" * (30 << 20): (n, 0, 0, 0, 0, 0)}}
        worker.send(Verb.HEARTBEAT, worker.epoch, worker.seen, 1, sample)
    client.send(Verb.STATUS, {})
    head = desk.broker.outbox.intake[-1][1]
    assert len(head) < wire.MAX_MESSAGE_BYTES
    desk.settle()
    assert len(client.replies[-1][1][0]["workers"]) == 3


def test_failures_that_workers_report_are_counted_as_failures() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, 2, 3)
    blob = wire.encode_blob([1, 0, b"", 2, 32, b"\x80", 3, 32, b"\x80"])
    worker.send(Verb.RESULTS, worker.epoch, worker.seen, 1, [(client.id, (1, 2, 3), 2)], blobs=(blob,))
    desk.settle()
    report = desk.broker.status.make(desk.now_s)
    assert report["counters"]["done"] == 1
    assert report["counters"]["failed"] == {"upstream": 2}
    assert report["origins"][UPSTREAM]["failed"] == 2


def test_many_ranges_that_never_ran_are_searched_quickly() -> None:
    session = session_module.Session(b"s" * 16, 0.0)
    session.never_ran = [(n, n + 1) for n in range(0, 4_000_000, 4)]
    assert [session.never_run(seq) for seq in (0, 1, 2, 3, 4, 2_000_001, 2_000_003, 9_999_999)] == [
        True, True, False, False, True, True, False, False,
    ]  # fmt: skip


def test_seq_that_its_client_names_twice_is_claimed_once() -> None:
    desk = Desk()
    client = desk.client()
    worker = desk.worker(epoch=5, held=[(client.id, (1,))])
    client.submit(1, 1, flags=Flag.IDEMPOTENT | Flag.RESUBMITTED)
    desk.check_books()
    worker.send(Verb.RESULTS, worker.epoch, worker.seen, 1, [(client.id, (1,), 0)], blobs=(
        wire.encode_blob([1, 0, b"answer"]),
    ))  # fmt: skip
    desk.settle()
    assert client.code(1) == Code.OK


def test_requests_of_a_client_that_is_gone_do_not_run_again() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, 2, span_ms=600_000)
    client.send(Verb.GOODBYE)
    worker.die()
    other = desk.worker()
    desk.pass_time(1.1)
    assert other.held() == []
    assert desk.broker.sessions == {}
    desk.check_books()
