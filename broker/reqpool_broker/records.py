"""Records: who is there, where each request is, and what is counted of it. No I/O, no clock.

The only writer of ``Session.open``, of ``in_flight`` and ``by_worker``, and of the pins of sessions, workers
and origins, so that they agree: :meth:`Records.check` counts everything again. A request is open while its
seq is in ``Session.open``; taking it out of there is what ends it, so it ends once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from reqpool_contract.grace import LEASE_GRACE_S

from .config import EMPTY, Config
from .fair_queue import QueuedGroup
from .lease_record import Lease
from .origin import Origin
from .origin_table import OriginTable
from .pin import Pin
from .session import Session
from .terms import Past, Terms
from .worker import Worker

_NO_PINS: Mapping[int, Pin] = {}


class Records:
    """Sessions, workers, origins, and the requests between them.

    Attributes:
        sessions: by id.
        workers: by id.
        origins: the table of origins.
        submitted, done, requeued: requests counted since the start.
        failed: the same of each error's name.
        leases: what each worker has, in the order of leasing (dicts used as ordered sets).
        next_lease_due_s: no lease's time is up earlier than this; monotonic.
    """

    def __init__(self, config: Config = EMPTY) -> None:
        self.sessions: dict[bytes, Session] = {}
        self.workers: dict[bytes, Worker] = {}
        self.origins = OriginTable(config)
        self.leases: dict[Worker, dict[Lease, None]] = {}
        self._pins_of: dict[Session, dict[int, Pin]] = {}
        self._pins_at: dict[Worker, dict[Pin, None]] = {}
        self.submitted = 0
        self.done = 0
        self.failed: dict[str, int] = {}
        self.requeued = 0
        self.next_lease_due_s = float("inf")

    def add_worker(self, worker: Worker) -> None:
        """Begin to know a worker."""
        self.workers[worker.id] = worker
        self.leases[worker] = {}

    def remove_worker(self, worker: Worker) -> None:
        """Forget a worker that has nothing any more."""
        self.workers.pop(worker.id, None)
        self.leases.pop(worker, None)

    def change_membership(self) -> None:
        """A worker came, went or changed its state: owners must be worked out again."""
        self.origins.membership += 1
        self.origins.ways.clear()
        self.origins.wake()

    def count_failed(self, name: str, count: int) -> None:
        """Count requests that ended with an error."""
        if count:
            self.failed[name] = self.failed.get(name, 0) + count

    # --- requests ---------------------------------------------------------------------------------

    def wait(self, origin: Origin, group: QueuedGroup, *, front: bool) -> None:
        """Let a group wait for an origin; with ``front`` before the rest of its session's."""
        self.origins.push(origin, group, front=front)
        group.terms.session.open.update(dict.fromkeys(group.seqs, group))

    def lease(
        self,
        terms: Terms,
        origin: Origin | None,
        worker: Worker,
        requests: dict[int, bytes],
        past: Past,
        now_s: float,
    ) -> Lease:
        """Book requests as handed to a worker."""
        lease = Lease(terms, origin, worker, requests, past, now_s)
        terms.session.open.update(dict.fromkeys(requests, lease))
        self.leases[worker][lease] = None
        if origin is not None:
            self.origins.idle.pop(origin, None)
            count = len(requests)
            origin.in_flight += count
            origin.upstream.in_flight += count
            worker.in_flight += count
            if terms.pin is None:
                origin.by_worker[worker] = origin.by_worker.get(worker, 0) + count
        if terms.deadline_s + LEASE_GRACE_S < self.next_lease_due_s:
            self.next_lease_due_s = terms.deadline_s + LEASE_GRACE_S
        return lease

    def release(self, lease: Lease, count: int, by: Worker | None = None) -> None:
        """Uncount ``count`` requests that have been taken out of ``lease.requests``.

        ``by``: the worker that answered them, if one did.
        """
        origin, worker = lease.origin, lease.worker
        if origin is not None:
            upstream = origin.upstream
            origin.in_flight -= count
            upstream.in_flight -= count
            worker.in_flight -= count
            if lease.terms.pin is None:
                left = origin.by_worker[worker] - count
                if left:
                    origin.by_worker[worker] = left
                else:
                    del origin.by_worker[worker]
            if by is not None:
                origin.done += count
            if self.origins.queued_at[upstream]:
                self.origins.wake_at(upstream)
            if self.origins.is_crowded and not origin.in_flight and not origin.queue.waiting:
                self.origins.settle(origin)
        if not lease.requests:
            del self.leases[worker][lease]

    def finish(
        self, worker: Worker, session: Session, seqs: tuple[int, ...], failed: int
    ) -> tuple[int, tuple[tuple[int, int], ...], list[tuple[Worker, int]]]:
        """End requests whose results ``worker`` sent, ``failed`` of them errors.

        Returns:
            How many were still open; (seq, attempts) of those of them that took more than one attempt; and
            (worker, seq) of those that another worker has, too.
        """
        pop = session.open.pop
        repeated: list[tuple[int, int]] = []
        elsewhere: list[tuple[Worker, int]] = []
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
                    elsewhere.append((place.worker, seq))
                if place.attempt > 1:  # one by one: the loop that most pass need not know of it
                    repeated.append((seq, place.attempt))
                    self.release(place, 1, worker)
                    fresh += 1
                    last, count = None, 0
            elif isinstance(place, QueuedGroup):
                # It waits to run again, and the worker we gave up on has answered after all.
                if place.past.attempts > 1:
                    repeated.append((seq, place.past.attempts))
                _leave_queue(place)
                fresh += 1
        if last is not None:
            self.release(last, count, worker)
            fresh += count
        session.done += fresh
        if failed:
            failed = min(failed, fresh)
            self.count_failed("upstream", failed)
            if last is not None and last.origin is not None:
                last.origin.failed += failed
        self.done += fresh - failed
        return fresh, tuple(repeated), elsewhere

    def finish_plain(self, worker: Worker, session: Session, seqs: tuple[int, ...], failed: int) -> None:
        """As :meth:`finish`, for requests that are known to be leased to ``worker``, for the first time."""
        leases: dict[int, Lease] = session.open  # type: ignore[assignment]  # all of these are
        last, count = leases[seqs[0]], 0
        for seq in seqs:
            lease = leases.pop(seq)
            if lease is not last:
                self.release(last, count, worker)
                last, count = lease, 0
            del lease.requests[seq]
            count += 1
        self.release(last, count, worker)
        if failed:
            failed = min(failed, len(seqs))
            self.count_failed("upstream", failed)
            if last.origin is not None:
                last.origin.failed += failed
        session.done += len(seqs)
        self.done += len(seqs) - failed

    def empty(self, lease: Lease) -> list[tuple[int, bytes]]:
        """Take everything out of a lease, which is over; returns seqs and payloads, which are still open."""
        pairs = list(lease.requests.items())
        lease.requests.clear()
        self.release(lease, len(pairs))
        return pairs

    def pull(
        self, worker: Worker, session: Session, seqs: Iterable[int]
    ) -> dict[Lease, list[tuple[int, bytes]]]:
        """Take requests out of the leases that ``worker`` has; others are passed over.

        They are still open, and counted until :meth:`release`.
        """
        by_lease: dict[Lease, list[tuple[int, bytes]]] = {}
        for seq in dict.fromkeys(seqs):
            lease = session.open.get(seq)
            if isinstance(lease, Lease) and lease.worker is worker:
                by_lease.setdefault(lease, []).append((seq, lease.requests.pop(seq)))
        return by_lease

    def disclaim(self, session: Session, requests: dict[int, bytes]) -> dict[Worker, dict[int, bytes]]:
        """Take out those of ``requests`` that so far only a worker's report has named.

        Returns:
            Them by worker, to be leased to it again as what the client says they are.
        """
        named: dict[Worker, dict[int, bytes]] = {}
        for seq, payload in requests.items():
            lease = session.open.get(seq)
            if isinstance(lease, Lease) and lease.origin is None:
                del lease.requests[seq]
                if not lease.requests:
                    del self.leases[lease.worker][lease]
                named.setdefault(lease.worker, {})[seq] = payload
        return named

    def drop(self, session: Session, seq: int) -> QueuedGroup | Lease | None:
        """End a request whose outcome does not matter; returns where it was, None if it is not open."""
        place = session.open.pop(seq, None)
        if isinstance(place, Lease):
            del place.requests[seq]
            self.release(place, 1)
        elif isinstance(place, QueuedGroup):
            _leave_queue(place)
        else:
            return None
        return place

    @staticmethod
    def close(session: Session, seqs: Iterable[int]) -> None:
        """End requests that neither wait nor are leased at this moment."""
        for seq in seqs:
            session.open.pop(seq, None)

    # --- pins -------------------------------------------------------------------------------------

    def pins_of(self, session: Session) -> Mapping[int, Pin]:
        """Connections held for a session, or being opened, by the number its client gave them."""
        return self._pins_of.get(session, _NO_PINS)

    def pins_at(self, worker: Worker) -> list[Pin]:
        """Connections that a worker holds for sessions."""
        return list(self._pins_at.get(worker, ()))

    def open_pin(self, session: Session, number: int, origin: Origin) -> Pin:
        """Note a connection that is to be held for a session."""
        pin = Pin(session, number, origin)
        self._pins_of.setdefault(session, {})[number] = pin
        return pin

    def close_pin(self, session: Session, number: int) -> Pin | None:
        """Note that a connection is not to be held any more; returns the pin, None if it is not known."""
        pins = self._pins_of.get(session)
        pin = pins.pop(number, None) if pins else None
        if pins is not None and not pins:
            del self._pins_of[session]
        return pin

    def take_pin(self, pin: Pin, worker: Worker, now_s: float) -> None:
        """``worker`` is given the first request of a pin, or has its connection."""
        pin.worker = worker
        pin.since_s = now_s
        self._pins_at.setdefault(worker, {})[pin] = None
        pin.origin.upstream.pins += 1
        pin.origin.pins[worker] = pin.origin.pins.get(worker, 0) + 1

    def leave_pin(self, pin: Pin) -> Worker | None:
        """Note that no worker has the connection any more; returns which one had it."""
        worker, pin.worker = pin.worker, None
        if worker is not None:
            pins = self._pins_at[worker]
            del pins[pin]
            if not pins:
                del self._pins_at[worker]
            pin.origin.upstream.pins -= 1
            left = pin.origin.pins[worker] - 1
            if left:
                pin.origin.pins[worker] = left
            else:
                del pin.origin.pins[worker]
        return worker

    def idle_pins(self, worker: Worker) -> list[Pin]:
        """Connections that a worker holds for sessions that have nothing running there."""
        running = {lease.terms.session for lease in self.leases[worker]}
        return [pin for pin in self.pins_at(worker) if pin.session not in running]

    def awaits_since_s(self, worker: Worker, now_s: float, liveness_s: float) -> float:
        """Return since when there is what would keep a worker if it drained now.

        Requests, or connections held for clients that are not silent; ``now_s`` if there is nothing.
        """
        pinned = (pin.since_s for pin in self.pins_at(worker) if not pin.session.is_silent(now_s, liveness_s))
        leased = (lease.since_s for lease in self.leases[worker])
        return min(next(leased, now_s), next(pinned, now_s))

    # --- the check --------------------------------------------------------------------------------

    def check(self, large: Iterable[tuple[Lease, int]]) -> None:
        """Count everything again and compare; for tests.

        Args:
            large: leases that have not left, and how many bytes of each wait.

        Raises:
            AssertionError: if something differs.
        """
        _check_leases(self)
        _check_bytes(self, large)
        _check_sessions(self)
        _check_parts(self)


def _leave_queue(group: QueuedGroup) -> None:
    if group.queue is not None:
        group.queue.drop(group)


def _check_leases(records: Records) -> None:
    in_flight: dict[Any, int] = {}
    pinned: dict[Any, int] = {}
    pins: dict[Any, int] = {}
    for worker in records.workers.values():
        held = 0
        for lease in records.leases[worker]:
            assert lease.requests
            assert lease.worker is worker
            for seq in lease.requests:
                assert lease.terms.session.open.get(seq) is lease
            if lease.origin is not None:
                held += len(lease.requests)
                if lease.terms.pin is None:
                    key = (lease.origin, worker)
                    in_flight[key] = in_flight.get(key, 0) + len(lease.requests)
                else:
                    pinned[lease.origin] = pinned.get(lease.origin, 0) + len(lease.requests)
        assert worker.in_flight == held
        for pin in records.pins_at(worker):
            assert pin.worker is worker
            assert records.pins_of(pin.session).get(pin.number) is pin
            pins[pin.origin, worker] = pins.get((pin.origin, worker), 0) + 1
    for origin in records.origins:
        by_worker = {w: n for (o, w), n in in_flight.items() if o is origin}
        assert origin.by_worker == by_worker
        assert origin.pins == {w: n for (o, w), n in pins.items() if o is origin}
        assert origin.in_flight == sum(by_worker.values()) + pinned.get(origin, 0)
        assert origin.queue.waiting == sum(len(group.waiting()) for group in origin.queue)
        assert origin in records.origins.at[origin.upstream]
        assert origin.granted == any(name == origin.name for _, name in origin.upstream.grants)
    for upstream in records.origins.upstreams.values():
        assert not records.origins.is_deserted(upstream)
        assert upstream.pins == sum(sum(origin.pins.values()) for origin in records.origins.at[upstream])
        assert upstream.in_flight == sum(origin.in_flight for origin in records.origins.at[upstream])
        for (worker, name), grant in upstream.grants.items():
            assert worker.grants[name] is grant
            assert grant.slots <= grant.reserved


def _check_bytes(records: Records, large: Iterable[tuple[Lease, int]]) -> None:
    waiting_bytes: dict[Any, int] = {}
    for origin in records.origins:
        for group in origin.queue:
            session = group.terms.session
            size_bytes = sum(map(len, group.payloads[group.start :])) + group.settings_bytes
            waiting_bytes[session] = waiting_bytes.get(session, 0) + size_bytes
    for lease, size_bytes in large:
        session = lease.terms.session
        waiting_bytes[session] = waiting_bytes.get(session, 0) + size_bytes
    for session in records.sessions.values():
        assert session.queued_bytes == waiting_bytes.get(session, 0)
        assert session.unacked_bytes == sum(len(batch.blob) for batch in session.unacked)


def _check_sessions(records: Records) -> None:
    for session in records.sessions.values():
        for pin in records.pins_of(session).values():
            assert pin.session is session
            assert pin.worker is None or pin in records.pins_at(pin.worker)
        for seq, place in session.open.items():
            if isinstance(place, Lease):
                assert seq in place.requests
                assert place in records.leases[place.worker]
            else:
                assert isinstance(place, QueuedGroup)
                assert seq in place.waiting()


def _check_parts(records: Records) -> None:
    parts: dict[Any, dict[int, int]] = {}
    for session in records.sessions.values():
        for batch in session.unacked:
            for worker, number in batch.keepers:
                if number > worker.base:
                    mine = parts.setdefault(worker, {})
                    mine[number] = mine.get(number, 0) + 1
    for worker in records.workers.values():
        assert worker.parts == parts.get(worker, {})
