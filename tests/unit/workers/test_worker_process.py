"""A whole worker between a broker played by the test and scripted upstreams on loopback."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from unittest.mock import MagicMock

import dnslib
import msgpack
import pytest

from reqpool_contract import wire
from reqpool_contract.errors import Code
from reqpool_contract.wire import Flag, Reject, Verb
from reqpool_workers.protocols import load
from reqpool_workers.worker_process import WorkerProcess
from support import dns_peer, tcp_peer
from support.dns_peer import DnsPeer
from support.fake_worker_broker import BROKER_FDS, SESSION, WORKER_ID, FakeBroker
from support.leaks import no_leak
from support.tcp_peer import TcpPeer
from support.wait import wait_until


def query(name: str = "example.com") -> bytes:
    packed = dnslib.DNSRecord.question(name, "A")
    packed.add_ar(dnslib.EDNS0(udp_len=1232))
    return b"\0\0" + bytes(packed.pack())[2:]


def tcp(
    data: bytes, until: bytes | None = b"\n", length: int | None = None, max_bytes: int = 1 << 20
) -> bytes:
    packed: bytes = msgpack.packb([data, until, length, max_bytes])
    return packed


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    """A broker; what the test opened is closed when it is over."""
    with no_leak(), FakeBroker() as broker:
        yield broker


def answered(data: bytes) -> str:
    return str(dnslib.DNSRecord.parse(data).rr[0].rdata)


# --- dns -------------------------------------------------------------------------------------------


def test_leased_queries_are_answered(broker: FakeBroker) -> None:
    with DnsPeer() as peer, broker.worker():
        about = broker.welcome()
        assert about["worker"] == WORKER_ID
        assert ("dns", False, 256, 1, False, "") in about["kinds"]
        assert about["held"] == ()
        broker.lease("dns", f"dns://{peer.address}", {seq: query(f"n{seq}.test") for seq in range(300)})
        results = broker.results(300)
    assert {code for code, _ in results.values()} == {0}
    for seq, (_, data) in results.items():
        assert dnslib.DNSRecord.parse(data).q.qname == f"n{seq}.test"
    assert len({port for _, port in peer.senders}) > 1
    assert len({sent[:2] for sent in peer.queries}) > 250


def test_ipv6_upstreams_are_reached(broker: FakeBroker) -> None:
    import socket

    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as peer, broker.worker():
        peer.bind(("::1", 0))
        peer.settimeout(10)
        broker.welcome()
        broker.lease("udp", f"udp://[::1]:{peer.getsockname()[1]}", {1: b"hello"})
        data, sender = peer.recvfrom(100)
        peer.sendto(data.upper(), sender)
        assert broker.results(1) == {1: (0, b"HELLO")}


@pytest.mark.parametrize("lie", [dns_peer.wrong_id, dns_peer.other_question, dns_peer.garbage, dns_peer.echo])
def test_lies_are_ignored_and_the_true_answer_is_taken(broker: FakeBroker, lie: dns_peer.Script) -> None:
    with DnsPeer(dns_peer.both(lie, dns_peer.right)) as peer, broker.worker() as worker:
        broker.welcome()
        broker.lease("dns", f"dns://{peer.address}", {1: query()})
        assert answered(broker.results(1)[1][1]) == dns_peer.ADDRESS
        assert worker.ledger.reports.ignored >= 1


def test_a_lost_query_is_sent_again_from_the_same_port_under_the_same_id(broker: FakeBroker) -> None:
    with DnsPeer(dns_peer.after(2, dns_peer.silent, dns_peer.right)) as peer, broker.worker() as worker:
        broker.welcome()
        broker.lease("dns", f"dns://{peer.address}", {1: query()})
        assert answered(broker.results(1)[1][1]) == dns_peer.ADDRESS
        assert worker.ledger.reports.resent == 2
    first, second, third = peer.queries
    assert first == second
    # The OPT may be why it was dropped.
    assert third == first[:11] + b"\0" + first[12:-11]
    assert len(set(peer.senders)) == 1


def test_an_answer_cut_short_is_asked_for_over_tcp(broker: FakeBroker) -> None:
    with DnsPeer(dns_peer.truncated, tcp=dns_peer.right) as peer, broker.worker():
        broker.welcome()
        broker.lease("dns", f"dns://{peer.address}", {seq: query() for seq in range(5)})
        results = broker.results(5)
    assert {answered(data) for _, data in results.values()} == {dns_peer.ADDRESS}
    assert len(peer.tcp_queries) == 5


def test_cut_short_and_nobody_there_for_tcp_fails_the_attempt(broker: FakeBroker) -> None:
    with DnsPeer(dns_peer.truncated) as peer, broker.worker():
        broker.welcome()
        broker.lease("dns", f"dns://{peer.address}", {1: query()})
        failed = broker.failure()
    assert (failed.session, failed.seqs, failed.code, failed.sent) == (
        SESSION,
        (1,),
        Code.CONNECT_FAILED,
        True,
    )


def test_a_lie_over_tcp_ends_the_attempt(broker: FakeBroker) -> None:
    with DnsPeer(dns_peer.truncated, tcp=dns_peer.other_question) as peer, broker.worker():
        broker.welcome()
        broker.lease("dns", f"dns://{peer.address}", {1: query()})
        assert broker.failure().code == Code.BAD_RESPONSE


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("script", [dns_peer.refuses(5), dns_peer.refuses_in_short(5), dns_peer.refuses(2)])
def test_a_refusal_is_handed_back_if_there_are_other_servers(
    broker: FakeBroker, script: dns_peer.Script, tcp: bool
) -> None:
    with DnsPeer(dns_peer.truncated if tcp else script, tcp=script) as peer, broker.worker() as worker:
        broker.welcome()
        broker.lease("dns", f"dns://{peer.address}", {1: query()}, flags=Flag.IDEMPOTENT | Flag.OTHERS)
        failed = broker.failure()
        assert (failed.seqs, failed.code, failed.sent) == ((1,), Code.OK, True)
        assert failed.details[2] & 0x80
        assert failed.details[3] & 15 in (2, 5)
        broker.lease("dns", f"dns://{peer.address}", {2: query()})
        code, data = broker.results(1)[2]
        assert (code, data[2:4]) == (Code.OK, failed.details[2:4])
        wait_until(lambda: worker.ledger.empty)


def test_a_server_on_another_machine_s_network_is_passed_over(broker: FakeBroker) -> None:
    with broker.worker() as worker:
        broker.welcome()
        origin = "dns://[fe80::1%nowhere0]:53"
        broker.lease("dns", origin, {1: query()}, flags=Flag.IDEMPOTENT | Flag.OTHERS)
        failed = broker.failure()
        assert (failed.seqs, failed.code, failed.sent) == ((1,), Code.USAGE, False)
        broker.lease("dns", origin, {2: query()})
        assert broker.results(1)[2][0] == Code.USAGE
        wait_until(lambda: worker.ledger.empty)


def test_a_refusal_is_the_result_for_what_must_not_be_repeated(broker: FakeBroker) -> None:
    with DnsPeer(dns_peer.refuses(5)) as peer, broker.worker():
        broker.welcome()
        broker.lease("dns", f"dns://{peer.address}", {1: query()}, flags=Flag.OTHERS)
        assert broker.results(1)[1][0] == Code.OK


def test_a_refusal_too_long_for_a_retry_is_the_result(broker: FakeBroker) -> None:
    def talkative(query: bytes) -> list[bytes]:
        return [dns_peer.refuses(5)(query)[0] + bytes(5000)]

    with DnsPeer(talkative) as peer, broker.worker():
        broker.welcome()
        broker.lease("dns", f"dns://{peer.address}", {1: query()}, flags=Flag.IDEMPOTENT | Flag.OTHERS)
        assert broker.results(1)[1][0] == Code.OK


def test_no_answer_to_what_has_an_opt(broker: FakeBroker) -> None:
    with DnsPeer(dns_peer.drops_edns()) as peer, broker.worker():
        broker.welcome()
        broker.lease("dns", f"dns://{peer.address}", {1: query()})
        assert answered(broker.results(1)[1][1]) == dns_peer.ADDRESS


def test_silence_ends_the_attempt_after_its_span_and_late_answers_are_ignored(broker: FakeBroker) -> None:
    with DnsPeer(held=True) as peer, broker.worker() as worker:
        broker.welcome()
        broker.lease("dns", f"dns://{peer.address}", {1: query(), 2: query()}, span_ms=100, attempt=2)
        failed = broker.failure()
        assert (failed.seqs, failed.code, failed.sent) == ((1, 2), Code.TIMEOUT, True)
        details = wire.decode_error(failed.details)
        assert (details["phase"], details["attempts"]) == ("read", 2)
        assert details["origin"] == f"dns://{peer.address}"
        peer.release()
        wait_until(lambda: worker.ledger.reports.ignored >= 2)
        assert worker.ledger.empty


def test_a_refusing_server_fails_the_attempt_at_once(broker: FakeBroker) -> None:
    with broker.worker():
        broker.welcome()
        broker.lease("dns", f"dns://{dns_peer.closed_port()}", {seq: query() for seq in range(500)})
        seqs: set[int] = set()
        while len(seqs) < 500:
            for failed in broker.next(Verb.RETRY)[2]:
                assert failed.code == Code.CONNECT_FAILED
                seqs |= set(failed.seqs)


def test_a_query_that_is_none_ends_alone(broker: FakeBroker) -> None:
    with DnsPeer() as peer, broker.worker():
        broker.welcome()
        broker.lease("dns", f"dns://{peer.address}", {1: b"nonsense", 2: query()})
        results = broker.results(2)
    assert results[1][0] == Code.USAGE
    assert results[2][0] == 0


@pytest.mark.parametrize(
    ("kind", "origin"), [("dns", "dns://name.test:53"), ("gopher", "gopher://127.0.0.1:70")]
)
def test_what_the_worker_cannot_do_is_a_usage_error(broker: FakeBroker, kind: str, origin: str) -> None:
    with broker.worker():
        broker.welcome()
        broker.lease(kind, origin, {1: query()})
        code, data = broker.results(1)[1]
    assert code == Code.USAGE
    assert wire.decode_error(data)["origin"] == origin


def test_sockets_are_replaced_after_their_share_of_requests(broker: FakeBroker) -> None:
    kinds = load()
    kinds["dns"] = replace(kinds["dns"], requests_per_socket=10)  # type: ignore[call-arg]
    with DnsPeer() as peer, broker.worker(kinds) as worker:
        broker.welcome()
        for first in range(0, 200, 50):
            broker.lease("dns", f"dns://{peer.address}", {first + n: query() for n in range(50)})
            assert len(broker.results(50)) == 50
        wait_until(lambda: worker.loop.fds <= 4 + BROKER_FDS)
    assert len(set(peer.senders)) >= 19


def test_requests_for_which_there_is_no_fd_are_handed_back(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with DnsPeer() as peer, broker.worker():
        broker.welcome()
        monkeypatch.setattr("reqpool_workers.datagram_sender.DatagramSocket", none_left)
        broker.lease("dns", f"dns://{peer.address}", {1: query(), 2: query()})
        assert broker.next(Verb.RETURN)[2] == [(SESSION, (1, 2), False)]


# --- udp -------------------------------------------------------------------------------------------


def test_each_udp_request_has_its_own_port_and_leaves_no_fd(broker: FakeBroker) -> None:
    with DnsPeer(lambda data: [data + b"!", b"second"]) as peer, broker.worker() as worker:
        broker.welcome()
        broker.lease("udp", f"udp://{peer.address}", {seq: b"%d" % seq for seq in range(50)}, flags=0)
        assert broker.results(50) == {seq: (0, b"%d!" % seq) for seq in range(50)}
        wait_until(lambda: worker.loop.fds == BROKER_FDS)
    assert len(set(peer.senders)) == 50


def test_a_udp_timeout_is_never_run_again_when_it_may_have_been_acted_on(broker: FakeBroker) -> None:
    with DnsPeer(dns_peer.silent) as peer, broker.worker():
        broker.welcome()
        broker.lease("udp", f"udp://{peer.address}", {1: b"hello"}, flags=0, span_ms=300)
        code, data = broker.results(1)[1]
        assert (code, wire.decode_error(data)["sent"]) == (Code.TIMEOUT, True)
    assert peer.queries == [b"hello"]


def test_a_payload_too_large_for_a_datagram_is_a_usage_error(broker: FakeBroker) -> None:
    with DnsPeer() as peer, broker.worker() as worker:
        broker.welcome()
        broker.lease("udp", f"udp://{peer.address}", {1: bytes(70_000)})
        assert broker.results(1)[1][0] == Code.USAGE
        wait_until(lambda: worker.loop.fds == BROKER_FDS)


# --- tcp -------------------------------------------------------------------------------------------


def test_requests_wait_for_a_grant_and_never_exceed_it(broker: FakeBroker) -> None:
    with TcpPeer(tcp_peer.drips(b"ab\n")) as peer, broker.worker() as worker:
        broker.welcome()
        origin = f"tcp://{peer.address}"
        broker.lease("tcp", origin, {seq: tcp(b"hello\n") for seq in range(6)})
        wait_until(lambda: len(worker.ledger.find(SESSION, range(6))) == 6)
        assert peer.accepted == 0
        broker.say(Verb.GRANT, origin, 1, 2, {})
        assert broker.next(Verb.GRANTED)[2:4] == [origin, 1]
        peer.wait_accepted(2)
        for _ in range(12):
            assert peer.open <= 2
            peer.go.release()
        results = broker.results(6)
        assert set(results.values()) == {(0, b"ab\n")}
        assert peer.accepted == 6
        wait_until(lambda: worker.loop.fds == BROKER_FDS)


def test_a_grant_taken_back_is_answered_when_the_connections_are_gone(broker: FakeBroker) -> None:
    with TcpPeer(tcp_peer.drips(b"a\n")) as peer, broker.worker():
        broker.welcome()
        origin = f"tcp://{peer.address}"
        broker.say(Verb.GRANT, origin, 1, 2, {})
        assert broker.next(Verb.GRANTED)[3:] == [1, 0]
        broker.lease("tcp", origin, {seq: tcp(b"hello\n") for seq in range(3)})
        peer.wait_accepted(2)
        broker.say(Verb.GRANT, origin, 2, 0, {})
        # It would wait for ever: others have the connections now.
        assert broker.next(Verb.RETURN)[2] == [(SESSION, (2,), False)]
        broker.beat()
        broker.next(Verb.HEARTBEAT)
        broker.next(Verb.HEARTBEAT)
        assert Verb.GRANTED not in [verb for verb, _, _ in broker.heard[-2:]]
        peer.go.release()
        peer.go.release()
        assert broker.next(Verb.GRANTED)[2:] == [origin, 2, 0]
        assert peer.accepted == 2
        results = [group for verb, fields, _ in broker.heard if verb is Verb.RESULTS for group in fields[3]]
        assert sorted(seq for _, seqs, _ in results for seq in seqs) == [0, 1]


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (tcp_peer.answers(b"half"), Code.CONNECTION_LOST),
        (tcp_peer.resets_after(b"half"), Code.CONNECTION_LOST),
        (tcp_peer.resets_after(b""), Code.CONNECTION_LOST),
    ],
)
def test_a_peer_that_breaks_off_after_the_request_was_sent(
    broker: FakeBroker, script: tcp_peer.Script, code: Code
) -> None:
    with TcpPeer(script) as peer, broker.worker():
        broker.welcome()
        origin = f"tcp://{peer.address}"
        broker.say(Verb.GRANT, origin, 1, 1, {})
        broker.lease("tcp", origin, {1: tcp(b"hello\n")})
        failed = broker.failure()
        assert (failed.code, failed.sent) == (code, True)
        broker.lease("tcp", origin, {2: tcp(b"hello\n")}, flags=0)
        assert broker.results(1)[2][0] == code


def test_a_refusing_tcp_server_was_sent_nothing(broker: FakeBroker) -> None:
    with broker.worker():
        broker.welcome()
        origin = f"tcp://{dns_peer.closed_port()}"
        broker.say(Verb.GRANT, origin, 1, 2, {})
        broker.lease("tcp", origin, {seq: tcp(b"hello\n") for seq in range(20)}, flags=0)
        failed = [one for _ in range(1) for one in broker.next(Verb.RETRY)[2]]
        assert {(one.code, one.sent) for one in failed} == {(Code.CONNECT_FAILED, False)}
        assert wire.decode_error(failed[0].details)["phase"] == "connect"


def test_an_endless_answer_is_cut_off_at_its_limit(broker: FakeBroker) -> None:
    with TcpPeer(tcp_peer.floods) as peer, broker.worker():
        broker.welcome()
        origin = f"tcp://{peer.address}"
        broker.say(Verb.GRANT, origin, 1, 1, {})
        broker.lease("tcp", origin, {1: tcp(b"hello\n", max_bytes=100_000)})
        assert broker.results(1)[1][0] == Code.BAD_RESPONSE
        peer.wait_all_closed()


def test_a_large_request_and_answer_pass_through_in_pieces(broker: FakeBroker) -> None:
    body = b"x" * (5 << 20) + b"\n"
    with TcpPeer(tcp_peer.echo_until(b"\n")) as peer, broker.worker():
        broker.welcome()
        origin = f"tcp://{peer.address}"
        broker.say(Verb.GRANT, origin, 1, 1, {})
        broker.lease("tcp", origin, {1: tcp(body, max_bytes=6 << 20)})
        assert broker.results(1)[1] == (0, body)


def test_timeouts_name_their_phase_and_free_the_connection_for_the_next(broker: FakeBroker) -> None:
    with TcpPeer(tcp_peer.never_answers) as peer, broker.worker():
        broker.welcome()
        origin = f"tcp://{peer.address}"
        broker.say(Verb.GRANT, origin, 1, 1, {})
        broker.lease("tcp", origin, {1: tcp(b"a\n"), 2: tcp(b"b\n")}, span_ms=200)
        phases: dict[int, tuple[str, bool]] = {}
        while len(phases) < 2:
            for failed in broker.next(Verb.RETRY)[2]:
                phases |= {
                    seq: (wire.decode_error(failed.details)["phase"], failed.sent) for seq in failed.seqs
                }
        assert phases == {1: ("read", True), 2: ("queue", False)}
        peer.wait_all_closed()
        broker.lease("tcp", origin, {3: tcp(b"c\n")})
        peer.wait_accepted(2)


def test_timeouts_say_where_the_time_went(broker: FakeBroker) -> None:
    with TcpPeer(tcp_peer.never_answers) as peer, broker.worker():
        broker.welcome()
        origin = f"tcp://{peer.address}"
        broker.say(Verb.GRANT, origin, 1, 1, {})
        broker.lease("tcp", origin, {1: tcp(b"a\n"), 2: tcp(b"b\n")}, span_ms=154, queued_ms=1846)
        texts: dict[int, str] = {}
        while len(texts) < 2:
            for failed in broker.next(Verb.RETRY)[2]:
                texts |= {seq: wire.decode_error(failed.details)["text"] for seq in failed.seqs}
        in_queue = re.fullmatch(
            r"no answer within 2\.000 s: (1\.8\d\d) s in the queue, (0\.1\d\d) s waiting for the answer",
            texts[1],
        )
        assert in_queue
        assert float(in_queue[1]) + float(in_queue[2]) == pytest.approx(2.0)
        assert texts[2] == "no answer within 2.000 s, all of them in the queue"


def test_a_cancelled_request_that_must_not_be_repeated_is_reported_and_its_connection_is_closed(
    broker: FakeBroker,
) -> None:
    with TcpPeer(tcp_peer.never_answers) as peer, broker.worker() as worker:
        broker.welcome()
        origin = f"tcp://{peer.address}"
        broker.say(Verb.GRANT, origin, 1, 1, {})
        broker.lease("tcp", origin, {1: tcp(b"a\n")}, flags=0)
        wait_until(lambda: peer.received == b"a\n")
        broker.say(Verb.CANCEL, [(SESSION, (1, 99))])
        peer.wait_all_closed()
        ((code, data),) = broker.results(1).values()
        assert code == Code.CANCELLED
        assert wire.decode_error(data)["sent"] is True
        wait_until(lambda: worker.ledger.empty)


# --- the conversation ------------------------------------------------------------------------------


def test_after_a_stale_message_the_worker_says_hello_again_with_what_it_holds(broker: FakeBroker) -> None:
    with DnsPeer() as peer, DnsPeer(held=True) as slow, broker.worker():
        broker.welcome()
        broker.lease("dns", f"dns://{peer.address}", {1: query()})
        done = broker.results(1)
        broker.lease("dns", f"dns://{slow.address}", {2: query()})
        slow.wait_for_queries(1)
        broker.seen = 1_000_000
        broker.lease("dns", f"dns://{peer.address}", {3: query()})
        about = broker.welcome()
        assert about["epoch"] == broker.epoch
        held = {seq for session, seqs in about["held"] for seq in seqs}
        assert held == {1, 2}, "the stale lease must not be taken"
        number, (group,) = broker.next(Verb.RESULTS)[2:]
        assert (number, group) == (1, (SESSION, (1,), 0))
        assert wire.decode_blob(broker.heard[-1][2][0])[2] == done[1][1]
        slow.release()
        assert set(broker.results(1)) == {2}
    assert len(peer.queries) == 1


def test_results_received_are_not_held_any_longer(broker: FakeBroker) -> None:
    with DnsPeer() as peer, broker.worker() as worker:
        broker.welcome()
        broker.lease("dns", f"dns://{peer.address}", {1: query()})
        broker.lease("dns", f"dns://{peer.address}", {2: query()}, flags=0)
        broker.results(2)
        broker.beat(received=2, undelivered=(1, 2))
        wait_until(lambda: list(worker.conversation.outbox.retained()) == [(SESSION, (2,))])
        broker.beat(received=2)
        wait_until(lambda: not list(worker.conversation.outbox.retained()))


def test_a_broker_that_was_killed_is_dialled_anew_at_once() -> None:
    with FakeBroker(liveness_ms=600_000) as broker, broker.worker():
        broker.welcome()
        broker.restart()
        assert broker.welcome()["epoch"] == broker.epoch


def test_a_broker_dialled_anew_again_and_again_costs_no_fd() -> None:
    with FakeBroker(liveness_ms=600_000) as broker, broker.worker():
        broker.welcome()
        for _ in range(3):
            broker.restart()
            broker.welcome()
        with no_leak():
            for _ in range(20):
                broker.restart()
                broker.welcome()


def test_a_silent_broker_is_dialled_anew() -> None:
    with FakeBroker(liveness_ms=200) as broker, broker.worker():
        broker.welcome()
        assert broker.welcome()["epoch"] == broker.epoch


def test_a_rejected_worker_says_hello_again(broker: FakeBroker) -> None:
    with broker.worker():
        broker.welcome()
        for _ in range(3):
            broker.send(wire.encode(Verb.REJECT, Reject.UNKNOWN, "who are you?", {}))
            broker.welcome()


def test_garbage_from_the_broker_is_counted_and_changes_nothing(broker: FakeBroker) -> None:
    with DnsPeer() as peer, broker.worker() as worker:
        broker.welcome()
        for frame in (
            b"",
            b"\xc1",
            b"\x91\x63",
            wire.encode(Verb.LEASE, 7, 0),
            wire.encode(Verb.SUBMIT, 1, 1, []),
        ):
            broker.send(frame)
        broker.lease("dns", f"dns://{peer.address}", {1: query()})
        assert broker.results(1)[1][0] == 0
        assert worker.ledger.reports.ignored == 5
    assert len(broker.hellos) == 1


def test_connections_are_reported_in_hello_and_none_is_opened_without_a_new_grant(broker: FakeBroker) -> None:
    with TcpPeer(tcp_peer.drips(b"a\n")) as peer, broker.worker():
        broker.welcome()
        origin = f"tcp://{peer.address}"
        broker.say(Verb.GRANT, origin, 1, 3, {})
        broker.lease("tcp", origin, {seq: tcp(b"hello\n") for seq in range(2)})
        peer.wait_accepted(2)
        broker.send(wire.encode(Verb.REJECT, Reject.UNKNOWN, "", {}))
        assert broker.welcome()["slots"] == ((origin, 2),)
        broker.lease("tcp", origin, {5: tcp(b"hello\n")})
        broker.beat()
        broker.next(Verb.HEARTBEAT)
        assert peer.accepted == 2
        broker.say(Verb.GRANT, origin, 1, 3, {})
        peer.wait_accepted(3)


# --- the end ---------------------------------------------------------------------------------------


def test_a_drained_worker_returns_what_was_not_sent_finishes_the_rest_and_says_goodbye(
    broker: FakeBroker,
) -> None:
    with TcpPeer(tcp_peer.drips(b"a\n")) as peer, broker.worker():
        broker.welcome()
        origin = f"tcp://{peer.address}"
        broker.say(Verb.GRANT, origin, 1, 1, {})
        broker.lease("tcp", origin, {1: tcp(b"a\n"), 2: tcp(b"b\n"), 3: tcp(b"c\n")}, flags=0)
        wait_until(lambda: peer.received == b"a\n")
        broker.say(Verb.DRAIN)
        returned = {seq for _, seqs, _ in broker.next(Verb.RETURN)[2] for seq in seqs}
        while len(returned) < 2:
            returned |= {seq for _, seqs, _ in broker.next(Verb.RETURN)[2] for seq in seqs}
        assert returned == {2, 3}
        assert Verb.DRAIN in [verb for verb, _, _ in broker.heard]
        broker.lease("tcp", origin, {4: tcp(b"d\n")})
        assert broker.next(Verb.RETURN)[2] == [(SESSION, (4,), False)]
        peer.go.release()
        assert set(broker.results(1)) == {1}
        while worker_not_gone(broker):
            broker.beat(received=1)
    assert peer.received == b"a\n"


def worker_not_gone(broker: FakeBroker) -> bool:
    broker.next(Verb.HEARTBEAT, Verb.GOODBYE)
    return broker.heard[-1][0] is not Verb.GOODBYE


def start(broker: FakeBroker, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "reqpool_workers", "--broker", broker.url, "--id", WORKER_ID.hex(), *arguments]
    )


def test_sigterm_drains_the_process_and_it_exits_with_0(broker: FakeBroker) -> None:
    with start(broker, "--name", "worker-7") as process, DnsPeer() as peer:
        about = broker.welcome()
        assert (about["worker"], about["name"], about["pid"]) == (WORKER_ID, "worker-7", process.pid)
        broker.lease("dns", f"dns://{peer.address}", {1: query()})
        broker.results(1)
        process.send_signal(signal.SIGTERM)
        broker.next(Verb.DRAIN)
        while worker_not_gone(broker):
            broker.beat()
        assert process.wait(10) == 0


def test_the_second_signal_ends_the_process_at_once(broker: FakeBroker) -> None:
    with start(broker) as process, DnsPeer(dns_peer.silent) as peer:
        broker.welcome()
        broker.lease("dns", f"dns://{peer.address}", {1: query()}, span_ms=60_000)
        peer.wait_for_queries(1)
        process.send_signal(signal.SIGTERM)
        broker.next(Verb.DRAIN)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 128 + signal.SIGINT


def test_the_process_ends_with_its_parent(broker: FakeBroker) -> None:
    with (
        subprocess.Popen(["sleep", "60"]) as parent,
        start(broker, "--parent-pid", str(parent.pid)) as process,
    ):
        broker.welcome()
        parent.kill()
        assert process.wait(10) == 0


def test_a_process_whose_parent_has_died_hands_back_what_it_has_not_sent(broker: FakeBroker) -> None:
    with (
        subprocess.Popen(["sleep", "60"]) as parent,
        start(broker, "--parent-pid", str(parent.pid)) as process,
        DnsPeer() as peer,
    ):
        broker.welcome()
        broker.lease("tcp", "tcp://127.0.0.1:9", {1: b"it waits for a connection"}, flags=0)
        broker.lease("dns", f"dns://{peer.address}", {2: query()}, span_ms=60_000)
        peer.wait_for_queries(1)
        parent.kill()
        (returned,) = broker.next(Verb.RETURN)[2:]
        assert returned == [(SESSION, (1,), False)]
        assert process.wait(10) == 0


def test_the_process_that_leaves_something_in_doubt_ends_with_3(
    broker: FakeBroker, capfd: pytest.CaptureFixture[str]
) -> None:
    with (
        subprocess.Popen(["sleep", "60"]) as parent,
        start(broker, "--parent-pid", str(parent.pid)) as process,
        DnsPeer() as peer,
    ):
        broker.welcome()
        broker.lease("dns", f"dns://{peer.address}", {1: query()}, flags=0)
        broker.results(1)
        parent.kill()
        assert process.wait(10) == 3
    assert Verb.GOODBYE not in [verb for verb, _, _ in broker.heard]
    assert "still running: 0; in doubt: 1 " in capfd.readouterr().err


ENDS_IN_DOUBT = """
import os, signal, sys
from reqpool_workers import __main__, worker_process

class Last:
    # Called after the interpreter has put back what signals do by default, as it clears its modules.
    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGTERM):
        kill(pid, number)

sys.modules["last"] = Last()
worker_process.WorkerProcess.run = lambda self: False
sys.exit(__main__.main(["--broker", sys.argv[1]]))
"""


def test_a_signal_that_comes_too_late_does_not_hide_that_something_was_left_in_doubt(
    broker: FakeBroker,
) -> None:
    assert subprocess.run([sys.executable, "-c", ENDS_IN_DOUBT, broker.url], check=False).returncode == 3


def test_who_is_told_twice_and_holds_nothing_has_ended_in_order(broker: FakeBroker) -> None:
    with start(broker) as process:
        broker.welcome()
        process.send_signal(signal.SIGTERM)
        broker.next(Verb.DRAIN)  # it waits until that is confirmed, which it never is
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_a_stopped_process_believes_nothing_that_lay_in_its_socket() -> None:
    with FakeBroker(liveness_ms=300) as broker, start(broker) as process, DnsPeer() as peer:
        try:
            broker.welcome()
            os.kill(process.pid, signal.SIGSTOP)
            broker.lease("dns", f"dns://{peer.address}", {1: query()}, flags=0)
            with pytest.raises(AssertionError):
                broker.next(Verb.HELLO, timeout_s=0.6)
            os.kill(process.pid, signal.SIGCONT)
            assert broker.welcome()["held"] == ()
            assert peer.queries == []
        finally:
            process.kill()


def test_a_worker_whose_parent_is_gone_does_not_start(broker: FakeBroker) -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    with pytest.raises(ProcessLookupError):
        WorkerProcess(broker.url, WORKER_ID, "x", {}, parent_pid=gone.pid)


def test_a_turn_reads_messages_of_the_broker_for_a_bounded_time(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reqpool_workers.worker_process.READ_S", -1.0)
    worker = WorkerProcess(broker.url, WORKER_ID, "x", {})
    taken: list[list[bytes]] = []
    monkeypatch.setattr(worker.conversation, "take", lambda frames, now_s: taken.append(frames))
    monkeypatch.setattr(worker, "_socket", MagicMock(readable=True))
    assert worker._end_turn()
    assert len(taken) == 2
    monkeypatch.undo()
    worker.stop()
    worker.run()
