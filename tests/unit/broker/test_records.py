"""The records find out when what is counted is not what is there."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from reqpool_broker.lease_record import Lease
from reqpool_contract.errors import Code
from support.fake_peers import Desk
from support.pinned import ask, held_kind


class Busy:
    """A broker with a pinned connection, requests that run, some that wait, and a result that is retained."""

    def __init__(self) -> None:
        self.desk = Desk()
        worker = self.desk.worker(held_kind(limit=3))
        client = self.desk.client()
        ask(client, 1, pin=1, opens=True)
        for seq in range(2, 20):
            ask(client, seq)
        worker.answer(2)
        assert client.code(2) == Code.OK
        self.records = self.desk.broker.records
        self.session = self.desk.broker.sessions[client.id]
        (self.worker,) = self.records.workers.values()
        (self.origin,) = self.records.origins
        self.pin = self.records.pins_of(self.session)[1]

    @property
    def lease(self) -> Lease:
        return next(lease for lease in self.records.leases[self.worker] if lease.terms.pin is None)


def forget_a_lease(busy: Busy) -> None:
    del busy.records.leases[busy.worker][busy.lease]


def end_a_leased_request(busy: Busy) -> None:
    del busy.session.open[next(iter(busy.lease.requests))]


def end_a_waiting_request(busy: Busy) -> None:
    del busy.session.open[19]


def leave_a_pin(busy: Busy) -> None:
    busy.pin.worker = None


def count_up(owner: str, counter: str) -> Callable[[Busy], None]:
    def count(busy: Busy) -> None:
        counted = getattr(busy, owner)
        setattr(counted, counter, getattr(counted, counter) + 1)

    count.__name__ = f"{owner}.{counter}"
    return count


def count_by_worker(busy: Busy) -> None:
    busy.origin.by_worker[busy.worker] += 1


def count_upstream(busy: Busy) -> None:
    busy.origin.upstream.in_flight += 1


def count_pins(busy: Busy) -> None:
    busy.origin.upstream.pins += 1


def forget_a_part(busy: Busy) -> None:
    busy.worker.parts.clear()


FAULTS: list[Callable[[Busy], None]] = [
    forget_a_lease, end_a_leased_request, end_a_waiting_request, leave_a_pin, count_by_worker, count_upstream,
    count_pins, forget_a_part,
    *(count_up("worker", name) for name in ("in_flight",)),
    *(count_up("origin", name) for name in ("in_flight",)),
    *(count_up("session", name) for name in ("queued_bytes", "unacked_bytes")),
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_wrong_count_is_found(fault: Callable[[Busy], None]) -> None:
    busy = Busy()
    busy.desk.check_books()
    fault(busy)
    with pytest.raises(AssertionError):
        busy.desk.check_books()


def test_a_request_ends_once() -> None:
    busy = Busy()
    seq = next(iter(busy.lease.requests))
    done = busy.records.done
    fresh, _, _ = busy.records.finish(busy.worker, busy.session, (seq, seq), 0)
    assert fresh == 1
    assert busy.records.finish(busy.worker, busy.session, (seq,), 0)[0] == 0
    assert busy.records.done == done + 1


def test_a_pin_is_known_until_it_is_closed() -> None:
    busy = Busy()
    assert busy.records.pins_at(busy.worker) == [busy.pin]
    assert busy.records.leave_pin(busy.pin) is busy.worker
    assert busy.records.pins_at(busy.worker) == []
    assert busy.records.leave_pin(busy.pin) is None
    assert busy.records.close_pin(busy.session, 1) is busy.pin
    assert busy.records.close_pin(busy.session, 1) is None
    assert not busy.records.pins_of(busy.session)
