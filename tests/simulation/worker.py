"""A worker process: the real conversation with the broker, and simulated connections to upstreams."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from reqpool_contract.errors import Code
from reqpool_contract.policy import Policy
from reqpool_contract.wire import LARGE_MESSAGE_BYTES, KindInfo
from reqpool_ops.children import NEVER_BEGAN
from reqpool_workers import worker_conversation
from reqpool_workers.large_reads import LargeReads
from reqpool_workers.lease import Dropped, Pin, Request, WorkerLease
from reqpool_workers.lease_outcomes import LeaseOutcomes
from reqpool_workers.worker_conversation import WorkerConversation
from reqpool_workers.worker_ledger import WorkerLedger

from .network import Dealer
from .oracle import key_of
from .process import Process
from .reading import Reading
from .upstream import Line, Upstream

if TYPE_CHECKING:
    from .supervisor import SupervisorProcess
    from .world import World

MESSAGES_PER_TURN = 16
ORDERLY, IN_DOUBT = 0, 3
"""Exit statuses."""
TEND_S = 1.0
PIN_IDLE_S = 60.0
LOST = "the upstream has closed the connection"

Timer = Callable[[float], float | None]


class WorkerProcess(Process):
    """One worker.

    Attributes:
        identity: its id.
        status: how it ended: an exit status; negative if it was killed, None while it lives.
    """

    def __init__(
        self, world: World, name: str, identity: bytes, address: str, parent: SupervisorProcess, boot_s: float
    ) -> None:
        super().__init__(world, name)
        self.parent = parent
        self.identity = identity
        self.status: int | None = None
        self.ledger = WorkerLedger()
        self.outcomes = LeaseOutcomes(self.ledger)
        self.inflow = LargeReads()
        self.sites = Sites(self)
        self._address = address
        self._socket: Dealer | None = None
        self._timers: list[tuple[float, int, Timer]] = []
        self._timer_count = 0
        self._happened: deque[tuple[Line, str, bytes]] = deque()
        self._lost = False
        self._told_to_drain = False
        self._told_to_stop = False
        kinds = [
            KindInfo(upstream.kind, bool(upstream.depth), upstream.most, max(1, upstream.depth))
            for upstream in world.upstreams
        ]
        about = {"worker": identity, "name": name, "pid": 1, "kinds": kinds}
        self._begins_s = now_s = world.scheduler.now_s + boot_s
        retained_bytes = worker_conversation.RETAINED_RESULTS_BYTES
        self.conversation = WorkerConversation(
            about, self, self.sites, self.outcomes, now_s, retained_bytes=retained_bytes
        )
        self.at(now_s + TEND_S, self._tend)
        self.wake_at(now_s)

    # --- from outside -----------------------------------------------------------------------------

    def happened(self, line: Line, what: str, key: bytes) -> None:
        """Something has come in from an upstream."""
        if self.alive:
            self._happened.append((line, what, key))
            self.stir()

    def drain(self) -> None:
        """SIGTERM."""
        self._told_to_drain = True
        self.stir()

    def stop(self) -> None:
        """Its parent has gone."""
        self._told_to_stop = True
        self.stir()

    def end(self, status: int) -> None:
        """The process ends, killed or not."""
        if self.alive:
            self.status = status
            orphaned = self._told_to_stop and status in (ORDERLY, IN_DOUBT)
            self.die(linger=self.conversation.said_goodbye or orphaned)

    def buried(self) -> None:
        self.sites.close_all()
        self.world.worker_ended(self)

    def lost_connection(self, dealer: Dealer) -> None:
        if dealer is self._socket:
            self._lost = True
            self.stir()

    # --- a turn -----------------------------------------------------------------------------------

    def turn(self, now_s: float) -> float:
        if now_s < self._begins_s:
            if self._told_to_drain:  # it does not handle signals yet
                self.end(NEVER_BEGAN)
            return self._begins_s
        conversation = self.conversation
        conversation.wake(now_s)
        while self._happened:
            line, what, key = self._happened.popleft()
            self.sites.happened(line, what, key)
        if self._lost:
            self._lost = False
            conversation.lose("the connection broke", now_s)
        if self._told_to_drain or self._told_to_stop:
            self._told_to_drain = False
            conversation.drain(now_s)
        timers = self._timers
        while timers and timers[0][0] <= now_s:
            timer = heapq.heappop(timers)[2]
            due_s = timer(now_s)
            if due_s is not None:
                self.at(max(due_s, now_s + 0.001), timer)
        for _ in range(MESSAGES_PER_TURN):
            if self._socket is None or not self._socket.inbox:
                break
            conversation.take(self._socket.read(), now_s)
        reads_on = self.inflow.waiting and conversation.has_room
        if reads_on:
            self.inflow.read_on()
        conversation.end_turn(now_s)
        if self._told_to_stop or conversation.over:
            in_doubt = conversation.in_doubt or any(self.ledger.running())
            self.end(IN_DOUBT if in_doubt else ORDERLY)
            return now_s
        if reads_on and self.inflow.waiting:
            return now_s
        if self._socket is not None and self._socket.inbox:
            return now_s
        return timers[0][0]

    def _tend(self, now_s: float) -> float:
        self.sites.tend(now_s)
        self.conversation.tend()
        return now_s + TEND_S

    # --- what the conversation asks for -----------------------------------------------------------

    def dial(self) -> None:
        # Neither end of the real one has a high-water mark: what is under way is bounded by what is leased.
        self._socket = Dealer(self.world.network, self, self._address, bounded=False)

    def send(self, frames: list[bytes]) -> bool:
        return self._socket is not None and self._socket.send(frames)

    def hang_up(self) -> None:
        self._lost = False
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def at(self, due_s: float, timer: Timer) -> None:
        self._timer_count += 1
        heapq.heappush(self._timers, (due_s, self._timer_count, timer))
        self.wake_at(due_s)

    def sample(self, now_s: float) -> dict[str, Any]:
        return {}


class Wire(Line):
    """A connection, or a datagram socket, as the worker sees it.

    Attributes:
        ready: requests may be sent.
        retiring: it takes no more.
        asked: requests without an answer, in order; None for one that is no longer wanted.
        pin: whose own it is, None if it is shared.
        used_s: when something was asked or answered on it last.
    """

    __slots__ = ("asked", "closed", "pin", "ready", "retiring", "site", "used_s")

    def __init__(self, site: Site) -> None:
        super().__init__(site.upstream, site.worker)
        self.site = site
        self.ready = self.retiring = self.closed = False
        self.asked: dict[bytes, Request | None] = {}
        self.pin: Pin | None = None
        self.used_s = 0.0

    def has_room(self, request: Request) -> bool:
        """May a request that waits be sent on it?"""
        if not self.ready or self.retiring or self.pin is not None:
            return False
        if request.lease.pin is not None:
            return not self.asked
        return not self.site.upstream.depth or len(self.asked) < self.site.upstream.depth

    def ask(self, request: Request) -> None:
        """Send a request."""
        lease = request.lease
        if lease.pin is not None:
            self.pin = (lease.session.identity, lease.pin)
        request.place = self
        self.used_s = self.worker.scheduler.now_s
        self.worker.world.oracle.leaves(request.payload)
        self.asked[key_of(request.payload)] = request
        self.send(key_of(request.payload))


class Site:
    """What a worker has at one upstream; see :class:`reqpool_workers.lease.OriginTransport`."""

    def __init__(self, worker: WorkerProcess, upstream: Upstream) -> None:
        self.worker = worker
        self.upstream = upstream
        self.outcomes = worker.outcomes
        self.granted = 0
        self.wires: dict[Wire, None] = {}
        self.waiting: deque[Request] = deque()
        if not upstream.depth:
            wire = Wire(self)
            wire.ready = True
            upstream.open[wire] = None
            self.wires[wire] = None

    @property
    def backlog(self) -> int:
        return len(self.waiting)

    def submit(self, lease: WorkerLease, now_s: float) -> None:
        self.waiting.extend(lease.requests)
        self.assign()

    def submit_pinned(self, lease: WorkerLease, pin: Pin) -> None:
        wire = self.pins.get(pin)
        if wire is None:
            self.outcomes.no_such_pin(lease, pin)
        elif wire.asked:
            self.outcomes.lose_pin(
                lease, "the last request of this session has not finished on its connection"
            )
        else:
            for request in list(lease.requests):
                wire.ask(request)

    @property
    def pins(self) -> dict[Pin, Wire]:
        """Connections that are one session's own."""
        return {wire.pin: wire for wire in self.wires if wire.pin is not None}

    def unpin(self, pin: Pin) -> bool:
        """A session lets go of its connection; False if it has none here."""
        wire = self.pins.get(pin)
        if wire is None:
            return False
        wire.pin = None
        if wire.asked or wire.retiring:
            self.close(wire)
        self.assign()
        return True

    def assign(self) -> None:
        """Give waiting requests to connections with room, else to new ones."""
        waiting, depth = self.waiting, self.upstream.depth
        now_s = self.worker.scheduler.now_s
        while waiting:
            request = waiting[0]
            if not request.live or request.lease.deadline_s <= now_s:
                waiting.popleft()
                continue
            connecting = sum(not wire.ready for wire in self.wires)
            chosen = next((wire for wire in self.wires if wire.has_room(request)), None)
            if chosen is not None:
                waiting.popleft()
                chosen.ask(request)
                continue
            needed = len(waiting) if request.lease.pin is None else connecting + 1
            if len(self.wires) < self.granted and connecting * depth < needed:
                wire = Wire(self)
                self.wires[wire] = None
                self.upstream.connect(wire)
                continue
            return

    def drop(self, request: Request, reason: str) -> Dropped:
        wire = request.place
        if wire is None:
            return Dropped("queue", False)
        request.place = None
        if self.upstream.depth == 1 or wire.pin is not None:
            del wire.asked[key_of(request.payload)]
            self.close(wire)
        elif self.upstream.depth:
            wire.asked[key_of(request.payload)] = None
        else:
            del wire.asked[key_of(request.payload)]
        return Dropped("read", True)

    def resend(self, lease: WorkerLease, now_s: float) -> float | None:
        return lease.resend_s

    def stranded(self) -> list[Request]:
        """Requests that wait for a connection and can have none."""
        if self.granted > len(self.pins) or not self.upstream.depth:
            return []
        return [request for request in self.waiting if request.live]

    def unsent(self) -> list[Request]:
        """Requests that nothing was sent of."""
        return [request for request in self.waiting if request.live]

    def grant(self, slots: int) -> None:
        """From now on at most so many connections."""
        self.granted = slots
        if not self.upstream.depth:
            return
        for wire in sorted(self.wires, key=lambda wire: (wire.pin is not None, bool(wire.asked))):
            if len(self.wires) <= slots:
                break
            if wire.asked or wire.pin is not None:
                wire.retiring = True
            else:
                self.close(wire)
        self.assign()

    def close(self, wire: Wire) -> None:
        """Close a connection; what is unanswered on it is lost."""
        if wire.closed:
            return
        wire.closed = True
        self.wires.pop(wire, None)
        self.upstream.close(wire)
        if wire.pin is not None:
            self.outcomes.reports.unpinned.append(wire.pin)
        unanswered = [request for request in wire.asked.values() if request is not None]
        wire.asked.clear()
        for request in unanswered:
            if request.live:
                self.outcomes.fail([request], Code.CONNECTION_LOST, LOST, phase="read", sent=True)

    def tend(self, now_s: float) -> None:
        """Take back what is held and not used."""
        for wire in list(self.pins.values()):
            if not wire.asked and now_s - wire.used_s > PIN_IDLE_S:
                self.close(wire)

    def answered(self, wire: Wire, key: bytes) -> None:
        """An answer has been read."""
        request = wire.asked.pop(key, None)
        wire.used_s = self.worker.scheduler.now_s
        if request is not None and request.live:
            self.outcomes.finish(request, 0, self.worker.world.oracle.asked[key].answer)
        if wire.retiring and not wire.asked and wire.pin is None:
            self.close(wire)

    def happened(self, wire: Wire, what: str, key: bytes) -> None:
        """News of a connection."""
        if wire.closed:
            return
        if what == "ready":
            wire.ready = True
        elif what == "answer":
            size_bytes = len(self.worker.world.oracle.asked[key].answer)
            if size_bytes > LARGE_MESSAGE_BYTES:
                self.worker.inflow.wait(Reading(wire, key, size_bytes))
            else:
                self.answered(wire, key)
        elif what == "broken":
            self.close(wire)
        elif what == "refused":
            self.close(wire)
            while self.waiting:
                request = self.waiting.popleft()
                if request.live:
                    text = "the upstream refuses connections"
                    self.outcomes.fail([request], Code.CONNECT_FAILED, text, phase="connect", sent=False)
                    break
        self.assign()


class Sites:
    """All that a worker talks to; see :class:`reqpool_workers.worker_conversation.Upstreams`."""

    def __init__(self, worker: WorkerProcess) -> None:
        self._worker = worker
        self._sites: dict[str, Site] = {}
        self._slots: dict[str, int] = {}

    def happened(self, wire: Line, what: str, key: bytes) -> None:
        """News of a connection."""
        assert isinstance(wire, Wire)
        wire.site.happened(wire, what, key)

    def close_all(self) -> None:
        """The process has ended, and its kernel closes everything."""
        for site in self._sites.values():
            for wire in list(site.wires):
                wire.closed = True
                site.upstream.close(wire)

    def tend(self, now_s: float) -> None:
        """Do what time asks for."""
        for site in self._sites.values():
            site.tend(now_s)

    def find(self, kind: str, name: str) -> Site | None:
        return self._sites.get(name)

    def reach(self, kind: str, name: str, settings: bytes) -> Site:
        site = self._sites.get(name)
        if site is None:
            upstream = self._worker.world.upstream(name)
            site = self._sites[name] = Site(self._worker, upstream)
            site.granted = self._slots.get(name, 0)
        return site

    def grant(self, name: str, slots: int, policy: Policy) -> None:
        self._slots[name] = slots
        if name in self._sites:
            self._sites[name].grant(slots)

    def open_no_more(self) -> None:
        self._slots.clear()
        for site in self._sites.values():
            if site.upstream.depth:
                site.grant(min(site.granted, len(site.wires)))

    def open_connections(self, name: str) -> int:
        site = self._sites.get(name)
        return len(site.wires) if site is not None and site.upstream.depth else 0

    def slots(self) -> list[tuple[str, int]]:
        return [
            (name, len(site.wires))
            for name, site in self._sites.items()
            if site.upstream.depth and site.wires
        ]

    def pins(self) -> Iterable[tuple[Pin, str, str]]:
        for site in self._sites.values():
            for pin in site.pins:
                yield pin, site.upstream.kind, site.upstream.origin

    def unpin(self, pin: Pin, reason: str) -> bool:
        return any(site.unpin(pin) for site in self._sites.values())

    def stranded(self, name: str | None = None) -> Iterator[Request]:
        for site in list(self._sites.values()):
            if name is None or site.upstream.origin == name:
                yield from site.stranded()

    def unsent(self) -> Iterator[Request]:
        for site in list(self._sites.values()):
            yield from site.unsent()

    def counts(self) -> dict[str, list[int]]:
        return {}
