"""Faults put into the broker's core, each of a sort that a redesign could make: a storm has to find them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pytest

from reqpool_broker.deadlines import Deadlines
from reqpool_broker.epoch import Epoch
from reqpool_broker.fair_queue import QueuedGroup
from reqpool_broker.grant_table import GrantTable
from reqpool_broker.lease_record import Lease
from reqpool_broker.lease_sender import LeaseSender
from reqpool_broker.origin_table import OriginTable
from reqpool_broker.outcomes import Outcomes
from reqpool_broker.pin import Pin
from reqpool_broker.pins import Pins
from reqpool_broker.records import Records
from reqpool_broker.recovery import Recovery
from reqpool_broker.retries import Retries
from reqpool_broker.session import Session
from reqpool_broker.submissions import Submissions
from reqpool_broker.worker import Worker
from reqpool_broker.worker_hello import WorkerHello


class Mutation(NamedTuple):
    """One fault.

    Attributes:
        what: in words.
        mix: name of the :class:`~.storm.Mix` that finds it.
        put_in: does it.
    """

    what: str
    mix: str
    put_in: Callable[[pytest.MonkeyPatch], None]


def _publish_twice(patch: pytest.MonkeyPatch) -> None:
    publish = Outcomes.publish

    def twice(self: Outcomes, session: Session, blob: bytes, seqs: tuple[int, ...], *about: Any) -> None:
        publish(self, session, blob, seqs, *about)
        publish(self, session, blob, seqs, *about)

    patch.setattr(Outcomes, "publish", twice)


def _number_anew_what_is_resent(patch: pytest.MonkeyPatch) -> None:
    begin = Session.begin

    def begin_anew(self: Session, route: bytes, *, resumed: bool, now_s: float) -> None:
        begin(self, route, resumed=False, now_s=now_s)

    patch.setattr(Session, "begin", begin_anew)


def _end_what_has_ended(patch: pytest.MonkeyPatch) -> None:
    fail_ = Outcomes.fail

    def end_leased(
        self: Outcomes, lease: Lease, pairs: list[tuple[int, bytes]], *about: Any, **more: Any
    ) -> None:
        fail_(self, lease.terms.session, [seq for seq, _ in pairs], *about, **more)

    patch.setattr(Outcomes, "end_leased", end_leased)


def _forget_to_count_done(patch: pytest.MonkeyPatch) -> None:
    conclude = Outcomes.conclude

    def uncounted(self: Outcomes, *about: Any) -> None:
        failed = dict(self._records.failed)
        conclude(self, *about)
        self._records.failed = failed

    patch.setattr(Outcomes, "conclude", uncounted)


def _forget_what_is_in_flight(patch: pytest.MonkeyPatch) -> None:
    release = Records.release

    def uncounted(self: Records, lease: Lease, count: int, by: Worker | None = None) -> None:
        release(self, lease, count, by)
        if lease.origin is not None and lease.terms.pin is not None:
            lease.origin.in_flight += count

    patch.setattr(Records, "release", uncounted)


def _forget_queued_bytes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(QueuedGroup, "empty", lambda self: setattr(self, "gone", 0) or setattr(self, "seqs", ()))


def _lease_what_was_cancelled(patch: pytest.MonkeyPatch) -> None:
    def take(self: QueuedGroup, most: int) -> tuple[tuple[int, ...], tuple[bytes, ...]]:
        start, stop = self.start, min(self.start + most, len(self.seqs))
        seqs, payloads = self.seqs[start:stop], self.payloads[start:stop]
        self.start = stop
        self.terms.session.queued_bytes -= sum(map(len, payloads))
        return seqs, payloads

    patch.setattr(QueuedGroup, "take", take)


def _rerun_what_a_dead_worker_had(patch: pytest.MonkeyPatch) -> None:
    abandon = Retries.abandon

    def run_again(self: Retries, worker: Worker, now_s: float, *, dead: bool, orderly: bool = False) -> None:
        abandon(self, worker, now_s, dead=dead, orderly=dead)

    patch.setattr(Retries, "abandon", run_again)


def _leave_leases_of_the_dead(patch: pytest.MonkeyPatch) -> None:
    abandon = Retries.abandon

    def leave(self: Retries, worker: Worker, now_s: float, *, dead: bool, orderly: bool = False) -> None:
        abandon(self, worker, now_s, dead=False, orderly=orderly)

    patch.setattr(Retries, "abandon", leave)


def _say_that_nothing_was_sent(patch: pytest.MonkeyPatch) -> None:
    requeue = Retries._requeue

    def unsent(self: Retries, lease: Lease, pairs: Any, past: Any, now_s: float) -> None:
        requeue(self, lease, pairs, past._replace(sent=False), now_s)

    patch.setattr(Retries, "_requeue", unsent)


def _forget_a_pins_place(patch: pytest.MonkeyPatch) -> None:
    def leave(self: Records, pin: Pin) -> Worker | None:
        worker, pin.worker = pin.worker, None
        if worker is not None:
            self._pins_at[worker].pop(pin, None)
        return worker

    patch.setattr(Records, "leave_pin", leave)


def _keep_pins_of_the_dead(patch: pytest.MonkeyPatch) -> None:
    unpin = Pins.unpin
    patch.setattr(
        Pins,
        "unpin",
        lambda self, session, number, *, tell: tell and unpin(self, session, number, tell=tell),
    )


def _tell_no_worker_of_unpin(patch: pytest.MonkeyPatch) -> None:
    unpin = Pins.unpin
    patch.setattr(
        Pins, "unpin", lambda self, session, number, *, tell: unpin(self, session, number, tell=False)
    )


def _free_slots_before_they_are_confirmed(patch: pytest.MonkeyPatch) -> None:
    set_grant = GrantTable._set_grant

    def at_once(self: GrantTable, worker: Worker, name: str, upstream: Any, level: int) -> None:
        set_grant(self, worker, name, upstream, level)
        if name in worker.grants:
            worker.grants[name].reserved = worker.grants[name].slots

    patch.setattr(GrantTable, "_set_grant", at_once)


def _believe_late_confirmations(patch: pytest.MonkeyPatch) -> None:
    granted = GrantTable.granted

    def any_number(self: GrantTable, worker: Worker, origin: str, number: int, held: int) -> None:
        if origin in worker.grants:
            granted(
                self, worker, origin, worker.grants[origin].number, min(held, worker.grants[origin].slots)
            )

    patch.setattr(GrantTable, "granted", any_number)


def _grant_before_all_have_reported(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(GrantTable, "settled", property(lambda self: True, lambda self, value: None), raising=False)


def _keep_the_limits_that_were(patch: pytest.MonkeyPatch) -> None:
    def reconfigure(self: GrantTable, config: Any) -> None:
        self._origins.config = config

    patch.setattr(GrantTable, "reconfigure", reconfigure)


def _wait_for_no_worker(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Epoch, "must_defer", lambda self, now_s: False)
    patch.setattr(Recovery, "in_doubt", lambda self, watermark: False)


def _forget_the_dead(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Recovery, "in_doubt", lambda self, watermark: bool(self.unheard))


def _lose_what_was_held_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Submissions, "release_deferred", lambda self, now_s: None)


def _adopt_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WorkerHello, "_reconcile_leases", lambda self, worker, running, now_s, *, foreign: None)


def _wake_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(OriginTable, "wake_at", lambda self, upstream: None)


def _expire_no_lease(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Deadlines, "_expire_leases", lambda self, now_s: None)


def _count_acknowledged_results(patch: pytest.MonkeyPatch) -> None:
    def acknowledge(self: Session, number: int) -> Iterable[Any]:
        done = [batch for batch in self.unacked if batch.number <= number]
        for _ in done:
            self.unacked.popleft()
        return done

    patch.setattr(Session, "acknowledge", acknowledge)


def _cancel_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LeaseSender, "cancel", lambda self, worker, session_id, seq: None)


MUTATIONS = (
    Mutation("results are published twice", "datagrams", _publish_twice),
    Mutation("a resumed session numbers its results anew", "reconnections", _number_anew_what_is_resent),
    Mutation("what has got a verdict stays open", "datagrams", _end_what_has_ended),
    Mutation("the broker's own verdicts are not counted", "datagrams", _forget_to_count_done),
    Mutation("what is in flight is not counted down", "pins", _forget_what_is_in_flight),
    Mutation("bytes of cancelled requests count as queued", "datagrams", _forget_queued_bytes),
    Mutation("what was cancelled while it waited is leased", "datagrams", _lease_what_was_cancelled),
    Mutation("what a dead worker had runs again", "datagrams", _rerun_what_a_dead_worker_had),
    Mutation("a dead worker keeps its leases", "datagrams", _leave_leases_of_the_dead),
    Mutation("an earlier attempt is denied", "datagrams", _say_that_nothing_was_sent),
    Mutation("a pin that has ended keeps its place", "pins", _forget_a_pins_place),
    Mutation("pins outlive their workers", "pins", _keep_pins_of_the_dead),
    Mutation("workers do not hear of UNPIN", "pins", _tell_no_worker_of_unpin),
    Mutation(
        "slots are free before that is confirmed",
        "connections of depth 1",
        _free_slots_before_they_are_confirmed,
    ),
    Mutation(
        "any confirmation counts for the last grant", "connections of depth 1", _believe_late_confirmations
    ),
    Mutation("connections are granted before all have reported", "restarts", _grant_before_all_have_reported),
    Mutation("a new configuration changes no limit", "config changes", _keep_the_limits_that_were),
    Mutation("a new broker waits for no worker", "restarts", _wait_for_no_worker),
    Mutation("a worker that is dead is forgotten", "restarts", _forget_the_dead),
    Mutation("what was held back is lost", "restarts", _lose_what_was_held_back),
    Mutation("a new broker adopts nothing", "restarts", _adopt_nothing),
    Mutation("slots that come free wake nobody", "connections of depth 1", _wake_nobody),
    Mutation("leases have no end", "datagrams", _expire_no_lease),
    Mutation("acknowledged results count as kept", "datagrams", _count_acknowledged_results),
    Mutation("workers do not hear of CANCEL", "datagrams", _cancel_nothing),
)
