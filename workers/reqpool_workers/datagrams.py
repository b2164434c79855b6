"""Requests to one origin by datagram: a few connected UDP sockets, replaced now and then.

Some facts this file relies on:

* A connected UDP socket receives from its peer alone, and an ICMP error for what it sent comes back as the
  result of its next ``send`` or ``recv`` (udp(7)): ECONNREFUSED says that nobody listens there.
* The kernel picks a random source port at ``connect`` (ip_local_port_range); with a random id it is what
  keeps others from guessing (RFC 5452, 9.2), so sockets are replaced after some time and some requests.
* One that asked a single request, which then ended without an answer, is kept open: ``owed_ports.py``. On one
  that many share the protocol tells their answers apart, so a late one matches nothing, whoever has the port.
* A receive buffer that is full drops silently, so it is raised (capped by net.core.rmem_max), and what is in
  flight to an origin is capped by the broker.
"""

from __future__ import annotations

import errno
import socket

from reqpool_contract.descriptors import SHORTAGES
from reqpool_contract.errors import Code, ConnectFailed, ConnectionLost, PoolError, UsageError
from reqpool_contract.policy import Policy

from .connection import Connection
from .event_loop import READABLE, WORK_PER_TURN, EventLoop
from .lease import Dropped, Pin, Request, WorkerLease
from .lease_outcomes import LeaseOutcomes
from .owed_ports import OwedPorts
from .protocols.addresses import Address
from .protocols.datagram_protocol import Then
from .protocols.worker_kinds import DatagramKind
from .shortages import report_shortage

OUT_OF_SOCKETS = SHORTAGES | {errno.EAGAIN}
"""EAGAIN: no port is free (connect(2))."""
SOCKETS = 4
"""Sockets to one origin in use at once, those that only wait for answers aside."""
CHUNK = 64
"""Requests sent on one socket before the next has its turn."""
SOCKET_LIFE_S = 30.0
SOCKET_IDLE_S = 2.0
STREAM_CONNECT_S = 5.0
RECEIVE_BUFFER_BYTES = 1 << 20
LARGEST_DATAGRAM_BYTES = 65_535

FIRST_RTT_S = 0.1
"""Assumed until something was measured."""
SHORTEST_RESEND_S = 0.2
LONGEST_RESEND_S = 1.0


class DatagramSocket:
    """One connected socket and what is asked on it."""

    def __init__(self, origin: DatagramOrigin, address: Address, now_s: float) -> None:
        self.origin = origin
        self.protocol = origin.kind.protocol(origin.name, now_s)
        self.left = origin.kind.requests_per_socket
        self.retire_s = now_s + SOCKET_LIFE_S
        self.used_s = now_s
        self.open = 0
        self.socket = socket.socket(address.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            self.socket.connect(address.sockaddr)
            origin.loop.register(self.socket.fileno(), self.on_event, READABLE)
        except OSError:
            self.socket.close()
            raise

    def ask(self, requests: list[Request]) -> OSError | None:
        """Send new requests; return the error with which the socket failed, and all that was open on it.

        The requests after the one at which it failed have not been touched: their place is None.
        """
        ask, send = self.protocol.ask, self.socket.send
        for request in requests:
            try:
                datagram = ask(request)
            except UsageError as error:
                self.origin.outcomes.conclude(request, Code.USAGE, error.text, sent=False)
                continue
            request.place = self
            self.open += 1
            try:
                send(datagram)
            except OSError as error:
                if error.errno == errno.EMSGSIZE:
                    self.forget(request)
                    text = "the payload is too large for a datagram"
                    self.origin.outcomes.conclude(request, Code.USAGE, text, sent=False)
                elif error.errno != errno.EAGAIN or not self.origin.kind.repeats:
                    self.fail(error)
                    return error
                # else as good as lost on the way: it is sent again like one that was
        self.left -= len(requests)
        if not self.open and self.left <= 0:
            self.close()
        return None

    def again(self, request: Request, repeated: int) -> bool:
        """Send a request once more. False if the socket has failed and with it all that was open on it."""
        try:
            self.socket.send(self.protocol.again(request, repeated))
        except BlockingIOError:
            return True
        except OSError as error:
            self.fail(error)
            return False
        return True

    def on_event(self, _mask: int) -> None:
        """Read answers."""
        recv, feed = self.socket.recv, self.protocol.feed
        origin = self.origin
        finish = origin.outcomes.finish
        for _ in range(WORK_PER_TURN):
            try:
                datagram = recv(LARGEST_DATAGRAM_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                self.fail(error)
                return
            found = feed(datagram)
            if found is None:
                origin.outcomes.reports.ignored += 1
                continue
            request, then = found
            if then is Then.AGAIN:
                if not self.again(request, 0):
                    return
                continue
            self.open -= 1
            if then is not None:
                origin.take_up(request, then, datagram)
                continue
            finish(request, 0, datagram)
            lease = request.lease
            if not lease.live and not lease.resent:
                origin.measured(lease)
            if not self.open:
                break
        if not self.open and self.left <= 0:
            self.close()

    def forget(self, request: Request) -> None:
        """A request is no longer wanted."""
        self.protocol.forget(request)
        request.place = None
        self.open -= 1
        if self.open or self.left > 0:
            return
        if self.origin.kind.requests_per_socket == 1:
            self.origin.keep_port(self)
        else:
            self.close()

    def fail(self, error: OSError) -> None:
        """The socket reports an error: nothing that is open on it will be answered."""
        requests = list(self.protocol.open_requests)
        self.left = 0
        self.close()
        self.origin.fail(requests, error, sent=self.origin.kind.requests_per_socket > 1)

    def close(self) -> None:
        """Close; late answers meet a closed port."""
        self.origin.forget_socket(self)
        self.origin.loop.unregister(self.socket.fileno())
        self.socket.close()


class DatagramOrigin:
    """One origin of a datagram kind. It has no connections: what the worker asks of those is answered so."""

    settings: bytes | None = None
    """Whatever comes with a lease will do."""
    pins: tuple[Pin, ...] = ()
    stranded: tuple[Request, ...] = ()
    idle: tuple[Connection, ...] = ()

    def __init__(
        self, loop: EventLoop, outcomes: LeaseOutcomes, kind: DatagramKind, name: str, owed_ports: OwedPorts
    ) -> None:
        self.loop = loop
        self.outcomes = outcomes
        self.kind = kind
        self.name = name
        self._owed_ports = owed_ports
        self.address = kind.address(name)
        self._active: list[DatagramSocket] = []
        self._sockets: set[DatagramSocket] = set()
        self._streams: set[Connection] = set()
        self._next = 0
        self._srtt_s = FIRST_RTT_S

    # --- what the worker asks of it ----------------------------------------------------------------

    def submit(self, lease: WorkerLease, now_s: float) -> None:
        """Send a lease's requests."""
        if self.kind.repeats:
            lease.rto_s = min(max(4 * self._srtt_s, SHORTEST_RESEND_S), LONGEST_RESEND_S)
            lease.resend_s = now_s + lease.rto_s
        self.send(lease.requests)

    def submit_pinned(self, lease: WorkerLease, pin: Pin) -> None:
        """Nothing is ever held."""
        self.outcomes.no_such_pin(lease, pin)

    def unpin(self, pin: Pin, reason: str) -> bool:
        """Nothing is ever held."""
        return False

    def grant(self, slots: int, policy: Policy) -> None:
        """Sockets are not granted."""

    def grant_held(self) -> None:
        """Sockets are not granted."""

    def resend(self, lease: WorkerLease, now_s: float) -> float | None:
        """Send again what is unanswered, each time after twice as long."""
        if not lease.rto_s or now_s < lease.resend_s:
            return lease.resend_s
        for request in lease.unended():
            place = request.place
            if type(place) is DatagramSocket:
                if not place.again(request, lease.resent):
                    break
                self.outcomes.reports.resent += 1
        lease.resent += 1
        lease.rto_s *= 2
        lease.resend_s = now_s + lease.rto_s
        return lease.resend_s

    def drop(self, request: Request, reason: str) -> Dropped:
        """Stop waiting for an answer."""
        place = request.place
        if type(place) is DatagramSocket:
            place.forget(request)
        elif isinstance(place, Connection):
            place.drop(request, reason)
        return Dropped("read", True)

    def unsent(self) -> list[Request]:
        """Requests that could be handed back: none, each is sent as it comes."""
        return []

    @property
    def backlog(self) -> int:
        """Requests that wait here: none, each is sent as it comes."""
        return 0

    def tend(self, now_s: float) -> None:
        """Replace sockets that are old, close those that are idle."""
        for one in list(self._sockets):
            if now_s > one.retire_s:
                one.left = 0
            if not one.open and (one.left <= 0 or now_s - one.used_s > SOCKET_IDLE_S):
                one.close()

    @property
    def deserted(self) -> bool:
        """Is there nothing here worth keeping?"""
        return not self._sockets and not self._streams

    @property
    def counts(self) -> list[int]:
        """In flight, in use, idle, waiting, overflowed, pinned."""
        busy = sum(1 for one in self._sockets if one.open)
        in_flight = sum(one.open for one in self._sockets) + len(self._streams)
        return [in_flight, busy + len(self._streams), len(self._sockets) - busy, 0, 0, 0]

    def close(self, reason: str) -> None:
        """Close every fd. What is open is not reported: the worker ends."""
        for one in list(self._sockets):
            one.close()
        for connection in list(self._streams):
            connection.close(reason)

    # --- sockets -----------------------------------------------------------------------------------

    def send(self, requests: list[Request]) -> None:
        """Spread requests over the sockets and send them."""
        begin = 0
        while begin < len(requests):
            try:
                one = self._pick()
            except OSError as error:
                if error.errno in OUT_OF_SOCKETS and self._owed_ports.give_way():
                    continue
                if error.errno in SHORTAGES:
                    report_shortage(error.errno)
                    # Not the upstream's fault: the broker waits a heartbeat before it leases more here.
                    self.outcomes.give_back(requests[begin:])
                else:
                    self.fail(requests[begin:], error, sent=False)
                return
            chunk = requests[begin : begin + min(CHUNK, one.left)]
            one.used_s = self.loop.now_s
            failure = one.ask(chunk)
            begin += len(chunk)
            if failure is not None:
                # It is the origin that cannot be reached: another socket would not help.
                untouched = [request for request in chunk if request.place is None and request.live]
                self.fail(untouched + requests[begin:], failure, sent=False)
                return

    def fail(self, requests: list[Request], error: OSError, *, sent: bool) -> None:
        """Report requests of a socket that reported an error."""
        text = f"cannot reach the upstream: {error.strerror or error}"
        for request in requests:
            request.place = None
            self.outcomes.fail([request], Code.CONNECT_FAILED, text, phase="connect", sent=sent)

    def measured(self, lease: WorkerLease) -> None:
        """All of a lease was answered without sending again: so long did the slowest take."""
        self._srtt_s += (self.loop.now_s - lease.began_s - self._srtt_s) / 8

    def keep_port(self, one: DatagramSocket) -> None:
        """A socket has nothing to do but to wait for an answer that nobody wants any more."""
        self._sockets.discard(one)
        self._owed_ports.keep(one, self.loop.now_s)

    def forget_socket(self, one: DatagramSocket) -> None:
        """A socket is being closed."""
        self._sockets.discard(one)
        self._owed_ports.remove(one)

    def _pick(self) -> DatagramSocket:
        """The next socket in turn; a new one if there are few, or in the place of one that is used up."""
        self._next = (self._next + 1) % SOCKETS
        active = self._active
        if self._next < len(active):
            one = active[self._next]
            if one.left > 0 and one in self._sockets:
                return one
        one = DatagramSocket(self, self.address, self.loop.now_s)
        self._sockets.add(one)
        if self._next < len(active):
            active[self._next] = one
        else:
            active.append(one)
            self._next = len(active) - 1
        return one

    # --- answers that were cut short, or are not the last word -------------------------------------

    def take_up(self, request: Request, then: Then, datagram: bytes) -> None:
        """Go on with a request whose answer was cut short, or that another origin may better."""
        if then is Then.STREAM:
            self._ask_over_stream(request)
        else:
            self.outcomes.decline(request, datagram)

    def _ask_over_stream(self, request: Request) -> None:
        """Ask again over a connection of its own."""
        if self.kind.stream is None:
            raise RuntimeError(f"kind {self.kind.name} has no stream")
        connection = Connection(self.loop, self, self.kind.stream(self.name), request)
        self._streams.add(connection)
        request.place = connection
        connection.bound(STREAM_CONNECT_S)
        connection.open([self.address])

    def on_room(self, connection: Connection) -> None:
        """Nothing more is asked on it."""

    def on_opening(self, connection: Connection, request: Request) -> None:
        """Nothing is ever held."""

    def on_tried(self, address: Address, good: bool) -> None:
        """There is only one address."""

    def on_answer(self, request: Request, code: int, data: bytes) -> None:
        if self.kind.declines is not None and self.kind.declines(data):
            self.outcomes.decline(request, data)
        else:
            self.outcomes.finish(request, code, data)

    def on_unreadable(self, request: Request, error: PoolError) -> None:
        self.outcomes.conclude(request, error.code, error.text, phase="read", sent=True)

    def on_answered(self, count: int) -> None:
        """Told at the end of the turn, like all others."""

    def on_refused(self, connection: Connection, request: Request, error: UsageError) -> None:
        self.outcomes.conclude(request, Code.USAGE, error.text, sent=True)
        connection.close("the request was refused")

    def on_closed(
        self, connection: Connection, error: PoolError, unanswered: list[Request], sent: bool
    ) -> None:
        self._streams.discard(connection)
        # Whatever it was, another origin may do better.
        self.outcomes.fail(unanswered, error.code, error.text, phase="read", sent=True)


def end_unanswered(
    outcomes: LeaseOutcomes, error: PoolError, unanswered: list[Request], *, sent: bool
) -> None:
    """Report what was unanswered on a connection that closed: the oldest with ``error``, others as lost."""
    phase = "read" if sent else "connect"
    for position, request in enumerate(unanswered):
        if isinstance(error, ConnectFailed | ConnectionLost):
            outcomes.fail([request], error.code, error.text, phase=phase, sent=sent)
        elif position == 0:
            outcomes.conclude(request, error.code, error.text, phase=phase, sent=sent)
        else:
            text = f"the connection was abandoned: {error.text}"
            outcomes.fail([request], Code.CONNECTION_LOST, text, phase=phase, sent=sent)
