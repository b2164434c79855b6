"""Faults put back into the cores, each a cause that was found and mended: the simulation has to find them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from reqpool import resubmission, session_protocol
from reqpool.resubmission import Resubmission
from reqpool.session_actions import Opened
from reqpool_broker.broker_session_state import KnownSince
from reqpool_broker.deferred import DeferredGroups
from reqpool_broker.epoch import Epoch
from reqpool_broker.grant_table import GrantTable
from reqpool_broker.recovery import Recovery
from reqpool_broker.retries import Retries
from reqpool_broker.session import Session
from reqpool_ops import fleet
from reqpool_ops.children import BOOT_FAILURE, ORDERLY
from reqpool_ops.reign import Reign
from reqpool_workers.pieces import Pieces
from reqpool_workers.worker_conversation import WorkerConversation

from .plan import Fault, Plan, draw_plan
from .wrong import Wrong

MOST_SEEDS = 300


class Mutation(NamedTuple):
    """One fault that is put back.

    Attributes:
        what: in words.
        wrong: what it makes wrong.
        only: what has to happen for it to show.
        put_back: does it.
        freeze_s: for how long clients are frozen; None: as drawn.
        first: the first seed to try.
    """

    what: str
    wrong: Wrong
    only: tuple[Fault, ...]
    put_back: Callable[[pytest.MonkeyPatch], None]
    freeze_s: float | None = None
    first: int = 0

    @property
    def seeds(self) -> range:
        """Those that are tried; one of them has to find it."""
        return range(self.first, self.first + MOST_SEEDS)

    def draw(self, seed: int) -> Plan:
        """Draw a plan in which it shows soon: nothing may be repeated, and all has its time."""
        plan = draw_plan(seed, calm=False, only=self.only, small=False)
        strikes = plan.strikes
        if self.freeze_s is not None:
            strikes = tuple(
                strike._replace(span_s=self.freeze_s) if strike.fault is Fault.FREEZE_CLIENT else strike
                for strike in strikes
            )
        return plan._replace(
            asks=tuple(ask._replace(once=True, timeout_s=120.0, cancel_s=None) for ask in plan.asks),
            strikes=strikes,
        )


def _forget_the_dead(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Recovery, "in_doubt", lambda self, watermark: bool(self.unheard))


def _count_no_death(patch: pytest.MonkeyPatch) -> None:
    ended = Reign.worker_ended
    patch.setattr(Reign, "worker_ended", lambda self, worker, *, orderly: ended(self, worker, orderly=True))


def _count_who_never_began(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fleet, "LEAVE_NO_DOUBT", frozenset((ORDERLY, BOOT_FAILURE)))


def _raise_watermarks_at_welcome(patch: pytest.MonkeyPatch) -> None:
    opened = Resubmission.opened

    def raised(self: Resubmission, now_s: float) -> Opened:
        watermark = self.offered_watermark
        return opened(self, now_s)._replace(watermark=watermark, settled=True)

    patch.setattr(Resubmission, "opened", raised)


def _leave_unacknowledged(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WorkerConversation, "in_doubt", property(lambda self: 0))


def _await_nobody_after_a_second_hello(patch: pytest.MonkeyPatch) -> None:
    begin = Session.begin

    def begin_again(self: Session, route: bytes, *, resumed: bool, now_s: float) -> None:
        begin(self, route, resumed=resumed, now_s=now_s)
        if resumed:
            self.known_since = KnownSince.BEGINNING

    patch.setattr(Session, "begin", begin_again)


def _hold_what_is_acknowledged(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DeferredGroups, "drop", lambda self, seqs: None)


def _call_delivered_what_was_resent(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Session, "attach", lambda self, seqs, worker: None)


def _wait_for_no_worker(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Epoch, "must_defer", lambda self, now_s: False)
    patch.setattr(
        Recovery,
        "in_doubt",
        lambda self, watermark: int.from_bytes(watermark[8:], "big") < self.died_unheard,
    )


def _believe_a_session_that_expired(patch: pytest.MonkeyPatch) -> None:
    new = Epoch.new_session

    def new_session(self: Epoch, id_: bytes, now_s: float) -> Session:
        session = new(self, id_, now_s)
        # As if it had begun here, whatever its client says.
        always = property(lambda self: KnownSince.BEGINNING, lambda self, value: None)
        patch.setattr(Session, "known_since", always, raising=False)
        return session

    patch.setattr(Epoch, "new_session", new_session)


def _take_the_last_piece_for_all(patch: pytest.MonkeyPatch) -> None:
    complete = Pieces.complete
    patch.setattr(Pieces, "complete", lambda self, frames: (frames, complete(self, frames)[1]))


def _believe_who_was_away_for_long(patch: pytest.MonkeyPatch) -> None:
    for module in (resubmission, session_protocol):
        patch.setattr(module, "EXPIRY_SHARE", 1_000.0)


def _disown_without_doubt(patch: pytest.MonkeyPatch) -> None:
    disown = Retries._disown
    patch.setattr(
        Retries, "_disown", lambda self, lease, pairs, *, sent: disown(self, lease, pairs, sent=False)
    )


def _grant_before_all_have_reported(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(GrantTable, "settled", property(lambda self: True, lambda self, value: None), raising=False)


_DEATHS = (Fault.KILL_BROKER, Fault.KILL_WORKER)

MUTATIONS = (
    Mutation(
        "a worker that is dead is forgotten",
        Wrong.TWICE,
        (*_DEATHS, Fault.FREEZE_CLIENT),
        _forget_the_dead,
    ),
    Mutation("the supervisor counts no death", Wrong.TWICE, _DEATHS, _count_no_death),
    Mutation(
        "at each WELCOME the client takes it that nobody who died before had its requests",
        Wrong.TWICE,
        (*_DEATHS, Fault.CUT_INTAKE, Fault.CUT_RESULTS),
        _raise_watermarks_at_welcome,
    ),
    Mutation(
        "a draining worker leaves while clients lack its results",
        Wrong.TWICE,
        (Fault.KILL_BROKER, Fault.DRAIN_WORKER, Fault.FREEZE_CLIENT),
        _leave_unacknowledged,
        freeze_s=15.0,
        first=28,
    ),
    Mutation(
        "a worker that was told to end while it started counts as a death",
        Wrong.UNKNOWN,
        (Fault.KILL_BROKER, Fault.DRAIN_WORKER),
        _count_who_never_began,
        first=134,
    ),
    Mutation(
        "the last piece of a payload is taken for all of it",
        Wrong.BODY,
        (Fault.CUT_WORKER,),
        _take_the_last_piece_for_all,
    ),
    Mutation(
        "a second HELLO in one epoch clears what is awaited",
        Wrong.TWICE,
        (*_DEATHS, Fault.CUT_INTAKE),
        _await_nobody_after_a_second_hello,
        first=34,
    ),
    Mutation(
        "a result is acknowledged while its resubmission is held",
        Wrong.TWICE,
        (Fault.KILL_BROKER, Fault.FREEZE_WORKER, Fault.CUT_WORKER),
        _hold_what_is_acknowledged,
        first=50,
    ),
    Mutation(
        "results that a worker sends again count as delivered",
        Wrong.TWICE,
        (Fault.KILL_BROKER, Fault.CUT_WORKER, Fault.FREEZE_CLIENT),
        _call_delivered_what_was_resent,
        freeze_s=8.0,
        first=131,
    ),
    Mutation(
        "a new broker waits for no worker of the old one's",
        Wrong.TWICE,
        (Fault.KILL_BROKER, Fault.CUT_WORKER),
        _wait_for_no_worker,
    ),
    Mutation(
        "a session that has expired is taken for one that this broker has always known",
        Wrong.TWICE,
        (Fault.KILL_BROKER, Fault.FREEZE_CLIENT),
        _believe_a_session_that_expired,
    ),
    Mutation(
        "a client that was silent for longer than its session lasts trusts what it knew before",
        Wrong.TWICE,
        (Fault.KILL_BROKER, Fault.FREEZE_CLIENT),
        _believe_who_was_away_for_long,
        freeze_s=70.0,
        first=98,
    ),
    Mutation(
        "what a worker reported and lost is taken for unrun",
        Wrong.TWICE,
        (*_DEATHS, Fault.FREEZE_CLIENT),
        _disown_without_doubt,
        freeze_s=4.0,
        first=76,
    ),
    Mutation(
        "connections are granted before all workers have reported theirs",
        Wrong.CONNECTIONS,
        (Fault.KILL_BROKER, Fault.STALL_WORKER),
        _grant_before_all_have_reported,
    ),
)
