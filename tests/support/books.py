"""The broker's books: what is counted is what is there."""

from __future__ import annotations

from typing import Any

from reqpool_broker.requests import Lease, QueuedGroup
from reqpool_broker.state import Broker


def check_books(broker: Broker) -> None:
    """Count everything anew and compare.

    Raises:
        AssertionError: if something differs.
    """
    ledger = broker.ledger
    in_flight: dict[Any, int] = {}
    pinned: dict[Any, int] = {}
    pins: dict[Any, int] = {}
    for worker in ledger.workers.values():
        held = 0
        for lease in worker.leases:
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
        for pin in worker.pins:
            assert pin.worker is worker
            assert pin.session.pins.get(pin.number) is pin
            pins[pin.origin, worker] = pins.get((pin.origin, worker), 0) + 1
    for origin in ledger.origins:
        by_worker = {w: n for (o, w), n in in_flight.items() if o is origin}
        assert origin.by_worker == by_worker
        assert origin.pins == {w: n for (o, w), n in pins.items() if o is origin}
        assert origin.in_flight == sum(by_worker.values()) + pinned.get(origin, 0)
        assert origin.queue.waiting == sum(len(group.waiting()) for group in origin.queue)
        assert origin in origin.upstream.origins
        assert origin.granted == any(name == origin.name for _, name in origin.upstream.grants)
    for upstream in ledger.origins.upstreams.values():
        assert not upstream.deserted
        assert upstream.pins == sum(sum(origin.pins.values()) for origin in upstream.origins)
        assert upstream.in_flight == sum(origin.in_flight for origin in upstream.origins)
        for (worker, name), grant in upstream.grants.items():
            assert worker.grants[name] is grant
            assert grant.slots <= grant.reserved
    waiting_bytes: dict[Any, int] = {}
    for origin in ledger.origins:
        for group in origin.queue:
            session = group.terms.session
            size_bytes = sum(map(len, group.payloads[group.start :])) + group.settings_bytes
            waiting_bytes[session] = waiting_bytes.get(session, 0) + size_bytes
    for worker in ledger.workers.values():
        for lease, size_bytes in worker.large:
            session = lease.terms.session
            waiting_bytes[session] = waiting_bytes.get(session, 0) + size_bytes
    for session in broker.sessions.values():
        assert session.queued_bytes == waiting_bytes.get(session, 0)
        assert session.unacked_bytes == sum(len(batch.blob) for batch in session.unacked)
        for pin in session.pins.values():
            assert pin.session is session
            assert pin.worker is None or pin in pin.worker.pins
        for seq, place in session.open.items():
            if isinstance(place, Lease):
                assert seq in place.requests
                assert place in place.worker.leases
            else:
                assert isinstance(place, QueuedGroup)
                assert seq in place.waiting()
    parts: dict[Any, dict[int, int]] = {}
    for session in broker.sessions.values():
        for batch in session.unacked:
            for worker, number in batch.keepers:
                if number > worker.base:
                    mine = parts.setdefault(worker, {})
                    mine[number] = mine.get(number, 0) + 1
    for worker in ledger.workers.values():
        assert worker.parts == parts.get(worker, {})
