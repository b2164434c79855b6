"""The worker: joins the broker's socket, the loop, the upstreams and the ledger."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from heapq import nlargest
from operator import itemgetter
from typing import Any, NamedTuple

import zmq

from reqpool import checks, wire
from reqpool.errors import Code, ProtocolError, UsageError
from reqpool.keeping import Kept
from reqpool.wire import LeaseGroup, Reject, Unread, Verb

from .broker_socket import MESSAGES_PER_TURN, BrokerSocket
from .connection import fault
from .datagrams import DatagramOrigin
from .ledger import Dropped, Lease, Ledger, Pin, Request
from .link import Link, LinkState
from .loop import READABLE, Loop
from .outbox import Batch, Outbox
from .pool import Policy, Slots
from .protocols import DatagramKind, StreamKind, WorkerKind
from .resolver import Resolver
from .sample import Sampler
from .streams import PIN_GONE, StreamOrigin

log = logging.getLogger(__name__)

KEPT_RESULTS_BYTES = 64 << 20
TEND_S = 1.0
HOLD_BACK_S = 0.002
"""Longest time that results gather while there are requests to go on with."""
MOST_HELD_BACK = 256
DRAIN_PINS_S = 5.0
"""How long a draining worker waits for held connections to be let go of."""
LEASE_LOOK_S = 1.0
"""Longest time until it is noticed that all of a lease has ended."""

Origin = DatagramOrigin | StreamOrigin


class _Grant(NamedTuple):
    """The last GRANT for an origin."""

    number: int
    slots: int
    policy: Policy


class Worker:
    """One worker. Everything but :meth:`drain` and :meth:`stop` belongs to the thread that calls :meth:`run`.

    Args:
        broker_url: the broker's workers socket.
        identity: 16 random bytes, or those the supervisor chose.
        name: for people.
        kinds: by name.
        parent_pid: process with which this one ends, or None.

    Raises:
        ProcessLookupError: if the parent is gone already.
    """

    def __init__(
        self,
        broker_url: str,
        identity: bytes,
        name: str,
        kinds: Mapping[str, WorkerKind],
        parent_pid: int | None = None,
    ) -> None:
        # First: it may raise, and there is nothing to be closed yet.
        self._parent_fd = -1 if parent_pid is None else os.pidfd_open(parent_pid)
        self.loop = Loop()
        self.ledger = Ledger()
        self.outbox = Outbox(KEPT_RESULTS_BYTES)
        self._url = broker_url
        self._identity = identity
        self._name = wire.sendable(name, wire.MAX_NAME_CHARS)
        self._kinds = kinds
        self._link = Link(self.loop.now_s)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: BrokerSocket | None = None
        self._origins: dict[tuple[str, str], Origin] = {}
        self._resolver = Resolver(self.loop)
        self._slots: dict[str, Slots] = {}
        self._kept = Kept(wire.WORKER_KEEPS)
        self._grants: dict[str, _Grant] = {}
        self._unanswered_grants: dict[str, int] = {}
        self._sampler = Sampler(self.loop, self.ledger)
        self._draining = False
        self._drain_s = 0.0
        self._drain_beat = 0
        self._turn_s = self.loop.now_s
        self._held_back_s = 0.0
        self._watched: list[Lease] = []
        self._watch_s = math.inf
        if self._parent_fd >= 0:
            self.loop.register(self._parent_fd, self._on_parent_exit, READABLE)
        self._handlers: dict[Verb, Callable[..., None]] = {
            Verb.WELCOME: self._on_welcome,
            Verb.REJECT: self._on_reject,
            Verb.HEARTBEAT: self._on_heartbeat,
            Verb.LEASE: self._on_lease,
            Verb.CANCEL: self._on_cancel,
            Verb.GRANT: self._on_grant,
            Verb.UNPIN: self._on_unpin,
            Verb.KEEP: self._on_keep,
            Verb.DRAIN: self._on_drain,
        }

    def run(self) -> None:
        """Serve until drained or stopped; closes every fd."""
        self.loop.at(self.loop.now_s, self._dial)
        self.loop.at(self.loop.now_s + TEND_S, self._tend)
        goodbye = False
        try:
            self.loop.run(self._end_turn)
            goodbye = self._draining and self.ledger.empty
        finally:
            for origin in list(self._origins.values()):
                origin.close("the worker ends")
            self._resolver.close("the worker ends")
            if self._socket is not None:
                self._socket.close(goodbye=goodbye)
            if self._parent_fd >= 0:
                self.loop.unregister(self._parent_fd)
                os.close(self._parent_fd)
            self.loop.close()
            self._context.term()

    def drain(self) -> None:
        """Hand back what was not sent upstream, finish the rest, say GOODBYE, end. From any thread."""
        self.loop.wake(self._drain)

    def stop(self) -> None:
        """End now. From any thread."""
        self.loop.wake(self.loop.stop)

    # --- each turn ---------------------------------------------------------------------------------

    def _end_turn(self) -> bool:
        """Read the broker's messages, send it this turn's news. Returns True if more can be read."""
        now_s = time.monotonic()
        if now_s - self._turn_s > self._link.liveness_s and self._socket is not None:
            # Stopped for a while, or starved: what lies in the socket is old, the broker has given us up.
            self._hang_up(f"nothing was done for {now_s - self._turn_s:.1f} s", now_s)
        self._turn_s = now_s
        more = self._socket is not None and self._converse()
        if self._draining and self._drained(now_s):
            if self._link.state is LinkState.LIVE:
                self._say(Verb.GOODBYE)
            self.loop.stop()
        return more

    def _converse(self) -> bool:
        for _ in range(MESSAGES_PER_TURN):
            if self._socket is None:
                return False
            if not self._socket.readable:
                break
            self._take(self._socket.receive())
        self._report()
        return self._socket is not None and self._socket.readable

    def _take(self, frames: list[bytes]) -> None:
        # The clock is read after the message: a process stopped in between must not believe it.
        now_s = time.monotonic()
        try:
            verb, values = wire.decode(frames[0], wire.BROKER_TO_WORKER)
            if verb not in (Verb.WELCOME, Verb.REJECT):
                epoch, seen, *values = values
                if self._link.state is LinkState.GREETING:
                    return  # of this socket, but meant for whoever had its route before
                if not self._link.fresh(epoch, seen, now_s):
                    self._hang_up(f"a stale {verb.name}", now_s)
                    return
            self._handlers[verb](now_s, *values)
        except ProtocolError as error:
            self.ledger.ignored += 1
            log.warning("ignored a malformed message: %s", error.text)

    def _report(self) -> None:
        """Send what has gathered. Order: results first, so that nothing can be said to be missing."""
        if self._link.state is not LinkState.LIVE:
            return
        ledger = self.ledger
        if ledger.dirty and not self._holds_back():
            for batch in self.outbox.pack(ledger.take_results()):
                self._send_batch(batch)
        if ledger.returns:
            self._say(Verb.RETURN, ledger.take_returns())
        if ledger.failures:
            self._say(Verb.RETRY, ledger.take_failures())
        if ledger.unpinned:
            held = set(self._pins())
            for pin in ledger.take_unpinned():
                if pin not in held:
                    self._say(Verb.UNPIN, *pin)
        if self._unanswered_grants:
            self._answer_grants()

    def _holds_back(self) -> bool:
        """Shall results gather for a little longer?

        Every message costs, here, at the broker and at the client, more than a small answer does. While the
        connections are kept busy by requests that wait here already, nobody waits for less by being told one
        by one; with nothing waiting, a lone request above all, an answer is told at once.
        """
        ledger = self.ledger
        if ledger.unreported >= MOST_HELD_BACK or not ledger.busy or self._draining:
            self._held_back_s = 0.0
            return False
        now_s = self.loop.now_s
        if not self._held_back_s:
            self._held_back_s = now_s
            self.loop.at(now_s + HOLD_BACK_S, _nothing)
        if now_s - self._held_back_s < HOLD_BACK_S:
            return True
        self._held_back_s = 0.0
        return False

    def _send_batch(self, batch: Batch) -> None:
        groups = [(part.session, part.seqs, part.failed) for part in batch.parts]
        self._say(Verb.RESULTS, batch.number, groups, blobs=[part.blob for part in batch.parts])

    def _say(self, verb: Verb, *values: Any, blobs: list[bytes] | None = None) -> None:
        if self._socket is not None:
            head = wire.encode(verb, self._link.epoch, self._link.seen, *values)
            try:
                self._socket.send([head, *blobs] if blobs else [head])
            except zmq.Again:
                # The pipe has gone, as after a message the broker would not take; all is kept for HELLO.
                self._hang_up("nothing can be sent", time.monotonic())

    # --- timers ------------------------------------------------------------------------------------

    def _beat(self, socket: BrokerSocket, state: LinkState, now_s: float) -> float | None:
        """Each heartbeat's timer, one for each state of each socket."""
        link = self._link
        if self._socket is not socket or link.state is not state:
            return None
        if link.silent(now_s):
            self._hang_up("the broker is silent", now_s)
            return None
        if state is LinkState.LIVE:
            self._beat_now(now_s)
        return now_s + link.heartbeat_s

    def _start_beating(self, socket: BrokerSocket, now_s: float) -> None:
        beat = partial(self._beat, socket, self._link.state)
        self.loop.at(now_s + self._link.heartbeat_s, beat)

    def _beat_now(self, now_s: float) -> int:
        origins = {name: origin.counts for (_, name), origin in self._origins.items()}
        if len(origins) > wire.MAX_SAMPLE_ORIGINS:
            origins = dict(nlargest(wire.MAX_SAMPLE_ORIGINS, origins.items(), key=itemgetter(1)))
        number = self._link.beat(now_s)
        sample = self._sampler.take(now_s, origins)
        self._say(Verb.HEARTBEAT, number, {**sample, "full": self.outbox.full})
        return number

    def _tend(self, now_s: float) -> float:
        for key, origin in list(self._origins.items()):
            origin.tend(now_s)
            if isinstance(origin, StreamOrigin):
                self._give_back(origin, origin.pool.stranded)
            if origin.deserted:
                del self._origins[key]
        names = {name for _, name in self._origins}
        self._slots = {name: slots for name, slots in self._slots.items() if name in names}
        return now_s + TEND_S

    def _watch_lease(self, lease: Lease, now_s: float) -> None:
        """See that a new lease is looked at in time. One timer does for all: most leases end before."""
        self._watched.append(lease)
        due_s = min(lease.resend_s, lease.wait_s, now_s + LEASE_LOOK_S)
        if due_s < self._watch_s:
            self._watch_s = due_s
            self.loop.at(due_s, partial(self._watch, due_s))

    def _watch(self, due_s: float, now_s: float) -> float | None:
        """The leases' timer: send again, or end what is late. The only place where leases expire."""
        if due_s != self._watch_s:
            return None  # an earlier one has been set since, and set the next
        watched, self._watched = self._watched, []
        next_s = now_s + LEASE_LOOK_S
        for lease in watched:
            if now_s >= lease.deadline_s:
                self._expire(lease)
            elif lease.live and lease.upstream is not None:
                if now_s >= lease.wait_s:
                    self._end_waiting(lease)
                again_s = lease.upstream.resend(lease, now_s)
                next_s = min(next_s, lease.deadline_s, lease.deadline_s if again_s is None else again_s)
                if now_s < lease.wait_s:
                    next_s = min(next_s, lease.wait_s)
                self._watched.append(lease)
        self._watch_s = math.inf
        if self._watched:
            self._watch_s = next_s
            self.loop.at(next_s, partial(self._watch, next_s))
        return None

    def _end_waiting(self, lease: Lease) -> None:
        """End those that have waited for a connection for as long as they may."""
        waiting = [request for request in lease.unended() if request.place is None]
        text = "no connection within the queue timeout of this upstream"
        self.ledger.fail(waiting, Code.TIMEOUT, text, phase="queue", sent=False)

    def _expire(self, lease: Lease) -> None:
        if lease.upstream is None:
            return
        late: dict[Dropped, list[Request]] = {}
        for request in lease.unended():
            # A drop may close a connection, and with it end requests of the same lease.
            if request.live:
                late.setdefault(lease.upstream.drop(request, "timeout"), []).append(request)
        for (phase, sent, awaited), requests in late.items():
            unended = [request for request in requests if request.live]
            text = f"no answer within {lease.span_s:.3f} s" + (awaited and f": {awaited}")
            self.ledger.fail(unended, Code.TIMEOUT, text, phase=phase, sent=sent)

    # --- the conversation --------------------------------------------------------------------------

    def _dial(self, now_s: float) -> None:
        """A timer's: HELLO over a new socket."""
        self._grants.clear()
        self._unanswered_grants.clear()
        self._kept.clear()
        for origin in self._origins.values():
            if isinstance(origin, StreamOrigin):
                origin.grant(min(origin.pool.slots.granted, origin.held))
                self._give_back(origin, origin.pool.stranded)
        # What HELLO does not list as held never arrived, to the broker: it leases it again by itself.
        self.ledger.take_returns()
        self.ledger.take_failures()
        self.ledger.take_unpinned()
        if self.ledger.dirty:
            self.outbox.pack(self.ledger.take_results())
        self.outbox.restart()
        pins = []
        for (kind, name), origin in self._origins.items():
            if isinstance(origin, StreamOrigin):
                pins += [(*pin, kind, name) for pin in origin.pins]
        about: dict[str, Any] = {
            "worker": self._identity,
            "name": self._name,
            "pid": os.getpid(),
            "kinds": [kind.info for kind in self._kinds.values()],
            "held": [*self.ledger.held(), *self.outbox.held()],
            "slots": [(name, slots.taken) for name, slots in self._slots.items() if slots.taken],
            "pins": pins,
            "keeps": wire.WORKER_KEEPS,
        }
        if self._link.epoch is not None:
            about["epoch"] = self._link.epoch
        self._socket = BrokerSocket(self._context, self.loop, self._url)
        self._socket.send([wire.encode(Verb.HELLO, wire.LOWEST_VERSION, wire.VERSION, about)])
        self._link.greeted(now_s)
        self._start_beating(self._socket, now_s)

    def _hang_up(self, why: str, now_s: float) -> None:
        """Close the socket and never read it again; a timer dials anew."""
        log.warning("hung up: %s", why)
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._link.lost(now_s)
        self.loop.at(self._link.dial_s, self._dial)

    def _on_welcome(self, now_s: float, _version: int, about: dict[str, Any]) -> None:
        if self._socket is None or self._link.state is not LinkState.GREETING:
            raise ProtocolError("WELCOME without HELLO")
        epoch, heartbeat_ms, liveness_ms = (
            checks.uint(about.get(name)) for name in ("epoch", "heartbeat_ms", "liveness_ms")
        )
        self._link.welcomed(epoch, heartbeat_ms, liveness_ms, now_s)
        log.info("welcomed by the broker, epoch %d", epoch)
        self._start_beating(self._socket, now_s)
        self._beat_now(now_s)
        if self._draining:
            self._announce_drain()
        for batch in self.outbox.renumbered():
            self._send_batch(batch)

    def _on_reject(self, now_s: float, code: int, text: str, _about: dict[str, Any]) -> None:
        name = Reject(code).name if code in set(Reject) else str(code)
        self._hang_up(f"rejected by the broker ({name}): {text}", now_s)

    def _on_heartbeat(self, now_s: float, number: int, received: int, undelivered: list[int]) -> None:
        self._link.heartbeat(number)
        self.outbox.received(received)
        self.outbox.undelivered(undelivered)

    def _on_keep(self, _now_s: float, number: int, settings: bytes) -> None:
        self._kept.keep(number, settings)

    def _on_lease(self, now_s: float, groups: list[LeaseGroup | Unread]) -> None:
        refuse = self._draining or self.outbox.full
        for group in groups:
            if isinstance(group, Unread):
                self._refuse(group)
                continue
            if group.kept is not None:
                try:
                    group = group._replace(settings=self._kept.find(group.kept))
                except ProtocolError as error:
                    self._refuse(Unread(group.session, group.seqs, True, error.text))
                    continue
            lease = self.ledger.admit(group, now_s)
            if not lease.requests:
                continue
            # What goes to a held connection cannot run elsewhere.
            if refuse and (lease.pin is None or lease.opens):
                self.ledger.give_back(lease.requests)
                continue
            if lease.pin is not None and not lease.opens:
                self._submit_held(lease, group, now_s)
                continue
            try:
                origin = self._origin(group.kind, group.origin, group.settings)
            except Exception as error:
                text = error.text if isinstance(error, UsageError) else fault(error)
                if lease.others:  # a zone that is no network interface here, say
                    self.ledger.fail(list(lease.requests), Code.USAGE, text, phase="connect", sent=False)
                    continue
                for request in list(lease.requests):
                    self.ledger.conclude(request, Code.USAGE, text, sent=False)
                continue
            lease.upstream = origin
            origin.submit(lease, now_s)
            if lease.live:
                self._watch_lease(lease, now_s)

    def _refuse(self, group: Unread) -> None:
        """End what a lease group that cannot be used asks for; the others of its message run."""
        self.ledger.ignored += 1
        log.warning("a lease that cannot be used: %s", group.text)
        self.ledger.refuse(group.session, group.seqs, f"its worker cannot use the lease: {group.text}")

    def _submit_held(self, lease: Lease, group: LeaseGroup, now_s: float) -> None:
        # The connection is there or not: what it takes to make one, as it is now, is of no account.
        origin = self._origins.get((group.kind, group.origin))
        pin = (group.session, lease.pin or 0)
        if isinstance(origin, StreamOrigin):
            lease.upstream = origin
            origin.submit_held(lease, pin)
            if lease.live:
                self._watch_lease(lease, now_s)
        else:
            self.ledger.lose_pin(lease, PIN_GONE)
            self.ledger.unpinned.append(pin)

    def _on_cancel(self, _now_s: float, groups: list[tuple[bytes, tuple[int, ...]] | Unread]) -> None:
        for group in groups:
            if isinstance(group, Unread):
                self.ledger.ignored += 1
                continue
            session, seqs = group
            for request in self.ledger.find(session, seqs):
                if request.live and request.lease.upstream is not None:
                    request.lease.upstream.drop(request, "cancelled")
                    self.ledger.forget(request)

    def _on_grant(self, _now_s: float, name: str, number: int, slots: int, about: dict[str, Any]) -> None:
        known = self._grants.get(name)
        if known is not None and number < known.number:
            return
        grant = self._grants[name] = _Grant(number, slots, Policy.of(about))
        self._unanswered_grants[name] = number
        for origin in self._origins.values():
            if origin.name == name and isinstance(origin, StreamOrigin):
                origin.grant(slots, grant.policy)
                # Others have the connections now; what waits here would wait for ever.
                self._give_back(origin, origin.pool.stranded)

    def _answer_grants(self) -> None:
        """GRANTED for each grant that is kept by now."""
        held: dict[str, int] = {}
        for origin in self._origins.values():
            if isinstance(origin, StreamOrigin) and origin.name in self._unanswered_grants:
                held[origin.name] = origin.held
        for name, grant in list(self._unanswered_grants.items()):
            slots = self._grants[name].slots
            if held.get(name, 0) <= slots:
                del self._unanswered_grants[name]
                self._say(Verb.GRANTED, name, grant, held.get(name, 0))
                if not slots:
                    del self._grants[name]

    def _on_unpin(self, _now_s: float, session: bytes, pin: int) -> None:
        for origin in self._origins.values():
            if isinstance(origin, StreamOrigin) and origin.unpin(
                (session, pin), "let go of in the middle of a request"
            ):
                return
        # Its first request may still wait for a connection.
        for request in self.ledger.opening(session, pin):
            if request.lease.upstream is not None:
                phase, sent, _ = request.lease.upstream.drop(request, "let go of")
                text = "the session was closed before its first request had ended"
                self.ledger.conclude(request, Code.CONNECTION_LOST, text, phase=phase, sent=sent)

    def _on_drain(self, _now_s: float) -> None:
        self._drain()

    # --- the end -----------------------------------------------------------------------------------

    def _drain(self) -> None:
        if self._draining:
            return
        self._draining = True
        self._drain_s = time.monotonic()
        log.info("draining")
        for origin in self._origins.values():
            self._give_back(origin, origin.unsent())
        if self._link.state is LinkState.LIVE:
            self._announce_drain()

    def _give_back(self, origin: Origin, requests: list[Request]) -> None:
        for request in requests:
            if request.live:
                origin.drop(request, "handed back")
                self.ledger.give_back([request])

    def _announce_drain(self) -> None:
        """Say DRAIN, and a heartbeat: once the broker has seen that, no lease is on its way any more."""
        self._say(Verb.DRAIN)
        self._drain_beat = self._beat_now(time.monotonic())

    def _drained(self, now_s: float) -> bool:
        """Is nothing left to do and nothing on its way here, or nobody there to be told of it?"""
        link = self._link
        if any(self.ledger.held()):
            return False
        if now_s - self._drain_s < DRAIN_PINS_S and any(self._pins()):
            return False
        if link.state is LinkState.LIVE and self.ledger.empty and link.answered >= self._drain_beat:
            return True
        return now_s - self._drain_s > link.liveness_s

    def _on_parent_exit(self, _mask: int) -> None:
        log.info("the parent process has gone")
        self.loop.stop()

    def _pins(self) -> Iterator[Pin]:
        for origin in self._origins.values():
            if isinstance(origin, StreamOrigin):
                yield from origin.pins

    def _origin(self, kind_name: str, name: str, settings: bytes) -> Origin:
        """The origin, made at its first lease.

        Raises:
            UsageError: for a kind nobody registered, an origin that cannot be read, or settings of another.
        """
        origin = self._origins.get((kind_name, name))
        if origin is not None:
            if isinstance(origin, StreamOrigin) and origin.settings != settings:
                raise UsageError("these settings (passwords, TLS) are not the ones this origin stands for")
            return origin
        kind = self._kinds.get(kind_name)
        if isinstance(kind, DatagramKind):
            origin = DatagramOrigin(self.loop, self.ledger, kind, name)
        elif isinstance(kind, StreamKind):
            slots = self._slots.setdefault(name, Slots())
            origin = StreamOrigin(self.loop, self.ledger, self._resolver, kind, name, settings, slots)
            grant = self._grants.get(name)
            if grant is not None:
                origin.grant(grant.slots, grant.policy)
        else:
            raise UsageError(f"this worker has no kind {kind_name!r}", origin=name)
        self._origins[kind_name, name] = origin
        return origin


def _nothing(_now_s: float) -> None:
    """A timer's, whose point is that the loop takes a turn."""
