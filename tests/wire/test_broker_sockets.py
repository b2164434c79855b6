"""A real broker process and raw sockets: what anybody may throw at its three doors."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from reqpool_broker.broker import Broker
from reqpool_broker.process import ServerProcess
from reqpool_broker.server import BrokerServer
from reqpool_contract import wire
from reqpool_contract.errors import Code
from reqpool_contract.wire import Flag, Reject, SubmitGroup, Verb
from reqpool_ops import status
from support.raw_broker import PATIENCE_MS, RawBroker, RawSession, report


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RawBroker]:
    raw = RawBroker(tmp_path)
    yield raw
    raw.close()


def noise(chance: random.Random) -> list[bytes]:
    """Random bytes, truncated messages, right verbs with wrong fields."""
    whole = wire.encode(Verb.SUBMIT, 1, 0, [("dns", ("o",), 5, 1, 1, None, None, (1,), (b"x",))])
    return chance.choice(
        [
            [chance.randbytes(chance.randrange(1, 60))],
            [whole[: chance.randrange(1, len(whole))]],
            [wire.encode(chance.choice(list(Verb)), *[chance.choice([None, -1, "x", b"", {}, []])] * 5)],
            [whole, b"one frame too many"],
            [b""],
        ]
    )


@pytest.mark.parametrize("door", ["intake", "workers"])
def test_noise_is_counted_and_answered_and_disturbs_nobody(broker: RawBroker, door: str) -> None:
    session = RawSession(broker)
    chance = random.Random(7)
    stranger = broker.socket(zmq.DEALER, door)
    schema = wire.BROKER_TO_CLIENT if door == "intake" else wire.BROKER_TO_WORKER
    for round_ in range(20):
        for _ in range(25):
            stranger.send_multipart(noise(chance))
        session.ask(round_)
    verb, values = wire.decode(stranger.recv(), schema)
    assert (verb, values[0]) == (Verb.REJECT, Reject.MALFORMED)
    assert report(broker)["counters"]["malformed"][door] >= 400


def test_noise_of_a_session_does_not_end_it(broker: RawBroker) -> None:
    session = RawSession(broker)
    chance = random.Random(8)
    for _ in range(200):
        session.dealer.send_multipart([*noise(chance)[:1], b"second frame"])
    session.ask(1)


def test_results_socket_gives_nothing_to_who_has_no_session(broker: RawBroker) -> None:
    session = RawSession(broker)
    nosy = [broker.socket(zmq.SUB, "results") for _ in range(4)]
    for sub, topic in zip(nosy, [b"", session.id[:4], os.urandom(16), session.id + b"\0"], strict=True):
        sub.subscribe(topic)
    rude = broker.socket(zmq.XSUB, "results")
    for junk in (b"", b"\x07junk", b"\x01", b"\x00" + session.id, b"\x01" * 500):
        rude.send(junk)
    for seq in range(20):
        session.ask(seq)
    for sub in nosy:
        assert not sub.poll(0)
    assert report(broker)["counters"]["malformed"]["results"] >= 4


def test_unsubscribing_somebody_elses_topic_changes_nothing(broker: RawBroker) -> None:
    session = RawSession(broker)
    rude = broker.socket(zmq.XSUB, "results")
    for _ in range(50):
        rude.send(b"\x00" + session.id)
    for seq in range(5):
        session.ask(seq)


@pytest.mark.parametrize("door", ["intake", "workers"])
def test_oversized_message_costs_its_sender_the_connection(broker: RawBroker, door: str) -> None:
    session = RawSession(broker)
    stranger = broker.socket(zmq.DEALER, door)
    monitor = stranger.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    stranger.send(bytes(wire.MAX_MESSAGE_BYTES + 1), copy=False)
    assert monitor.poll(PATIENCE_MS)
    stranger.disable_monitor()
    monitor.close()
    session.ask(1)


def test_submissions_out_of_order_are_refused_and_the_session_lives(broker: RawBroker) -> None:
    session = RawSession(broker)
    session.submitted = 4
    group = SubmitGroup("dns", ("dns://127.0.0.1:1",), 50, 1, 1, None, None, (9,), (b"?",))
    session.dealer.send(wire.encode(Verb.SUBMIT, 6, 0, [group]))
    verb, values = wire.decode(session.dealer.recv(), wire.BROKER_TO_CLIENT)
    assert (verb, values[0]) == (Verb.REJECT, Reject.GAP)
    session.submitted = 0
    session.ask(1)


@pytest.mark.parametrize("door", ["intake", "results", "workers"])
@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"x" * 500, b"\x16\x03\1" + b"x" * 500]
)
def test_who_does_not_speak_zeromq_is_sent_away_unheard(broker: RawBroker, door: str, said: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(PATIENCE_MS / 1000)
        stranger.connect(broker.urls[door].removeprefix("ipc://"))
        stranger.sendall(said)
        with contextlib.suppress(ConnectionResetError):
            while stranger.recv(4_096):
                pass
    assert status.fetch(broker.urls["intake"])["counters"]["malformed"] == {
        "intake": 0,
        "results": 0,
        "workers": 0,
    }


def test_port_in_use_is_said_in_one_line() -> None:
    context = zmq.Context()
    taken = context.socket(zmq.ROUTER)
    port = taken.bind_to_random_port("tcp://127.0.0.1")
    outcome = subprocess.run(
        [sys.executable, "-m", "reqpool_broker", "--bind", f"tcp://127.0.0.1:{port}"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    taken.close(linger=0)
    context.term()
    assert outcome.returncode == 2
    assert outcome.stderr.strip() == (
        f"reqpool broker: cannot bind tcp://127.0.0.1:{port}: Address already in use"
    )


def test_who_is_told_to_stop_by_two_still_says_goodbye(broker: RawBroker) -> None:
    session = RawSession(broker)
    broker.process.send_signal(signal.SIGTERM)
    broker.process.send_signal(signal.SIGINT)
    assert broker.process.wait(10) == 0
    said = [session.published()[0]]
    while said[-1] is Verb.HEARTBEAT:
        said.append(session.published()[0])
    assert said[-1] is Verb.GOODBYE


def test_a_broker_told_to_stop_serves_on_until_it_may_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([False, True])
    said: list[bool] = []

    def told_to_stop(server: BrokerServer, stop: Callable[[], bool], _: object) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        said.extend((stop(), stop()))
        return 0

    monkeypatch.setattr(Broker, "may_end", lambda *_: next(answers))
    monkeypatch.setattr(BrokerServer, "run", told_to_stop)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert ServerProcess(BrokerServer(f"ipc://{tmp_path}/intake"), None, None).run() == 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert said == [False, True]


def test_results_socket_is_where_welcome_says(broker: RawBroker) -> None:
    dealer = broker.socket(zmq.DEALER, "intake")
    dealer.send(wire.encode(Verb.HELLO, 1, 1, {"session": os.urandom(16)}))
    _, values = wire.decode(dealer.recv(), wire.BROKER_TO_CLIENT)
    folder = broker.urls["intake"].rpartition("/")[0]
    assert f"{folder}/{values[1]['results']}" == broker.urls["results"]


def test_bad_groups_of_a_submit_end_alone(broker: RawBroker) -> None:
    session, neighbour = RawSession(broker), RawSession(broker)
    good = SubmitGroup("dns", ("dns://127.0.0.1:1",), 50, Flag.IDEMPOTENT, 1, None, None, (1,), (b"?",))
    bad = [
        good._replace(seqs=(2,), priority=3),
        good._replace(seqs=(3,), settings=bytes(wire.MAX_SETTINGS_BYTES + 1)),
        good._replace(seqs=(4,), kept=2),
        good._replace(seqs=(5,), origins=("x" * 1_025,)),
    ]
    session.dealer.send(wire.encode(Verb.KEEP, 0, b"x" * 200_000))
    groups = [good, *bad, good._replace(seqs=(6,), kept=0)]
    expected = {1: Code.TIMEOUT, 6: Code.TIMEOUT} | dict.fromkeys((2, 3, 4, 5), Code.PROTOCOL)
    assert session.outcomes(groups, 6) == expected
    session.ask(7)
    neighbour.ask(1)


def test_submit_with_a_group_whose_requests_cannot_be_named_is_rejected(broker: RawBroker) -> None:
    session, neighbour = RawSession(broker), RawSession(broker)
    good = SubmitGroup("dns", ("dns://127.0.0.1:1",), 50, Flag.IDEMPOTENT, 1, None, None, (1,), (b"?",))
    session.dealer.send(wire.encode(Verb.SUBMIT, 1, 0, [good, good._replace(seqs="all")]))
    verb, values = wire.decode(session.dealer.recv(), wire.BROKER_TO_CLIENT)
    assert (verb, values[0]) == (Verb.REJECT, Reject.MALFORMED)
    session.ask(1)
    neighbour.ask(1)
