"""The file descriptor of one stream connection: connecting, reading, writing.

Some facts this file relies on:

* ``send`` may take a part of the bytes; EPOLLOUT is asked for only while some are left, since a writable
  socket would end every wait at once.
* ``recv`` gives b"" when the peer has closed its side, ConnectionResetError when it dropped the connection.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from typing import Protocol

from .event_loop import READABLE, WRITABLE, EventLoop
from .happy_eyeballs import HappyEyeballs
from .protocols import Address
from .unsent import Unsent

READ_BYTES = 64 << 10
"""Read from a connection in a turn. If there is more, that waits for its turn: see :mod:`.large_reads`."""
LARGE_READ_BYTES = 256 << 10
"""Read from a connection whose turn it is."""
WRITE_BYTES_PER_TURN = 128 << 10
"""What one connection may give in a turn: of large requests there may be one on each."""
BROKEN_OFF = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED})
"""What connect fails with if the peer took the connection and broke it before we looked: a reset of one that
was never taken is ECONNREFUSED (``tcp_reset`` and ``__inet_stream_connect`` in Linux)."""
UNREACHABLE = BROKEN_OFF | {errno.ECONNREFUSED, errno.ENOENT, errno.EAGAIN}
"""What connect fails with at once while a server restarts; the last two: on a unix socket."""


class StreamReader(Protocol):
    """What is spoken over the descriptor. It may close it in each of these calls.

    Attributes:
        answers: how many answers have been read in full.
    """

    answers: int

    def on_connected(self, address: Address) -> None:
        """The peer has taken the connection."""

    def on_cannot_connect(self, reason: str, codes: set[int]) -> None:
        """No address took it, for these error numbers."""

    def on_data(self, data: bytes) -> None:
        """Something has come; empty if the peer has closed its side."""

    def on_read(self) -> None:
        """All that came has been read, after some had to wait here."""

    def on_broken(self, reason: str) -> None:
        """The connection is broken: nothing more comes."""

    def on_unwritable(self) -> None:
        """Nothing more can be sent. What the peer said before is read next."""


class ConnectionIO:
    """Connects, reads and writes; a :class:`~.large_reads.Source`.

    Args:
        loop: that of this thread.
        reader: what is given all that comes.

    Attributes:
        gathered: what is to be written at the end of the turn; whoever adds the first adds this to
            :attr:`.EventLoop.unwritten`, too.
        unsent: what waits for room in the socket.
    """

    def __init__(self, loop: EventLoop, reader: StreamReader) -> None:
        self.gathered: list[bytes] = []
        self.unsent = Unsent()
        self._loop = loop
        self._reader = reader
        self._dial: HappyEyeballs | None = None
        self._socket: socket.socket | None = None
        self._events = 0

    @property
    def answers(self) -> int:
        """How many answers have been read in full."""
        return self._reader.answers

    @property
    def unread(self) -> bool:
        """Whether more has come than could be read so far."""
        return self._socket is not None and not self._events & READABLE

    def open(self, addresses: Sequence[Address]) -> None:
        """Begin to connect to the first of these addresses (at least one) that takes us."""
        self._dial = HappyEyeballs(self._loop, addresses, self._on_connected, self._on_cannot_connect)
        self._dial.start()

    def close(self) -> None:
        """Close the descriptor, or stop connecting; what was not sent is lost."""
        self.gathered.clear()
        if self._dial is not None:
            self._dial.close()
            self._dial = None
        made, self._socket = self._socket, None
        if made is not None:
            self._loop.unregister(made.fileno())
            made.close()

    def write(self, data: bytes) -> None:
        """Write it now, after what has gathered."""
        if data:
            self.gathered.append(data)
            self.flush()

    def flush(self) -> None:
        """Send as much of what has gathered as there is room for; what is large, a part in each turn."""
        gathered, made = self.gathered, self._socket
        if not gathered or made is None:
            return
        if self.unsent.pieces or sum(map(len, gathered)) > WRITE_BYTES_PER_TURN:
            for data in gathered:
                self.unsent.add(data)
            gathered.clear()
        else:
            data = gathered[0] if len(gathered) == 1 else b"".join(gathered)
            gathered.clear()
            sent = 0
            try:
                sent = made.send(data)
            except BlockingIOError:
                pass
            except OSError as error:
                self._break(error)
                return
            if sent == len(data):
                return
            self.unsent.add(memoryview(data)[sent:])
        self._watch(self._events | WRITABLE)

    def read_on(self) -> bool:
        """Read a piece of a large answer, as its turn has come; False if nothing more is there by now."""
        if self._read(LARGE_READ_BYTES):
            return True
        self._watch(self._events | READABLE)
        self._reader.on_read()
        return False

    def _on_connected(self, made: socket.socket, address: Address) -> None:
        self._socket, self._dial = made, None
        self._events = READABLE
        self._loop.register(made.fileno(), self._on_event, READABLE)
        self._reader.on_connected(address)

    def _on_cannot_connect(self, reason: str, codes: set[int]) -> None:
        self._reader.on_cannot_connect(reason, codes)

    def _on_event(self, mask: int) -> None:
        if mask & WRITABLE:
            self._write_on()
        made = self._socket
        if made is None or not mask & ~WRITABLE:
            return
        try:  # as in _read: written out, since each answer takes this way
            data = made.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._reader.on_broken(f"the peer broke the connection: {error.strerror}")
            return
        self._reader.on_data(data)
        if len(data) == READ_BYTES and self._socket is not None:
            self._watch(self._events & ~READABLE)
            self._loop.inflow.wait(self)

    def _read(self, most_bytes: int) -> bool:
        """Take what has come, up to a number of bytes; return whether there may be more."""
        made = self._socket
        if made is None:
            return False
        try:
            data = made.recv(most_bytes)
        except BlockingIOError:
            return False
        except OSError as error:
            self._reader.on_broken(f"the peer broke the connection: {error.strerror}")
            return False
        self._reader.on_data(data)
        return len(data) == most_bytes and self._socket is not None

    def _write_on(self) -> None:
        """There is room again for what was not sent."""
        if self._socket is None:
            return
        try:
            self.unsent.send(self._socket, WRITE_BYTES_PER_TURN)
        except BlockingIOError:
            return
        except OSError as error:
            self._break(error)
            return
        if not self.unsent.pieces:
            self._watch(self._events & ~WRITABLE)

    def _break(self, error: OSError) -> None:
        self.unsent.clear()
        self._reader.on_unwritable()
        # What the peer said before may still lie there: an answer, or why.
        self._read(LARGE_READ_BYTES)
        self._reader.on_broken(f"the peer broke the connection: {error.strerror}")

    def _watch(self, events: int) -> None:
        if events != self._events and self._socket is not None:
            self._events = events
            self._loop.modify(self._socket.fileno(), events)
