"""HELLO of clients, and what they may subscribe to."""

from __future__ import annotations

from typing import Any

import pytest

from reqpool_broker import session_lifecycle
from reqpool_broker.session_lifecycle import ClientHello
from reqpool_contract import wire
from reqpool_contract.errors import ProtocolError
from reqpool_contract.wire import Flag, Reject, Verb
from support.fake_peers import Desk, FakeClient

ID = b"s" * 16


def test_a_hello_needs_no_more_than_an_id() -> None:
    assert ClientHello.read({"session": ID}) == (ID, None, None, 0, "", 0)
    assert len(ClientHello.read({"session": ID, "name": "n" * 10_000}).name) == wire.MAX_NAME_CHARS


@pytest.mark.parametrize(
    "about",
    [
        {},
        {"session": b"short"},
        {"session": ID, "epoch": -1},
        {"session": ID, "received": "1"},
        {"session": ID, "name": b"bytes"},
        {"session": ID, "pid": None},
    ],
)
def test_a_malformed_hello_is_refused(about: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        ClientHello.read(about)


def test_only_a_session_that_said_hello_can_be_subscribed_to_and_only_where_it_was_sent() -> None:
    desk = Desk()
    client = FakeClient(desk, ID)
    may = desk.broker.lifecycle.subscription
    assert not may(ID, 0)
    client.hello(subscribe=False)
    assert may(ID, 0)
    assert not may(ID, 1)
    assert not may(ID[:8], 0)
    assert desk.broker.malformed["results"] == 1, "an id alone may be one of a client that connects again"


def test_results_are_numbered_on_only_for_who_knows_their_numbering() -> None:
    desk = Desk()
    worker, client = desk.worker(), desk.client()
    client.submit(1, 2, flags=Flag(0))
    worker.answer(1)
    worker.answer(2)
    epoch, generation = desk.broker.epoch, client.welcome["generation"]
    client.hello(epoch=epoch, generation=generation, received=1)
    assert client.welcome["resumed"]
    (left,) = desk.broker.sessions[client.id].unacked
    assert left.number == 2
    client.hello(epoch=epoch, generation=generation + 1)
    assert not client.welcome["resumed"]
    (left,) = desk.broker.sessions[client.id].unacked
    assert left.number == 1


def test_sessions_are_limited_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_lifecycle, "MAX_SESSIONS", 1)
    desk = Desk()
    first, second = desk.client(), FakeClient(desk, ID)
    second.hello()
    assert second.replies == [(Verb.REJECT, [Reject.OVERLOADED, "too many sessions", {}])]
    first.send(Verb.GOODBYE)
    second.hello()
    assert second.replies[-1][0] is Verb.WELCOME
