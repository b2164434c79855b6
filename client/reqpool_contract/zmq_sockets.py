"""Reading and writing ZeroMQ sockets from an epoll loop; used by client, broker and worker.

``ZMQ_FD`` behaves as edge-triggered: it becomes readable when something has changed, and reading ``EVENTS``
resets it (zmq_getsockopt(3)), as do send and receive. A message that arrives while this thread is sending
does not make the fd readable. So register the fd, and do not sleep until each socket whose fd was reported,
or that was sent on, has reported that nothing is left: :func:`readable` returns False, or :func:`receive`
raises ``zmq.Again``. Otherwise throughput collapses while the CPU idles. Asking the other sockets as well
would cost two system calls each.

Asking costs 1.6 µs, ``zmq.Again`` 3.7. When its fd was reported, a socket nearly always has a message, so it
is read without asking; then it is asked whether there is another; after :data:`SEVERAL` messages it is read
until there are no more.

These functions replace ``recv_multipart`` and ``send_multipart``, which cost twice as much (flags as enums,
checks of every frame).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import zmq
import zmq.backend

_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)
_POLLOUT = int(zmq.POLLOUT)
NOBLOCK = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
send_frame: Callable[[zmq.Socket[bytes], Any, int, bool], object] = zmq.backend.Socket.send
"""What ``zmq.Socket.send`` calls after it has handled options for sockets of other types. Takes the socket, a
frame, flags, and whether to copy the frame."""

SEVERAL = 3
"""Messages of a turn after which more usually follow: asking each time would cost more than ``zmq.Again``."""
COPIED_BYTES = 64 << 10
"""Size up to which received frames are copied into bytes; larger ones stay in libzmq's memory. Bytes are
always copied when they are sent: without a copy, another thread would have to release them afterwards."""


def events(socket: zmq.Socket[bytes]) -> tuple[bool, bool]:
    """Return whether a socket can be read, and whether it can be written."""
    mask = int(socket.getsockopt(_EVENTS))
    return bool(mask & _POLLIN), bool(mask & _POLLOUT)


def readable(socket: zmq.Socket[bytes]) -> bool:
    """Return whether a socket has a message."""
    return bool(int(socket.getsockopt(_EVENTS)) & _POLLIN)


def receive(socket: zmq.Socket[bytes]) -> list[Any]:
    """Receive the frames of one message: bytes, or a :class:`zmq.Frame` for a large one after the first.

    Raises:
        zmq.Again: there is none.
    """
    # A Frame knows whether another follows. Asking the socket for RCVMORE makes an enum in Python each time.
    frame = socket.recv(NOBLOCK, False)
    frames: list[Any] = [frame.bytes]
    while frame.more:
        frame = socket.recv(NOBLOCK, False)
        frames.append(frame if len(frame) > COPIED_BYTES else frame.bytes)
    return frames


def send(socket: zmq.Socket[bytes], frames: list[Any]) -> None:
    """Queue one message of bytes, and of frames as :func:`receive` returns them; never blocks.

    Raises:
        zmq.Again: the pipe is full; nothing was queued.
        zmq.ZMQError: EHOSTUNREACH: a ROUTER has no such peer; nothing was queued.
    """
    last = frames[-1]
    for frame in frames[:-1]:
        send_frame(socket, frame, _MORE, type(frame) is bytes)
    send_frame(socket, last, NOBLOCK, type(last) is bytes)


@contextlib.contextmanager
def os_errors() -> Iterator[None]:
    """Raise ZeroMQ's errors as the OSErrors that they mean, for callers that do not know ZeroMQ."""
    try:
        yield
    except zmq.ZMQError as error:
        raise OSError(error.errno, error.strerror) from error
