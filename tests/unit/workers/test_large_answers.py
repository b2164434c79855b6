"""Large answers: read as there is room for them, with a real connection to the upstream."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reqpool_contract import wire
from reqpool_contract.errors import Code
from reqpool_contract.wire import Verb
from reqpool_workers import connection_io
from support.fake_worker_broker import BROKER_FDS, SESSION, FakeBroker
from support.leaks import no_leak
from support.lines import lines
from support.tcp_peer import Connection, TcpPeer, echo_until, never_answers
from support.wait import wait_until

LARGE = b"x" * (2 * wire.RESULTS_WINDOW_BYTES) + b"\n"


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    with no_leak(), FakeBroker() as broker:
        yield broker


def answers_large(peer_side: Connection) -> None:
    while data := peer_side.read_until(b"\n"):
        for _ in range(data.count(b"\n")):
            peer_side.send(LARGE)


def test_large_answers_stay_with_their_upstream_until_the_broker_has_those_before(broker: FakeBroker) -> None:
    with (
        TcpPeer(answers_large) as peer,
        TcpPeer(echo_until(b"\n")) as other,
        broker.worker(lines(9)) as worker,
    ):
        broker.welcome()
        origin, small = f"lines://{peer.address}", f"lines://{other.address}"
        broker.say(Verb.GRANT, origin, 1, 8, {})
        broker.say(Verb.GRANT, small, 1, 1, {})
        broker.lease("lines", origin, {seq: b"%d\n" % seq for seq in range(1, 5)})
        seen = set(broker.results(1))
        for seq in range(5, 25):  # whatever the large ones wait for
            broker.lease("lines", small, {seq: b"small\n"})
            ((also, answer),) = broker.results(1).items()
            assert (also, answer) == (seq, (0, b"small"))
        assert len(worker.ledger.find(SESSION, range(1, 5))) == 3
        while len(seen) < 4:
            broker.beat(received=broker.heard[-1][1][2])
            found = broker.results(1)
            assert list(found.values()) == [(0, LARGE[:-1])]
            seen |= set(found)
        assert seen == {1, 2, 3, 4}


def test_a_connection_whose_answer_waits_can_be_given_up(broker: FakeBroker) -> None:
    with TcpPeer(answers_large) as peer, broker.worker(lines()) as worker:
        broker.welcome()
        origin = f"lines://{peer.address}"
        broker.say(Verb.GRANT, origin, 1, 2, {})
        broker.lease("lines", origin, {1: b"1\n", 2: b"2\n"})
        (done,) = broker.results(1)
        wait_until(lambda: worker.loop.inflow.waiting)
        broker.say(Verb.CANCEL, [(SESSION, (3 - done,))])
        wait_until(lambda: peer.open == 1)
        assert worker.loop.fds == BROKER_FDS + 1
        broker.beat(received=1)
        broker.lease("lines", origin, {4: b"4\n"})
        assert broker.results(1) == {4: (0, LARGE[:-1])}


def test_a_connection_that_many_share_does_not_keep_others_large_answers_waiting(broker: FakeBroker) -> None:
    with (
        TcpPeer(answers_large) as shared,
        TcpPeer(answers_large) as other,
        broker.worker(lines(100)) as worker,
    ):
        broker.welcome()
        many, one = f"lines://{shared.address}", f"lines://{other.address}"
        broker.say(Verb.GRANT, many, 1, 1, {})
        broker.say(Verb.GRANT, one, 1, 1, {})
        broker.lease("lines", many, {seq: b"%d\n" % seq for seq in range(1, 31)})
        seen = set(broker.results(1))
        wait_until(lambda: worker.loop.inflow.waiting)
        broker.lease("lines", one, {100: b"100\n"})
        wait_until(lambda: other.received == b"100\n")
        while 100 not in seen:
            broker.beat(received=broker.heard[-1][1][2])
            seen |= set(broker.results(1))
        assert len(seen) < 10


def test_what_a_peer_said_before_it_broke_is_read_though_it_is_large(broker: FakeBroker) -> None:
    data = b"x" * (3 * connection_io.LARGE_READ_BYTES) + b"\n"

    def breaks(peer_side: Connection) -> None:
        peer_side.read_until(b"\n")
        peer_side.send(data)

    with TcpPeer(breaks) as peer, broker.worker(lines()):
        broker.welcome()
        origin = f"lines://{peer.address}"
        broker.say(Verb.GRANT, origin, 1, 1, {})
        broker.lease("lines", origin, {1: b"1\n"})
        assert broker.results(1) == {1: (0, data[:-1])}


def test_an_answer_that_we_do_not_read_is_not_late(broker: FakeBroker) -> None:
    with TcpPeer(answers_large) as peer, TcpPeer(never_answers) as silent, broker.worker(lines()) as worker:
        broker.welcome()
        origin, other = f"lines://{peer.address}", f"lines://{silent.address}"
        broker.say(Verb.GRANT, origin, 1, 2, {})
        broker.lease("lines", origin, {1: b"1\n", 2: b"2\n"})
        (done,) = broker.results(1)
        wait_until(lambda: worker.loop.inflow.waiting)
        broker.say(Verb.GRANT, origin, 1, 2, {"read_ms": 50})
        broker.say(Verb.GRANT, other, 1, 1, {"read_ms": 100})
        broker.lease("lines", other, {3: b"3\n"})
        assert broker.results(1)[3][0] == Code.TIMEOUT, "by now it would be late, too"
        broker.say(Verb.GRANT, origin, 1, 2, {})
        broker.beat(received=broker.heard[-1][1][2])
        assert broker.results(1) == {3 - done: (0, LARGE[:-1])}
