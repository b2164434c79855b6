"""Requests to one origin by datagram: a few connected sockets, replaced now and then.

A socket whose single request ended without an answer is kept open: ``owed_ports.py``. On one that many share
the protocol matches their answers, so a late one matches nothing, whichever process has the port by then.
"""

from __future__ import annotations

import errno

from reqpool_contract.descriptors import SHORTAGES
from reqpool_contract.errors import Code

from .connection import Connection
from .datagram_socket import DatagramSocket
from .event_loop import EventLoop
from .lease import Dropped, Request, WorkerLease
from .outcome_sink import OutcomeSink
from .owed_ports import OwedPorts
from .protocols.datagram_protocol import Then
from .protocols.worker_kinds import DatagramKind
from .shortages import report_shortage
from .stream_fallback import StreamFallback

OUT_OF_SOCKETS = SHORTAGES | {errno.EAGAIN}
"""EAGAIN: no port is free (connect(2))."""
SOCKETS = 4
"""Sockets to one origin in use at once, apart from those that only wait for answers."""
CHUNK = 64
"""Requests sent on one socket before the next has its turn."""
SOCKET_IDLE_S = 2.0

FIRST_RTT_S = 0.1
"""Assumed until something was measured."""
SHORTEST_RESEND_S = 0.2
LONGEST_RESEND_S = 1.0


class DatagramSender:
    """Sends requests to one origin; the :class:`.SocketOwner` of its sockets.

    Args:
        loop: that of this thread.
        outcomes: where requests end.
        kind: how to talk to the origin.
        name: the origin.
        owed_ports: keep the ports of sockets that may still be answered, where the kind needs that.

    Raises:
        UsageError: if the origin cannot be read.
    """

    def __init__(
        self, loop: EventLoop, outcomes: OutcomeSink, kind: DatagramKind, name: str, owed_ports: OwedPorts
    ) -> None:
        self.loop = loop
        self.outcomes = outcomes
        self.kind = kind
        self.name = name
        self._owed_ports = owed_ports
        self._address = kind.address(name)
        self._active: list[DatagramSocket] = []
        self._sockets: set[DatagramSocket] = set()
        self._fallback = StreamFallback(loop, outcomes, kind, name, self._address)
        self._next = 0
        self._srtt_s = FIRST_RTT_S

    def submit(self, lease: WorkerLease, now_s: float) -> None:
        """Send a lease's requests."""
        if self.kind.repeats:
            lease.rto_s = min(max(4 * self._srtt_s, SHORTEST_RESEND_S), LONGEST_RESEND_S)
            lease.resend_s = now_s + lease.rto_s
        self.send(lease.requests)

    def resend(self, lease: WorkerLease, now_s: float) -> float | None:
        """Send again what is unanswered and due; return when to do so next. Each span is twice the last."""
        if not lease.rto_s or now_s < lease.resend_s:
            return lease.resend_s
        for request in lease.unended():
            place = request.place
            if type(place) is DatagramSocket:
                if not place.again(request, lease.resent):
                    break
                self.outcomes.count_resent()
        lease.resent += 1
        lease.rto_s *= 2
        lease.resend_s = now_s + lease.rto_s
        return lease.resend_s

    def drop(self, request: Request, reason: str) -> Dropped:
        """Stop waiting for an answer, and return where the request was."""
        place = request.place
        if type(place) is DatagramSocket:
            place.forget(request)
        elif isinstance(place, Connection):
            place.drop(request, reason)
        return Dropped("read", True)

    def tend(self, now_s: float) -> None:
        """Replace sockets that are old, close those that are idle."""
        for one in list(self._sockets):
            if now_s > one.retire_s:
                one.left = 0
            if not one.open and (one.left <= 0 or now_s - one.used_s > SOCKET_IDLE_S):
                one.close()

    @property
    def deserted(self) -> bool:
        """Whether there is nothing here that is worth keeping."""
        return not (self._sockets or self._fallback.connections)

    def close(self, reason: str) -> None:
        """Close every fd. Open requests are not reported: the worker ends."""
        for one in list(self._sockets):
            one.close()
        self._fallback.close(reason)

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
                # The origin cannot be reached: another socket would not help.
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
        """Take the time of a lease that was answered without sending anything again: that of its slowest."""
        self._srtt_s += (self.loop.now_s - lease.began_s - self._srtt_s) / 8

    def keep_port(self, one: DatagramSocket) -> None:
        """Keep a socket that only waits for an answer that is no longer wanted."""
        self._sockets.discard(one)
        self._owed_ports.keep(one, self.loop.now_s)

    def forget_socket(self, one: DatagramSocket) -> None:
        """Forget a socket that is being closed."""
        self._sockets.discard(one)
        self._owed_ports.remove(one)

    def _pick(self) -> DatagramSocket:
        """Return the next socket in turn, or a new one if there are few, or if that one is used up."""
        self._next = (self._next + 1) % SOCKETS
        active = self._active
        if self._next < len(active):
            one = active[self._next]
            if one.left > 0 and one in self._sockets:
                return one
        one = DatagramSocket(self, self._address, self.loop.now_s)
        self._sockets.add(one)
        if self._next < len(active):
            active[self._next] = one
        else:
            active.append(one)
            self._next = len(active) - 1
        return one

    # --- as the owner of sockets -------------------------------------------------------------------

    def take_up(self, request: Request, then: Then, datagram: bytes) -> None:
        """Go on with a request whose answer was cut short, or that another origin may better."""
        if then is Then.STREAM:
            self._fallback.ask(request)
        else:
            self.outcomes.decline(request, datagram)
