"""The worker half of a kind: how to talk to an upstream. Sans-IO: bytes in, events out, bytes to send.

A kind is an object of :class:`DatagramKind` or :class:`StreamKind`, registered under the kind's name in the
entry-point group ``reqpool.worker_kinds``; :func:`load` finds them. Neither a protocol nor a kind ever
touches a socket, a clock or a thread, so each is tested by feeding it bytes, whole and one by one.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from typing import Any, NamedTuple

from reqpool_contract import checks, wire
from reqpool_contract.errors import Code, PoolError, ProtocolError, UsageError
from reqpool_contract.host_names import as_served, canonical_address, netloc
from reqpool_contract.kind_registry import registered
from reqpool_contract.origin_names import host_and_port
from reqpool_contract.wire import KindInfo


class Address(NamedTuple):
    """Where to connect to: ``family`` is ``socket.AF_*``, ``sockaddr`` what ``socket.connect`` takes."""

    family: int
    sockaddr: Any

    def __str__(self) -> str:
        if isinstance(self.sockaddr, str):
            return self.sockaddr
        return netloc(self.sockaddr[0], self.sockaddr[1])


class Name(NamedTuple):
    """A host whose addresses are to be looked up."""

    host: str
    port: int


def numeric_address(origin: str) -> Address:
    """Read ``scheme://host:port`` with a numeric IPv4 or IPv6 host, or ``localhost`` (127.0.0.1).

    Raises:
        UsageError: for a host name (the loop cannot look it up without blocking), no port, or a zone that is
            not a network interface here.
    """
    host, port = host_and_port(origin)
    if host == "localhost":
        host = "127.0.0.1"
    if canonical_address(host) is None:
        raise UsageError(f"{host!r} is not a numeric address; names are not looked up", origin=origin)
    return address_of(host, port)


def stream_address(origin: str) -> Address | Name:
    """Read ``scheme://[user@]host:port…``, with an address or a name as host.

    Raises:
        UsageError: if there is no host or no port, or a zone that is not a network interface here.
    """
    host, port = host_and_port(origin)
    return Name(host, port) if canonical_address(host) is None else address_of(host, port)


def served_host(origin: str) -> str:
    """Return an origin's host as its server knows it, for a Host header, SNI and certificates; empty if it
    has none."""
    try:
        return as_served(host_and_port(origin)[0])
    except UsageError:
        return ""


def address_of(host: str, port: int) -> Address:
    """Make an address of a numeric host, perhaps with a zone: ``fe80::1%eth0``.

    Raises:
        UsageError: if its zone is not a network interface here.
    """
    if ip_address(host).version == 4:
        return Address(socket.AF_INET, (host, port))
    address, _, zone = host.partition("%")
    return Address(socket.AF_INET6, (address, port, 0, _interface(zone) if zone else 0))


def _interface(zone: str) -> int:
    try:
        return socket.if_nametoindex(zone)
    except OSError as error:
        if zone.isdecimal() and int(zone) < 1 << 32:  # the number itself (RFC 4007 §11.2); more wraps around
            return int(zone)
        raise UsageError(f"{zone!r} is not a network interface of this machine") from error


def settings_of(packed: bytes) -> dict[str, Any]:
    """Decode a route's settings (:mod:`reqpool_contract.origin_names`).

    Raises:
        UsageError: if they are not a msgpack map with string keys.
    """
    try:
        return checks.fields(wire.unpack(packed)) if packed else {}
    except ProtocolError as error:
        raise UsageError(f"malformed settings: {error.text}") from error


class Ask:
    """A request as a protocol sees it.

    Attributes:
        payload: what the client half encoded.
        key: free for the protocol that holds the request, e.g. a datagram's id.
        note: free as well.
    """

    __slots__ = ("key", "note", "payload")

    payload: bytes
    key: Any
    note: Any


# --- datagrams ------------------------------------------------------------------------------------


class Then(Enum):
    """What is to be done about a request for which a datagram came that is not simply its answer."""

    STREAM = "stream"
    """The answer was cut short: ask again over a stream."""
    AGAIN = "again"
    """Send :meth:`DatagramProtocol.again` now; the request is still open."""
    ELSEWHERE = "elsewhere"
    """It is an answer, but another origin may have a better one."""


class DatagramProtocol(ABC):
    """What goes over one connected datagram socket."""

    @property
    @abstractmethod
    def open_requests(self) -> Sequence[Any]:
        """The requests asked and not yet answered."""

    @abstractmethod
    def ask(self, request: Any) -> bytes:
        """Take a request (an :class:`Ask`) and return the datagram to send.

        Raises:
            UsageError: if its payload is malformed; nothing is remembered then.
        """

    @abstractmethod
    def again(self, request: Any, repeated: int) -> bytes:
        """Return the datagram of an open request once more; ``repeated``: how often that was done before."""

    @abstractmethod
    def feed(self, datagram: bytes) -> tuple[Any, Then | None] | None:
        """Match a datagram.

        Returns:
            The request it is for, and None if it is its answer. The request is then open no longer, unless
            it is to be sent ``AGAIN``. None alone for a datagram that answers nothing: it is counted and
            ignored, since anybody can send one.
        """

    @abstractmethod
    def forget(self, request: Any) -> None:
        """The request is no longer wanted; a late answer to it must match nothing."""


# --- streams --------------------------------------------------------------------------------------


class Ready:
    """The event that the handshake (or :meth:`StreamProtocol.hold`, ``release``) is over: requests may be
    sent."""


READY = Ready()


class Refused:
    """The event that the oldest unanswered request's answer has come, all of it, and was not taken.

    The request ends with ``error``; the connection goes on.
    """

    __slots__ = ("error",)

    def __init__(self, error: PoolError) -> None:
        self.error = error


Answer = tuple[int, bytes]
"""The outcome of the oldest unanswered request of a connection: a result's code and data."""
Event = Answer | bytes | Ready | Refused | PoolError
"""Bytes are to be sent now: the next step of a handshake, a reply to a ping. Bare tuples and bytes, because
there is one for every answer. An error, as if raised, but behind the answers that came before it."""


class StreamProtocol(ABC):
    """What goes over one stream connection. Answers come in the order of the requests."""

    @abstractmethod
    def connected(self) -> Sequence[Event]:
        """The connection stands. Returns ``[READY]``, or the first step of the handshake.

        Raises:
            PoolError: as in :meth:`feed`.
        """

    @abstractmethod
    def send(self, request: Any) -> bytes:
        """Return the bytes that ask for ``request`` (an :class:`Ask`).

        Raises:
            UsageError: if its payload is malformed; the connection goes on as if nothing had been asked.
        """

    @abstractmethod
    def feed(self, data: bytes) -> Sequence[Event]:
        """Take bytes from the peer.

        Raises:
            PoolError: if the connection cannot go on. The oldest unanswered request ends with this error
                (``BadResponse``: the answer is not one), the others as lost with the connection. One with
                ``sent=False`` says that the peer gave the connection up before it read that request, which
                may then be asked again whatever it is. During the handshake, the request that waits for it
                ends with the error (``ConnectFailed``: the log-in was refused).
        """

    @abstractmethod
    def eof(self) -> Sequence[Event]:
        """The peer has closed its side. Whatever is then still unanswered was lost.

        Raises:
            PoolError: as in :meth:`feed`.
        """

    def shorten_handshake(self) -> bool:
        """The peer has closed the connection during the handshake, without a word.

        Returns:
            True if the next connection to this upstream will ask for less in its handshake, which is worth a
            try at once. False, the default.
        """
        return False

    @property
    @abstractmethod
    def reusable(self) -> bool:
        """May the connection, with nothing unanswered, serve another request?"""

    @property
    def unclean(self) -> bool:
        """Must :meth:`release` clean the connection, with nothing unanswered, before it serves another?"""
        return False

    @property
    def awaited(self) -> str:
        """What a handshake that does not get on waits for, for people; empty if there is nothing to say."""
        return ""

    @property
    def begun(self) -> bool:
        """Has a byte of the oldest unanswered request's answer come?

        A kept connection that breaks before is one that its peer had given up: the request is tried once
        more on a fresh one, if it may be repeated. True, the default, means never.
        """
        return True

    def hold(self) -> Sequence[Event]:
        """The connection, with nothing unanswered, becomes one session's own. Ends with :data:`READY`."""
        return [READY]

    def release(self) -> Sequence[Event] | None:
        """A session lets go of it, or it is :attr:`unclean`; nothing is unanswered. Undo what was done,
        ending with :data:`READY`.

        None, the default: close it instead.
        """
        return None


# --- kinds ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WorkerKind(ABC):
    """What both sorts have in common.

    Attributes:
        name: the kind's name, as in the entry point.
        limit: default cap per upstream for the whole pool: connections, or requests in flight where there are
            none.
    """

    name: str
    limit: int

    @property
    @abstractmethod
    def info(self) -> KindInfo:
        """How the worker's HELLO describes this kind."""


@dataclass(frozen=True)
class DatagramKind(WorkerKind):
    """A kind that asks by datagram.

    Attributes:
        address: reads an origin; raises UsageError.
        protocol: makes the protocol of one socket from the origin and the time (as ``time.monotonic()``).
        requests_per_socket: requests after which a socket, and with it the source port, is replaced.
        repeats: send a datagram again while its answer is missing?
        stream: makes the protocol of a connection on which a cut-short answer is asked for again, from the
            origin; None if the kind has no such thing.
        declines: is this answer, which came over a stream, one that another origin may better? None if no
            answer is.
    """

    address: Callable[[str], Address]
    protocol: Callable[[str, float], DatagramProtocol]
    requests_per_socket: int
    repeats: bool
    stream: Callable[[str], StreamProtocol] | None = None
    declines: Callable[[bytes], bool] | None = None

    @property
    def info(self) -> KindInfo:
        return KindInfo(self.name, False, self.limit, 1)


@dataclass(frozen=True)
class StreamKind(WorkerKind):
    """A kind that asks over connections, which the broker grants.

    Attributes:
        address: reads an origin; raises UsageError. A name is looked up by the worker.
        protocol: makes the protocol of one connection from the origin, the route's settings (packed,
            see :func:`settings_of`), and the largest answer in bytes; raises UsageError.
        depth: requests that may be unanswered on one connection.
        max_bytes: largest answer, where the upstream's policy says nothing.
        waits: a request may keep its connection for as long as it likes (BLPOP), so some of an upstream's
            connections are kept from this kind, for the short requests of others there.
        prompt_variant: variant of origins to which no request waits all the same; empty if there is none.
    """

    address: Callable[[str], Address | Name]
    protocol: Callable[[str, bytes, int], StreamProtocol]
    depth: int = 1
    max_bytes: int = 16 << 20
    waits: bool = False
    prompt_variant: str = ""

    @property
    def info(self) -> KindInfo:
        return KindInfo(self.name, True, self.limit, self.depth, self.waits, self.prompt_variant)


def load() -> dict[str, WorkerKind]:
    """Import every registered worker half.

    Raises:
        UsageError: if an entry point does not hold a kind of its own name, or its limits are out of range.
        OSError: if the process is short of file descriptors.
    """
    kinds: dict[str, WorkerKind] = {}
    for entry in registered("reqpool.worker_kinds"):
        kind = entry.load()
        if not isinstance(kind, WorkerKind) or kind.name != entry.name:
            raise UsageError(
                f"entry point {entry.name!r} of reqpool.worker_kinds holds {kind!r}, not a kind of that name"
            )
        _check_limits(kind)
        kinds[entry.name] = kind
    return kinds


def _check_limits(kind: WorkerKind) -> None:
    """See that the broker would take what HELLO says of a kind: it refuses the whole worker otherwise."""
    try:
        wire.kinds((tuple(kind.info),))
    except ProtocolError as error:
        raise UsageError(f"{kind.info!r}: {error.text}") from error
    if isinstance(kind, StreamKind) and not 0 < kind.max_bytes <= wire.MAX_ANSWER_BYTES:
        raise UsageError(
            f"kind {kind.name!r}: max_bytes={kind.max_bytes!r} is not between 1 and {wire.MAX_ANSWER_BYTES}"
        )


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
