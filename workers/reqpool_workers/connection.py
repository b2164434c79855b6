"""One stream connection: its states, its fd, what is unanswered on it.

    connecting --connected--> handshake --Ready--> ready <--sent / all answered--> busy
        |                         |                  |                              |
        +-------------------------+-----> closed <---+------------------------------+

Some facts this file relies on:

* A non-blocking connect that is under way reports EPOLLOUT when it is over; SO_ERROR then says how. To a
  local address it may be over at once, and on a unix socket EAGAIN means that the peer's backlog is full.
  (connect(2))
* ``send`` may take a part of the bytes; EPOLLOUT is asked for only while some are left, since a writable
  socket would end every wait at once.
* ``recv`` gives b"" when the peer has closed its side, ConnectionResetError when it dropped the connection.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from enum import Enum
from typing import Any, Protocol

from reqpool.errors import ConnectFailed, ConnectionLost, PoolError, UsageError

from .ledger import Request
from .loop import READABLE, WRITABLE, Loop
from .protocols import Address, Answer, Event, Output, StreamProtocol

READ_BYTES = 64 << 10
READS_PER_TURN = 4
"""256 KiB: what one connection may take in a turn."""


class State(Enum):
    """Where a connection stands."""

    CONNECTING = "connecting"
    HANDSHAKE = "handshake"
    READY = "ready"
    BUSY = "busy"
    CLOSED = "closed"


TRANSITIONS: dict[State, frozenset[State]] = {
    State.CONNECTING: frozenset({State.HANDSHAKE, State.CLOSED}),
    State.HANDSHAKE: frozenset({State.READY, State.CLOSED}),
    State.READY: frozenset({State.BUSY, State.CLOSED}),
    State.BUSY: frozenset({State.READY, State.CLOSED}),
    State.CLOSED: frozenset(),
}


class Owner(Protocol):
    """Who opens connections and is told of them. All calls come on the loop thread."""

    def on_ready(self, connection: Connection) -> None:
        """It may take a request: after the handshake, and each time an answer has made room."""

    def on_answer(self, connection: Connection, request: Request, code: int, data: bytes) -> None:
        """A request has its outcome."""

    def on_refused(self, connection: Connection, request: Request, error: UsageError) -> None:
        """The protocol would not take a request; nothing was sent."""

    def on_closed(
        self, connection: Connection, error: PoolError, unanswered: list[Request], sent: bool
    ) -> None:
        """The connection is gone. The first of ``unanswered`` ends with ``error``, the others are lost.

        ``sent``: were they sent on it, or was it never ready?
        """


class Connection:
    """A connection to an origin, opened for one request and perhaps kept for others.

    Args:
        loop: that of this thread.
        owner: who is told of everything.
        protocol: what is spoken.
        first: the request it is opened for.

    Attributes:
        state: moved by :meth:`_move` alone.
        first: the request that waits for the connection to be ready, or None.
        retiring: True if it takes no more requests and is closed with the last answer.
        reason: why it was closed.
        born_s: monotonic seconds at which it was opened.
        idle_since_s: monotonic seconds since which nothing is unanswered.
    """

    def __init__(self, loop: Loop, owner: Owner, protocol: StreamProtocol, first: Request) -> None:
        self.state = State.CONNECTING
        self.first: Request | None = first
        self.retiring = False
        self.reason = ""
        self.born_s = self.idle_since_s = loop.now_s
        self._loop = loop
        self._owner = owner
        self._protocol = protocol
        self._socket: socket.socket | None = None
        self._unanswered: deque[Request | None] = deque()
        self._live = 0
        self._unsent = bytearray()
        self._events = 0

    def __repr__(self) -> str:
        return f"<Connection {self.state.value} {self.load} unanswered {self.reason}>".replace(" >", ">")

    @property
    def load(self) -> int:
        """How many answers are outstanding."""
        return len(self._unanswered)

    @property
    def phase(self) -> str:
        """The phase of a request that has this connection."""
        return "connect" if self.state in (State.CONNECTING, State.HANDSHAKE) else "read"

    def open(self, address: Address) -> None:
        """Begin to connect. On failure :meth:`Owner.on_closed` is called before this returns."""
        try:
            self._socket = made = socket.socket(address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            if address.family in (socket.AF_INET, socket.AF_INET6):
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            code = made.connect_ex(address.sockaddr)
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, os.strerror(code))
        except OSError as error:
            self._close_failed(error)
            return
        self._events = WRITABLE
        self._loop.register(made.fileno(), self._on_event, WRITABLE)

    def send(self, request: Request) -> None:
        """Ask for a request; the connection is ready, or busy with room left."""
        try:
            data = self._protocol.send(request)
        except UsageError as error:
            self._owner.on_refused(self, request, error)
            return
        request.place = self
        self._unanswered.append(request)
        self._live += 1
        if self.state is State.READY:
            self._move(State.BUSY)
        self._write(data)

    def drop(self, request: Request, reason: str) -> None:
        """A request is no longer wanted: with its answer outstanding, the connection serves nobody else."""
        request.place = None
        self.retiring = True
        if self.first is request:
            self.first = None
        else:
            self._unanswered[self._unanswered.index(request)] = None
            self._live -= 1
        # Answers to others that were sent on it still come in order, and are theirs.
        if not self._live and self.first is None:
            self.close(reason)

    def give_up(self, reason: str) -> None:
        """Close a connection that does not come about."""
        self.close(reason, ConnectFailed(reason))

    def close(self, reason: str, error: PoolError | None = None) -> None:
        """Close at once. ``reason`` is for people; ``error`` is what the oldest request ends with."""
        if self.state is State.CLOSED:
            return
        unanswered = [request for request in self._unanswered if request is not None]
        sent = self.first is None
        if self.first is not None:
            unanswered.append(self.first)  # nothing else can be there: it was never ready
            self.first = None
        # An answer to a request that nobody wants any more is not the next one's error.
        if error is None or (self._unanswered and self._unanswered[0] is None):
            error = ConnectionLost(reason)
        for request in unanswered:
            request.place = None
        self._unanswered.clear()
        self._live = 0
        self.reason = reason
        self._move(State.CLOSED)
        if self._socket is not None:
            if self._events:
                self._loop.unregister(self._socket.fileno())
            self._socket.close()
        self._owner.on_closed(self, error, unanswered, sent)

    # --- the fd ---------------------------------------------------------------------------------

    def _on_event(self, mask: int) -> None:
        if self.state is State.CONNECTING:
            self._on_connected()
            return
        if mask & WRITABLE:
            self._write(b"")
        if mask & ~WRITABLE and self.state is not State.CLOSED:
            self._read()

    def _on_connected(self) -> None:
        made = self._socket
        if made is None:
            return
        code = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._close_failed(OSError(code, os.strerror(code)))
            return
        self._move(State.HANDSHAKE)
        self._watch(READABLE)
        try:
            events = self._protocol.connected()
        except PoolError as error:
            self.close(error.text, error)
            return
        self._handle(events)

    def _read(self) -> None:
        made = self._socket
        for _ in range(READS_PER_TURN):
            if self.state is State.CLOSED or made is None:
                return
            try:
                data = made.recv(READ_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self._close_lost(f"the peer broke the connection: {error.strerror}")
                return
            try:
                events = self._protocol.feed(data) if data else self._protocol.eof()
            except PoolError as error:
                self.close(error.text, error)
                return
            self._handle(events)
            if not data:
                self._close_lost("the peer closed the connection")
                return
            if len(data) < READ_BYTES:
                return

    def _handle(self, events: Any) -> None:
        event: Event
        for event in events:
            if self.state is State.CLOSED:
                return
            if type(event) is Answer:
                self._answer(event)
            elif type(event) is Output:
                self._write(event.data)
            else:
                self._move(State.READY)
                first, self.first = self.first, None
                if first is not None:
                    self.send(first)
                if self.state is State.READY:
                    self._owner.on_ready(self)

    def _answer(self, answer: Answer) -> None:
        if not self._unanswered:
            self.close("the peer answered what nobody asked")
            return
        request = self._unanswered.popleft()
        if request is not None:
            self._live -= 1
            request.place = None
        if not self._unanswered:
            self.idle_since_s = self._loop.now_s
            self._move(State.READY)
        if request is not None:
            self._owner.on_answer(self, request, answer.code, answer.data)
        if self.state is State.CLOSED:
            return
        if self._live == 0 and (self.retiring or (not self._unanswered and not self._protocol.reusable)):
            self.close("retired" if self.retiring else "done")
        elif not self.retiring:
            self._owner.on_ready(self)

    def _write(self, data: bytes) -> None:
        made = self._socket
        if made is None:
            return
        if not self._unsent:
            try:
                sent = made.send(data) if data else 0
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._close_lost(f"the peer broke the connection: {error.strerror}")
                return
            if sent == len(data):
                return
            data = data[sent:]
        self._unsent += data
        while self._unsent:
            try:
                sent = made.send(self._unsent)
            except BlockingIOError:
                self._watch(READABLE | WRITABLE)
                return
            except OSError as error:
                self._close_lost(f"the peer broke the connection: {error.strerror}")
                return
            del self._unsent[:sent]
        self._watch(READABLE)

    def _watch(self, events: int) -> None:
        if events != self._events and self._socket is not None:
            self._events = events
            self._loop.modify(self._socket.fileno(), events)

    # --- the ends -------------------------------------------------------------------------------

    def _close_failed(self, error: OSError) -> None:
        self.give_up(f"cannot connect: {error.strerror or error}")

    def _close_lost(self, text: str) -> None:
        if self.state is State.HANDSHAKE:
            self.give_up(text)
        else:
            self.close(text, ConnectionLost(text))

    def _move(self, state: State) -> None:
        if state not in TRANSITIONS[self.state]:
            raise RuntimeError(f"a connection does not go from {self.state.value} to {state.value}")
        self.state = state
