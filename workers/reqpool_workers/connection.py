"""One stream connection: what is asked on it, what is unanswered, and how it ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from reqpool_contract.descriptors import SHORTAGES
from reqpool_contract.errors import BadResponse, ConnectFailed, ConnectionLost, PoolError, UsageError

from .connection_io import BROKEN_OFF, UNREACHABLE, ConnectionIO
from .connection_owner import ConnectionOwner, Finished
from .connection_state import TRANSITIONS, ConnectionState
from .event_loop import EventLoop
from .kind_fault import fault
from .lease import Pin, Request
from .protocols import Address, Event, Refused, StreamProtocol
from .shortages import report_shortage


class Connection:
    """A connection to an origin, opened for one request and perhaps used for others.

    Args:
        loop: that of this thread.
        owner: is told of everything.
        protocol: what is spoken.
        first: the request it is opened for.

    Attributes:
        state: moved by :meth:`_move`, but between READY and BUSY.
        first: the request that waits for the connection to be ready, or None.
        pin: whose it is alone, or None.
        retiring: it takes no more requests, and is closed with the last answer, or when its pin is released.
        reason: why it was closed.
        unreachable: there was no listener, or it closed the connection before it said anything.
        shortage: why there was no file descriptor for it, if that was so.
        shortened: the next connection will say less in its handshake, by which this one may have failed.
        answers: how many requests it has answered.
        born_s: monotonic seconds at which it was opened.
        overdue: the oldest answer did not come in time; those behind it are waited for once more as long.
        since_s: monotonic seconds since which nothing is unanswered, or since which the oldest unanswered
            request waits as such, with all read that has come.
    """

    def __init__(
        self, loop: EventLoop, owner: ConnectionOwner[Connection], protocol: StreamProtocol, first: Request
    ) -> None:
        self.state = ConnectionState.CONNECTING
        self.first: Request | None = first
        self.pin: Pin | None = None
        self.retiring = False
        self.reason = ""
        self.overdue = False
        self.unreachable = False
        self.shortage = ""
        self.shortened = False
        self.answers = 0
        self.born_s = self.since_s = loop.now_s
        self._loop = loop
        self._owner = owner
        self._protocol = protocol
        self._address: Address | None = None  # until it is known whether it is a good one
        self._span_s = self._due_s = 0.0
        self._unanswered: deque[Request | None] = deque()
        self._live = 0
        self._asked = self._written = 0
        self._io = ConnectionIO(loop, self)

    def __repr__(self) -> str:
        return f"<Connection {self.state.value} {self.load} unanswered {self.reason}>".replace(" >", ">")

    @property
    def load(self) -> int:
        """How many answers are outstanding."""
        return len(self._unanswered)

    @property
    def shared(self) -> bool:
        """Whether several requests wait for answers on it."""
        return self._live > 1

    @property
    def phase(self) -> str:
        """The phase of a request that has this connection."""
        return "connect" if self.state in (ConnectionState.CONNECTING, ConnectionState.HANDSHAKE) else "read"

    @property
    def unread(self) -> bool:
        """Whether more of an answer has come than could be read so far."""
        return self._io.unread

    @property
    def awaited(self) -> str:
        """What its handshake waits for, for display; empty if there is nothing to say."""
        return self._protocol.awaited if self.state is ConnectionState.HANDSHAKE else ""

    @property
    def stale(self) -> bool:
        """Whether it had served others, and nothing of the oldest unanswered answer has come.

        Then its peer had most likely given it up before the request came.
        """
        return self.answers > 0 and not self._protocol.begun

    @property
    def orphaned(self) -> bool:
        """Whether it is being opened, and no request waits for it any more."""
        return (
            self.state in (ConnectionState.CONNECTING, ConnectionState.HANDSHAKE)
            and self.first is None
            and self.pin is None
            and not self.retiring
        )

    def adopt(self, request: Request) -> None:
        """Be opened for this request; the connection is orphaned."""
        self.first = request
        request.place = self

    def bound(self, span_s: float) -> None:
        """Close unless the connection is ready within this span; also for :meth:`hold`, :meth:`release`."""
        self._span_s = span_s
        self._due_s = self._loop.now_s + span_s
        self._loop.at(self._due_s, self._late)

    def open(self, addresses: Sequence[Address]) -> None:
        """Begin to connect to the first of these addresses (at least one) that takes us.

        On failure :meth:`ConnectionOwner.on_closed` is called, perhaps before this returns.
        """
        self._io.open(addresses)

    def send(self, requests: Sequence[Request]) -> None:
        """Ask for requests, at the end of the turn; the connection is ready, or busy with room left."""
        asked, data = requests, None
        if len(requests) > 1:
            try:
                data = self._protocol.send_all(requests)
            except Exception as error:
                fault(error)  # each is asked for alone, and perhaps refused
        if data is None:
            out: list[bytes] = []
            asked = []
            for request in requests:
                try:
                    out.append(self._protocol.send(request))
                except UsageError as error:
                    self._owner.on_refused(self, request, error)
                except Exception as error:
                    self._owner.on_refused(self, request, UsageError(fault(error)))
                else:
                    asked.append(request)
            data = out[0] if len(out) == 1 else b"".join(out)
        if not asked:
            return
        for request in asked:
            request.place = self
        self._unanswered.extend(asked)
        self._live += len(asked)
        if self.state is ConnectionState.READY:
            self.since_s = self._loop.now_s
            self.state = ConnectionState.BUSY  # without _move, as each request takes this way
        gathered = self._io.gathered
        if not gathered:
            self._written = self._asked
            self._loop.unwritten.append(self._io)
        self._asked += len(asked)
        gathered.append(data)

    def hold(self, request: Request, pin: Pin) -> None:
        """Pin the connection, which is ready, to the session of ``request``, the first of its sequence."""
        self.pin = pin
        self.first = request
        request.place = self
        self._between(self._protocol.hold)

    def release(self) -> None:
        """Be shared again, or close; the connection is ready."""
        self.pin = None
        self._between(self._protocol.release)

    def _between(self, step: Callable[[], Sequence[Event] | None]) -> None:
        self._move(ConnectionState.HANDSHAKE)
        self.bound(self._span_s)
        try:
            events = step()
        except Exception as error:
            self._fail(error)
            return
        if events is None:
            self.close("released")
        else:
            self._handle(events)

    def drop(self, request: Request, reason: str) -> None:
        """Drop a request: while its answer is outstanding, the connection takes no other.

        One that is still being opened goes on: where a request's timeout is shorter than a handshake takes,
        there would never be a connection.
        """
        request.place = None
        if self.first is request:
            self.first = None
            if self.orphaned:
                return
        else:
            self._unanswered[self._unanswered.index(request)] = None
            self._live -= 1
        self.retiring = True
        # Answers to others that were sent on it still come in order, and are theirs.
        if not self._live and self.first is None:
            self.close(reason)

    def pass_over_oldest(self, reason: str) -> Request | None:
        """Drop the request whose answer is overdue, the oldest, and wait for those after it.

        Returns:
            The request, or None if it had been dropped before.
        """
        oldest = self._unanswered[0]
        self.overdue = True
        self.since_s = self._loop.now_s
        if oldest is not None:
            self.drop(oldest, reason)
        return oldest

    def give_up(self, reason: str) -> None:
        """Close a connection that cannot be made."""
        self.close(reason, ConnectFailed(reason))

    def close(self, reason: str, error: PoolError | None = None) -> None:
        """Close at once. ``reason`` is for display; ``error`` is what the oldest request ends with."""
        if self.state is ConnectionState.CLOSED:
            return
        written = len(self._unanswered) - (self._asked - self._written if self._io.gathered else 0)
        asked = list(self._unanswered)
        unanswered = [request for request in asked[:written] if request is not None]
        unsent = [request for request in asked[written:] if request is not None]
        sent = self.first is None
        if self.first is not None:
            unanswered.append(self.first)  # nothing else can be there: it was never ready
            self.first = None
        # The answer to a request that was dropped is not the next one's error.
        if error is None or (self._unanswered and self._unanswered[0] is None):
            error = ConnectionLost(reason)
        for request in (*unanswered, *unsent):
            request.place = None
        self._unanswered.clear()
        self._live = 0
        self.reason = reason
        self._move(ConnectionState.CLOSED)
        self._io.close()
        if self._address is not None:
            self._owner.on_tried(self._address, False)
        if unsent:
            self._owner.on_unsent(self, ConnectionLost(reason) if unanswered else error, unsent)
        self._owner.on_closed(self, error, unanswered, sent)

    # --- what comes ------------------------------------------------------------------------------

    def on_connected(self, address: Address) -> None:
        """Begin the handshake; see :class:`.StreamReader` for this and the next ones."""
        self._address = address
        self._move(ConnectionState.HANDSHAKE)
        try:
            events = self._protocol.connected()
        except Exception as error:
            self._fail(error)
            return
        self._handle(events)

    def on_cannot_connect(self, reason: str, codes: set[int]) -> None:
        self.unreachable = codes <= UNREACHABLE
        if short := codes & SHORTAGES:
            self.shortage = report_shortage(min(short))
        if codes & BROKEN_OFF and (awaited := self._protocol.awaited):
            reason += f": {awaited}"  # as if the end had come a moment later; nothing was sent either way
        self.give_up(reason)

    def on_data(self, data: bytes) -> None:
        try:
            events = self._protocol.feed(data) if data else self._protocol.eof()
        except Exception as error:
            self._fail(error)
            return
        if events:
            unanswered = self._unanswered
            # The answer to the only request on its way, after which the connection is as good as before: what
            # nearly all are where each request has a connection to itself. The long way does the same.
            if (
                len(events) == len(unanswered) == self._live == 1
                and type(events[0]) is tuple
                and not (self.retiring or self._io.unsent.pieces or self._io.gathered)
                and self.pin is None
                and self._protocol.reusable
                and not self._protocol.unclean
            ):
                request = unanswered.popleft()
                assert request is not None
                self._live = 0
                request.place = None
                self._owner.on_answers([(request, *events[0])])
                self.answers += 1
                self.overdue = False
                self.since_s = self._loop.now_s
                self.state = ConnectionState.READY
                self._owner.on_room(self)
            else:
                self._handle(events)
        if not data:
            self._close_lost("the peer closed the connection")

    def on_read(self) -> None:
        self.since_s = self._loop.now_s  # what comes late from now on was not held back by us

    def on_broken(self, reason: str) -> None:
        self._close_lost(reason)

    def on_unwritable(self) -> None:
        self.retiring = True

    def _late(self, now_s: float) -> None:
        # An earlier bound's timer comes too soon for the last one.
        if self.state in (ConnectionState.CONNECTING, ConnectionState.HANDSHAKE) and now_s >= self._due_s:
            awaited = self.awaited
            self.give_up(f"no connection within {self._span_s:g} s" + (awaited and f": {awaited}"))

    def _handle(self, events: Sequence[Event]) -> None:
        unanswered = self._unanswered
        unwritten = self._asked - self._written if self._io.gathered else 0  # nothing here answers these
        answers = 0
        finished: list[Finished] = []
        for event in events:
            if type(event) is tuple and len(unanswered) > unwritten:
                request = unanswered.popleft()
                answers += 1
                if request is not None:
                    self._live -= 1
                    request.place = None
                    finished.append((request, event[0], event[1]))
                continue
            if finished:
                self._owner.on_answers(finished)
                finished = []
            if type(event) is tuple:
                self.close("unsolicited answer from the peer")
                return
            if type(event) is bytes:
                self._io.write(event)
                if self.state is ConnectionState.CLOSED:
                    return
            elif isinstance(event, Refused):
                if len(unanswered) <= unwritten:
                    self.close("unsolicited answer from the peer")
                    return
                refused = unanswered.popleft()
                answers += 1
                if refused is not None:
                    self._live -= 1
                    refused.place = None
                    self._owner.on_unreadable(refused, event.error)
            elif isinstance(event, PoolError):
                self.close(event.text, event)
                return
            else:
                self._ready()
                if self.state is ConnectionState.CLOSED:
                    return
        if finished:
            self._owner.on_answers(finished)
        if answers:
            self.answers += answers
            self.overdue = False
            self.since_s = self._loop.now_s
            self._make_room()

    def _ready(self) -> None:
        """The handshake is over, or a hold, or a release."""
        self._move(ConnectionState.READY)
        if self._address is not None:
            self._owner.on_tried(self._address, True)
            self._address = None
        self.since_s = self._loop.now_s
        first, self.first = self.first, None
        if first is not None and first.lease.deadline_s <= self._loop.now_s:
            first.place = None  # its lease is about to be ended, by a timer that is late: nothing was sent
            first = None
        if first is None:
            if self.retiring:
                self.close("retired")
            else:
                self._owner.on_room(self)
        elif first.lease.pin is not None and self.pin is None:
            self._owner.on_opening(self, first)
        else:
            self.send((first,))
            if self.state is not ConnectionState.CLOSED:
                self._owner.on_room(self)

    def _make_room(self) -> None:
        """Answers have come."""
        idle = not self._unanswered
        if idle:
            self.state = ConnectionState.READY  # from BUSY; without _move, as each answer takes this way
        if self._live == 0 and self.retiring and self.pin is None:
            self.close("retired")
        elif idle and (self._io.unsent.pieces or not self._protocol.reusable):
            # Or answered before it was asked in full: what is left would be another question.
            self.close("done")
        elif idle and self.pin is None and self._protocol.unclean:
            self.release()
        elif not self.retiring:
            self._owner.on_room(self)

    # --- the ends -------------------------------------------------------------------------------

    def _fail(self, error: Exception) -> None:
        """The protocol cannot go on, or is itself at fault: that must not take all other connections with
        it."""
        known = error if isinstance(error, PoolError) else BadResponse(fault(error))
        if isinstance(known, ConnectionLost) and self.state is ConnectionState.HANDSHAKE and not self.answers:
            self._close_lost(known.text)  # TLS below it says so, with or without its close_notify
        else:
            self.close(known.text, known)

    def _close_lost(self, text: str) -> None:
        if self.state is ConnectionState.HANDSHAKE and not self.answers:
            self.unreachable = True
            self.shortened = self._protocol.shorten_handshake()
            awaited = self.awaited
            self.give_up(text + (awaited and f": {awaited}"))
        else:
            self.close(text, ConnectionLost(text))

    def _move(self, state: ConnectionState) -> None:
        if state not in TRANSITIONS[self.state]:
            raise RuntimeError(f"a connection cannot go from {self.state.value} to {state.value}")
        self.state = state
