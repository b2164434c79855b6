"""The states of a session: what any of them leads to, and what the broker does about it."""

from __future__ import annotations

import pytest

from reqpool_broker.broker_session_state import (
    TRANSITIONS,
    BrokerSessionEvent,
    BrokerSessionState,
    KnownSince,
)
from reqpool_contract.wire import Flag, Verb
from support.fake_peers import Desk, FakeClient


@pytest.mark.parametrize("state", BrokerSessionState)
def test_a_client_may_come_in_any_state_and_subscribes_first(state: BrokerSessionState) -> None:
    assert TRANSITIONS[state, BrokerSessionEvent.HELLO] is BrokerSessionState.GREETED


def test_only_who_said_hello_can_subscribe_say_goodbye_or_be_replaced() -> None:
    for event in (BrokerSessionEvent.SUBSCRIBED, BrokerSessionEvent.GOODBYE, BrokerSessionEvent.REPLACED):
        having = {state for state, happens in TRANSITIONS if happens is event}
        assert having == {BrokerSessionState.GREETED, BrokerSessionState.OPEN}


def test_what_happens_to_a_session_moves_its_state() -> None:
    desk = Desk()
    desk.worker()
    client = desk.client()
    session = desk.broker.sessions[client.id]
    assert session.state is BrokerSessionState.OPEN
    assert session.known_since is KnownSince.BEGINNING
    client.send(Verb.HELLO, 1, 1, {"session": client.id})
    assert session.state is BrokerSessionState.GREETED
    client.submit(1, flags=Flag(0))
    client.send(Verb.GOODBYE)
    assert session.state is BrokerSessionState.ENDED
    assert desk.broker.sessions[client.id] is session, "a request of it runs"
    client.hello()
    assert session.state is BrokerSessionState.OPEN
    assert session.known_since is KnownSince.LATER


def test_a_session_that_a_worker_names_is_unconnected_until_its_client_comes() -> None:
    desk = Desk()
    client = FakeClient(desk, b"s" * 16)
    desk.worker(epoch=76, held=[(client.id, (1,))])
    session = desk.broker.sessions[client.id]
    assert session.state is BrokerSessionState.UNCONNECTED
    client.hello(epoch=76)
    assert session.state is BrokerSessionState.OPEN
    assert session.known_since is KnownSince.LATER
