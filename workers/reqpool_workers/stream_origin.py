"""Requests to one origin over connections: carries out the pool's decisions."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from reqpool_contract.descriptors import SHORTAGES
from reqpool_contract.errors import Code, ConnectFailed, ConnectionLost, PoolError, UsageError
from reqpool_contract.origin_names import belongs
from reqpool_contract.policy import Policy

from .address_order import AddressOrder
from .close_verdict import Again, Closed, Verdict, Wait, what_to_retry
from .connection import Connection
from .connection_owner import Finished
from .connection_pool import Assignment, ConnectionPool, Slots
from .connection_state import ConnectionState
from .event_loop import EventLoop
from .kind_fault import fault
from .lease import Dropped, Pin, Request, WorkerLease
from .lease_outcomes import LeaseOutcomes
from .protocols.addresses import Address, address_of
from .protocols.worker_kinds import StreamKind
from .read_timeout import ReadTimeout
from .shortages import report_shortage

if TYPE_CHECKING:
    from .resolver import Resolver

SHORT_S = 0.2
"""How long to wait after a connection failed for lack of a file descriptor."""
FORGET_SHORT_S = 1.0
"""How long after that a request that ends without a connection names the shortage as the reason."""
PIN_BUSY = "the last request of this session has not finished on its connection: send one request at a time"


class StreamOrigin:
    """One origin of a kind with connections.

    Args:
        loop: that of this thread.
        outcomes: where requests end.
        resolver: looks up the origin's host.
        kind: how to talk to it.
        name: the origin.
        settings: what the kind needs for a connection there, packed.
        slots: how many connections to an origin of this name there may be.
        free_fd: closes an idle connection of any origin; returns whether there was one.

    Attributes:
        pool: the connections.

    Raises:
        UsageError: if the origin cannot be read, or the settings are not its own.
    """

    def __init__(
        self,
        loop: EventLoop,
        outcomes: LeaseOutcomes,
        resolver: Resolver,
        kind: StreamKind,
        name: str,
        settings: bytes,
        slots: Slots,
        free_fd: Callable[[], bool],
    ) -> None:
        if not belongs(name, settings):
            raise UsageError("these settings (passwords, TLS) do not match this origin")
        self.loop = loop
        self.outcomes = outcomes
        self.kind = kind
        self.name = name
        self.pool: ConnectionPool[Connection] = ConnectionPool(kind.depth, slots)
        self.settings = settings
        self._place = kind.address(name)
        self._resolver = resolver
        self._free_fd = free_fd
        self._order = AddressOrder()
        self._assigning = False
        self._assign_again = False
        self._read_timeout = ReadTimeout(loop, self.pool, outcomes)

    # --- what the worker asks of it ----------------------------------------------------------------

    def grant(self, slots: int, policy: Policy | None = None) -> None:
        """Allow at most ``slots`` connections; None leaves the policy as it is."""
        self.pool.slots.granted = slots
        if policy is not None:
            self.pool.policy = policy
            self._read_timeout.watch()
        self._tidy()

    def grant_open(self) -> None:
        """Allow only as many connections as there are."""
        slots = self.pool.slots
        self.grant(min(slots.granted, slots.taken))

    @property
    def pins(self) -> list[Pin]:
        """The sessions' pins that have a connection here."""
        return list(self.pool.pins)

    def submit(self, lease: WorkerLease, now_s: float) -> None:
        """Send a lease's requests, or have them wait for a connection."""
        requests, pool = lease.requests, self.pool
        if lease.pin is None and lease.deadline_s > now_s:
            if connection := pool.only_choice(len(requests), now_s):
                connection.send(requests)
                if connection.state is ConnectionState.READY:  # all were refused
                    self.on_room(connection)
                return
            if self.kind.depth == 1 and (connections := pool.one_each(len(requests), now_s)):
                for connection, request in zip(connections, requests, strict=True):
                    connection.send((request,))
                    if connection.state is ConnectionState.READY:
                        self.on_room(connection)
                return
        self._carry_out(pool.add(requests, now_s))

    def submit_pinned(self, lease: WorkerLease, pin: Pin) -> None:
        """Send a lease's request on the connection that is pinned to its session."""
        connection = self.pool.pins.get(pin)
        if connection is None:
            self.outcomes.no_such_pin(lease, pin)
        elif connection.state is ConnectionState.READY:
            connection.send(lease.requests)
        else:
            self.outcomes.lose_pin(lease, PIN_BUSY)

    def resend(self, lease: WorkerLease, now_s: float) -> float | None:
        """Return None: nothing is sent twice on a connection."""
        return None

    def drop(self, request: Request, reason: str) -> Dropped:
        """Stop waiting for an answer; the connection that owes it is never used again."""
        place: Connection | None = request.place
        if place is None:
            short = self.loop.now_s < self.pool.short_until_s + FORGET_SHORT_S
            return Dropped("queue", False, self.pool.shortage if short else "")
        sent = place.first is not request
        # On a shared connection it is not noted when each request was sent: usually at once.
        began_s = 0.0 if self.kind.depth > 1 else place.since_s if sent else place.born_s
        waited_s = round(max(0.0, began_s - request.lease.began_s), 3)
        dropped = Dropped(place.phase, sent, place.awaited, waited_s)
        place.drop(request, reason)
        return dropped

    @property
    def idle(self) -> list[Connection]:
        """Connections that have nothing to do and are not pinned."""
        return [one for one in self.pool.members if one.state is ConnectionState.READY and one.pin is None]

    @property
    def stranded(self) -> list[Request]:
        """Requests that wait for a connection and can have none."""
        return self.pool.stranded

    def unsent(self) -> list[Request]:
        """Return requests that can be handed back: they wait for a slot, or for a connection to be ready."""
        connecting = [one.first for one in self.pool.members if one.first is not None]
        # Waiting ones first: otherwise a connection that closes would be replaced for one of them.
        waiting = (*self.pool.waiting, *self.pool.fresh)
        return [request for request in waiting if request.live] + connecting

    @property
    def backlog(self) -> int:
        """Requests that wait here for a connection."""
        return len(self.pool.waiting)

    def unpin(self, pin: Pin, reason: str) -> bool:
        """Release a session's connection; return False if it has none here."""
        connection = self.pool.pins.pop(pin, None)
        if connection is None:
            return False
        if connection.state is ConnectionState.READY and not connection.retiring:
            connection.release()
        else:
            if connection.first is not None:
                self.pool.retried.add(connection.first)  # it must not be tried again
            connection.close(reason)
        return True

    def tend(self, now_s: float) -> None:
        """Close connections that are idle or old."""
        self.pool.prune()
        self._tidy()

    @property
    def deserted(self) -> bool:
        """Whether there is nothing here that is worth keeping. A grant is: the broker relies on it."""
        pool = self.pool
        return not (pool.members or pool.waiting or pool.fresh or pool.slots.granted)

    @property
    def counts(self) -> list[int]:
        """In flight, in use, idle, waiting, overflowed, pinned."""
        members = self.pool.members
        idle = sum(1 for one in members if one.state is ConnectionState.READY and one.pin is None)
        in_flight = sum(one.load for one in members)
        waiting = sum(1 for request in self.pool.waiting if request.live)
        return [in_flight, len(members) - idle, idle, waiting, self.pool.overflowed, len(self.pool.pins)]

    def close(self, reason: str) -> None:
        """Close every fd. Open requests are reported as lost."""
        self.pool.slots.granted = 0
        for one in list(self.pool.members):
            one.close(reason)

    # --- connections -------------------------------------------------------------------------------

    def on_room(self, connection: Connection) -> None:
        pool = self.pool
        if connection.state is ConnectionState.READY and not (pool.waiting or pool.fresh):
            # As ConnectionPool.park, since each answer comes here. Its age matters when it is next taken.
            if connection.pin is None and not connection.retiring:
                pool.idle[connection] = None
            return
        now_s = self.loop.now_s
        while connection.state in (ConnectionState.READY, ConnectionState.BUSY) and connection.pin is None:
            if connection.state is ConnectionState.READY and pool.is_old(connection, now_s):
                connection.close("old")
                return
            requests = pool.next_for(connection, now_s)
            if not requests:
                if pool.fresh:  # this one is not fresh enough, and may have to make room
                    self._assign()
                return
            self._send(connection, requests)

    def on_unreadable(self, request: Request, error: PoolError) -> None:
        self.outcomes.conclude(request, error.code, error.text, phase="read", sent=True)
        self.outcomes.reports.answered(self, 1)

    def on_answers(self, answers: list[Finished]) -> None:
        self.outcomes.finish_many(answers, self)

    def on_refused(self, connection: Connection, request: Request, error: UsageError) -> None:
        self.outcomes.conclude(request, Code.USAGE, error.text, sent=False)

    def on_opening(self, connection: Connection, request: Request) -> None:
        self._send(connection, (request,))

    def on_tried(self, address: Address, good: bool) -> None:
        self._order.note(address, good)
        if good:
            self.pool.outage.end()

    def on_unsent(self, connection: Connection, error: PoolError, requests: list[Request]) -> None:
        pool = self.pool
        if connection.pin is not None and requests[0].lease.opens:  # nothing was pinned yet
            del pool.pins[connection.pin]
            connection.pin = None
        once = pool.retried if connection.pin is None else requests
        if again := [request for request in requests if request not in once]:
            pool.again(again, self.loop.now_s)
        end_unanswered(self.outcomes, error, [one for one in requests if one not in again], sent=False)

    def on_closed(
        self, connection: Connection, error: PoolError, unanswered: list[Request], sent: bool
    ) -> None:
        if connection in self.pool.members:
            self.pool.remove(connection)
        verdict = what_to_retry(
            Closed(
                sent=sent,
                unread=error.sent is False,
                given_up=isinstance(error, ConnectionLost) and connection.stale,
                served=connection.answers > 0,
                shortened=connection.shortened,
                pinned=connection.pin is not None,
                opens=bool(unanswered) and unanswered[0].lease.opens,
                shortage=bool(connection.shortage),
                unreachable=connection.unreachable,
            )
        )
        if verdict.unpinned and connection.pin is not None:
            self.outcomes.reports.unpinned.append(connection.pin)
        unanswered = self._retry(unanswered, verdict)
        if verdict.wait is Wait.DESCRIPTOR:
            self._wait_for_fd(connection.shortage, unanswered)
            unanswered = []
        elif verdict.wait is Wait.SERVER and unanswered:
            unanswered = self._wait_for_server(unanswered)
        end_unanswered(self.outcomes, error, unanswered, sent=verdict.sent)
        self._assign()

    def _retry(self, unanswered: list[Request], verdict: Verdict) -> list[Request]:
        """Try requests again on a fresh connection; return the others."""
        pool = self.pool
        if verdict.again is Again.NONE or not unanswered:
            return unanswered
        every = verdict.again is Again.ALL
        again = [
            request
            for request in unanswered
            if request not in pool.retried and (every or (request.lease.idempotent and pool.policy.retries))
        ]
        if not again:
            return unanswered
        if verdict.sent:
            for request in again:
                request.lease.resent_seqs |= {request.seq}
        pool.again(again, self.loop.now_s)
        gone = set(again)
        return [request for request in unanswered if request not in gone]

    def _wait_for_server(self, unanswered: list[Request]) -> list[Request]:
        """Have requests wait, of which nothing was sent: a server that restarts is back in a moment.

        Returns:
            Those that end now, since they cannot wait that long.
        """
        outage = self.pool.outage
        announced_s = outage.retry_s
        if not self.pool.policy.retries or not outage.goes_on(self.loop.now_s, random.random()):
            return unanswered
        if outage.retry_s != announced_s:
            self.loop.at(outage.retry_s, self._try_server)
        return self.pool.wait_for_server(unanswered)

    def _wait_for_fd(self, why: str, unanswered: list[Request]) -> None:
        """Have requests wait as for a connection: nothing was sent, and the upstream is not to blame."""
        pool, now_s = self.pool, self.loop.now_s
        pool.waiting.extendleft(reversed(unanswered))
        pool.shortage = why
        if now_s >= pool.short_until_s:
            # A request is worth more than another origin's idle connection.
            pool.short_until_s = now_s if self._free_fd() else now_s + SHORT_S
            self.loop.at(pool.short_until_s, self._try_server)

    def _try_server(self, now_s: float) -> None:
        self._assign()

    def _send(self, connection: Connection, requests: Sequence[Request]) -> None:
        lease = requests[0].lease
        if lease.pin is None:
            connection.send(requests)
        else:
            pin = (lease.session.identity, lease.pin)
            self.pool.pins[pin] = connection
            connection.hold(requests[0], pin)

    def _tidy(self) -> None:
        for connection, reason in self.pool.surplus(self.loop.now_s):
            connection.close(reason)
        self._assign()

    def _assign(self) -> None:
        # Carrying out a plan closes and opens connections, each of which asks for a new plan.
        if self._assigning:
            self._assign_again = True
        else:
            self._carry_out(self.pool.assign(self.loop.now_s))

    def _carry_out(self, plan: Assignment[Connection]) -> None:
        self._assigning = True
        try:
            while True:
                self._assign_again = False
                for connection, reason in plan.closes:
                    connection.close(reason)
                for connection, requests in plan.sends:
                    if connection.state is ConnectionState.CLOSED:
                        self.pool.waiting.extendleft(reversed(requests))
                        self._assign_again = True
                    else:
                        self._send(connection, requests)
                        if connection.state is ConnectionState.READY:  # all were refused
                            self.on_room(connection)
                for connection, request in plan.adopts:
                    if connection.orphaned:
                        connection.adopt(request)
                    else:
                        self.pool.waiting.appendleft(request)
                        self._assign_again = True
                for request in plan.opens:
                    self._open(request)
                if not self._assign_again:
                    return
                plan = self.pool.assign(self.loop.now_s)
        finally:
            self._assigning = False

    def _open(self, request: Request) -> None:
        policy = self.pool.policy
        try:
            protocol = self.kind.protocol(
                self.name, self.settings, policy.max_response_bytes or self.kind.max_bytes
            )
        except Exception as error:
            if isinstance(error, OSError) and error.errno in SHORTAGES:  # for a certificate's file, say
                self._wait_for_fd(report_shortage(error.errno), [request])
                return
            known = error if isinstance(error, PoolError) else UsageError(fault(error))
            self.outcomes.conclude(request, known.code, known.text, phase="connect", sent=False)
            return
        connection = Connection(self.loop, self, protocol, request)
        request.place = connection
        self.pool.join(connection)
        connection.bound(policy.connect_timeout_s)
        self._read_timeout.watch()
        if isinstance(self._place, Address):
            connection.open([self._place])
        else:
            self._resolver.look_up(self._place.host, partial(self._opened, connection, self._place.port))

    def _opened(self, connection: Connection, port: int, found: list[str] | PoolError) -> None:
        """Open a connection that waited for its host to be looked up."""
        if connection.state is not ConnectionState.CONNECTING:
            return
        if isinstance(found, PoolError):
            connection.give_up(found.text)
            return
        addresses, why = [], ""
        for host in found:
            try:
                addresses.append(address_of(host, port))
            except UsageError as error:  # a zone of the hosts file that is not a network interface here
                why = error.text
        if not addresses:
            connection.give_up(why)
            return
        connection.open(self._order.sorted(addresses))


def end_unanswered(
    outcomes: LeaseOutcomes, error: PoolError, unanswered: list[Request], *, sent: bool
) -> None:
    """Report requests of a closed connection: the oldest ends with ``error``, the others are lost."""
    phase = "read" if sent else "connect"
    for position, request in enumerate(unanswered):
        if isinstance(error, ConnectFailed | ConnectionLost):
            outcomes.fail([request], error.code, error.text, phase=phase, sent=sent)
        elif position == 0:
            outcomes.conclude(request, error.code, error.text, phase=phase, sent=sent)
        else:
            text = f"the connection was abandoned: {error.text}"
            outcomes.fail([request], Code.CONNECTION_LOST, text, phase=phase, sent=sent)
