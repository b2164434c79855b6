"""What one client may take of the broker, by configuration: fake clock, no sockets."""

from __future__ import annotations

import pytest

from reqpool_broker.client_limits import ClientLimits
from reqpool_broker.config import Config, changes
from reqpool_broker.config_wire import pack, unpack
from reqpool_contract.errors import Code
from reqpool_contract.wire import Flag, Verb
from reqpool_ops import config_file
from reqpool_ops.config_file import ConfigError, Installed
from support.fake_peers import Desk

NONE = Installed((), {})


def read(text: str) -> Config:
    return config_file.read(text, "reqpool.toml", {}, NONE)


def limited(**limits: int) -> Desk:
    return Desk(config=Config(clients=ClientLimits(**limits)))


# --- the file ---------------------------------------------------------------------------------------


def test_limits_are_read_and_reach_a_broker_by_its_supervisor() -> None:
    text = "[clients]\nmax_pending = 9\nmax_queued_bytes = 16_777_216\nmax_connections = 4\n"
    config = read(text + "max_messages_per_s = 7\nmax_refused_subscriptions = 5\n")
    assert config.clients == ClientLimits(9, 16_777_216, 4, 7, 5)
    assert unpack(pack(config)) == config
    assert changes(Config(), config) == "changed: the limits of clients"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("max_pending = 0", "clients.max_pending: 0 is not a whole number from 1"),
        ("max_pending = 1.5", "clients.max_pending: 1.5 is not a whole number"),
        (
            "max_queued_bytes = 1000",
            "clients.max_queued_bytes: 1000 is not a whole number of bytes",
        ),
        ("max_connections = 1", "clients.max_connections: 1 is not a whole number from 2"),
        ("max_messages_per_s = true", "clients.max_messages_per_s: true is no"),
        ("max_refused_subscriptions = 1", "clients.max_refused_subscriptions: 1 is no"),
        ("max_pendin = 1", "clients.max_pendin: unknown key; did you mean max_pending?"),
    ],
)
def test_what_is_wrong_is_said_with_line_and_key(line: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(f"[clients]\n{line}\n")
    assert f"reqpool.toml:2: {said}" in str(caught.value)


def test_clients_must_be_a_table() -> None:
    with pytest.raises(ConfigError, match="clients: must be a table"):
        read("clients = 3\n")


# --- the limits -------------------------------------------------------------------------------------


def test_the_limit_in_bytes_names_itself() -> None:
    desk = limited(max_queued_bytes=3)
    client, other = desk.client(), desk.client()
    client.submit(1)
    client.submit(2)
    assert client.code(2) == Code.OVERLOADED
    assert "max_queued_bytes" in client.error(2)["text"]
    other.submit(1)
    assert 1 not in client.outcomes
    assert 1 not in other.outcomes
    desk.check_books()


def test_the_limit_in_requests_names_itself() -> None:
    desk = limited(max_pending=2)
    client = desk.client()
    client.submit(1, 2)
    client.submit(3)
    assert "max_pending" in client.error(3)["text"]
    assert client.error(3)["retry_after_ms"] > 0
    assert client.replies[0][1][1]["max_pending"] == 2


def test_over_the_messages_of_a_second_is_refused_until_it_has_passed_and_others_are_not() -> None:
    desk = limited(max_messages_per_s=5)
    client, other = desk.client(), desk.client()
    for seq in range(1, 9):
        client.submit(seq)
    assert sorted(client.outcomes) == [6, 7, 8]
    assert client.code(6) == Code.OVERLOADED
    assert "max_messages_per_s" in client.error(6)["text"]
    assert client.error(6)["retry_after_ms"] > 0
    other.submit(1)
    assert not other.outcomes
    desk.pass_time(1.1)
    client.submit(9)
    assert 9 not in client.outcomes
    desk.check_books()


def test_what_was_let_in_once_is_not_refused_for_coming_again_fast() -> None:
    desk = limited(max_messages_per_s=1)
    client = desk.client()
    for seq in range(1, 5):
        client.submit(seq, flags=Flag.IDEMPOTENT | Flag.RESUBMITTED)
    assert not client.outcomes
    assert desk.broker.sessions[client.id].pending == 4


def test_heartbeats_count_and_are_never_refused() -> None:
    desk = limited(max_messages_per_s=2)
    client = desk.client()
    for number in range(1, 6):
        client.send(Verb.HEARTBEAT, number, 0, 0)
    assert desk.broker.sessions[client.id].heartbeat_seen == 5
    client.submit(1)
    assert client.code(1) == Code.OVERLOADED


def test_new_limits_hold_at_once() -> None:
    desk = limited(max_pending=1)
    client = desk.client()
    client.submit(1)
    desk.broker.reconfigure(Config(clients=ClientLimits(max_pending=2)))
    client.submit(2)
    client.submit(3)
    assert sorted(client.outcomes) == [3]


def test_status_shows_each_sessions_share_and_how_often_it_was_refused() -> None:
    desk = limited(max_pending=4, max_queued_bytes=4, max_messages_per_s=10)
    client = desk.client()
    client.submit(1)
    client.submit(2, 3, 4, 5)
    (about,) = desk.broker.status.make(desk.now_s)["sessions"]
    assert about["refused"] == 4
    assert (about["pending_percent"], about["bytes_percent"], about["messages_percent"]) == (25.0, 50.0, 20.0)
    assert desk.broker.status.make(desk.now_s)["client_limits"]["max_pending"] == 4
