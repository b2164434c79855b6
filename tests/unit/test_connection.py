"""Connections that are kept: reuse, pipelining, handshakes, and who reads which answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reqpool import wire
from reqpool.errors import Code
from reqpool.wire import Verb
from reqpool_workers import connection
from reqpool_workers.connection import State
from support.fake_worker_broker import SESSION, FakeBroker
from support.leaks import no_leak
from support.lines import lines, on_word
from support.tcp_peer import Connection, TcpPeer, echo_until
from support.wait import wait_until


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    with no_leak(), FakeBroker() as broker:
        yield broker


def test_every_state_can_be_left_except_the_last() -> None:
    assert set(connection.TRANSITIONS) == set(State)
    for state, following in connection.TRANSITIONS.items():
        assert (State.CLOSED in following) == (state is not State.CLOSED)


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
            wait_until(lambda: worker.loop.fds == 1)
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
