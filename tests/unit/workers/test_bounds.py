"""What cannot be used of a lease, or of an answer, costs the worker's other requests nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgpack
import pytest

from reqpool_contract import wire
from reqpool_contract.errors import Code, UsageError
from reqpool_contract.origin_names import endpoint
from reqpool_contract.wire import LeaseGroup, Verb
from reqpool_workers import protocols
from reqpool_workers.protocols import worker_kinds
from reqpool_workers.retained_results import RetainedResults
from reqpool_workers.worker_process import WorkerProcess
from support.dns_peer import UdpPeer, echo
from support.fake_worker_broker import SESSION, FakeBroker
from support.leaks import no_leak
from support.tcp_peer import TcpPeer, answers
from support.wait import wait_until

LARGE = "x" * 200_000


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    """A broker; what the test opened is closed when it is over."""
    with no_leak(), FakeBroker() as broker:
        yield broker


def group(place: str, *seqs: int, **change: Any) -> LeaseGroup:
    plain = LeaseGroup(SESSION, "udp", place, 10_000, 1, 1, None, None, seqs, (b"hello",) * len(seqs))
    return plain._replace(**change)


BAD = [
    ({"kind": None}, "a string"),
    ({"origin": "x" * 1_025}, "1024 characters"),
    ({"span_ms": wire.MAX_SPAN_MS + 1}, "24 h"),
    ({"settings": bytes(wire.MAX_SETTINGS_BYTES + 1)}, "1048576"),
    ({"payloads": (bytes(wire.MAX_PAYLOAD_BYTES + 1), b"")}, "16 MiB"),
    ({"payloads": ()}, "payloads"),
    ({"kept": 3}, "no settings are kept under number 3"),
    ({"wait_ms": "soon"}, "unsigned"),
]


@pytest.mark.parametrize(("change", "says"), BAD, ids=lambda value: str(value)[:30])
def test_lease_group_over_a_bound_ends_alone(broker: FakeBroker, change: dict[str, Any], says: str) -> None:
    with UdpPeer(echo) as peer, broker.worker() as worker:
        broker.welcome()
        origin = f"udp://{peer.address}"
        broker.say(Verb.LEASE, [group(origin, 1), group(origin, 2, 3, **change), group(origin, 4)])
        failed = broker.failure()
        assert (failed.session, failed.seqs, failed.code, failed.sent) == (
            SESSION,
            (2, 3),
            Code.PROTOCOL,
            False,
        )
        assert says in wire.decode_error(failed.details)["text"]
        results = {seq: data for _, seq, data in all_results(broker, 2)}
        assert results == {1: b"hello", 4: b"hello"}
        assert worker.ledger.reports.ignored == 1


def all_results(broker: FakeBroker, count: int) -> list[tuple[int, int, bytes]]:
    """The results heard so far and to come, ``count`` in all."""
    found: list[tuple[int, int, bytes]] = []
    for verb, _, blobs in broker.heard:
        for blob in blobs if verb is Verb.RESULTS else ():
            flat = wire.decode_blob(blob)
            found += zip(flat[1::3], flat[0::3], flat[2::3], strict=True)
    if len(found) < count:
        found += [(code, seq, data) for seq, (code, data) in broker.results(count - len(found)).items()]
    return found


def test_lease_group_whose_requests_cannot_be_named_is_passed_over(broker: FakeBroker) -> None:
    with UdpPeer(echo) as peer, broker.worker() as worker:
        broker.welcome()
        origin = f"udp://{peer.address}"
        bad = [None, group(origin), group(origin, 2, session=b"short"), (), group(origin, 3, seqs="all")]
        broker.say(Verb.LEASE, [*bad, group(origin, 1)])
        assert broker.results(1) == {1: (0, b"hello")}
        assert worker.ledger.reports.ignored == len(bad)
        broker.say(Verb.CANCEL, [None, (SESSION, (1,)), (SESSION, None)])
        broker.lease("udp", origin, {5: b"on"})
        assert broker.results(1) == {5: (0, b"on")}


def test_request_that_runs_is_not_ended_by_a_bad_group_that_names_it(broker: FakeBroker) -> None:
    with UdpPeer(echo, held=True) as peer, broker.worker():
        broker.welcome()
        origin = f"udp://{peer.address}"
        broker.lease("udp", origin, {1: b"hello"})
        broker.say(Verb.LEASE, [group(origin, 1, 2, kind=None)])
        assert broker.failure().seqs == (2,)
        peer.release()
        assert broker.results(1) == {1: (0, b"hello")}


def test_settings_come_once_for_a_connection_to_the_broker(broker: FakeBroker) -> None:
    with TcpPeer(answers(b"yes\n")) as peer, broker.worker():
        about = broker.welcome()
        assert about["keeps"] == wire.WORKER_KEEPS
        origin, settings = endpoint(f"tcp://{peer.address}", {"password": LARGE})
        broker.say(Verb.KEEP, 5, settings)
        broker.say(Verb.GRANT, origin, 1, 2, {})
        for seq in (1, 2):
            broker.say(Verb.LEASE, [lease_of_tcp(origin, seq, kept=5)])
            assert broker.results(1) == {seq: (0, b"yes\n")}
        broker.say(Verb.LEASE, [lease_of_tcp(origin, 3, settings=settings)])
        assert broker.results(1) == {3: (0, b"yes\n")}
        broker.send(wire.encode(Verb.REJECT, 1, "send HELLO", {}))
        broker.welcome()
        broker.say(Verb.LEASE, [lease_of_tcp(origin, 4, kept=5)])
        assert broker.failure().code == Code.PROTOCOL


def lease_of_tcp(origin: str, seq: int, **change: Any) -> LeaseGroup:
    payload = msgpack.packb([b"ask\n", b"\n", None, 1 << 20])
    return group(origin, seq, kind="tcp", payloads=(payload,), **change)


def test_kept_settings_of_another_origin_are_refused(broker: FakeBroker) -> None:
    with broker.worker():
        broker.welcome()
        origin, _ = endpoint("tcp://127.0.0.1:9", {"password": LARGE})
        broker.say(Verb.KEEP, 0, endpoint("tcp://127.0.0.1:9", {"password": "other" * 1_000}).settings)
        broker.say(Verb.LEASE, [lease_of_tcp(origin, 1, kept=0)])
        assert broker.results(1)[1][0] == Code.USAGE


def test_keep_over_what_was_agreed_is_ignored(broker: FakeBroker) -> None:
    with UdpPeer(echo) as peer, broker.worker() as worker:
        broker.welcome()
        broker.say(Verb.KEEP, wire.WORKER_KEEPS, b"x" * 2_000)
        broker.say(Verb.KEEP, 0, bytes(wire.MAX_SETTINGS_BYTES + 1))
        broker.lease("udp", f"udp://{peer.address}", {1: b"on"})
        assert broker.results(1) == {1: (0, b"on")}
        assert worker.ledger.reports.ignored == 2


def test_sample_tells_of_the_busiest_origins_only(broker: FakeBroker) -> None:
    with UdpPeer(echo, held=True) as peer, broker.worker() as worker:
        broker.welcome()
        for n in range(wire.MAX_SAMPLE_ORIGINS + 10):
            broker.lease("udp", f"udp://{peer.address}?{n}", {n: b"hello"})
        busy = f"udp://{peer.address}?0"
        broker.lease("udp", busy, {1_000: b"hello"})
        seqs = (*range(wire.MAX_SAMPLE_ORIGINS + 10), 1_000)
        wait_until(lambda: len(worker.ledger.find(SESSION, seqs)) == len(seqs))
        worker.loop.wake(lambda: worker.conversation.beat(worker.loop.now_s) and None)
        sample = broker.next(Verb.HEARTBEAT)[3]
        while len(sample["origins"]) < wire.MAX_SAMPLE_ORIGINS:  # of a beat before the last lease
            sample = broker.next(Verb.HEARTBEAT)[3]
        assert len(sample["origins"]) == wire.MAX_SAMPLE_ORIGINS
        assert sample["origins"][busy][0] == 2
        peer.release()
        broker.results(wire.MAX_SAMPLE_ORIGINS + 11)


# --- answers of kinds ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("\ud800", "str instead of bytes"),
        (None, "NoneType instead of bytes"),
        (5, "int instead of bytes"),
        (bytes(wire.MAX_ANSWER_BYTES + 1), f"{wire.MAX_ANSWER_BYTES + 1} bytes"),
    ],
    ids=["text", "None", "int", "large"],
)
def test_answer_that_cannot_travel_ends_alone(data: Any, says: str) -> None:
    outbox = RetainedResults(64 << 20)
    batches = outbox.pack([(SESSION, [1, 0, b"a", 2, 0, data, 3, 0, bytearray(b"c")], None)])
    flat = [item for batch in batches for part in batch.parts for item in wire.decode_blob(part.blob)]
    assert flat[0:3] == [1, 0, b"a"]
    assert flat[3:5] == [2, Code.BAD_RESPONSE]
    assert says in wire.decode_error(flat[5])["text"]
    assert flat[6:] == [3, 0, b"c"]
    assert sum(part.failed for batch in batches for part in batch.parts) == 1


def test_largest_answers_travel_in_messages_that_may_be_sent() -> None:
    outbox = RetainedResults(64 << 20)
    largest = bytes(wire.MAX_ANSWER_BYTES)
    batches = outbox.pack([(SESSION, [1, 0, largest, 2, 0, largest, 3, 0, b"c"], None)])
    for batch in batches:
        assert sum(len(part.blob) for part in batch.parts) + 1_000 < wire.MAX_MESSAGE_BYTES
    assert [seq for batch in batches for part in batch.parts for seq in part.seqs] == [1, 2, 3]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"limit": 0}, "1 to 1000000"),
        ({"limit": 1_000_001}, "1 to 1000000"),
        ({"depth": 0}, "1 to 1000000"),
        ({"depth": 1_000_001}, "1 to 1000000"),
        ({"max_bytes": wire.MAX_ANSWER_BYTES + 1}, str(wire.MAX_ANSWER_BYTES)),
        ({"name": "k" * 65}, "64 characters"),
        ({"name": ""}, "64 characters"),
    ],
)
def test_kind_that_the_broker_would_refuse_is_said_at_the_start(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], says: str
) -> None:
    kind = replace(protocols.load()["tcp"], **change)

    class Entry:
        name = kind.name

        def load(self) -> Any:
            return kind

    monkeypatch.setattr(worker_kinds, "registered", lambda group: [Entry()])
    with pytest.raises(UsageError, match=says):
        protocols.load()


def test_name_that_is_no_unicode_is_told_all_the_same(broker: FakeBroker) -> None:
    worker = WorkerProcess(broker.url, bytes(16), "w\udcff" + "x" * 1_000, {})
    name = worker.conversation._about["name"]
    assert name.startswith("w\\udcff")
    assert len(name) == wire.MAX_NAME_CHARS
    worker.loop.close()
    worker._context.term()


def test_message_that_is_large_is_answered_with_a_heartbeat_at_once() -> None:
    with no_leak(), FakeBroker(heartbeat_ms=60_000, liveness_ms=120_000) as broker, broker.worker():
        broker.welcome()
        broker.beat()
        broker.lease("udp", "udp://127.0.0.1:9", {1: bytes(wire.LARGE_MESSAGE_BYTES)})
        assert broker.next(Verb.HEARTBEAT)[1] == broker.number
