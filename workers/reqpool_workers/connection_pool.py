"""Connections to one origin: who gets which, what is opened, what is closed. Decides; does no I/O.

A worker never has more connections than the last grant's slots, those that are still closing included.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from reqpool_contract.policy import Policy

from .connection_state import ConnectionState
from .reconnect_delay import ReconnectDelay

if TYPE_CHECKING:
    from .lease import Pin, Request


class PooledConnection(Protocol):
    """What the pool has to know of a connection.

    Attributes:
        state: how far it is.
        pin: whose it is alone, or None.
        retiring: it takes no more requests and is closed with its last answer.
        born_s: monotonic seconds at which it was opened.
        since_s: monotonic seconds since which nothing is unanswered, or since which the oldest unanswered
            request waits.
    """

    state: ConnectionState
    pin: Pin | None
    retiring: bool
    born_s: float
    since_s: float

    @property
    def load(self) -> int:
        """How many answers are outstanding."""

    @property
    def unread(self) -> bool:
        """Whether more of an answer has come than could be read so far."""

    @property
    def orphaned(self) -> bool:
        """Whether it is being opened, and no request waits for it any more."""


Pooled = TypeVar("Pooled", bound=PooledConnection)


class Assignment(NamedTuple, Generic[Pooled]):
    """What is to be done now, in this order."""

    closes: list[tuple[Pooled, str]]
    sends: list[tuple[Pooled, list[Request]]]
    adopts: list[tuple[Pooled, Request]]
    opens: list[Request]


class Slots:
    """What was granted of an origin's name: kinds that use the same one share it.

    Attributes:
        granted: connections that there may be.
        taken: connections that there are.
    """

    __slots__ = ("granted", "taken")

    def __init__(self) -> None:
        self.granted = 0
        self.taken = 0


class ConnectionPool(Generic[Pooled]):
    """The pool of one origin.

    Args:
        depth: requests that may be unanswered on one connection.
        slots: how many connections there may be.

    Attributes:
        policy: see :class:`Policy`.
        slots: as given.
        members: all connections that are not closed.
        pins: those that are one session's own.
        idle: those that have nothing to do and may be given requests, as keys; the last is the one used last:
            the others get old, and are closed.
        waiting: requests without a connection, in the order they came; ended ones are skipped.
        fresh: requests that must have a connection opened since ``fresh_s``.
        fresh_s: when an idle connection last turned out to have been given up by its peer.
        retried: those that had one such connection; they do not get a third.
        outage: of the server.
        short_until_s: until then nothing is connected, since there was no file descriptor for it;
        shortage: and why.
        overflowed: how many requests found no connection and no slot when they came.
    """

    def __init__(self, depth: int, slots: Slots) -> None:
        self.policy = Policy()
        self.slots = slots
        self.members: list[Pooled] = []
        self.pins: dict[Pin, Pooled] = {}
        self.waiting: deque[Request] = deque()
        self.fresh: deque[Request] = deque()
        self.fresh_s = 0.0
        self.retried: set[Request] = set()
        self.outage = ReconnectDelay()
        self.short_until_s = 0.0
        self.shortage = ""
        self.overflowed = 0
        self._depth = depth
        self.idle: dict[Pooled, None] = {}
        # The one that was taken last: with all others idle, the busy one.
        self._shared: Pooled | None = None

    def only_choice(self, count: int, now_s: float) -> Pooled | None:
        """Return the connection that :meth:`assign` would give all of the requests that have just come.

        None if that takes a plan: something waits, or more than one connection is not idle.

        Args:
            count: of the requests; none opens a pin.
            now_s: monotonic seconds.
        """
        if self.waiting or self.fresh or count > self._depth:
            return None
        idle, others = self.idle, len(self.members) - len(self.idle)
        if self._depth == 1 or not others:
            if not idle:
                return None
            last = next(reversed(idle))
            if now_s - last.born_s > self.policy.lifetime_s:
                return None
            del idle[last]
            self._shared = last
            return last
        one = self._shared
        if (
            others > 1
            or one is None
            or one.state is not ConnectionState.BUSY
            or one.pin is not None
            or one.retiring
            or one.load + count > self._depth
            or now_s - one.born_s > self.policy.lifetime_s
        ):
            return None
        return one

    def one_each(self, count: int, now_s: float) -> list[Pooled] | None:
        """Return the connections that :meth:`assign` would give the requests that have just come, one each.

        None if that takes a plan: something waits, connections are shared, or there are not enough that are
        idle and young.

        Args:
            count: of the requests; none opens a pin.
            now_s: monotonic seconds.
        """
        idle = self.idle
        if self._depth > 1 or self.waiting or self.fresh or count > len(idle):
            return None
        taken = list(islice(reversed(idle), count))
        lifetime_s = self.policy.lifetime_s
        for one in taken:
            if now_s - one.born_s > lifetime_s:
                return None
        for one in taken:
            del idle[one]
        return taken

    def park(self, connection: Pooled) -> None:
        """Note as idle a connection that has just had its last answer, with nothing waiting."""
        if connection.pin is None and not connection.retiring:
            self.idle[connection] = None

    def join(self, connection: Pooled) -> None:
        """Add a connection that is being opened."""
        self.members.append(connection)
        self.slots.taken += 1

    def remove(self, connection: Pooled) -> None:
        """Remove a connection that is closed."""
        self.members.remove(connection)
        self.slots.taken -= 1
        self.idle.pop(connection, None)
        if self._shared is connection:
            self._shared = None
        if connection.pin is not None:
            self.pins.pop(connection.pin, None)

    def add(self, requests: list[Request], now_s: float) -> Assignment[Pooled]:
        """Take requests that came."""
        self.waiting.extend(requests)
        plan = self.assign(now_s)
        self.overflowed += min(len(self.waiting), len(requests))
        return plan

    def again(self, requests: list[Request], now_s: float) -> None:
        """Give each of these one more connection, a fresh one: the peer had given theirs up."""
        self.fresh.extend(requests)
        self.retried.update(requests)
        self.fresh_s = now_s

    def wait_for_server(self, requests: list[Request]) -> list[Request]:
        """Let these wait for another connection: theirs could not be made.

        Returns:
            All that cannot wait until there is one, of those that wait already, too.
        """
        retry_s = self.outage.retry_s
        late = [
            request
            for request in (*requests, *self.waiting, *self.fresh)
            if request.live and min(request.lease.deadline_s, request.lease.wait_s) <= retry_s
        ]
        self.waiting.extendleft(reversed(requests))
        return late

    @property
    def stranded(self) -> list[Request]:
        """Requests that wait for a connection and can have none: all that there may be are pinned."""
        if self.slots.granted > len(self.pins):
            return []
        return [request for request in (*self.waiting, *self.fresh) if request.live]

    def next_for(self, connection: Pooled, now_s: float) -> list[Request]:
        """Return what a connection with room is to be asked next; without any it is noted as idle."""
        if connection.pin is not None or connection.retiring:
            return []
        requests: list[Request] = []
        if self.fresh and connection.born_s >= self.fresh_s:
            requests = self._take(self.fresh, connection, now_s)
        if not requests:
            requests = self._take(self.waiting, connection, now_s)
        if requests or connection.state is ConnectionState.BUSY:
            self._shared = connection
        else:
            self.park(connection)
        return requests

    def is_old(self, connection: Pooled, now_s: float) -> bool:
        """Return whether a connection is older than the policy allows."""
        return now_s - connection.born_s > self.policy.lifetime_s

    def assign(self, now_s: float) -> Assignment[Pooled]:
        """Give waiting requests to connections with room, else to new ones.

        Those that are shared are filled first, the least loaded before the others; of the idle ones the one
        that was used last comes first. Then come those that are being opened for no request.
        """
        plan: Assignment[Pooled] = Assignment([], [], [], [])
        down = now_s < self.outage.retry_s or now_s < self.short_until_s
        room = 0 if down else self.slots.granted - self.slots.taken
        if self.fresh and not down:
            room = self._assign_fresh(plan, room, now_s)
        if not self.waiting:
            return plan
        shared: list[Pooled] = []
        if self._depth > 1:
            shared = [
                one
                for one in self.members
                if one.state is ConnectionState.BUSY
                and one.pin is None
                and one.load < self._depth
                and not one.retiring
                and not self.is_old(one, now_s)
            ]
            shared.sort(key=lambda one: one.load, reverse=True)
        orphaned = [one for one in self.members if one.state is not ConnectionState.BUSY and one.orphaned]
        while shared or self.idle or orphaned or room > 0:
            if shared:
                one = shared.pop()
            elif self.idle:
                one, _ = self.idle.popitem()
                if self.is_old(one, now_s):
                    plan.closes.append((one, "old"))
                    room += 1
                    continue
            else:
                request = self._take_one(self.waiting, now_s)
                if request is None:
                    break
                if orphaned:
                    plan.adopts.append((orphaned.pop(), request))
                else:
                    room -= 1
                    plan.opens.append(request)
                continue
            requests = self._take(self.waiting, one, now_s)
            if requests:
                self._shared = one
                plan.sends.append((one, requests))
            elif one.state is ConnectionState.READY:
                self.idle[one] = None
                break
        return plan

    def _assign_fresh(self, plan: Assignment[Pooled], room: int, now_s: float) -> int:
        """Have connections opened for those that need a fresh one, as many as they fill.

        Once these are ready, they take the others. Returns the room that is left.
        """
        coming = sum(
            one.born_s >= self.fresh_s
            and one.state in (ConnectionState.CONNECTING, ConnectionState.HANDSHAKE)
            and one.pin is None
            for one in self.members
        )
        while self.fresh and (len(self.fresh) > coming * self._depth or self.fresh[0].lease.pin is not None):
            if room <= 0:
                if not self.idle:
                    break
                oldest = next(iter(self.idle))
                del self.idle[oldest]
                plan.closes.append((oldest, "a new one is needed"))
                room += 1
            request = self._take_one(self.fresh, now_s)
            if request is not None:
                room -= 1
                coming += 1
                plan.opens.append(request)
        return room

    def surplus(self, now_s: float) -> list[tuple[Pooled, str]]:
        """Return what is idle for too long, too old, or over the grant; busy ones are marked to retire."""
        closes = []
        over = self.slots.taken - self.slots.granted
        # Idle ones go first, then those that were opened last; pinned ones last of all.
        for one in sorted(
            self.members,
            key=lambda one: (one.pin is not None, one.state is not ConnectionState.READY, -one.born_s),
        ):
            idle_s = now_s - one.since_s if one.state is ConnectionState.READY else 0.0
            if one.pin is not None:
                if over > 0:
                    over -= 1
                    one.retiring = True
                elif self.is_old(one, now_s):
                    one.retiring = True
                if idle_s > self.policy.pin_idle_timeout_s:
                    closes.append((one, f"pinned, but idle for {idle_s:.0f} s"))
                continue
            if over > 0:
                over -= 1
                reason = "over the grant"
            elif self.is_old(one, now_s):
                reason = "old"
            elif idle_s > self.policy.idle_timeout_s:
                reason = "idle"
            else:
                continue
            if one.state is ConnectionState.READY or one.orphaned:
                closes.append((one, reason))
            else:
                one.retiring = True
        return closes

    def late(self, now_s: float) -> list[Pooled]:
        """Return those whose oldest unanswered request has waited for longer than the policy allows."""
        read_s = self.policy.read_timeout_s
        if read_s is None:
            return []
        busy = (one for one in self.members if one.state is ConnectionState.BUSY and not one.unread)
        return [one for one in busy if now_s - one.since_s > read_s]

    def prune(self) -> None:
        """Forget waiting requests that have ended."""
        self.waiting = deque(request for request in self.waiting if request.live)
        self.fresh = deque(request for request in self.fresh if request.live)
        self.retried = {request for request in self.retried if request.live}

    def _take(self, waiting: deque[Request], connection: Pooled, now_s: float) -> list[Request]:
        """Take requests for a connection, as many as it has room for.

        One that opens a pin comes alone, and to a connection with nothing else on it. While it waits for
        that, those after it wait, too: otherwise a connection that many share would never be free.
        """
        taken: list[Request] = []
        most = self._depth - connection.load
        while waiting and len(taken) < most:
            request = waiting[0]
            # One that is late is reported by its lease's timer.
            # Written out: request.live, which is asked of each.
            live = request.lease.session.running.get(request.seq) is request
            if live and request.lease.deadline_s > now_s:
                if request.lease.pin is not None and (taken or connection.load):
                    break
                taken.append(request)
                if request.lease.pin is not None:
                    most = 0
            waiting.popleft()
        return taken

    @staticmethod
    def _take_one(waiting: deque[Request], now_s: float) -> Request | None:
        while waiting:
            request = waiting.popleft()
            if request.live and request.lease.deadline_s > now_s:
                return request
        return None
