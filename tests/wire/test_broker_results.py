"""A broker with so many sessions that it has several results sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from reqpool_broker.results_placement import SESSIONS_PER_SOCKET
from reqpool_broker.server import BrokerServer
from reqpool_contract import wire
from reqpool_contract.broker_url import results_url
from reqpool_contract.wire import Flag, SubmitGroup, Verb
from support.wait import wait_until

PATIENCE_MS = 10_000
SOCKETS = 3
MANY = (SOCKETS - 1) * SESSIONS_PER_SOCKET + SESSIONS_PER_SOCKET // 2


class Crowd:
    """Raw clients of a broker that runs in a thread."""

    def __init__(self, server: BrokerServer) -> None:
        self.server = server
        self.url = server.urls["intake"]
        self.context = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []

    def socket(self, kind: int, url: str) -> zmq.Socket[bytes]:
        opened = self.context.socket(kind)
        opened.setsockopt(zmq.LINGER, 0)
        opened.setsockopt(zmq.RCVTIMEO, PATIENCE_MS)
        opened.connect(url)
        self._sockets.append(opened)
        return opened

    def subscriber(self, url: str, topic: bytes) -> zmq.Socket[bytes]:
        opened = self.socket(zmq.SUB, url)
        opened.subscribe(topic)
        return opened

    def sessions(self, count: int) -> list[RawSession]:
        """Open so many, one after the other."""
        return [RawSession(self) for _ in range(count)]

    def close(self) -> None:
        for opened in self._sockets:
            opened.close(0)
        self.context.term()


class RawSession:
    """A client that has said HELLO and not subscribed yet."""

    def __init__(self, crowd: Crowd) -> None:
        self.id = os.urandom(16)
        self._crowd = crowd
        self.hello({})

    def hello(self, about: dict[str, object]) -> None:
        self.dealer = self._crowd.socket(zmq.DEALER, self._crowd.url)
        self.dealer.send(wire.encode(Verb.HELLO, 1, 1, {"session": self.id, **about}))
        _, (_, self.welcome) = wire.decode(self.dealer.recv(), wire.BROKER_TO_CLIENT)
        self.results = results_url(self._crowd.url, self.welcome["results"])

    def subscribe(self) -> zmq.Socket[bytes]:
        sub = self._crowd.subscriber(self.results, self.id)
        verb, _ = wire.decode(sub.recv_multipart()[1], wire.PUBLISHED)
        assert verb is Verb.OPEN
        return sub

    def submit(self, number: int, seq: int | None = None) -> None:
        """Submit what the broker refuses at once: it knows no upstream of this name."""
        group = SubmitGroup(
            "dns", ("@none",), 9_000, Flag.IDEMPOTENT, 1, None, None, (seq or number,), (b"?",)
        )
        self.dealer.send(wire.encode(Verb.SUBMIT, number, 0, [group]))

    def outcome(self, sub: zmq.Socket[bytes]) -> int:
        """The number of the next request that ends."""
        while True:
            topic, head, *blobs = sub.recv_multipart()
            assert topic == self.id
            if wire.decode(head, wire.PUBLISHED)[0] is Verb.RESULTS:
                seq = wire.decode_blob(blobs[0])[0]
                assert isinstance(seq, int)
                return seq


@contextlib.contextmanager
def crowd_of(server: BrokerServer) -> Iterator[Crowd]:
    ended = threading.Event()
    thread = threading.Thread(target=lambda: server.run(ended.is_set, lambda: None))
    thread.start()
    crowd = Crowd(server)
    try:
        yield crowd
    finally:
        crowd.close()
        ended.set()
        thread.join()
        server.close()


@pytest.fixture(params=["ipc", "tcp"])
def crowd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Crowd]:
    url = f"ipc://{tmp_path}/intake" if request.param == "ipc" else "tcp://127.0.0.1:0"
    with crowd_of(BrokerServer(url)) as opened:
        yield opened


def test_few_sessions_have_the_one_socket_beside_the_intake(crowd: Crowd) -> None:
    sessions = crowd.sessions(SESSIONS_PER_SOCKET // 2)
    assert {session.results for session in sessions} == {crowd.server.urls["results"]}


def test_every_session_gets_its_results_where_welcome_says(crowd: Crowd) -> None:
    sessions = crowd.sessions(MANY)
    assert len({session.results for session in sessions}) == SOCKETS
    subs = [session.subscribe() for session in sessions]
    for session in sessions:
        session.submit(1)
    for session, sub in zip(sessions, subs, strict=True):
        assert session.outcome(sub) == 1


def test_connections_to_all_of_the_sockets_are_counted(crowd: Crowd) -> None:
    sessions = crowd.sessions(MANY)
    for session in sessions:
        session.subscribe()
    gate = crowd.server._gate
    wait_until(lambda: gate.open == 2 * MANY, what="each session has two")
    assert gate.report()["most_of_one"] == 2 * MANY


def test_none_of_the_sockets_gives_anything_to_others(crowd: Crowd) -> None:
    sessions = crowd.sessions(MANY)
    urls = sorted({session.results for session in sessions})
    session = sessions[-1]
    sub = session.subscribe()
    topics = (b"", session.id[:4], os.urandom(16), session.id + b"\0")
    nosy = [crowd.subscriber(url, topic) for url in urls for topic in topics]
    nosy += [crowd.subscriber(url, session.id) for url in urls if url != session.results]
    refused = crowd.server.broker.malformed
    wait_until(lambda: refused["results"] >= 3 * SOCKETS, what="they are refused")
    for number in range(1, 10):
        session.submit(number)
        assert session.outcome(sub) == number
    assert not any(each.poll(0) for each in nosy)


def test_a_session_that_connects_again_is_where_it_was_and_gets_what_it_missed(crowd: Crowd) -> None:
    session = crowd.sessions(MANY)[-1]
    where = session.results
    sub = session.subscribe()
    session.submit(1)
    assert session.outcome(sub) == 1
    sub.close(0)
    session.dealer.close(0)
    about = {key: session.welcome[key] for key in ("epoch", "generation")}
    session.hello({**about, "received": 0})
    assert session.welcome["resumed"]
    assert session.results == where
    sub = session.subscribe()
    assert session.outcome(sub) == 1
    session.submit(1, seq=2)
    assert session.outcome(sub) == 2


def test_sessions_of_killed_clients_disturb_no_others(crowd: Crowd) -> None:
    sessions = crowd.sessions(MANY)
    subs = [session.subscribe() for session in sessions]
    for session, sub in list(zip(sessions, subs, strict=True))[:-1]:
        sub.close(0)
        session.dealer.close(0)
    for number in range(1, 20):
        sessions[-1].submit(number)
        assert sessions[-1].outcome(subs[-1]) == number


def test_a_url_to_advertise_is_told_to_all(tmp_path: Path) -> None:
    url = f"ipc://{tmp_path}/elsewhere"
    with crowd_of(BrokerServer(f"ipc://{tmp_path}/intake", advertise=url)) as crowd:
        assert {session.results for session in crowd.sessions(MANY)} == {url}


def test_what_is_in_the_way_of_another_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "intake.res1").write_text("precious")
    with socket.socket(socket.AF_UNIX) as living, socket.socket(socket.AF_UNIX) as dead:
        living.bind(f"{tmp_path}/intake.res2")
        living.listen()
        dead.bind(f"{tmp_path}/intake.res3")
        dead.close()
        with crowd_of(BrokerServer(f"ipc://{tmp_path}/intake")) as crowd:
            told = {session.welcome["results"] for session in crowd.sessions(SESSIONS_PER_SOCKET + 9)}
            sub = crowd.sessions(1)[-1].subscribe()
            sub.close(0)
        assert told == {"intake.results", "intake.res3"}
        assert (tmp_path / "intake.res1").read_text() == "precious"


def test_all_sessions_are_served_where_no_other_socket_can_be_opened(tmp_path: Path) -> None:
    class Short(BrokerServer):
        def _socket(self, kind: int, url: str, send_mark: int, *, clients: bool = True) -> zmq.Socket[bytes]:
            # A folder that is not there: it is opened and watched, and then cannot be bound.
            elsewhere = url.replace("/intake.res1", "/nowhere/intake.res1")
            return super()._socket(kind, elsewhere, send_mark, clients=clients)

    with crowd_of(Short(f"ipc://{tmp_path}/intake")) as crowd:
        sessions = crowd.sessions(MANY)
        assert {session.welcome["results"] for session in sessions} == {"intake.results"}
        sub = sessions[-1].subscribe()
        sessions[-1].submit(1)
        assert sessions[-1].outcome(sub) == 1
