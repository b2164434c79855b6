"""The worker half of a kind: how to talk to an upstream. Sans-IO: bytes in, events out, bytes to send.

A kind is an object of :class:`DatagramKind` or :class:`StreamKind`, registered under the kind's name in the
entry-point group ``reqpool.worker_kinds``; :func:`load` finds them. Neither a protocol nor a kind ever
touches a socket, a clock or a thread, so each is tested by feeding it bytes, whole and one by one.

What kinds of third parties use is imported from here: docs/kinds.md.
"""

from __future__ import annotations

from reqpool_contract.errors import Code

from .addresses import Address, Name, address_of, numeric_address, served_host, stream_address
from .ask import Ask
from .datagram_protocol import DatagramProtocol, Then
from .settings import settings_of
from .stream_protocol import READY, Answer, Event, Ready, Refused, StreamProtocol
from .worker_kinds import DatagramKind, StreamKind, WorkerKind, load

__all__ = [
    "READY",
    "Address",
    "Answer",
    "Ask",
    "Code",
    "DatagramKind",
    "DatagramProtocol",
    "Event",
    "Name",
    "Ready",
    "Refused",
    "StreamKind",
    "StreamProtocol",
    "Then",
    "WorkerKind",
    "address_of",
    "load",
    "numeric_address",
    "served_host",
    "settings_of",
    "stream_address",
]
