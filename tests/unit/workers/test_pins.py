"""Connections held for one session, in a whole worker between a scripted broker and scripted peers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reqpool_contract import wire
from reqpool_contract.errors import Code
from reqpool_contract.origin_names import endpoint
from reqpool_contract.wire import Verb
from reqpool_workers.worker_process import WorkerProcess
from support.fake_worker_broker import SESSION, FakeBroker
from support.leaks import no_leak
from support.lines import lines, on_word
from support.ports import free_port
from support.tcp_peer import Connection, TcpPeer, echo_until, never_answers
from support.wait import wait_until

ONCE = 0
OPENS = 4
OTHER_SESSION = b"o" * 16


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    with no_leak(), FakeBroker() as broker:
        yield broker


def grant(broker: FakeBroker, origin: str, slots: int, number: int = 1, **policy: int) -> None:
    broker.say(Verb.GRANT, origin, number, slots, policy)


def ask(
    broker: FakeBroker, origin: str, seq: int, line: bytes, pin: int | None = 1, opens: bool = False
) -> None:
    broker.lease("lines", origin, {seq: line}, flags=OPENS if opens else ONCE, pin=pin)


def answer(broker: FakeBroker, seq: int) -> bytes:
    code, data = broker.results(1)[seq]
    assert code == Code.OK
    return data


def lost(broker: FakeBroker, seq: int) -> str:
    """Wait for a request's end as one that has no held connection; return the text."""
    code, data = broker.results(1)[seq]
    about = wire.decode_error(data)
    assert (code, about["phase"], about["sent"]) == (Code.CONNECTION_LOST, "queue", False)
    return str(about["text"])


def opened(broker: FakeBroker, origin: str, slots: int = 1, **policy: int) -> None:
    """Have a connection held as pin 1."""
    broker.welcome()
    grant(broker, origin, slots, **policy)
    ask(broker, origin, 1, b"one\n", opens=True)
    assert answer(broker, 1) == b"one"


def told(broker: FakeBroker) -> tuple[bytes, int]:
    """Wait for the next UNPIN."""
    _, _, session, pin = broker.next(Verb.UNPIN)
    return session, pin


def let_go(broker: FakeBroker, pin: int = 1) -> None:
    broker.say(Verb.UNPIN, SESSION, pin)


# --- from hold to release ---------------------------------------------------------------------------


def test_a_held_connection_is_prepared_and_cleaned_and_then_anybodys(broker: FakeBroker) -> None:
    with TcpPeer(echo_until(b"\n")) as peer, broker.worker(lines()):
        origin = f"lines://{peer.address}/session"
        opened(broker, origin)
        ask(broker, origin, 2, b"two\n")
        assert answer(broker, 2) == b"two"
        assert peer.received == b"BEGIN\none\ntwo\n"
        let_go(broker)
        ask(broker, origin, 3, b"three\n", pin=None)
        assert answer(broker, 3) == b"three"
        assert peer.received == b"BEGIN\none\ntwo\nRESET\nthree\n"
    assert peer.accepted == 1
    assert not [verb for verb, *_ in broker.heard if verb is Verb.UNPIN]


def test_a_kept_connection_is_taken_for_a_session(broker: FakeBroker) -> None:
    with TcpPeer(echo_until(b"\n")) as peer, broker.worker(lines()):
        broker.welcome()
        origin = f"lines://{peer.address}/session"
        grant(broker, origin, 1)
        ask(broker, origin, 1, b"one\n", pin=None)
        assert answer(broker, 1) == b"one"
        ask(broker, origin, 2, b"two\n", opens=True)
        assert answer(broker, 2) == b"two"
    assert peer.accepted == 1
    assert peer.received == b"one\nBEGIN\ntwo\n"


def test_what_cannot_be_cleaned_is_closed(broker: FakeBroker) -> None:
    with TcpPeer(echo_until(b"\n")) as peer, broker.worker(lines()):
        origin = f"lines://{peer.address}"
        opened(broker, origin)
        let_go(broker)
        peer.wait_all_closed()
        ask(broker, origin, 2, b"two\n", pin=None)
        assert answer(broker, 2) == b"two"
    assert peer.accepted == 2


def test_a_cleaning_that_fails_closes_the_connection(broker: FakeBroker) -> None:
    def refuses(peer_side: Connection) -> None:
        for reply in (b"BEGUN\n", b"one\n", b"NO\n"):
            peer_side.read_until(b"\n")
            peer_side.send(reply)
        peer_side.wait_for_end()

    with TcpPeer(refuses) as peer, broker.worker(lines()):
        opened(broker, f"lines://{peer.address}/session")
        let_go(broker)
        peer.wait_all_closed()


def test_a_cleaning_that_fails_is_no_error_of_the_request_that_waits_for_the_connection(
    broker: FakeBroker,
) -> None:
    def refuses(peer_side: Connection) -> None:
        if peer_side.peer.accepted > 1:
            echo_until(b"\n")(peer_side)
            return
        for reply in (b"BEGUN\n", b"one\n"):
            peer_side.read_until(b"\n")
            peer_side.send(reply)
        peer_side.read_until(b"\n")
        if peer_side.peer.wait_for_go():
            peer_side.send(b"NO\n")
        peer_side.wait_for_end()

    with TcpPeer(refuses) as peer, broker.worker(lines()) as worker:
        origin = f"lines://{peer.address}/session"
        opened(broker, origin)
        let_go(broker)
        ask(broker, origin, 2, b"two\n", pin=None)
        wait_until(lambda: peer.received.endswith(b"RESET\n") and not worker.ledger.empty)
        peer.go.release()
        assert answer(broker, 2) == b"two"
        assert peer.accepted == 2


def test_a_held_connection_is_nobody_elses(broker: FakeBroker) -> None:
    with TcpPeer(echo_until(b"\n")) as peer, broker.worker(lines()):
        origin = f"lines://{peer.address}"
        opened(broker, origin, slots=2)
        broker.lease("lines", origin, {seq: b"%d\n" % seq for seq in range(10, 20)})
        assert len(broker.results(10)) == 10
        assert peer.accepted == 2
        ask(broker, origin, 2, b"two\n", pin=2, opens=True)
        assert answer(broker, 2) == b"two"
        ask(broker, origin, 3, b"three\n", pin=1)
        assert answer(broker, 3) == b"three"
    assert peer.accepted == 2


@pytest.mark.parametrize("depth", [4, 50])
def test_a_connection_that_many_share_is_held_when_nothing_is_left_on_it(
    broker: FakeBroker, depth: int
) -> None:
    with TcpPeer(on_word(b"")) as peer, broker.worker(lines(depth)) as worker:
        broker.welcome()
        origin = f"lines://{peer.address}"
        grant(broker, origin, 1)
        broker.lease("lines", origin, {1: b"one\n"})
        wait_until(lambda: peer.received == b"one\n")
        ask(broker, origin, 2, b"two\n", opens=True)
        broker.lease("lines", origin, {3: b"three\n"})
        wait_until(lambda: worker.ledger.find(SESSION, (3,)))
        peer.go.release()
        assert broker.results(2) == {1: (0, b"one"), 2: (0, b"two")}
        assert peer.received == b"one\ntwo\n"  # the third has to wait: the one connection is held
        ask(broker, origin, 4, b"four\n")
        assert answer(broker, 4) == b"four"
        assert broker.next(Verb.RETURN)[2] == [(SESSION, (3,), False)]
    assert peer.accepted == 1


def test_a_deep_connection_that_is_held_and_busy_takes_nobody_elses_requests(broker: FakeBroker) -> None:
    with TcpPeer(on_word(b"")) as peer, broker.worker(lines(50)) as worker:
        broker.welcome()
        origin = f"lines://{peer.address}"
        grant(broker, origin, 2)
        ask(broker, origin, 1, b"one\n", opens=True)
        wait_until(lambda: peer.received == b"one\n")
        broker.lease("lines", origin, {2: b"two\n"})
        peer.wait_accepted(2)
        wait_until(lambda: worker.ledger.find(SESSION, (2,)))
        peer.go.release(2)
        assert broker.results(2) == {1: (0, b"one"), 2: (0, b"two")}


# --- what is wrong ----------------------------------------------------------------------------------


def test_without_its_connection_a_request_is_lost_and_nothing_was_sent(broker: FakeBroker) -> None:
    with TcpPeer(echo_until(b"\n")) as peer, broker.worker(lines()):
        broker.welcome()
        origin = f"lines://{peer.address}"
        grant(broker, origin, 1)
        ask(broker, origin, 1, b"one\n", pin=7)
        assert "is lost" in lost(broker, 1)
        assert told(broker) == (SESSION, 7)
        ask(broker, origin, 2, b"two\n", pin=None)  # now there is such an origin
        assert answer(broker, 2) == b"two"
        ask(broker, origin, 3, b"three\n", pin=7)
        assert "is lost" in lost(broker, 3)
        assert told(broker) == (SESSION, 7)
    assert peer.received == b"two\n"


def test_a_second_request_before_the_first_has_ended_is_refused(broker: FakeBroker) -> None:
    with TcpPeer(on_word(b"")) as peer, broker.worker(lines(4)):
        broker.welcome()
        origin = f"lines://{peer.address}"
        grant(broker, origin, 1)
        ask(broker, origin, 1, b"one\n", opens=True)
        wait_until(lambda: peer.received == b"one\n")
        ask(broker, origin, 2, b"two\n")
        assert "one request at a time" in lost(broker, 2)
        peer.go.release()
        assert answer(broker, 1) == b"one"
        ask(broker, origin, 3, b"three\n")
        assert answer(broker, 3) == b"three"
    assert not [verb for verb, *_ in broker.heard if verb is Verb.UNPIN]


def test_a_request_that_cannot_be_encoded_leaves_the_connection_held(broker: FakeBroker) -> None:
    with TcpPeer(echo_until(b"\n")) as peer, broker.worker(lines()):
        broker.welcome()
        origin = f"lines://{peer.address}/session"
        grant(broker, origin, 1)
        ask(broker, origin, 1, b"no line", opens=True)
        assert broker.results(1)[1][0] == Code.USAGE
        ask(broker, origin, 2, b"no line")
        assert broker.results(1)[2][0] == Code.USAGE
        ask(broker, origin, 3, b"three\n")
        assert answer(broker, 3) == b"three"
    assert peer.received == b"BEGIN\nthree\n"
    assert not [verb for verb, *_ in broker.heard if verb is Verb.UNPIN]


def test_later_requests_need_no_settings(broker: FakeBroker) -> None:
    with TcpPeer(echo_until(b"\n")) as peer, broker.worker(lines()):
        broker.welcome()
        origin, settings = endpoint(f"lines://{peer.address}", {"password": "secret"})
        grant(broker, origin, 1)
        broker.lease("lines", origin, {1: b"one\n"}, flags=OPENS, pin=1, settings=settings)
        assert answer(broker, 1) == b"one"
        broker.lease("lines", origin, {2: b"two\n"}, flags=ONCE, pin=1)  # what is configured now is another
        assert answer(broker, 2) == b"two"


# --- how it ends ------------------------------------------------------------------------------------


def test_a_held_connection_that_is_asked_nothing_is_closed(broker: FakeBroker) -> None:
    with TcpPeer(echo_until(b"\n")) as peer, broker.worker(lines()):
        origin = f"lines://{peer.address}"
        opened(broker, origin, pin_idle_ms=10)
        assert told(broker) == (SESSION, 1)
        peer.wait_all_closed()
        ask(broker, origin, 2, b"two\n")
        assert "is lost" in lost(broker, 2)


def test_a_peer_that_closes_a_held_connection_ends_it(broker: FakeBroker) -> None:
    def once(peer_side: Connection) -> None:
        peer_side.send(peer_side.read_until(b"\n"))

    with TcpPeer(once) as peer, broker.worker(lines()):
        origin = f"lines://{peer.address}"
        opened(broker, origin)
        assert told(broker) == (SESSION, 1)
        ask(broker, origin, 2, b"two\n")
        assert "is lost" in lost(broker, 2)


def test_a_request_lost_with_its_held_connection_may_have_run(broker: FakeBroker) -> None:
    def answers_one(peer_side: Connection) -> None:
        peer_side.send(peer_side.read_until(b"\n"))
        peer_side.read_until(b"\n")

    with TcpPeer(answers_one) as peer, broker.worker(lines()):
        origin = f"lines://{peer.address}/begun"
        opened(broker, origin)
        ask(broker, origin, 2, b"two\n")
        code, data = broker.results(1)[2]
        about = wire.decode_error(data)
        assert (code, about["phase"], about["sent"]) == (Code.CONNECTION_LOST, "read", True)
        assert told(broker) == (SESSION, 1)
    assert peer.accepted == 1  # a held one is never replaced


def test_letting_go_in_the_middle_of_a_request_closes_the_connection(broker: FakeBroker) -> None:
    with TcpPeer(on_word(b"")) as peer, broker.worker(lines()):
        broker.welcome()
        origin = f"lines://{peer.address}/slow"
        grant(broker, origin, 1)
        ask(broker, origin, 1, b"one\n", opens=True)
        wait_until(lambda: peer.received == b"one\n")
        let_go(broker)
        code, data = broker.results(1)[1]
        about = wire.decode_error(data)
        assert (code, about["phase"], about["sent"]) == (Code.CONNECTION_LOST, "read", True)
        ask(broker, origin, 2, b"two\n", pin=None)
        peer.wait_accepted(2)
        peer.go.release(2)
        assert answer(broker, 2) == b"two"


def test_letting_go_while_it_is_prepared_closes_it_and_nothing_is_tried_again(broker: FakeBroker) -> None:
    with TcpPeer(on_word(b"")) as peer, broker.worker(lines()) as worker:
        broker.welcome()
        origin = f"lines://{peer.address}/session"
        grant(broker, origin, 2)
        ask(broker, origin, 1, b"one\n", pin=None)
        peer.go.release()
        assert answer(broker, 1) == b"one"
        (one,) = next(iter(worker.origins._origins.values())).pool.members  # type: ignore[union-attr]
        one._protocol._shake = lambda line: [b"SILENCE"]  # type: ignore[attr-defined]
        ask(broker, origin, 2, b"two\n", opens=True)
        wait_until(lambda: b"SILENCE" in peer.received)
        let_go(broker)
        assert broker.failure().seqs == (2,)
        peer.wait_all_closed()
        broker.beat()
        broker.next(Verb.HEARTBEAT)
    assert peer.accepted == 1


@pytest.mark.parametrize("connecting", [True, False])
def test_letting_go_before_there_is_a_connection_ends_the_first_request(
    broker: FakeBroker, connecting: bool
) -> None:
    with TcpPeer(never_answers) as peer, broker.worker(lines()) as worker:
        broker.welcome()
        origin = f"lines://{peer.address}/greet"
        if connecting:
            grant(broker, origin, 1)
        ask(broker, origin, 1, b"one\n", opens=True)
        if connecting:
            peer.wait_accepted(1)
        wait_until(lambda: worker.ledger.find(SESSION, (1,)))
        let_go(broker)
        code, data = broker.results(1)[1]
        assert code == Code.CONNECTION_LOST
        assert wire.decode_error(data)["sent"] is False
        peer.wait_all_closed()
        assert worker.ledger.empty


def test_a_first_request_that_is_refused_leaves_no_pin(broker: FakeBroker) -> None:
    def refuses(peer_side: Connection) -> None:
        peer_side.send(b"NO\n")
        peer_side.wait_for_end()

    with TcpPeer(refuses) as peer, broker.worker(lines()):
        broker.welcome()
        origin = f"lines://{peer.address}/greet"
        grant(broker, origin, 1)
        ask(broker, origin, 1, b"one\n", opens=True)
        assert broker.results(1)[1][0] == Code.UPSTREAM_REFUSED
        assert told(broker) == (SESSION, 1)


def test_a_first_request_that_cannot_even_be_tried_leaves_no_pin(broker: FakeBroker) -> None:
    with broker.worker(lines()):
        broker.welcome()
        ask(broker, "lines://nowhere", 1, b"one\n", opens=True)
        assert broker.results(1)[1][0] == Code.USAGE
        assert told(broker) == (SESSION, 1)


def test_a_first_request_without_a_connection_is_left_to_the_broker(broker: FakeBroker) -> None:
    with broker.worker(lines()):
        broker.welcome()
        origin = f"lines://127.0.0.1:{free_port()}"
        grant(broker, origin, 1)
        ask(broker, origin, 1, b"one\n", opens=True)
        failed = broker.failure()
        assert (failed.code, failed.sent) == (Code.CONNECT_FAILED, False)
        broker.beat()
        broker.next(Verb.HEARTBEAT)
    # It may lease it again, here even: that nothing is held goes without saying.
    assert not [verb for verb, *_ in broker.heard if verb is Verb.UNPIN]


def test_a_kept_connection_that_its_peer_had_given_up_is_replaced_for_a_session(broker: FakeBroker) -> None:
    def gives_up(peer_side: Connection) -> None:
        if peer_side.peer.accepted > 1:
            echo_until(b"\n")(peer_side)
        else:
            peer_side.send(peer_side.read_until(b"\n"))
            peer_side.read_until(b"\n")  # BEGIN, and no reply

    with TcpPeer(gives_up) as peer, broker.worker(lines()):
        broker.welcome()
        origin = f"lines://{peer.address}/session"
        grant(broker, origin, 1)
        ask(broker, origin, 1, b"one\n", pin=None)
        assert answer(broker, 1) == b"one"
        ask(broker, origin, 2, b"two\n", opens=True)
        assert answer(broker, 2) == b"two"
        ask(broker, origin, 3, b"three\n")
        assert answer(broker, 3) == b"three"
    assert peer.accepted == 2
    assert not [verb for verb, *_ in broker.heard if verb is Verb.UNPIN]


# --- grants, age, draining --------------------------------------------------------------------------


def test_a_held_connection_outlives_its_grant_until_it_is_let_go_of(broker: FakeBroker) -> None:
    with TcpPeer(echo_until(b"\n")) as peer, broker.worker(lines()):
        origin = f"lines://{peer.address}/session"
        opened(broker, origin)
        grant(broker, origin, 0, number=2)
        for seq in (2, 3, 4):
            ask(broker, origin, seq, b"%d\n" % seq)
            assert answer(broker, seq) == b"%d" % seq
        assert not [fields for verb, fields, _ in broker.heard if verb is Verb.GRANTED and fields[3] == 2]
        let_go(broker)
        assert broker.next(Verb.GRANTED)[2:] == [origin, 2, 0]
        peer.wait_all_closed()
    assert peer.accepted == 1


def test_a_held_connection_outlives_its_age_until_it_is_let_go_of(broker: FakeBroker) -> None:
    with TcpPeer(echo_until(b"\n")) as peer, broker.worker(lines()) as worker:
        origin = f"lines://{peer.address}/session"
        opened(broker, origin, lifetime_ms=1)
        (member,) = next(iter(worker.origins._origins.values())).pool.members  # type: ignore[union-attr]
        wait_until(lambda: member.retiring)
        for seq in (2, 3):
            ask(broker, origin, seq, b"%d\n" % seq)
            assert answer(broker, seq) == b"%d" % seq
        let_go(broker)
        peer.wait_all_closed()
    assert peer.accepted == 1


def test_a_draining_worker_lets_a_session_finish(broker: FakeBroker) -> None:
    with TcpPeer(echo_until(b"\n")) as peer, broker.worker(lines()):
        origin = f"lines://{peer.address}/session"
        opened(broker, origin, slots=2)
        broker.say(Verb.DRAIN)
        broker.next(Verb.DRAIN)
        grant(broker, origin, 0, number=2)
        for seq in (2, 3):
            ask(broker, origin, seq, b"%d\n" % seq)
            assert answer(broker, seq) == b"%d" % seq
        ask(broker, origin, 4, b"four\n", pin=2, opens=True)
        assert broker.next(Verb.RETURN)[2] == [(SESSION, (4,), False)]
        let_go(broker)
        broker.beat(received=3)
        broker.next(Verb.GOODBYE)
    assert peer.accepted == 1


def test_what_waits_behind_a_held_connection_for_ever_is_handed_back(broker: FakeBroker) -> None:
    with TcpPeer(echo_until(b"\n")) as peer, broker.worker(lines()) as worker:
        origin = f"lines://{peer.address}"
        opened(broker, origin, slots=2)
        grant(broker, origin, 1, number=2)
        broker.next(Verb.GRANTED)
        broker.lease("lines", origin, {2: b"two\n"})
        assert broker.next(Verb.RETURN)[2] == [(SESSION, (2,), False)]
        assert not worker.ledger.find(SESSION, (2,))
    assert peer.received == b"one\n"


# --- the broker comes back --------------------------------------------------------------------------


def stale(broker: FakeBroker) -> None:
    """Have the worker say HELLO again; all its results have arrived."""
    broker.beat(received=1_000)
    broker.seen = 10**6
    broker.beat()


def test_held_connections_are_named_in_the_next_hello_and_go_on(broker: FakeBroker) -> None:
    with TcpPeer(echo_until(b"\n")) as peer, broker.worker(lines()):
        origin = f"lines://{peer.address}/session"
        opened(broker, origin, slots=3)
        broker.lease("lines", origin, {9: b"nine\n"})
        broker.results(1)
        stale(broker)
        about = broker.welcome()
        assert about["pins"] == ((SESSION, 1, "lines", origin),)
        assert about["slots"] == ((origin, 2),)
        ask(broker, origin, 2, b"two\n")
        assert answer(broker, 2) == b"two"
        broker.say(Verb.UNPIN, OTHER_SESSION, 1)  # another's number
        ask(broker, origin, 3, b"three\n")
        assert answer(broker, 3) == b"three"
        let_go(broker)
        stale(broker)
        assert broker.welcome()["pins"] == ()
    assert peer.accepted == 2


def test_a_first_request_that_waits_is_held_after_a_reconnect_only_if_it_may_have_a_connection(
    broker: FakeBroker,
) -> None:
    with TcpPeer(on_word(b"")) as peer, broker.worker(lines()) as worker:
        broker.welcome()
        origin = f"lines://{peer.address}"
        grant(broker, origin, 1)
        broker.lease("lines", origin, {1: b"one\n"})
        wait_until(lambda: peer.received == b"one\n")
        ask(broker, origin, 2, b"two\n", opens=True)
        broker.lease("lines", "lines://127.0.0.1:1", {3: b"three\n"})
        wait_until(lambda: worker.ledger.find(SESSION, (3,)))
        stale(broker)
        about = broker.welcome()
        assert about["held"] == ((SESSION, (1, 2)),)  # the third has no grant: it never arrived
        assert about["pins"] == ((SESSION, 1, "lines", origin),)
        peer.go.release()
        assert broker.results(2) == {1: (0, b"one"), 2: (0, b"two")}
        ask(broker, origin, 4, b"four\n")
        assert answer(broker, 4) == b"four"
    assert not [verb for verb, *_ in broker.heard if verb is Verb.RETURN]


def test_the_end_of_a_worker_closes_what_it_holds(broker: FakeBroker) -> None:
    with TcpPeer(echo_until(b"\n")) as peer:
        with broker.worker(lines()) as worker:
            assert isinstance(worker, WorkerProcess)
            opened(broker, f"lines://{peer.address}/session")
        peer.wait_all_closed()
