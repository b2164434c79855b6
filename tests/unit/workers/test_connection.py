"""Connections that are kept: reuse, pipelining, handshakes, and who reads which answer."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator

import pytest

from reqpool_contract import wire
from reqpool_contract.errors import Code
from reqpool_contract.origin_names import endpoint
from reqpool_contract.wire import Verb
from reqpool_workers import connection_io, happy_eyeballs
from reqpool_workers.connection_state import TRANSITIONS, ConnectionState
from reqpool_workers.unsent import Unsent
from support.fake_worker_broker import BROKER_FDS, SESSION, FakeBroker
from support.leaks import no_leak
from support.lines import Lines, lines, on_word
from support.tcp_peer import Connection, Script, TcpPeer, echo_until, never_answers
from support.wait import wait_until


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    with no_leak(), FakeBroker() as broker:
        yield broker


def test_every_state_can_be_left_except_the_last() -> None:
    assert set(TRANSITIONS) == set(ConnectionState)
    for state, following in TRANSITIONS.items():
        assert (ConnectionState.CLOSED in following) == (state is not ConnectionState.CLOSED)


def test_a_kept_connection_serves_one_request_after_the_other(broker: FakeBroker) -> None:
    with TcpPeer(echo_until(b"\n")) as peer, broker.worker(lines(1)):
        broker.welcome()
        origin = f"lines://{peer.address}"
        broker.say(Verb.GRANT, origin, 1, 1, {})
        broker.lease("lines", origin, {seq: b"%d\n" % seq for seq in range(200)})
        assert broker.results(200) == {seq: (0, b"%d" % seq) for seq in range(200)}
    assert peer.accepted == 1


def test_a_deep_connection_takes_requests_before_the_answers_come(broker: FakeBroker) -> None:
    with TcpPeer(on_word(b"")) as peer, broker.worker(lines(50)):
        broker.welcome()
        origin = f"lines://{peer.address}"
        broker.say(Verb.GRANT, origin, 1, 1, {})
        broker.lease("lines", origin, {0: b"0\n"})
        wait_until(lambda: peer.received == b"0\n")
        broker.lease("lines", origin, {seq: b"%d\n" % seq for seq in range(1, 200)})
        peer.go.release()
        assert broker.results(200) == {seq: (0, b"%d" % seq) for seq in range(200)}
    assert peer.accepted == 1


def test_a_large_request_is_written_a_part_in_each_turn(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[float, int]] = []
    large = b"x" * (10 * connection_io.WRITE_BYTES_PER_TURN) + b"\n"
    with TcpPeer(echo_until(b"\n")) as peer, broker.worker(lines()) as worker:

        class Noting(Unsent):
            def send(self, to: socket.socket, most_bytes: int) -> None:
                before = sum(map(len, self.pieces))
                super().send(to, most_bytes)
                written.append((worker.loop.now_s, before - sum(map(len, self.pieces))))

        monkeypatch.setattr(connection_io, "Unsent", Noting)
        broker.welcome()
        origin = f"lines://{peer.address}"
        broker.say(Verb.GRANT, origin, 1, 1, {})
        broker.lease("lines", origin, {1: large})
        assert broker.results(1) == {1: (0, large[:-1])}
    assert sum(size for _, size in written) == len(large)
    assert max(size for _, size in written) <= connection_io.WRITE_BYTES_PER_TURN
    assert len({turn_s for turn_s, _ in written}) == len(written)


def test_a_cancelled_request_never_leaves_its_answer_to_the_next(broker: FakeBroker) -> None:
    with TcpPeer(on_word(b"")) as peer, broker.worker(lines(4)) as worker:
        broker.welcome()
        origin = f"lines://{peer.address}"
        broker.say(Verb.GRANT, origin, 1, 1, {})
        broker.lease("lines", origin, {1: b"one\n"})
        wait_until(lambda: peer.received == b"one\n")
        broker.lease("lines", origin, {2: b"two\n", 3: b"three\n"})
        wait_until(lambda: len(worker.ledger.find(SESSION, (2, 3))) == 2)
        broker.say(Verb.CANCEL, [(SESSION, (1,))])
        broker.lease("lines", origin, {4: b"four\n"})
        find = worker.ledger.find
        wait_until(lambda: find(SESSION, (4,)) and not find(SESSION, (1,)))
        peer.go.release()
        assert broker.results(2) == {2: (0, b"two"), 3: (0, b"three")}
        peer.wait_accepted(2)
        peer.go.release()
        assert broker.results(1) == {4: (0, b"four")}


def test_a_late_request_is_closed_with_its_connection(broker: FakeBroker) -> None:
    with TcpPeer(on_word(b"")) as peer, broker.worker(lines(1)):
        broker.welcome()
        origin = f"lines://{peer.address}"
        broker.say(Verb.GRANT, origin, 1, 1, {})
        broker.lease("lines", origin, {1: b"one\n"}, span_ms=50)
        broker.lease("lines", origin, {2: b"two\n"})
        assert broker.failure().code == Code.TIMEOUT
        peer.wait_accepted(2)
        peer.go.release()
        peer.go.release()
        assert broker.results(1) == {2: (0, b"two")}


def test_a_request_waits_for_the_handshake(broker: FakeBroker) -> None:
    with TcpPeer(echo_until(b"\n")) as peer, broker.worker(lines(1)):
        broker.welcome()
        origin = f"lines://{peer.address}/greet"
        broker.say(Verb.GRANT, origin, 1, 1, {})
        broker.lease("lines", origin, {1: b"one\n"})
        assert broker.results(1) == {1: (0, b"one")}
        assert peer.received == b"HELLO\none\n"


def greets_on_word(peer_side: Connection) -> None:
    """A script: greet when the test says so, then echo."""
    greeting = peer_side.read_until(b"\n")
    if peer_side.peer.wait_for_go():
        peer_side.send(greeting)
        echo_until(b"\n")(peer_side)


def test_a_handshake_outlives_the_request_it_began_for(broker: FakeBroker) -> None:
    with TcpPeer(greets_on_word) as peer, broker.worker(lines(1)):
        broker.welcome()
        origin = f"lines://{peer.address}/greet"
        broker.say(Verb.GRANT, origin, 1, 1, {})
        broker.lease("lines", origin, {1: b"one\n"}, span_ms=50)
        failed = broker.failure()
        assert (failed.code, failed.sent) == (Code.TIMEOUT, False)
        assert wire.decode_error(failed.details)["phase"] == "connect"
        # Who comes next has it, and is in the same phase.
        broker.lease("lines", origin, {2: b"two\n"}, span_ms=50)
        assert wire.decode_error(broker.failure().details)["phase"] == "connect"
        broker.lease("lines", origin, {3: b"three\n"})
        peer.go.release()
        assert broker.results(1) == {3: (0, b"three")}
        assert (peer.accepted, peer.received) == (1, b"HELLO\nthree\n")


def test_a_connection_on_its_way_for_nobody_is_given_up_with_its_grant(broker: FakeBroker) -> None:
    with TcpPeer(greets_on_word) as peer, broker.worker(lines(1)):
        broker.welcome()
        origin = f"lines://{peer.address}/greet"
        broker.say(Verb.GRANT, origin, 1, 1, {})
        assert broker.next(Verb.GRANTED)[2:] == [origin, 1, 0]
        broker.lease("lines", origin, {1: b"one\n"}, span_ms=50)
        broker.failure()
        broker.say(Verb.GRANT, origin, 2, 0, {})
        assert broker.next(Verb.GRANTED)[2:] == [origin, 2, 0]


def test_a_handshake_that_is_refused_ends_the_request_for_good_and_nothing_was_sent(
    broker: FakeBroker,
) -> None:
    with TcpPeer(lambda peer_side: peer_side.send(b"NO\n")) as peer, broker.worker(lines(1)):
        broker.welcome()
        origin = f"lines://{peer.address}/greet"
        broker.say(Verb.GRANT, origin, 1, 1, {})
        broker.lease("lines", origin, {1: b"one\n"}, flags=0)
        code, data = broker.results(1)[1]
        assert code == Code.UPSTREAM_REFUSED
        assert wire.decode_error(data)["sent"] is False


def test_garbage_ends_the_oldest_request_and_loses_those_behind_it(broker: FakeBroker) -> None:
    with TcpPeer(on_word(b"?\n")) as peer, broker.worker(lines(4)) as worker:
        broker.welcome()
        origin = f"lines://{peer.address}"
        broker.say(Verb.GRANT, origin, 1, 1, {})
        broker.lease("lines", origin, {1: b"one\n"})
        wait_until(lambda: peer.received == b"one\n")
        broker.lease("lines", origin, {2: b"two\n"})
        wait_until(lambda: worker.ledger.find(SESSION, (2,)))
        peer.go.release()
        assert broker.results(1)[1][0] == Code.BAD_RESPONSE
        failed = broker.failure()
        assert (failed.seqs, failed.code, failed.sent) == ((2,), Code.CONNECTION_LOST, True)


def test_an_idle_connection_that_the_peer_closes_is_replaced(broker: FakeBroker) -> None:
    def once(peer_side: Connection) -> None:
        peer_side.send(peer_side.read_until(b"\n"))

    with TcpPeer(once) as peer, broker.worker(lines(1)) as worker:
        broker.welcome()
        origin = f"lines://{peer.address}"
        broker.say(Verb.GRANT, origin, 1, 1, {})
        for seq in range(3):
            broker.lease("lines", origin, {seq: b"x\n"})
            assert broker.results(1) == {seq: (0, b"x")}
            wait_until(lambda: worker.loop.fds == BROKER_FDS)
    assert peer.accepted == 3


def test_a_grant_taken_back_closes_idle_connections_first(broker: FakeBroker) -> None:
    with TcpPeer(echo_until(b"\n")) as peer, broker.worker(lines(1)):
        broker.welcome()
        origin = f"lines://{peer.address}"
        broker.say(Verb.GRANT, origin, 1, 4, {})
        assert broker.next(Verb.GRANTED)[3:] == [1, 0]
        broker.lease("lines", origin, dict.fromkeys(range(50), b"x\n"))
        broker.results(50)
        assert peer.accepted == 4
        broker.say(Verb.GRANT, origin, 2, 1, {})
        assert broker.next(Verb.GRANTED)[2:] == [origin, 2, 1]
        wait_until(lambda: peer.open == 1)


# --- connections that their peer had given up -------------------------------------------------------


def closes_unasked(after: int) -> Script:
    """A script: echo so many lines, then close at the next one's arrival without a reply; from the second
    connection on, echo for ever."""

    def script(peer_side: Connection) -> None:
        if peer_side.peer.accepted > 1:
            echo_until(b"\n")(peer_side)
            return
        for _ in range(after):
            peer_side.send(peer_side.read_until(b"\n"))
        peer_side.read_until(b"\n")

    return script


def warm(broker: FakeBroker, origin: str, slots: int = 1, **policy: int) -> None:
    """Have a connection that has served one request."""
    broker.welcome()
    broker.say(Verb.GRANT, origin, 1, slots, policy)
    broker.lease("lines", origin, {1: b"one\n"})
    assert broker.results(1) == {1: (0, b"one")}


def test_a_repeatable_request_on_a_stale_connection_has_a_fresh_one(broker: FakeBroker) -> None:
    with TcpPeer(closes_unasked(1)) as peer, broker.worker(lines()):
        origin = f"lines://{peer.address}/begun"
        warm(broker, origin)
        broker.lease("lines", origin, {2: b"two\n"})
        assert broker.results(1) == {2: (0, b"two")}
    assert peer.accepted == 2
    assert peer.received == b"one\ntwo\ntwo\n"
    assert not [verb for verb, *_ in broker.heard if verb is Verb.RETRY]


def test_what_must_not_be_repeated_is_not(broker: FakeBroker) -> None:
    with TcpPeer(closes_unasked(1)) as peer, broker.worker(lines()):
        origin = f"lines://{peer.address}/begun"
        warm(broker, origin)
        broker.lease("lines", origin, {2: b"two\n"}, flags=0)
        code, data = broker.results(1)[2]
        assert (code, wire.decode_error(data)["sent"]) == (Code.CONNECTION_LOST, True)
    assert peer.accepted == 1


def test_without_retries_nothing_is_repeated_at_all(broker: FakeBroker) -> None:
    with TcpPeer(closes_unasked(1)) as peer, broker.worker(lines()):
        origin = f"lines://{peer.address}/begun"
        warm(broker, origin, retries=0)
        broker.lease("lines", origin, {2: b"two\n"})
        assert broker.failure().code == Code.CONNECTION_LOST
    assert peer.accepted == 1


def test_a_connection_that_never_served_is_not_stale(broker: FakeBroker) -> None:
    with TcpPeer(closes_unasked(0)) as peer, broker.worker(lines()):
        broker.welcome()
        origin = f"lines://{peer.address}/begun"
        broker.say(Verb.GRANT, origin, 1, 1, {})
        broker.lease("lines", origin, {1: b"one\n"})
        assert broker.failure().code == Code.CONNECTION_LOST
    assert peer.accepted == 1


def test_once_a_byte_of_the_answer_has_come_nothing_is_repeated(broker: FakeBroker) -> None:
    def begins(peer_side: Connection) -> None:
        peer_side.send(peer_side.read_until(b"\n"))
        peer_side.read_until(b"\n")
        peer_side.send(b"tw")

    with TcpPeer(begins) as peer, broker.worker(lines()):
        origin = f"lines://{peer.address}/begun"
        warm(broker, origin)
        broker.lease("lines", origin, {2: b"two\n"})
        assert broker.failure().code == Code.CONNECTION_LOST
    assert peer.accepted == 1


def test_it_is_tried_once_more_and_not_twice(broker: FakeBroker) -> None:
    def answers_one_and_reads_another(peer_side: Connection) -> None:
        data = peer_side.read_until(b"\n")
        if peer_side.peer.accepted == 1:
            peer_side.send(data)
            data = b""
        while data.count(b"\n") < 2 and (more := peer_side.read()):
            data += more
        if peer_side.peer.accepted > 1:
            peer_side.send(b"2\n")

    with TcpPeer(answers_one_and_reads_another) as peer, broker.worker(lines(2)):
        broker.welcome()
        origin = f"lines://{peer.address}/begun"
        broker.say(Verb.GRANT, origin, 1, 1, {})
        broker.lease("lines", origin, {1: b"1\n"})
        assert broker.results(1) == {1: (0, b"1")}
        broker.lease("lines", origin, {2: b"2\n", 3: b"3\n"})
        # Both were on the stale one. On the fresh one the first is answered; the second has had its chance.
        assert broker.results(1) == {2: (0, b"2")}
        failed = broker.failure()
        assert (failed.seqs, failed.code, failed.sent) == ((3,), Code.CONNECTION_LOST, True)
    assert peer.accepted == 2


def test_what_was_tried_once_more_ends_though_another_beside_it_is_tried_again(broker: FakeBroker) -> None:
    def answers_the_first_line(peer_side: Connection) -> None:
        def read_lines(count: int, data: bytes = b"") -> bytes:
            while data.count(b"\n") < count and (more := peer_side.read()):
                data += more
            return data

        number = peer_side.peer.accepted
        first = read_lines(2 if number == 2 else 1)
        peer_side.send(first[:2])
        if number == 1:
            read_lines(2)
        elif number == 2:
            read_lines(3, first)
        else:
            peer_side.wait_for_end()

    with TcpPeer(answers_the_first_line) as peer, broker.worker(lines(3)):
        broker.welcome()
        origin = f"lines://{peer.address}/begun"
        broker.say(Verb.GRANT, origin, 1, 1, {})
        broker.lease("lines", origin, {1: b"1\n"})
        assert broker.results(1) == {1: (0, b"1")}
        broker.lease("lines", origin, {2: b"2\n", 3: b"3\n"})
        assert broker.results(1) == {2: (0, b"2")}
        broker.lease("lines", origin, {4: b"4\n"})
        # The second connection closes with 3 and 4 unanswered: 3 has had its chance, 4 has another.
        failed = broker.failure()
        assert (failed.seqs, failed.code, failed.sent) == ((3,), Code.CONNECTION_LOST, True)
        assert broker.results(1) == {4: (0, b"4")}
    assert peer.accepted == 3


@pytest.mark.parametrize("depth", [1, 8])
def test_many_that_need_a_fresh_connection_share_it_without_delay(broker: FakeBroker, depth: int) -> None:
    count = 8

    def gives_up_at_once(peer_side: Connection) -> None:
        if peer_side.peer.accepted > 1:
            echo_until(b"\n")(peer_side)
            return
        peer_side.send(peer_side.read_until(b"\n"))
        peer_side.read_until(b"\n")

    with TcpPeer(gives_up_at_once) as peer, broker.worker(lines(depth)):
        origin = f"lines://{peer.address}/begun"
        warm(broker, origin)
        broker.lease("lines", origin, {seq: b"%d\n" % seq for seq in range(10, 10 + count)})
        assert broker.results(count) == {seq: (0, b"%d" % seq) for seq in range(10, 10 + count)}
    assert peer.accepted == 2


def test_an_idle_connection_makes_room_for_a_fresh_one(broker: FakeBroker) -> None:
    def script(peer_side: Connection) -> None:
        first = peer_side.peer.accepted == 1
        peer_side.send(peer_side.read_until(b"\n"))
        line = peer_side.read_until(b"\n")
        if line == b"give up\n" and not fresh:
            fresh.append(first)
            return
        peer_side.send(line)
        echo_until(b"\n")(peer_side)

    fresh: list[bool] = []
    with TcpPeer(on_word(b"")) as slow, TcpPeer(script) as peer, broker.worker(lines()):
        broker.welcome()
        origin = f"lines://{peer.address}/begun"
        broker.say(Verb.GRANT, origin, 1, 2, {})
        broker.lease("lines", origin, {1: b"one\n", 2: b"two\n"})
        assert len(broker.results(2)) == 2
        assert peer.accepted == 2
        broker.lease("lines", origin, {3: b"give up\n"})
        assert broker.results(1) == {3: (0, b"give up")}
        assert peer.accepted == 3
        assert slow.accepted == 0


# --- times ------------------------------------------------------------------------------------------


def test_an_answer_that_is_late_by_the_upstreams_measure_closes_the_connection(broker: FakeBroker) -> None:
    with TcpPeer(on_word(b"")) as peer, broker.worker(lines(4)):
        broker.welcome()
        origin = f"lines://{peer.address}"
        broker.say(Verb.GRANT, origin, 1, 1, {"read_ms": 100})
        broker.lease("lines", origin, {1: b"one\n"})
        wait_until(lambda: peer.received == b"one\n")
        broker.lease("lines", origin, {2: b"two\n"})
        code, data = broker.results(1)[1]
        about = wire.decode_error(data)
        assert (code, about["phase"], about["sent"]) == (Code.TIMEOUT, "read", True)
        assert about["text"] == "no answer within 0.1 s (read timeout of this upstream)"
        failed = broker.failure()
        assert (failed.seqs, failed.code) == ((2,), Code.CONNECTION_LOST)
        broker.lease("lines", origin, {3: b"three\n"})
        peer.wait_accepted(2)
        peer.go.release(2)
        assert broker.results(1) == {3: (0, b"three")}


def test_a_read_timeout_that_comes_later_counts_for_connections_that_are_there(broker: FakeBroker) -> None:
    with TcpPeer(on_word(b"")) as peer, broker.worker(lines()):
        broker.welcome()
        origin = f"lines://{peer.address}"
        broker.say(Verb.GRANT, origin, 1, 1, {})
        broker.lease("lines", origin, {1: b"one\n"})
        wait_until(lambda: peer.received == b"one\n")
        broker.say(Verb.GRANT, origin, 1, 1, {"read_ms": 50})
        assert broker.results(1)[1][0] == Code.TIMEOUT
        peer.go.release()


def test_a_slow_answer_costs_those_behind_it_nothing(broker: FakeBroker) -> None:
    with TcpPeer(on_word(b"")) as peer, broker.worker(lines(4)):
        broker.welcome()
        origin = f"lines://{peer.address}"
        broker.say(Verb.GRANT, origin, 1, 1, {"read_ms": 1_000})
        broker.lease("lines", origin, {1: b"one\n"}, flags=0)
        wait_until(lambda: peer.received == b"one\n")
        broker.lease("lines", origin, {2: b"two\n", 3: b"three\n"}, flags=0)
        assert broker.results(1)[1][0] == Code.TIMEOUT
        peer.go.release()
        assert broker.results(2) == {2: (0, b"two"), 3: (0, b"three")}
        peer.wait_all_closed()


def test_a_connection_on_which_nothing_comes_is_given_up(broker: FakeBroker) -> None:
    with TcpPeer(never_answers) as peer, broker.worker(lines(4)):
        broker.welcome()
        origin = f"lines://{peer.address}"
        broker.say(Verb.GRANT, origin, 1, 1, {"read_ms": 50})
        broker.lease("lines", origin, {seq: b"%d\n" % seq for seq in range(3)}, flags=0)
        codes = {seq: code for seq, (code, _) in broker.results(3).items()}
        assert codes[0] == Code.TIMEOUT
        assert set(codes.values()) == {Code.TIMEOUT, Code.CONNECTION_LOST}
        peer.wait_all_closed()


def test_a_connection_that_does_not_come_about_in_time_is_given_up(broker: FakeBroker) -> None:
    with TcpPeer(never_answers) as peer, broker.worker(lines()):
        broker.welcome()
        origin = f"lines://{peer.address}/greet"
        broker.say(Verb.GRANT, origin, 1, 1, {"connect_ms": 50})
        broker.lease("lines", origin, {1: b"one\n"})
        failed = broker.failure()
        assert (failed.code, failed.sent) == (Code.CONNECT_FAILED, False)
        about = wire.decode_error(failed.details)
        assert (about["phase"], about["text"]) == ("connect", "no connection within 0.05 s")
        peer.wait_all_closed()


def test_an_idle_connection_is_closed_after_its_time(broker: FakeBroker) -> None:
    with TcpPeer(echo_until(b"\n")) as peer, broker.worker(lines()):
        origin = f"lines://{peer.address}"
        warm(broker, origin, idle_ms=10)
        peer.wait_all_closed()
        broker.lease("lines", origin, {2: b"two\n"})
        assert broker.results(1) == {2: (0, b"two")}
    assert peer.accepted == 2


def test_an_old_connection_serves_nobody_new(broker: FakeBroker) -> None:
    with TcpPeer(echo_until(b"\n")) as peer, broker.worker(lines()):
        origin = f"lines://{peer.address}"
        warm(broker, origin, lifetime_ms=1)
        wait_until(lambda: peer.open == 0 or peer.accepted == 1)
        for seq in (2, 3):
            broker.beat()  # time passes
            broker.next(Verb.HEARTBEAT)
            broker.lease("lines", origin, {seq: b"x\n"})
            assert broker.results(1) == {seq: (0, b"x")}
    assert peer.accepted == 3


def test_a_policy_that_changes_under_the_same_number_counts_from_then_on(broker: FakeBroker) -> None:
    with TcpPeer(echo_until(b"\n")) as peer, broker.worker(lines()):
        origin = f"lines://{peer.address}"
        warm(broker, origin)
        broker.say(Verb.GRANT, origin, 1, 1, {"idle_ms": 1})
        peer.wait_all_closed()
        broker.say(Verb.GRANT, origin, 0, 5, {})  # an older one: it comes too late
        broker.lease("lines", origin, dict.fromkeys(range(10, 30), b"x\n"))
        broker.results(20)
    assert peer.accepted == 2


# --- who may use a connection -----------------------------------------------------------------------


def test_settings_that_are_not_the_origins_are_refused(broker: FakeBroker) -> None:
    with TcpPeer(echo_until(b"\n")) as peer, broker.worker(lines()):
        broker.welcome()
        public = f"lines://app@{peer.address}"
        origin, settings = endpoint(public, {"password": "right"})
        _, others = endpoint(public, {"password": "wrong"})
        for seq, (name, given) in enumerate(
            [(origin, others), (origin, b""), (public, settings), (f"{public}#ü", settings)]
        ):
            broker.say(Verb.GRANT, name, 1, 1, {})
            broker.lease("lines", name, {seq: b"x\n"}, settings=given)
            code, data = broker.results(1)[seq]
            assert code == Code.USAGE
            assert "do not match this origin" in wire.decode_error(data)["text"]
        broker.lease("lines", origin, {10: b"x\n"}, settings=settings)
        assert broker.results(1) == {10: (0, b"x")}
        broker.lease("lines", origin, {11: b"x\n"}, settings=others)  # also when it is known
        assert broker.results(1)[11][0] == Code.USAGE
    assert peer.accepted == 1


def test_unequal_settings_never_share_a_connection(broker: FakeBroker) -> None:
    with TcpPeer(echo_until(b"\n")) as peer, broker.worker(lines(8)):
        broker.welcome()
        users = [endpoint(f"lines://app@{peer.address}", {"password": word}) for word in ("a", "b", "c")]
        for origin, _ in users:
            broker.say(Verb.GRANT, origin, 1, 1, {})
        for turn in range(3):
            for n, (origin, settings) in enumerate(users):
                seq = turn * 10 + n
                broker.lease("lines", origin, {seq: b"%d\n" % n}, settings=settings)
                assert broker.results(1) == {seq: (0, b"%d" % n)}
    assert peer.accepted == 3


def test_kinds_that_use_one_name_share_its_grant(broker: FakeBroker) -> None:
    with TcpPeer(on_word(b"")) as peer, broker.worker(lines(1, "others")) as worker:
        broker.welcome()
        origin = f"lines://{peer.address}"
        broker.say(Verb.GRANT, origin, 1, 2, {})
        assert broker.next(Verb.GRANTED)[2:] == [origin, 1, 0]
        broker.lease("lines", origin, {1: b"one\n"})
        broker.lease("others", origin, {2: b"two\n"})
        peer.wait_accepted(2)
        broker.lease("lines", origin, {3: b"three\n"})
        broker.lease("others", origin, {4: b"four\n"})
        wait_until(lambda: worker.ledger.find(SESSION, (4,)))
        broker.say(Verb.GRANT, origin, 2, 1, {})
        broker.say(Verb.GRANT, origin, 3, 2, {})
        assert broker.next(Verb.GRANTED)[2:] == [origin, 3, 2]
        assert peer.accepted == 2
        broker.seen = 10**6
        broker.beat()
        assert broker.welcome()["slots"] == ((origin, 2),)
        peer.go.release(8)
        assert len(broker.results(4)) == 4


# --- what a connection survives ---------------------------------------------------------------------


def test_an_answer_before_the_request_was_sent_in_full_ends_the_connection(broker: FakeBroker) -> None:
    def hasty(peer_side: Connection) -> None:
        peer_side.sock.recv(1)
        peer_side.send(b"early\n")
        if peer_side.peer.accepted == 1:
            peer_side.peer.wait_for_go()  # and what else it asks is not read
        else:
            peer_side.wait_for_end()

    large = b"x" * (15 << 20) + b"\n"
    with TcpPeer(hasty) as peer, broker.worker(lines()):
        broker.welcome()
        origin = f"lines://{peer.address}"
        broker.say(Verb.GRANT, origin, 1, 1, {})
        broker.lease("lines", origin, {1: large})
        assert broker.results(1) == {1: (0, b"early")}
        broker.lease("lines", origin, {2: b"two\n"})
        assert broker.results(1) == {2: (0, b"early")}
        peer.go.release()
    assert peer.accepted == 2


def test_a_fault_of_a_kind_ends_its_connection_and_nothing_else(broker: FakeBroker) -> None:
    def script(peer_side: Connection) -> None:
        if peer_side.peer.accepted == 1:
            peer_side.read_until(b"\n")
            peer_side.send(b"!\n")
            peer_side.wait_for_end()
        else:
            echo_until(b"\n")(peer_side)

    with TcpPeer(script) as peer, broker.worker(lines()):
        broker.welcome()
        origin = f"lines://{peer.address}"
        broker.say(Verb.GRANT, origin, 1, 1, {})
        broker.lease("lines", origin, {1: b"one\n"})
        code, data = broker.results(1)[1]
        assert code == Code.BAD_RESPONSE
        assert "a fault in feed" in wire.decode_error(data)["text"]
        broker.lease("lines", origin, {2: b"!\n", 3: b"three\n"})
        results = broker.results(2)
        assert results[2][0] == Code.USAGE
        assert results[3] == (0, b"three")


def test_a_kind_that_cannot_make_a_connection_says_so(broker: FakeBroker) -> None:
    class Broken(Lines):
        def __init__(self, origin: str, settings: bytes, max_bytes: int) -> None:
            raise KeyError("a fault at birth")

    with broker.worker(lines(protocol=Broken)):
        broker.welcome()
        broker.say(Verb.GRANT, "lines://127.0.0.1:1", 1, 1, {})
        broker.lease("lines", "lines://127.0.0.1:1", {1: b"one\n"})
        code, data = broker.results(1)[1]
        assert code == Code.USAGE
        assert "a fault at birth" in wire.decode_error(data)["text"]


def test_request_whose_time_passed_while_the_worker_was_frozen_is_not_sent(broker: FakeBroker) -> None:
    with TcpPeer(on_word(b"HI\n")) as peer, broker.worker(lines()) as worker:
        broker.welcome()
        origin = f"lines://{peer.address}/greet"
        broker.say(Verb.GRANT, origin, 1, 1, {})
        broker.lease("lines", origin, {1: b"one\n"}, flags=0, span_ms=300)
        wait_until(lambda: peer.received == b"HELLO\n")

        def freeze() -> None:
            peer.go.release()
            time.sleep(0.5)

        worker.loop.wake(freeze)
        failed = broker.failure()
        assert (failed.seqs, failed.code, failed.sent) == ((1,), Code.TIMEOUT, False)
        broker.lease("lines", origin, {2: b"two\n"}, flags=0)
        assert broker.results(1) == {2: (0, b"two")}
    assert peer.received == b"HELLO\ntwo\n"


@pytest.mark.parametrize("code", [errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED], ids=errno.errorcode.get)
def test_a_connection_that_is_broken_before_we_look_is_one_that_closed_at_once(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    class Broken(socket.socket):
        """What SO_ERROR says if the peer was quicker than our turn."""

        def getsockopt(self, *arguments: int) -> int:  # type: ignore[override]
            return code if arguments[1] == socket.SO_ERROR else super().getsockopt(*arguments)

    monkeypatch.setattr(happy_eyeballs.socket, "socket", Broken)
    with TcpPeer(never_answers) as peer, broker.worker():
        broker.welcome()
        origin = f"mysql://{peer.address}/db"
        broker.say(Verb.GRANT, origin, 1, 1, {})
        broker.lease("mysql", origin, {1: b"\x03SELECT 1"}, span_ms=1_000)
        failed = broker.failure()
    assert (failed.code, failed.sent) == (Code.CONNECT_FAILED, False)
    text = wire.decode_error(failed.details)["text"]
    assert f"{os.strerror(code)}: no greeting received, and a MySQL server speaks first" in text
