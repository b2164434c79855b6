"""The ledger: every request's way from a queue through leases to its end. No I/O, no clock.

The only place that moves requests: ``enqueue`` -> ``lease`` -> ``finish`` or ``fail``. Whether they are
enqueued again after a lease that came to nothing is decided in :mod:`.retries`, what is past its deadline in
:mod:`.deadlines`. A request is open while its seq is in ``Session.open``; taking it out of there is what ends
it, so it ends once.
"""

from __future__ import annotations

from collections.abc import Iterable

from reqpool_contract import wire
from reqpool_contract.errors import Code
from reqpool_contract.wire import MAX_BATCH_REQUESTS, Flag, Verb

from . import slot_allocation
from .config import EMPTY, Config
from .grant_table import GrantTable
from .large_leases import Piece
from .origin import Origin
from .origin_table import OriginTable
from .outgoing import Outgoing, batches
from .overload_control import Refusal, Refusals
from .pin import Pin
from .requests import NEW, Lease, Past, QueuedGroup, Terms
from .session import Session
from .worker import Worker

_SENT = int(Flag.SENT)
_OTHERS = int(Flag.OTHERS)
_PAYLOADS_AT = wire.PAYLOADS_AT[Verb.LEASE]

LEASE_GRACE_S = 0.1
"""How long past a deadline a worker may still report it; the client waits twice as long."""


class Ledger:
    """Requests, origins and the workers' leases.

    Attributes:
        epoch: this broker's life.
        liveness_s: silence after which a peer counts as lost.
        outbox: where messages go.
        workers: by id.
        origins: the table of origins.
        grants: the workers' connection slots.
        next_lease_due_s: no lease's time is up earlier than this.
    """

    def __init__(
        self,
        epoch: int,
        outbox: Outgoing,
        config: Config = EMPTY,
        liveness_s: float = wire.LIVENESS_MS / 1000,
    ) -> None:
        self.epoch = epoch
        self.liveness_s = liveness_s
        self.outbox = outbox
        self.workers: dict[bytes, Worker] = {}
        self.origins = OriginTable(config)
        self.grants = GrantTable(epoch, outbox, self.workers, self.origins)
        self.submitted = 0
        self.done = 0
        self.failed: dict[str, int] = {}
        self.requeued = 0
        self._leases: dict[Worker, list[wire.LeaseGroup]] = {}
        self._sending: dict[Worker, None] = {}
        self._window_closed: dict[Origin, None] = {}
        self._had_window: dict[Origin, None] = {}
        self._cancels: dict[Worker, dict[bytes, list[int]]] = {}
        self._refusals = Refusals()
        self.next_lease_due_s = float("inf")

    def change_membership(self) -> None:
        """A worker came, went or changed its state: owners are to be worked out anew."""
        self.origins.membership += 1
        self.wake()

    def wake(self) -> None:
        """Look at every queue at the next :meth:`lease`."""
        self.origins.wake()

    def wake_large(self) -> None:
        """Look at the queues where large groups wait until a worker has read those before."""
        self.origins.ready |= self._window_closed | self._had_window
        self._window_closed.clear()
        self._had_window.clear()

    # --- results and verdicts ---------------------------------------------------------------------

    def publish(
        self,
        session: Session,
        blob: bytes,
        seqs: tuple[int, ...],
        worker: Worker | None = None,
        attempts: tuple[tuple[int, int], ...] = (),
    ) -> None:
        """Number a result batch, keep it, and send it if the session listens.

        ``attempts``: (seq, attempts) of those that took more than one.
        """
        if session.ended:
            return
        keepers = ((worker, worker.part_published()),) if worker is not None else ()
        batch = session.keep(blob, seqs, keepers, attempts)
        if session.subscribed:
            self.outbox.results.append(session.frames(batch, self.epoch))

    def fail(
        self,
        session: Session,
        seqs: Iterable[int],
        code: Code,
        text: str,
        *,
        origin: str | None = None,
        phase: str | None = None,
        attempts: int = 0,
        sent: bool | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        """Publish one verdict for requests that are no longer open."""
        data = wire.encode_error(
            text, origin=origin, phase=phase, attempts=attempts, sent=sent, retry_after_ms=retry_after_ms
        )
        self.conclude(session, seqs, code, data)

    def conclude(self, session: Session, seqs: Iterable[int], code: int, data: bytes) -> None:
        """Publish one encoded verdict, or an answer, for requests that are no longer open."""
        numbers = tuple(seqs)
        if code == Code.OK:
            self.done += len(numbers)
        else:
            name = Code(code).name.lower() if code in Code._value2member_map_ else str(code)
            self._count_failed(name, len(numbers))
        session.done += len(numbers)
        for start in range(0, len(numbers), MAX_BATCH_REQUESTS):
            chunk = numbers[start : start + MAX_BATCH_REQUESTS]
            flat: list[object] = []
            for seq in chunk:
                flat += (seq, code, data)
            self.publish(session, wire.encode_blob(flat), chunk)

    def _count_failed(self, name: str, count: int) -> None:
        if count:
            self.failed[name] = self.failed.get(name, 0) + count

    # --- queueing ---------------------------------------------------------------------------------

    def enqueue(self, group: QueuedGroup, now_s: float, *, front: bool = False) -> None:
        """Let a group wait for its next upstream, and mark its requests as waiting there."""
        terms = group.terms
        live = [worker for worker in self.workers.values() if worker.state == "live"]
        if live and not any(terms.kind in worker.kinds for worker in live):
            served = ", ".join(sorted({kind for worker in live for kind in worker.kinds}))
            text = f"no worker serves kind {terms.kind!r}; served: {served}"
            self._end_unleased(terms, group.seqs, Code.USAGE, text, group.past)
            self.end_opening(terms)
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
        self.origins.push(origin, group, front=front)
        terms.session.open.update(dict.fromkeys(group.seqs, group))

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
        for seq in seqs:
            terms.session.open.pop(seq, None)
        if past.answer is None:
            self._refusals.add(terms, seqs, past, origin.name, refusal)
        else:
            self.conclude(terms.session, seqs, Code.OK, past.answer)
        self.end_opening(terms)

    def _next_origin(self, group: QueuedGroup, now_s: float) -> Origin:
        """The origins in their order, from the first on that is not suspect."""
        kind, names = group.terms.kind, group.terms.origins
        if len(names) > 1 and not group.past.tried:
            first = 0
            for place, name in enumerate(names):
                if self.origins.get(kind, name, now_s).suspect_until_s <= now_s:
                    first = place
                    break
            group.past = group.past._replace(first=first)
        place = group.past.first + group.past.tried
        return self.origins.get(kind, names[place % len(names)], now_s)

    # --- leasing ----------------------------------------------------------------------------------

    def lease(self, now_s: float) -> None:
        """Hand out what may be handed out; called once per turn, however many messages came."""
        ready, self.origins.ready = self.origins.ready, {}
        for origin in ready:
            if origin.queue.waiting:
                self._lease_origin(origin, now_s)
            if not origin.queue.waiting:
                origin.upstream.queued.pop(origin, None)
        if self._refusals.by_session:
            for session, seqs, blob in self._refusals.take():
                self._count_failed("overloaded", len(seqs))
                session.done += len(seqs)
                self.publish(session, blob, seqs)
        outbox = self.outbox.workers
        for worker, groups in self._leases.items():
            if worker.route is not None:
                self._send(worker, worker.route, groups)
        self._leases.clear()
        if self._sending:
            self._send_large(now_s)
        for worker, by_session in self._cancels.items():
            if worker.route is not None:
                cancelled = list(by_session.items())
                head = wire.encode(Verb.CANCEL, self.epoch, worker.heartbeat_seen, cancelled)
                outbox.append([worker.route, head])
        self._cancels.clear()

    def _send(
        self,
        worker: Worker,
        route: bytes,
        groups: list[wire.LeaseGroup],
        *,
        apart: bool = False,
        ahead_bytes: int = 0,
    ) -> None:
        """Put lease groups into messages; with ``apart`` their large payloads into frames of their own.

        ``ahead_bytes``: how much of the one payload was sent in pieces.
        """
        ahead = (ahead_bytes,) if ahead_bytes else ()  # else it takes no room
        outbox, seen = self.outbox.workers, worker.heartbeat_seen
        for batch in batches(groups, worker.keeping):
            for fresh in worker.keeping.take_fresh():
                outbox.append([route, wire.encode(Verb.KEEP, self.epoch, seen, *fresh)])
            parted, payloads = wire.set_apart(batch, _PAYLOADS_AT) if apart else (batch, [])
            outbox.append([route, wire.encode(Verb.LEASE, self.epoch, seen, parted, *ahead), *payloads])
        worker.keeping.end_turn()

    def _send_large(self, now_s: float) -> None:
        """Send what there is room for of the large groups that wait."""
        outbox = self.outbox.workers
        for worker in list(self._sending):
            large, route = worker.large, worker.route
            had_room = large.room_bytes > 0
            while route is not None and (step := large.next(now_s)) is not None:
                outbox.append([route, worker.heartbeat(self.epoch, now_s, self.liveness_s)])
                large.sent(worker.heartbeats_sent, step)
                if isinstance(step, Piece):
                    outbox.append([route, wire.encode(Verb.PIECE, self.epoch, worker.heartbeat_seen, *step)])
                else:
                    self._send(worker, route, [step.group], apart=large.apart, ahead_bytes=step.ahead_bytes)
            if not had_room and large.room_bytes > 0:  # what waited has ended
                self.wake_large()
            if not large:
                del self._sending[worker]

    def _lease_origin(self, origin: Origin, now_s: float) -> None:
        owners = origin.owners(self.workers, self.origins.membership)
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
            self.grants.assign(origin.upstream)
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
                self.grants.assign(origin.upstream)
                continue
            if room <= 0:
                if kind.connections and not self.grants.is_spent(origin.upstream):
                    # More may be had in a moment: that these wait says nothing of the upstream.
                    origin.rest(now_s)
                else:
                    origin.stand(now_s)
                return
            taken = queue.take(min(room, MAX_BATCH_REQUESTS), worker.large.room_bytes)
            if taken is None:
                if worker.large.room_bytes <= 0:
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
            self._end_unleased(terms, seqs, Code.USAGE, text, group.past)
            self.end_opening(terms)
            return
        if terms.pin is not None and not terms.goes_to_pin:
            pin = terms.session.pins.get(terms.pin)
            if pin is None or pin.worker is not None:
                self.end_gone(terms, seqs)
                return
            pin.take(worker, now_s)
        count = len(seqs)
        requests = dict(zip(seqs, payloads, strict=True))
        lease = Lease(terms, origin, worker, requests, group.past, now_s)
        terms.session.open.update(dict.fromkeys(seqs, lease))
        worker.leases[lease] = None
        origin.leased(worker, count, pinned=terms.pin is not None)
        if origin.service.watched is None:
            origin.service.watch(lease, count, now_s)
        span_s = max(0.001, terms.deadline_s - now_s)
        flags = terms.flags | _SENT if group.past.sent else terms.flags
        untried = len(terms.origins) - group.past.tried
        if untried > 1:
            span_s /= untried
            flags |= _OTHERS
        self.next_lease_due_s = min(self.next_lease_due_s, terms.deadline_s + LEASE_GRACE_S)
        told = wire.LeaseGroup(
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
            or (terms.pin is not None and worker.large.precedes(terms.session.id, terms.pin))
            or worker.route is None  # for a held connection: it waits until its worker is back
        ):
            worker.large.add(lease, told, now_s)
            self._sending[worker] = None
        else:
            self._leases.setdefault(worker, []).append(told)

    def adopt(self, worker: Worker, terms: Terms, requests: dict[int, bytes]) -> None:
        """Book a lease that an earlier life of the broker gave; without a kind nobody has claimed it yet."""
        now_s = terms.session.last_heard_s
        origin = self.origins.get(terms.kind, terms.origins[0], now_s) if terms.origins else None
        # What may run more than once may have done so: only the earlier life knew.
        lease = Lease(terms, origin, worker, requests, Past(sent=terms.idempotent), now_s)
        terms.session.open.update(dict.fromkeys(requests, lease))
        worker.leases[lease] = None
        if origin is not None:
            self.origins.use(origin)
            origin.leased(worker, len(requests), pinned=terms.pin is not None)
            if terms.opens and terms.pin is not None and terms.pin not in terms.session.pins:
                self.adopt_pin(worker, terms.session, terms.pin, terms.kind, origin.name)
        self.next_lease_due_s = min(self.next_lease_due_s, terms.deadline_s + LEASE_GRACE_S)

    def withdraw(self, worker: Worker, *, dead: bool) -> set[Lease]:
        """Forget, and return, the leases that have not left for a worker: those of this turn, and large ones.

        ``dead``: see :meth:`.large_leases.LargeLeases.withdraw`.
        """
        unsent = worker.large.withdraw(dead=dead)
        groups = self._leases.pop(worker, ())
        if groups:
            seqs = {(group.session, seq) for group in groups for seq in group.seqs}
            unsent.update(
                lease
                for lease in worker.leases
                if any((lease.terms.session.id, seq) in seqs for seq in lease.requests)
                and (dead or not lease.terms.goes_to_pin)
            )
        return unsent

    # --- pins -------------------------------------------------------------------------------------

    def lease_held(self, group: QueuedGroup, now_s: float) -> None:
        """Lease requests to the worker that holds their connection, at once: they wait for nobody else's.

        If it is away for the moment, they are given to it when it says HELLO again, see
        :meth:`.retries.Retries.reconcile`.
        """
        terms = group.terms
        pin = terms.session.pins.get(terms.pin) if terms.pin is not None else None
        if pin is None or pin.worker is None:
            self.end_gone(terms, group.seqs)
            return
        pin.origin.last_used_s = group.since_s = now_s
        group.large = sum(map(len, group.payloads)) > wire.LARGE_MESSAGE_BYTES
        self.origins.use(pin.origin)
        pin.worker.excused = False  # a heartbeat may be on its way before the next tick looks again
        self._hand(pin.origin, pin.worker, group, group.seqs, group.payloads, now_s)

    def unpin(self, session: Session, number: int, *, tell: bool) -> bool:
        """A held connection is let go of, by its client, or by its worker (then there is nobody to
        ``tell``).

        Returns:
            False if it is not known.
        """
        pin = session.pins.pop(number, None)
        if pin is None:
            return False
        worker = pin.leave()
        if worker is None:
            return True
        if tell:
            if worker.route is not None:
                head = wire.encode(Verb.UNPIN, self.epoch, worker.heartbeat_seen, session.id, number)
                self.outbox.workers.append([worker.route, head])
            # It overtakes these: the first request of the pin would take a connection that nobody lets go of.
            waiting = [lease for lease, _ in worker.large if lease.terms.session is session]
            for lease in waiting:
                if lease.terms.pin == number and lease.requests:
                    seqs = list(lease.requests)
                    lease.requests.clear()
                    self.release(lease, len(seqs))
                    self.end_gone(lease.terms, seqs)
        self.origins.wake_at(pin.origin.upstream)
        self.origins.settle(pin.origin)
        return True

    def adopt_pin(self, worker: Worker, session: Session, number: int, kind: str, name: str) -> None:
        """Book a held connection that a worker reports."""
        now_s = session.last_heard_s
        pin = Pin(session, number, self.origins.get(kind, name, now_s))
        session.pins[number] = pin
        pin.take(worker, now_s)
        self.origins.use(pin.origin)

    def end_opening(self, terms: Terms) -> None:
        """If these are the first request of a pin: it has ended, and no connection is held."""
        if terms.opens and terms.pin is not None:
            self.unpin(terms.session, terms.pin, tell=True)

    def end_gone(self, terms: Terms, seqs: Iterable[int]) -> None:
        """End requests whose held connection is no more."""
        text = "the connection pinned to this session is lost, with its uncommitted work"
        self._end_unleased(terms, seqs, Code.CONNECTION_LOST, text, NEW)

    def _end_unleased(self, terms: Terms, seqs: Iterable[int], code: Code, text: str, past: Past) -> None:
        """End requests that are neither queued nor leased at this moment."""
        session, numbers = terms.session, tuple(seqs)
        for seq in numbers:
            session.open.pop(seq, None)
        if past.answer is None:
            self.fail(
                session,
                numbers,
                code,
                text,
                origin=terms.origins[0],
                phase="queue",
                attempts=past.attempts,
                sent=past.sent,
            )
        else:
            self.conclude(session, numbers, Code.OK, past.answer)

    # --- ends -------------------------------------------------------------------------------------

    def finish(
        self, worker: Worker, session: Session, seqs: tuple[int, ...], failed: int
    ) -> tuple[int, tuple[tuple[int, int], ...]]:
        """End requests whose results ``worker`` sent, ``failed`` of them errors.

        Returns:
            How many were still open, and (seq, attempts) of those of them that took more than one attempt.
        """
        pop = session.open.pop
        repeated: list[tuple[int, int]] = []
        last: Lease | None = None
        count = fresh = 0
        for seq in seqs:
            place = pop(seq, None)
            if place is last and last is not None:
                del last.requests[seq]
                count += 1
                continue
            if last is not None:
                self.release(last, count, worker)
                fresh += count
                last, count = None, 0
            if isinstance(place, Lease):
                last, count = place, 1
                del place.requests[seq]
                if place.worker is not worker:
                    self.cancel_at(place.worker, session.id, seq)
                if place.attempt > 1:  # one by one: the loop that most pass need not know of it
                    repeated.append((seq, place.attempt))
                    self.release(place, 1, worker)
                    fresh += 1
                    last, count = None, 0
            elif place is not None:
                # It waits to run again, and the worker we gave up on has answered after all.
                if place.past.attempts > 1:
                    repeated.append((seq, place.past.attempts))
                _drop_waiting(place)
                fresh += 1
        if last is not None:
            self.release(last, count, worker)
            fresh += count
        session.done += fresh
        if failed:
            failed = min(failed, fresh)
            self._count_failed("upstream", failed)
            if last is not None and last.origin is not None:
                last.origin.failed += failed
        self.done += fresh - failed
        return fresh, tuple(repeated)

    def release(self, lease: Lease, count: int, by: Worker | None = None) -> None:
        """Take ``count`` requests, already out of ``lease.requests``, off the books."""
        origin = lease.origin
        if origin is not None:
            origin.ended(lease.worker, count, pinned=lease.terms.pin is not None)
            if by is not None:
                origin.done += count
            if origin.upstream.queued:
                self.origins.wake_at(origin.upstream)
            if not origin.in_flight and not origin.queue.waiting:
                self.origins.settle(origin)
        if not lease.requests:
            del lease.worker.leases[lease]

    def drop(self, session: Session, seqs: Iterable[int]) -> None:
        """Forget requests whose outcome nobody waits for, wherever they are."""
        for seq in seqs:
            place = session.open.pop(seq, None)
            if isinstance(place, Lease):
                del place.requests[seq]
                self.cancel_at(place.worker, session.id, seq)
                self.release(place, 1)
                self.end_opening(place.terms)
            elif place is not None:
                _drop_waiting(place)
                self.end_opening(place.terms)

    def cancel_at(self, worker: Worker, session_id: bytes, seq: int) -> None:
        self._cancels.setdefault(worker, {}).setdefault(session_id, []).append(seq)

    def forget(self, session: Session) -> list[int]:
        """Drop what a session has waiting, here or to leave; returns what never ran. What runs goes on."""
        dropped: list[int] = []
        for origin in self.origins.queued():
            for group in origin.queue.forget(session):
                for seq in group.waiting():
                    del session.open[seq]
                    if not group.past.sent:
                        dropped.append(seq)
        for worker in self.workers.values():
            if worker.large:
                unsent = worker.large.unsent
                for lease in [one for one in worker.leases if one in unsent and one.terms.session is session]:
                    if not lease.past.sent:
                        dropped += lease.requests
                    self.drop(session, list(lease.requests))
        return dropped

    def end_leased(
        self,
        lease: Lease,
        pairs: list[tuple[int, bytes]],
        code: Code,
        text: str,
        *,
        phase: str | None = None,
        sent: bool = True,
    ) -> None:
        """End requests, taken out of a lease, of which its worker has not said what became of them.

        ``sent``: could an upstream have acted on them?
        """
        session = lease.terms.session
        for seq, _ in pairs:
            del session.open[seq]
        name = lease.origin.name if lease.origin else None
        seqs = [seq for seq, _ in pairs]
        if lease.past.answer is None:
            self.fail(session, seqs, code, text, origin=name, phase=phase, attempts=lease.attempt, sent=sent)
        else:
            self.conclude(session, seqs, Code.OK, lease.past.answer)
        self.end_opening(lease.terms)

    # --- time -------------------------------------------------------------------------------------

    def adapt(self, now_s: float) -> None:
        """Once a second: owners follow the load, idle grants are asked back, idle origins forgotten."""
        for origin in self.origins:
            origin.measure(now_s)
            if not origin.idle:
                origin.last_used_s = now_s
                owners = origin.owners(self.workers, self.origins.membership)
                able = sum(w.able and origin.kind in w.kinds for w in self.workers.values())
                origin.adapt(able, owners)
                self.origins.ready[origin] = None
        for upstream in self.origins.upstreams.values():
            upstream.take_turns()
        self.grants.take_back(now_s)
        self.origins.forget_old(now_s)


def _drop_waiting(group: QueuedGroup) -> None:
    if group.queue is not None:
        group.queue.drop(group)
