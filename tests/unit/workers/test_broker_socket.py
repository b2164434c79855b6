"""The worker's socket to the broker."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from reqpool_contract.socket_monitor import Monitor
from reqpool_workers import broker_socket
from reqpool_workers.broker_socket import BrokerSocket
from reqpool_workers.event_loop import EventLoop

URL = "ipc://@reqpool-nobody"
MADE: list[zmq.Socket[bytes]] = []


class Recording(zmq.Context[zmq.Socket[bytes]]):
    """Remembers the sockets that it has made."""

    def socket(self, *args: Any, **kwargs: Any) -> zmq.Socket[bytes]:
        one: zmq.Socket[bytes] = super().socket(*args, **kwargs)
        MADE.append(one)
        return one


@pytest.fixture
def context() -> Iterator[Recording]:
    MADE.clear()
    context = Recording()
    yield context
    context.term()


@pytest.mark.parametrize("url", [URL, "nonsense://here"])
def test_one_that_cannot_be_opened_leaves_nothing_open(
    context: Recording, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: object) -> Monitor:
        raise zmq.ZMQError(errno.EMFILE)

    if url == URL:
        monkeypatch.setattr(broker_socket, "Monitor", short)
    loop = EventLoop()
    with pytest.raises(zmq.ZMQError) as caught:  # which keeps what was made from being collected
        BrokerSocket(context, loop, url, print)
    assert caught.value.errno in (errno.EMFILE, errno.EPROTONOSUPPORT)
    assert MADE
    assert all(socket.closed for socket in MADE)
    loop.close()


def test_a_descriptor_that_tells_of_no_message_is_no_message() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    loop = EventLoop()
    socket = BrokerSocket(context, loop, URL, print)
    for _ in range(2):
        socket._on_event(0)
        assert socket.receive() is None
        assert not socket.readable
    socket.close()
    context.term()
    loop.close()
