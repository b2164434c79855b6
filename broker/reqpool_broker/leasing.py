"""Leasing: which requests wait, and which worker is given what when. No I/O, no clock."""

from __future__ import annotations

from reqpool_contract import wire
from reqpool_contract.errors import Code, UsageError
from reqpool_contract.wire import MAX_BATCH_REQUESTS, Flag

from . import slot_allocation
from .fair_queue import QueuedGroup
from .grant_table import GrantTable
from .lease_record import Lease
from .lease_sender import LeaseSender
from .origin import Origin
from .outcomes import Outcomes
from .overload_control import Refusal
from .pins import Pins
from .records import Records
from .terms import NEW, Asked, Past, Terms
from .way import Way
from .worker import Worker
from .worker_state import WorkerState

_SENT = int(Flag.SENT)
_OTHERS = int(Flag.OTHERS)

_LIVE = WorkerState.LIVE


class Leasing:
    """Queues requests and leases them.

    Args:
        records: where requests are.
        grants: the workers' connection slots.
        sender: sends what is leased.
        outcomes: ends what cannot be leased.
        pins: which connections are held for whom.
    """

    def __init__(
        self, records: Records, grants: GrantTable, sender: LeaseSender, outcomes: Outcomes, pins: Pins
    ) -> None:
        self._records = records
        self._grants = grants
        self._sender = sender
        self._outcomes = outcomes
        self._pins = pins
        self._window_closed: dict[Origin, None] = {}
        self._had_window: dict[Origin, None] = {}

    def wake_large(self) -> None:
        """Look at the queues where large groups wait until a worker has read those before."""
        self._records.origins.ready |= self._window_closed | self._had_window
        self._window_closed.clear()
        self._had_window.clear()

    def enqueue(self, group: QueuedGroup, now_s: float, *, front: bool = False) -> None:
        """Let a group wait for its next upstream, and mark its requests as waiting there."""
        terms = group.terms
        live = [worker for worker in self._records.workers.values() if worker.state is _LIVE]
        if live and not any(terms.kind in worker.kinds for worker in live):
            served = ", ".join(sorted({kind for worker in live for kind in worker.kinds}))
            text = f"no worker serves kind {terms.kind!r}; served: {served}"
            self._outcomes.end_unleased(terms, group.seqs, Code.USAGE, text, group.past)
            self._pins.end_opening(terms)
            return
        origin = self._next_origin(group, now_s)
        if origin.policy.queue_timeout_s is not None:
            group.due_s = min(group.due_s, now_s + origin.policy.queue_timeout_s)
        if origin.service.known and not front:
            refusal = origin.judge(group, now_s)
            if refusal is not None:
                late = QueuedGroup(
                    terms, group.seqs[refusal.accepted :], group.payloads[refusal.accepted :], group.past
                )
                self.refuse(origin, late, late.seqs, late.payloads, refusal, now_s)
                if not refusal.accepted:
                    return
                group.seqs = group.seqs[: refusal.accepted]
                group.payloads = group.payloads[: refusal.accepted]
        group.since_s = now_s
        self._records.wait(origin, group, front=front)

    def refuse(
        self,
        origin: Origin,
        group: QueuedGroup,
        seqs: tuple[int, ...],
        payloads: tuple[bytes, ...],
        refusal: Refusal,
        now_s: float,
    ) -> None:
        """End requests that an origin would not serve in time, unless another one may."""
        terms, past = group.terms, group.past
        if past.tried + 1 < len(terms.origins):
            self.enqueue(QueuedGroup(terms, seqs, payloads, past._replace(tried=past.tried + 1)), now_s)
            return
        origin.refused += len(seqs)
        self._outcomes.refuse(terms, seqs, past, origin.name, refusal)
        self._pins.end_opening(terms)

    def _next_origin(self, group: QueuedGroup, now_s: float) -> Origin:
        """The origins in their order, from the first on that is not suspect."""
        kind, names = group.terms.kind, group.terms.origins
        if len(names) > 1 and not group.past.tried:
            first = 0
            for place, name in enumerate(names):
                if self._records.origins.get(kind, name, now_s).suspect_until_s <= now_s:
                    first = place
                    break
            group.past = group.past._replace(first=first)
        place = group.past.first + group.past.tried
        return self._records.origins.get(kind, names[place % len(names)], now_s)

    def lease(self, now_s: float) -> None:
        """Lease what may be leased; called once per turn, however many messages came."""
        origins = self._records.origins
        ready, origins.ready = origins.ready, {}
        for origin in ready:
            if origin.queue.waiting:
                self._lease_origin(origin, now_s)
            if not origin.queue.waiting:
                origins.queued_at[origin.upstream].pop(origin, None)
        if self._outcomes.refusals.by_session:
            self._outcomes.publish_refusals()
        if self._sender.is_wanted and self._sender.send(now_s):
            self.wake_large()

    def _lease_origin(self, origin: Origin, now_s: float) -> None:
        owners = origin.owners(self._records.workers, self._records.origins.membership)
        if not owners:
            origin.rest(now_s)
            return
        kind = owners[0].kinds[origin.kind]
        policy = origin.policy
        limit = (policy.max_connections if kind.connections else policy.max_in_flight) or kind.limit
        origin.limit = limit
        origin.places = limit * kind.depth
        origin.last_used_s = now_s
        if kind.connections:
            self._grants.assign_to(origin, owners, kind)
        queue = origin.queue
        busy = origin.service.busy
        needed_s = origin.needed_s(now_s) if busy else 0.0
        opened = large = False
        while queue.waiting:
            if kind.connections:
                worker = owners[0]
                if len(owners) > 1:
                    worker = max(owners, key=lambda worker: origin.room(worker, kind.depth))
                room = origin.room(worker, kind.depth)
            else:
                worker = slot_allocation.least_loaded(owners, origin.by_worker)
                room = limit - origin.upstream.in_flight
            if room <= 0 and opened:
                # Each pin takes a connection of its own, whatever the depth: there may be more to be had.
                opened = False
                self._grants.assign(origin.upstream)
                continue
            if room <= 0:
                if kind.connections and not self._grants.is_spent(origin.upstream):
                    # More may be granted in a moment: that these wait proves nothing about the upstream.
                    origin.rest(now_s)
                else:
                    origin.stand(now_s)
                return
            taken = queue.take(min(room, MAX_BATCH_REQUESTS), self._sender.large[worker].room_bytes)
            if taken is None:
                if self._sender.large[worker].room_bytes <= 0:
                    # Who had it now comes last the next time.
                    (self._had_window if large else self._window_closed)[origin] = None
                break
            if needed_s and taken[0].terms.deadline_s - now_s < needed_s:
                refusal = origin.admission.too_late(taken[0], now_s)
                self.refuse(origin, *taken, refusal, now_s)
                continue
            origin.admission.leased(taken[0].terms.priority, len(taken[1]))
            large |= taken[0].large
            opened = opened or (kind.connections and taken[0].terms.pin is not None)
            self._hand(origin, worker, *taken, now_s)
        if busy:
            origin.rest(now_s)

    def _hand(
        self,
        origin: Origin,
        worker: Worker,
        group: QueuedGroup,
        seqs: tuple[int, ...],
        payloads: tuple[bytes, ...],
        now_s: float,
    ) -> None:
        terms = group.terms
        if len(terms.settings) > worker.max_settings_bytes:
            text = (
                f"the settings have {len(terms.settings)} bytes; worker {worker.name!r}, an older version, "
                f"accepts at most {worker.max_settings_bytes}"
            )
            self._outcomes.end_unleased(terms, seqs, Code.USAGE, text, group.past)
            self._pins.end_opening(terms)
            return
        if terms.pin is not None and not terms.goes_to_pin:
            pin = self._records.pins_of(terms.session).get(terms.pin)
            if pin is None or pin.worker is not None:
                self._outcomes.end_gone(terms, seqs)
                return
            self._records.take_pin(pin, worker, now_s)
        requests = dict(zip(seqs, payloads, strict=True))
        lease = self._records.lease(terms, origin, worker, requests, group.past, now_s)
        if origin.service.watched is None:
            origin.service.watch(lease, len(seqs), now_s)
        span_s = max(0.001, terms.deadline_s - now_s)
        flags = terms.flags | _SENT if group.past.sent else terms.flags
        untried = len(terms.origins) - group.past.tried
        if untried > 1:
            span_s /= untried
            flags |= _OTHERS
        leased = wire.LeaseGroup(
            terms.session.id,
            origin.kind,
            origin.name,
            max(1, round(span_s * 1000)),
            flags,
            lease.attempt,
            terms.pin,
            terms.trace,
            seqs,
            payloads,
            terms.settings,
            None if group.due_s >= terms.deadline_s else max(0, round((group.due_s - now_s) * 1000)),
            None,
            round((now_s - group.since_s) * 1000),
        )
        if (
            group.large
            or (terms.pin is not None and self._sender.large[worker].precedes(terms.session.id, terms.pin))
            or worker.route is None  # for a pinned connection: it waits until its worker is connected
        ):
            self._sender.add_large(worker, lease, leased, now_s)
        else:
            self._sender.add(worker, leased)
            if terms.asked is not None:
                known = self._records.origins.ways.get(terms.asked)
                if known is None or known.origin is not origin:  # that one has been forgotten
                    self._learn(lease, terms.asked)

    def _learn(self, lease: Lease, asked: Asked) -> None:
        """Remember where a group was leased, if others like it may be leased there without queueing."""
        origin, worker, terms = lease.origin, lease.worker, lease.terms
        if origin is None or terms.pin is not None or len(terms.origins) > 1 or lease.past is not NEW:
            return
        origins = self._records.origins
        if len(origin.owners(self._records.workers, origins.membership)) > 1:
            return
        kind = worker.kinds[origin.kind]
        grant = worker.grants.get(origin.name) if kind.connections else None
        if (grant is not None or not kind.connections) and self._is_current(terms, asked):
            way = Way(origin, worker, grant, kind.depth, terms.origins, terms.settings, terms.own_bytes)
            origins.learn(asked, way)

    def _is_current(self, terms: Terms, asked: Asked) -> bool:
        """Would a group that asks for the same come to the same now? This one may have waited while the
        configuration changed."""
        kind, (name,), settings = asked
        try:
            resolved = self._records.origins.config.resolve(kind, name, settings)
        except UsageError:
            return False
        return resolved == (terms.origins[0], terms.settings)

    def lease_pinned(self, group: QueuedGroup, now_s: float) -> None:
        """Lease requests at once to the worker that has their pinned connection.

        If it is not connected, it is sent them after its next HELLO, see
        :meth:`.retries.Retries.reconcile`.
        """
        terms = group.terms
        pin = None if terms.pin is None else self._records.pins_of(terms.session).get(terms.pin)
        if pin is None or pin.worker is None:
            self._outcomes.end_gone(terms, group.seqs)
            return
        pin.origin.last_used_s = group.since_s = now_s
        group.large = sum(map(len, group.payloads)) > wire.LARGE_MESSAGE_BYTES
        self._records.origins.use(pin.origin)
        pin.worker.excused = False  # a heartbeat may be on its way before the next tick looks again
        self._hand(pin.origin, pin.worker, group, group.seqs, group.payloads, now_s)

    def adopt(self, worker: Worker, terms: Terms, requests: dict[int, bytes]) -> None:
        """Book a lease of an earlier broker; one without a kind has not been claimed by its client yet."""
        now_s = terms.session.last_heard_s
        origin = self._records.origins.get(terms.kind, terms.origins[0], now_s) if terms.origins else None
        # What may run more than once may have done so: only the earlier epoch knew.
        self._records.lease(terms, origin, worker, requests, Past(sent=terms.idempotent), now_s)
        if origin is not None:
            self._records.origins.use(origin)
            if (
                terms.opens
                and terms.pin is not None
                and terms.pin not in self._records.pins_of(terms.session)
            ):
                self._pins.adopt(worker, terms.session, terms.pin, terms.kind, origin.name)

    def adapt(self, now_s: float) -> None:
        """Once a second: owners follow the load, and origins take turns where connections are scarce."""
        for origin in self._records.origins:
            origin.measure(now_s)
            if not origin.idle:
                origin.last_used_s = now_s
                owners = origin.owners(self._records.workers, self._records.origins.membership)
                able = sum(w.able and origin.kind in w.kinds for w in self._records.workers.values())
                if origin.adapt(able, owners):
                    self._records.origins.ways.clear()
                self._records.origins.ready[origin] = None
        for upstream in self._records.origins.upstreams.values():
            self._records.origins.take_turns(upstream)
