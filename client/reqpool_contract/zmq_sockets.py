"""Reading and writing ZeroMQ sockets from an epoll loop, shared by stub, broker and worker.

``ZMQ_FD`` is edge-triggered in meaning: it becomes readable when something has changed, and reading
``EVENTS`` takes that note away (zmq_getsockopt(3)), as do send and receive. A message that arrives while
this thread is sending leaves the fd silent. So: register the fd, and do not sleep before every socket whose
fd was reported, or that was sent on, has said that nothing is left: :func:`readable` returns False, or
:func:`receive` raises ``zmq.Again``. Without that, throughput collapses while the CPU idles. Asking
the others as well would be two system calls each.

Asking costs 1.6 µs, ``zmq.Again`` 3.7. When its fd was reported, a socket nearly always has a message, so it
is read without asking first; then it is asked whether there is another; after :data:`SEVERAL` messages it is
read until there are no more.

These replace ``recv_multipart`` and ``send_multipart``, which cost twice as much (flags as enums, checks of
every frame).
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
_NOBLOCK = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_send: Callable[[zmq.Socket[bytes], Any, int, bool], object] = zmq.backend.Socket.send
"""What ``zmq.Socket.send`` calls once it has looked at options for sockets of other kinds."""

SEVERAL = 3
"""Messages of a turn after which there are usually more: asking each time costs more than ``zmq.Again``."""
COPIED_BYTES = 64 << 10
"""Up to here a received frame is copied into bytes; a larger one stays where libzmq has put it. Bytes are
always copied when they are sent: to hand them over takes a thread that lets go of them afterwards."""


def events(socket: zmq.Socket[bytes]) -> tuple[bool, bool]:
    """Ask a socket: can it be read, can it be written?"""
    mask = int(socket.getsockopt(_EVENTS))
    return bool(mask & _POLLIN), bool(mask & _POLLOUT)


def readable(socket: zmq.Socket[bytes]) -> bool:
    """Ask a socket: is there a message?"""
    return bool(int(socket.getsockopt(_EVENTS)) & _POLLIN)


def receive(socket: zmq.Socket[bytes]) -> list[Any]:
    """Take the frames of one message: bytes, but a :class:`zmq.Frame` for a large one that is not the first.

    Raises:
        zmq.Again: if there is none.
    """
    # A Frame knows whether another follows. To ask the socket for RCVMORE makes an enum in Python each time.
    frame = socket.recv(_NOBLOCK, False)
    frames: list[Any] = [frame.bytes]
    while frame.more:
        frame = socket.recv(_NOBLOCK, False)
        frames.append(frame if len(frame) > COPIED_BYTES else frame.bytes)
    return frames


def send(socket: zmq.Socket[bytes], frames: list[Any]) -> None:
    """Queue one message of bytes, and frames as :func:`receive` gave them; never blocks.

    Raises:
        zmq.Again: if the pipe is full; nothing was queued.
        zmq.ZMQError: EHOSTUNREACH if a ROUTER has no such peer; nothing was queued.
    """
    last = frames[-1]
    for frame in frames[:-1]:
        _send(socket, frame, _MORE, type(frame) is bytes)
    _send(socket, last, _NOBLOCK, type(last) is bytes)


@contextlib.contextmanager
def os_errors() -> Iterator[None]:
    """Raise ZeroMQ's errors as what they stand for: who dials need not know ZeroMQ."""
    try:
        yield
    except zmq.ZMQError as error:
        raise OSError(error.errno, error.strerror) from error
