"""Requests to one origin over connections: joins the pool's decisions to the sockets."""

from __future__ import annotations

from reqpool.errors import Code, PoolError, UsageError

from .connection import Connection, State
from .datagrams import end_unanswered
from .ledger import Dropped, Lease, Ledger, Request
from .loop import Loop
from .pool import ConnectionPool, Plan
from .protocols import StreamKind

CONNECT_S = 5.0
"""Longest time until a connection is ready; a request's own deadline may be sooner."""


class StreamOrigin:
    """One origin of a kind with connections."""

    def __init__(self, loop: Loop, ledger: Ledger, kind: StreamKind, name: str) -> None:
        self.loop = loop
        self.ledger = ledger
        self.kind = kind
        self.name = name
        self.address = kind.address(name)
        self.pool = ConnectionPool(kind.depth)
        self._assigning = False
        self._assign_again = False

    # --- what the worker asks of it ----------------------------------------------------------------

    def grant(self, slots: int) -> None:
        """From now on at most ``slots`` connections."""
        self.pool.slots = slots
        self._assign()

    @property
    def held(self) -> int:
        """Connections that are open, or being opened."""
        return len(self.pool.members)

    def submit(self, lease: Lease, now_s: float) -> None:
        """Send a lease's requests, or have them wait for a connection."""
        self._carry_out(self.pool.add(lease.requests, now_s))

    def resend(self, lease: Lease, now_s: float) -> float | None:
        """Nothing is ever sent twice on a connection."""
        return None

    def drop(self, request: Request, reason: str) -> Dropped:
        """Stop waiting for an answer; the connection that owes it is closed, never used again."""
        place: Connection | None = request.place
        if place is None:
            return Dropped("queue", False)
        dropped = Dropped(place.phase, place.first is not request)
        place.drop(request, reason)
        return dropped

    def unsent(self) -> list[Request]:
        """Requests that can be handed back: those that wait, for a slot or for a connection to be ready."""
        connecting = [one.first for one in self.pool.members if one.first is not None]
        # Waiting ones first: a connection that closes would else be replaced for one of them.
        return [request for request in self.pool.waiting if request.live] + connecting

    def tend(self, now_s: float) -> None:
        """Close what is idle, old, or too long in coming about."""
        for one in list(self.pool.members):
            if one.state in (State.CONNECTING, State.HANDSHAKE) and now_s - one.born_s > CONNECT_S:
                one.give_up(f"no connection within {CONNECT_S:.0f} s")
        self.pool.prune()
        self._assign()

    @property
    def deserted(self) -> bool:
        """Is there nothing here worth keeping? A grant is: the broker counts on it."""
        return not self.pool.members and not self.pool.waiting and not self.pool.slots

    @property
    def counts(self) -> list[int]:
        """In flight, in use, idle, waiting, overflowed, pinned."""
        members = self.pool.members
        idle = sum(1 for one in members if one.state is State.READY)
        in_flight = sum(one.load for one in members)
        waiting = sum(1 for request in self.pool.waiting if request.live)
        return [in_flight, len(members) - idle, idle, waiting, self.pool.overflowed, 0]

    def close(self, reason: str) -> None:
        """Close every fd. What is open is reported as lost."""
        self.pool.slots = 0
        for one in list(self.pool.members):
            one.close(reason)

    # --- connections -------------------------------------------------------------------------------

    def on_ready(self, connection: Connection) -> None:
        request = self.pool.next_for(connection, self.loop.now_s)
        if request is not None:
            connection.send(request)

    def on_answer(self, connection: Connection, request: Request, code: int, data: bytes) -> None:
        self.ledger.finish(request, code, data)

    def on_refused(self, connection: Connection, request: Request, error: UsageError) -> None:
        self.ledger.conclude(request, Code.USAGE, error.text, sent=False)

    def on_closed(
        self, connection: Connection, error: PoolError, unanswered: list[Request], sent: bool
    ) -> None:
        if connection in self.pool.members:
            self.pool.members.remove(connection)
        end_unanswered(self.ledger, error, unanswered, sent=sent)
        self._assign()

    def _assign(self) -> None:
        # Carrying out a plan closes and opens connections, each of which asks for a new plan: one at a time.
        if self._assigning:
            self._assign_again = True
        else:
            self._carry_out(self.pool.assign(self.loop.now_s))

    def _carry_out(self, plan: Plan) -> None:
        self._assigning = True
        try:
            while True:
                self._assign_again = False
                for connection, reason in plan.closes:
                    connection.close(reason)
                for connection, request in plan.sends:
                    if connection.state is State.CLOSED:
                        self.pool.waiting.appendleft(request)
                        self._assign_again = True
                    else:
                        connection.send(request)
                for request in plan.opens:
                    connection = Connection(
                        self.loop, self, self.kind.protocol(self.name, request.payload), request
                    )
                    request.place = connection
                    self.pool.members.append(connection)
                    connection.open(self.address)
                if not self._assign_again:
                    return
                plan = self.pool.assign(self.loop.now_s)
        finally:
            self._assigning = False
