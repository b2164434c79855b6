"""Which results socket a session is published on, and when it gets its heartbeats."""

from __future__ import annotations

from collections import Counter

import pytest

from reqpool_broker.results_placement import SESSIONS_PER_SOCKET, ResultsPlacement
from reqpool_broker.session import Session
from reqpool_contract import wire
from reqpool_contract.wire import Verb
from support.fake_peers import Desk


def sessions(count: int) -> list[Session]:
    return [Session(b"%016d" % number, 0.0) for number in range(count)]


def spread_over(sockets: int) -> ResultsPlacement:
    """So many sockets, and every one but the last has its sessions."""
    spread = ResultsPlacement("1")
    for number in range(2, sockets + 1):
        for session in sessions(SESSIONS_PER_SOCKET):
            spread.join(session)
        assert spread.wanting
        spread.extend(str(number))
    return spread


def test_few_sessions_share_the_one_socket() -> None:
    spread = ResultsPlacement("5571")
    few = sessions(SESSIONS_PER_SOCKET - 1)
    assert {spread.join(session) for session in few} == {"5571"}
    assert not spread.wanting


def test_sessions_that_exceed_a_socket_go_to_the_next() -> None:
    spread = spread_over(3)
    assert {spread.join(session) for session in sessions(5)} == {"3"}
    assert not spread.wanting


def test_no_socket_has_many_more_than_another_where_none_can_be_opened() -> None:
    spread = spread_over(2)
    told = Counter(spread.join(session) for session in sessions(3 * SESSIONS_PER_SOCKET))
    assert told == {"1": SESSIONS_PER_SOCKET, "2": 2 * SESSIONS_PER_SOCKET}


def test_a_session_stays_where_it_is_until_it_leaves() -> None:
    spread = spread_over(2)
    session, *others = sessions(SESSIONS_PER_SOCKET)
    assert spread.join(session) == "2"
    for other in others:
        spread.join(other)
    spread.extend("3")
    assert spread.join(session) == "2"
    spread.leave(session)
    assert session.place is None
    spread.leave(session)
    assert spread.join(session) == "2", "its own room is free again"


def test_room_of_those_that_left_is_used_before_another_socket_is_wanted() -> None:
    spread = ResultsPlacement("1")
    first = sessions(SESSIONS_PER_SOCKET)
    for session in first:
        spread.join(session)
    spread.extend("2")
    spread.leave(first[7])
    assert [spread.join(session) for session in sessions(2)] == ["1", "2"]


@pytest.mark.parametrize("sockets", [1, 2, 7, 25])
def test_every_session_has_its_turn(sockets: int) -> None:
    spread = spread_over(sockets)
    spread.join(Session(b"last", 0.0))
    met = [session for _ in range(sockets) for session in spread.turn()]
    assert len(met) == len(set(met)) == (sockets - 1) * SESSIONS_PER_SOCKET + 1
    assert next(iter(spread.turn())) is met[0]


def test_welcome_names_the_socket_and_only_there_the_topic_is_given() -> None:
    desk = Desk()
    first = [desk.client() for _ in range(SESSIONS_PER_SOCKET)]
    desk.broker.placement.extend("6001")
    client = desk.client(subscribe=False)
    assert {each.welcome["results"] for each in first} == {"5571"}
    assert client.welcome["results"] == "6001"
    may = desk.broker.lifecycle.subscription
    assert [may(client.id, place) for place in (0, 1)] == [False, True]
    assert [may(first[0].id, place) for place in (0, 1)] == [True, False]
    client.hello(subscribe=False, epoch=desk.broker.epoch)
    assert client.welcome["results"] == "6001", "it stays there"
    client.send(Verb.GOODBYE)
    first[0].send(Verb.GOODBYE)
    desk.settle()
    client.hello(subscribe=False)
    assert client.welcome["results"] == "5571", "it begins anew, and there is room"


def test_an_expired_session_gives_up_its_room() -> None:
    desk = Desk()
    for _ in range(SESSIONS_PER_SOCKET):
        desk.client().awake = False
    assert desk.broker.placement.wanting
    desk.pass_time(wire.SESSION_EXPIRY_MS / 1000 + 2)
    assert not desk.broker.placement.wanting
    assert not desk.broker.sessions


def test_heartbeats_of_many_sessions_are_spread_over_their_span() -> None:
    desk = Desk()
    for number in range(5):
        for _ in range(SESSIONS_PER_SOCKET):
            client = desk.client(subscribe=False)
            place = desk.broker.sessions[client.id].place
            assert place is not None
            assert desk.broker.lifecycle.subscription(client.id, place)
            desk.broker.lifecycle.subscribed(client.id)
        desk.broker.placement.extend(str(number))
    desk.settle()
    span_s = wire.HEARTBEAT_MS / 1000
    heard: list[set[bytes]] = []
    until_s = desk.now_s + 2 * span_s
    while desk.now_s < until_s:
        desk.now_s = desk.broker.next_beat_s
        desk.broker.flush(desk.now_s)
        heard.append({topic for topic, *_ in desk.broker.outbox.results})
        desk.deliver()
    assert max(map(len, heard)) <= SESSIONS_PER_SOCKET
    count = Counter(topic for topics in heard for topic in topics)
    assert len(count) == 5 * SESSIONS_PER_SOCKET
    assert set(count.values()) <= {1, 2, 3}


def test_a_broker_that_was_held_up_does_not_send_all_heartbeats_at_once() -> None:
    desk = Desk()
    for number in range(3):
        for _ in range(SESSIONS_PER_SOCKET):
            desk.client(subscribe=False)
        desk.broker.placement.extend(str(number))
    for client in list(desk.clients.values()):
        desk.broker.lifecycle.subscribed(client.id)
    desk.settle()
    desk.now_s += 60.0
    desk.broker.flush(desk.now_s)
    assert len(desk.broker.outbox.results) <= SESSIONS_PER_SOCKET
    assert desk.broker.next_beat_s <= desk.now_s, "it goes on at once"
    for _ in range(2 * len(desk.broker.placement)):
        desk.broker.flush(desk.now_s)
    assert desk.broker.next_beat_s > desk.now_s, "and does not send what is long past"
