"""The broker's results sockets: one, and another for each so many sessions more.

ZeroMQ facts it relies on (libzmq 4.3.5):

- ``XPUB_MANUAL``: a subscription is a message; ``setsockopt(SUBSCRIBE)`` applies to the pipe of the message
  just received, so it is called right after the recv, before anything else is received.
- ``XPUB_NODROP``: a full pipe gives EAGAIN for that topic, instead of dropping in silence, and POLLOUT stays
  set. What could not be sent is in the session's unacknowledged batches: the client asks for it (RESEND).
- Each connection that ends has its socket go through all subscriptions that it has, twice
  (``xpub_t::xpipe_terminated``), on the thread and within the call that uses the socket next, whichever that
  is, and for all connections that have ended by then. So no socket has many; and as one call cannot be
  bounded, those whose descriptor tells that they have something to do take turns.
- It takes whatever is at an ipc path for a leftover, and removes it.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import stat
import time
from collections.abc import Callable

import zmq

from reqpool_contract import wire, zmq_sockets
from reqpool_contract.errors import UsageError

from .broker import Broker

MESSAGES_PER_TURN = 64
"""Subscriptions read from one socket before the next gets its turn."""
READ_S = 0.002
"""For how long a turn of the loop may read from each kind of socket; a message that was begun is finished. A
request passes the broker twice, and waits for a turn each time: 64 full batches would take some 100 ms."""
RETRY_S = 10.0
"""When to try to open one again, after one could not be opened."""

log = logging.getLogger("reqpool")


class Publisher:
    """XPUB sockets that publish to the sessions of a broker. One thread calls it.

    Args:
        bind: opens a socket and binds it to a URL.
        url: of the first.
        another: makes the URL of another out of its number; None: there is only the first.
        strange: called with each refused subscription: the descriptor and the peer it came from.

    Attributes:
        sockets: those that are open.
        urls: where they are bound.
    """

    def __init__(
        self,
        bind: Callable[[str], zmq.Socket[bytes]],
        url: str,
        another: Callable[[int], str] | None,
        strange: Callable[[int, str], None],
    ) -> None:
        self.urls: list[str] = []
        self._bind = bind
        self._another = another
        self._strange = strange
        self._number = 0
        self._retry_s = 0.0
        self.sockets: list[zmq.Socket[bytes]] = []
        self._places: dict[int, int] = {}
        self._unread: dict[int, None] = {}
        self._epoll = select.epoll()
        self._open(url)

    def fileno(self) -> int:
        """Readable while :meth:`take` has something to do."""
        return self._epoll.fileno()

    def _open(self, url: str) -> str:
        opened = self._bind(url)
        fd = int(opened.FD)
        self._places[fd] = len(self.sockets)
        self.sockets.append(opened)
        self._epoll.register(fd, select.EPOLLIN)
        self.urls.append(endpoint(opened))
        return last_part(self.urls[-1])

    def extend(self, broker: Broker, now_s: float) -> None:
        """Open another socket, as the broker wants one."""
        if self._another is None or now_s < self._retry_s:
            return
        self._number += 1
        url = self._another(self._number)
        if is_taken(url):
            return
        try:
            broker.placement.extend(self._open(url))
        except (UsageError, zmq.ZMQError) as error:
            self._number -= 1
            self._retry_s = now_s + RETRY_S
            log.warning(
                "cannot open another results socket; clients share the %d that are open: %s",
                len(self.urls),
                error,
            )

    def take(self, broker: Broker) -> bool:
        """Read subscriptions, in bounds; returns True if more may be there."""
        for fd, _ in self._epoll.poll(0):
            self._unread.setdefault(self._places[fd])
        end_s = time.monotonic() + READ_S
        for place in list(self._unread):
            del self._unread[place]
            if self._take(place, broker):
                self._unread[place] = None  # behind the others
            if time.monotonic() > end_s:
                break
        return bool(self._unread)

    def _take(self, place: int, broker: Broker) -> bool:
        results = self.sockets[place]
        for _ in range(MESSAGES_PER_TURN):
            if not zmq_sockets.readable(results):
                return False
            frame = results.recv(zmq.NOBLOCK, copy=False)
            message = frame.bytes
            topic = message[1:]
            if frame.more:
                zmq_sockets.receive(results)
                broker.malformed["results"] += 1
            elif message[:1] == b"\x01":
                if broker.lifecycle.subscription(topic, place):
                    results.setsockopt(zmq.SUBSCRIBE, topic)
                    broker.lifecycle.subscribed(topic)
                else:
                    self._strange(int(frame.get(zmq.SRCFD)), str(frame.get("Peer-Address")))
            elif message[:1] == b"\x00" and len(topic) == wire.SESSION_ID_BYTES:
                results.setsockopt(zmq.UNSUBSCRIBE, topic)
            else:
                broker.malformed["results"] += 1
        return True

    def send(self, broker: Broker) -> bool:
        """Send what the broker has to publish; returns True if there may be something to read by now."""
        messages, sessions = broker.outbox.results, broker.sessions
        used = set()
        for frames in messages:
            session = sessions.get(frames[0])
            if session is None or session.place is None:
                continue  # it has ended since
            used.add(session.place)
            try:
                zmq_sockets.send(self.sockets[session.place], frames)
            except zmq.Again:
                continue  # full: the batch is retained, and the client will miss it
        messages.clear()
        for place in used:
            if place not in self._unread and zmq_sockets.readable(self.sockets[place]):
                self._unread[place] = None
        return bool(self._unread)

    def close(self) -> None:
        """Close what waits for the sockets; they themselves belong to their owner."""
        self._epoll.close()


def endpoint(bound: zmq.Socket[bytes]) -> str:
    """Return the URL that a socket is bound to."""
    return bound.get_string(zmq.LAST_ENDPOINT).rstrip("\0")


def last_part(url: str) -> str:
    """Return how a client finds a results socket from the URL that it dialled: its port, or its file name."""
    return url.rpartition(":" if url.startswith("tcp:") else "/")[2]


def is_taken(url: str) -> bool:
    """Tell whether the path of an ipc URL is taken, and not only by what an ended broker left there."""
    if not url.startswith("ipc://"):
        return False
    path = url.removeprefix("ipc://")
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return True
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            probe.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    except OSError:
        return True  # full, or somebody else's
    return True
