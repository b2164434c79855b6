"""What the ZeroMQ sockets add on each side for a lone request: real ones, all on this thread."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import zmq

from reqpool.broker_sockets import BrokerSockets
from reqpool_broker.server import _drain, _send_all
from reqpool_contract import zmq_sockets
from reqpool_workers.broker_socket import BrokerSocket
from reqpool_workers.event_loop import EventLoop

from .counting import Counted, Load

WAIT_MS = 10_000
TOPIC = bytes(16)


@contextmanager
def _bound(*kinds: int) -> Iterator[tuple[list[zmq.Socket[bytes]], list[str]]]:
    """Sockets of these kinds, and their URLs."""
    with tempfile.TemporaryDirectory() as folder:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        bound = [context.socket(kind) for kind in kinds]
        urls = [f"ipc://{folder}/{number}" for number in range(len(kinds))]
        for socket, url in zip(bound, urls, strict=True):
            socket.setsockopt(zmq.LINGER, 0)
            socket.bind(url)
        try:
            yield bound, urls
        finally:
            context.destroy(0)


def _await(socket: zmq.Socket[bytes]) -> None:
    assert socket.poll(WAIT_MS), "no message has come"


def _into(taken: list[tuple[bytes, list[bytes]]]) -> Callable[[bytes, list[bytes], float], None]:
    def take(route: bytes, frames: list[bytes], _now_s: float) -> None:
        taken.append((route, frames))

    return take


def frames() -> Counted:
    """Send a message of three frames, and receive it."""
    with _bound(zmq.ROUTER) as ((router,), (url,)):
        dealer = router.context.socket(zmq.DEALER)
        dealer.connect(url)
        for _ in range(2):
            with Counted() as counted:
                zmq_sockets.send(dealer, [b"one", b"two", b"three"])
            _await(router)
            with counted:
                message = zmq_sockets.receive(router)
        assert message[1:] == [b"one", b"two", b"three"]
        return counted


def broker() -> Counted:
    """Take a SUBMIT and send a LEASE, take a RESULTS and send a publication, each through another socket."""
    with _bound(zmq.ROUTER, zmq.ROUTER) as ((intake, workers), urls):
        peers = [intake.context.socket(zmq.DEALER) for _ in urls]
        for peer, url in zip(peers, urls, strict=True):
            peer.connect(url)
        for _ in range(2):
            counted = Counted()
            for socket, peer, sent in (
                (intake, peers[0], [b"head"]),
                (workers, peers[1], [b"head", b"blob"]),
            ):
                taken: list[tuple[bytes, list[bytes]]] = []
                take = _into(taken)
                peer.send_multipart(sent)
                _await(socket)
                with counted:
                    _drain(socket, take, 0.0)
                ((route, received),) = taken
                assert received == sent
                with counted:
                    _send_all(socket, [[route, *sent]])
                _await(peer)
                assert peer.recv_multipart() == sent
        return counted


def client() -> Counted:
    """Send a SUBMIT, sleep, take the publication."""
    with _bound(zmq.ROUTER, zmq.XPUB) as ((intake, results), urls):
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        link = BrokerSockets(context, TOPIC)
        try:
            link.dial(urls[0], b"hello")
            _await(intake)
            intake.recv_multipart()
            link.subscribe(urls[1])
            _await(results)
            results.recv()
            for _ in range(3):
                came = None
                with Counted() as counted:
                    link.submit(b"head")
                _await(intake)
                assert intake.recv_multipart()[1:] == [b"head"]
                results.send_multipart([TOPIC, b"head", b"blob"])
                while came is None:
                    # Anew each time, as a descriptor may report something else than a message.
                    with Counted() as waited:
                        came = link.await_results(WAIT_MS / 1000)
                    if came is None:
                        # To the end: what is left unread is not reported again.
                        messages = list(link.messages())
                        came = messages[0][1] if messages else None
                counted.calls += waited.calls
            assert came == [TOPIC, b"head", b"blob"]
            return counted
        finally:
            link.close(0)
            context.destroy(0)


def worker() -> Counted:
    """Take a LEASE in one turn, and send a RESULTS in another."""
    with _bound(zmq.ROUTER) as ((router,), (url,)):
        loop = EventLoop()
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket = BrokerSocket(context, loop, url, pytest.fail)
        try:
            socket.send([b"hello"])
            _await(router)
            route, _ = router.recv_multipart()
            while socket.readable:
                socket.receive()
            for _ in range(2):
                router.send_multipart([route, b"head"])
                _await(socket._socket)
                socket._on_event(0)
                with Counted() as counted:
                    received = socket.receive()
                    more = socket.readable
                assert received == [b"head"]
                assert not more
                with counted:
                    socket.send([b"head", b"blob"])
                    more = socket.readable
                assert not more
                _await(router)
                assert router.recv_multipart() == [route, b"head", b"blob"]
            return counted
        finally:
            socket.close()
            loop.close()
            context.destroy(0)


LOADS = [
    Load("sockets, a message of three frames sent and received", 1, "message", 2, frames),
    Load("sockets of the broker, a lone request", 1, "request", 14, broker),
    Load("sockets of the client, a lone request", 1, "request", 6, client),
    Load("sockets of the worker, a lone request", 1, "request", 12, worker),
]


@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.name)
def test_the_sockets_add_no_more_calls_than_they_did(load: Load) -> None:
    load.check()
