"""One connected UDP socket, and what was asked on it.

Some facts this file relies on:

* A connected UDP socket receives only from its peer, and its next ``send`` or ``recv`` reports an ICMP error
  for what it sent (udp(7)): ECONNREFUSED if nothing listens there.
* The kernel picks a random source port at ``connect`` (ip_local_port_range); with a random id it is what
  keeps others from guessing (RFC 5452, 9.2), so sockets are replaced after some time and some requests.
* A receive buffer that is full drops silently, so it is raised (capped by net.core.rmem_max), and what is in
  flight to an origin is capped by the broker.
"""

from __future__ import annotations

import errno
import socket
from typing import Protocol

from reqpool_contract.errors import Code, UsageError

from .event_loop import READABLE, WORK_PER_TURN, EventLoop
from .lease import Request, WorkerLease
from .outcome_sink import OutcomeSink
from .protocols.addresses import Address
from .protocols.datagram_protocol import Then
from .protocols.worker_kinds import DatagramKind

SOCKET_LIFE_S = 30.0
RECEIVE_BUFFER_BYTES = 1 << 20
LARGEST_DATAGRAM_BYTES = 65_535


class SocketOwner(Protocol):
    """Opens sockets to one origin. All calls come on the loop's thread."""

    @property
    def loop(self) -> EventLoop: ...

    @property
    def outcomes(self) -> OutcomeSink: ...

    @property
    def kind(self) -> DatagramKind: ...

    @property
    def name(self) -> str: ...

    def measured(self, lease: WorkerLease) -> None:
        """Take the time of a lease that was answered without sending anything again."""

    def take_up(self, request: Request, then: Then, datagram: bytes) -> None:
        """Go on with a request whose answer was cut short, or that another origin may better."""

    def keep_port(self, one: DatagramSocket) -> None:
        """Keep a socket that only waits for an answer that is no longer wanted."""

    def forget_socket(self, one: DatagramSocket) -> None:
        """Forget a socket that is being closed."""

    def fail(self, requests: list[Request], error: OSError, *, sent: bool) -> None:
        """Report requests of a socket that reported an error."""


class DatagramSocket:
    """One connected socket and its open requests.

    Args:
        origin: opens it.
        address: of the peer.
        now_s: monotonic seconds.

    Attributes:
        left: how many more requests may be sent on it.
        open: how many are unanswered.
        used_s: when requests were last sent on it.
        retire_s: when it is to be replaced.

    Raises:
        OSError: if it cannot be opened; nothing is left open then.
    """

    def __init__(self, origin: SocketOwner, address: Address, now_s: float) -> None:
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
        """Send a request again; return False if the socket failed, and with it all that was open on it."""
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
        finished: list[tuple[Request, int, bytes]] = []
        for _ in range(WORK_PER_TURN):
            try:
                datagram = recv(LARGEST_DATAGRAM_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                self._finish(finished)
                self.fail(error)
                return
            found = feed(datagram)
            if found is None:
                origin.outcomes.count_ignored()
                continue
            request, then = found
            if then is None:
                self.open -= 1
                finished.append((request, 0, datagram))
                if not self.open:
                    break
                continue
            # Outcomes keep the order in which their datagrams came.
            self._finish(finished)
            if then is not Then.AGAIN:
                self.open -= 1
                origin.take_up(request, then, datagram)
            elif not self.again(request, 0):
                return
        self._finish(finished)
        if not self.open and self.left <= 0:
            self.close()

    def _finish(self, finished: list[tuple[Request, int, bytes]]) -> None:
        """Report answers, and forget them."""
        if not finished:
            return
        self.origin.outcomes.finish_many(finished)
        ended: dict[WorkerLease, None] = {}
        for request, _, _ in finished:
            lease = request.lease
            if not lease.live and not lease.resent:
                ended[lease] = None
        for lease in ended:
            self.origin.measured(lease)
        finished.clear()

    def forget(self, request: Request) -> None:
        """Forget a request that is no longer wanted."""
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
        """Report all that is open as failed: the socket has reported an error."""
        requests = list(self.protocol.open_requests)
        self.left = 0
        self.close()
        self.origin.fail(requests, error, sent=self.origin.kind.requests_per_socket > 1)

    def close(self) -> None:
        """Close it; late answers meet a closed port."""
        self.origin.forget_socket(self)
        self.origin.loop.unregister(self.socket.fileno())
        self.socket.close()
