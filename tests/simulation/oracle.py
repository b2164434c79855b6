"""What is promised, and checked while a run goes on."""

from __future__ import annotations

import math
from random import Random
from typing import TYPE_CHECKING, Any, NoReturn
from zlib import crc32

from reqpool.future import Future
from reqpool_contract.errors import Code, PoolError

from .limits import CRAMPING
from .plan import Ask
from .upstream import Attempt
from .wrong import Broken, Wrong

if TYPE_CHECKING:
    from reqpool_broker.broker import Broker

    from .client import ClientProcess
    from .process import Process
    from .worker import WorkerProcess
    from .world import World

LATE_S = 0.2 + 0.15
"""A request ends so long after its deadline at the latest: the cluster's grace, and a sweep of its client."""
NEWS_S = 1.5
"""News of a loss reaches every client within this time, as long as supervisor and broker run: it comes with
heartbeats."""


class Silence:
    """A time in which the supervisor or a broker was frozen, and passed on no news.

    Attributes:
        process: which of them.
        began_s: when.
        ended_s: when it went on or died; infinite until then.
    """

    __slots__ = ("began_s", "ended_s", "process")

    def __init__(self, process: Process, began_s: float) -> None:
        self.process = process
        self.began_s = began_s
        self.ended_s = math.inf


LARGE_BYTES = 3 << 19
"""Of some payloads and answers: three of them are more than may be on their way at a time."""
ONE_LARGE_IN = 16
_FILLING = Random(LARGE_BYTES).randbytes(2 * LARGE_BYTES)


def key_of(payload: bytes) -> bytes:
    """By what a request's payload is known."""
    return payload if len(payload) < LARGE_BYTES else payload[: payload.index(b" ")]


class Asked:
    """A request, and what became of it.

    Attributes:
        plan: as planned.
        key: what its payload begins with, by which upstreams know it.
        pin: number of the connection that is held for it and others, None if it has none yet, or needs none.
        future: None until it was submitted.
        client: who submitted it.
        submitted_s: when.
        executions: how often an upstream acted on it.
        attempts: how often one took it.
        ends: how often it ended.
        denied: it ended with an error that says that no upstream can have acted on it.
        doubt: why ``OutcomeUnknown`` would be right, in words; empty if it would not.
        forgotten: the broker that knew it has ended since it was submitted.
    """

    __slots__ = (
        "attempts",
        "client",
        "code",
        "denied",
        "doubt",
        "ends",
        "executions",
        "forgotten",
        "future",
        "key",
        "pin",
        "plan",
        "submitted_s",
    )

    def __init__(self, plan: Ask, key: bytes, pin: int | None) -> None:
        self.plan = plan
        self.key = key
        self.pin = pin
        self.future: Future[Any] | None = None
        self.client: ClientProcess | None = None
        self.submitted_s = 0.0
        self.executions = self.attempts = self.ends = 0
        self.code: int | None = None
        self.denied = False
        self.doubt = ""
        self.forgotten = False

    @property
    def step(self) -> int:
        """Its place among those on its connection."""
        return int(self.key.partition(b".")[2] or 0)

    @property
    def payload(self) -> bytes:
        """What is asked, made anew each time."""
        return self._filled() if self.plan.number % ONE_LARGE_IN == 0 else self.key

    @property
    def answer(self) -> bytes:
        """What its upstream answers, made anew each time."""
        return self._filled() if self.plan.number % ONE_LARGE_IN == ONE_LARGE_IN // 2 else self.key

    def _filled(self) -> bytes:
        start = crc32(self.key) % LARGE_BYTES  # no two have the same bytes at the same place
        return b"%s %s" % (self.key, _FILLING[start : start + LARGE_BYTES])

    def submitted(self, client: ClientProcess, future: Future[Any]) -> None:
        """Its app has submitted it."""
        self.client, self.future = client, future
        self.submitted_s = future.submitted_s
        client.world.oracle.expect(self)


class Oracle:
    """Sees what upstreams do and what clients are told.

    Attributes:
        asked: by key.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.asked: dict[bytes, Asked] = {}
        self.ended_well = self.ended_badly = 0
        self.codes: dict[str, int] = {}
        self.failure: Broken | None = None
        self._open: dict[tuple[bytes, int], Asked] = {}
        self._abandoned_until_s = 0.0
        self.away: dict[WorkerProcess, str] = {}
        """Workers that cannot be reached."""
        self._losses: list[tuple[float, str]] = []
        """When something happened that may leave once requests in doubt if the broker ends, too."""
        self._silences: list[Silence] = []
        self._cramped = any(name in CRAMPING for limit in world.plan.limits for name, _ in limit)

    def fail(self, wrong: Wrong, text: str) -> NoReturn:
        """Something is wrong.

        Raises:
            Broken: always, with what was wrong first.
        """
        self.failure = self.failure or Broken(wrong, text)
        raise self.failure

    def add(self, plan: Ask, step: int = 0, pin: int | None = None) -> Asked:
        """Note a request that is about to be asked, or one that follows it on its connection."""
        key = b"r%d.%d" % (plan.number, step) if step else b"r%d" % plan.number
        asked = self.asked[key] = Asked(plan, key, pin)
        return asked

    # --- what upstreams see -----------------------------------------------------------------------

    def attempt(self, key: bytes) -> Attempt:
        """An upstream takes a request: what will it do?"""
        asked = self.asked[key]
        attempts = asked.plan.attempts
        attempt = attempts[min(asked.attempts, len(attempts) - 1)]
        asked.attempts += 1
        return attempt

    def leaves(self, payload: bytes) -> None:
        """A worker sends a request upstream."""
        asked = self.asked.get(key_of(payload))
        if asked is None or payload != asked.payload:
            self.fail(Wrong.BODY, f"nobody asked for this body of {len(payload)} bytes: {payload[:20]!r}…")

    def executed(self, key: bytes, by: str) -> None:
        """An upstream acts on a request."""
        asked = self.asked[key]
        asked.executions += 1
        self.world.trace("upstream", f"executes {key.decode()}, which {by} has sent")
        if asked.plan.once and asked.executions > 1:
            self.fail(
                Wrong.TWICE, f"{key.decode()} must not be repeated, and was executed {asked.executions} times"
            )
        if asked.denied:
            self.fail(Wrong.LIE, f"{key.decode()} was executed, and its error says that it was not sent")

    # --- what clients see -------------------------------------------------------------------------

    def expect(self, asked: Asked) -> None:
        """A request was submitted: it is to end in time."""
        assert asked.client is not None
        assert asked.future is not None
        self._open[asked.client.session_id, asked.future.seq] = asked
        self.world.scheduler.at(asked.future.deadline_s + LATE_S, self._check_late, asked)

    def _check_late(self, asked: Asked) -> None:
        client = asked.client
        assert client is not None
        if asked.ends or not client.alive:
            return
        running_s = self.world.scheduler.now_s - client.thawed_s
        if client.frozen or running_s < LATE_S:
            wait_s = LATE_S if client.frozen else LATE_S - running_s
            self.world.scheduler.at(self.world.scheduler.now_s + wait_s + 0.001, self._check_late, asked)
            return
        self.fail(Wrong.LATE, f"{asked.key.decode()} has not ended {LATE_S} s after its deadline")

    @property
    def last_deadline_s(self) -> float:
        """When the last of what is under way has to have ended, even if nobody waits for it."""
        pending = [one.future.deadline_s for one in self._open.values() if one.future is not None]
        return max([self._abandoned_until_s, *pending])

    def ended(self, asked: Asked, future: Future[Any]) -> None:
        """A client was told how a request ended."""
        asked.ends += 1
        key = asked.key.decode()
        assert asked.client is not None
        self._open.pop((asked.client.session_id, future.seq), None)
        code = asked.code = future._code
        if asked.ends > 1:
            self.fail(Wrong.ENDS, f"{key} has ended {asked.ends} times")
        if code == Code.CANCELLED:  # it goes on if the CANCEL is lost with its connection
            self._abandoned_until_s = max(self._abandoned_until_s, future.deadline_s)
        name = Code(code).name.lower()
        self.codes[name] = self.codes.get(name, 0) + 1
        if code == Code.OK:
            self.ended_well += 1
            if self.world.tracing:
                self.world.trace(asked.client.name, f"{key} ends well")
            if future._data != asked.answer:
                self.fail(Wrong.ENDS, f"{key} ended with the answer to {future._data[:20]!r}…")
            if not asked.executions:
                self.fail(Wrong.ENDS, f"{key} has a result, and was never executed")
            return
        self.ended_badly += 1
        error = future._make_error(code, future._data)
        if self.world.tracing:
            self.world.trace(asked.client.name, f"{key} ends: {name}, sent={error.sent}: {error}")
        if error.sent is False:
            asked.denied = True
            if asked.executions:
                self.fail(
                    Wrong.LIE, f"{key} was executed, and its error says that it was not sent: {name}: {error}"
                )
        if code == Code.OUTCOME_UNKNOWN:
            self._check_unknown(asked, error)
        if code == Code.USAGE:  # all that is asked for here is
            self.fail(Wrong.REFUSED, f"{key} ended with {error!r}")
        if self.world.plan.calm:
            self.fail(Wrong.PLANNED, f"{key} ended with {name} ({error}), and nothing unplanned has happened")

    def _check_unknown(self, asked: Asked, error: PoolError) -> None:
        """See that ``OutcomeUnknown`` has a cause, one of these:

        - A worker died, was frozen or cut off while it had the request, or the broker believed so.
        - The broker that knew the request has ended, and a worker or the supervisor was lost in the request's
          life, or before the client could know when it submitted the request; or a worker cannot be reached
          now. That a broker has ended, or was frozen, is not a cause by itself: all is with the workers.
        - Its client was frozen for about as long as a session lasts.
        - The broker that knew it has ended, and there was no room for its answer at a worker, or for itself
          at the next broker, which happens only where that is a small limit.
        - Its client had left so much unread that the broker dropped its answer, which it says.
        """
        key = asked.key.decode()
        if not asked.plan.once:
            self.fail(Wrong.UNKNOWN, f"{key} may be repeated, and ended with {error!r}")
        if asked.doubt or (self._cramped and (asked.forgotten or "this one was dropped" in str(error))):
            return
        # The broker is gone that would know, and so is somebody who may have had it.
        if asked.forgotten and (
            self.away or any(self.known_s(at_s) >= asked.submitted_s for at_s, _ in self._losses)
        ):
            return
        self.fail(Wrong.UNKNOWN, f"{key} ended with OutcomeUnknown without a cause: {error}")

    def client_gone(self, client: ClientProcess) -> None:
        """A client process has ended: nobody waits for its requests any more."""
        for place, asked in list(self._open.items()):
            if asked.client is client and asked.future is not None:
                self._abandoned_until_s = max(self._abandoned_until_s, asked.future.deadline_s)
                del self._open[place]

    # --- misfortunes ------------------------------------------------------------------------------

    def lost(self, what: str) -> None:
        """Something happened that may leave a broker in doubt about what its predecessor had leased."""
        self._losses.append((self.world.scheduler.now_s, what))

    def silent(self, process: Process) -> None:
        """The supervisor or a broker is frozen."""
        self._silences.append(Silence(process, self.world.scheduler.now_s))

    def speaks(self, process: Process) -> None:
        """A process goes on, or has died."""
        for silence in self._silences:
            if silence.process is process:
                silence.ended_s = min(silence.ended_s, self.world.scheduler.now_s)

    def known_s(self, lost_s: float) -> float:
        """Return when all clients know of a loss: news waits while it is with a process that is frozen."""
        known_s = lost_s + NEWS_S
        for silence in self._silences:  # in the order in which they began
            if silence.began_s <= known_s and silence.ended_s > lost_s:
                known_s = max(known_s, silence.ended_s + NEWS_S)
        return known_s

    def doubt_worker(self, worker: WorkerProcess, why: str) -> None:
        """A worker is lost, at least for now: what it has, or the broker believes it has, is in doubt."""
        self.lost(f"{worker.name} {why}")
        self._doubt_held(worker, why)

    def _doubt_held(self, worker: WorkerProcess, why: str) -> None:
        held = list(worker.ledger.running())
        held += worker.conversation.outbox.retained()
        broker = self.world.core
        if broker is not None and (known := broker.records.workers.get(worker.identity)) is not None:
            leases = broker.records.leases[known]
            held += [(lease.terms.session.id, tuple(lease.requests)) for lease in leases]
        for session, seqs in held:
            for seq in seqs:
                asked = self._open.get((session, seq))
                if asked is not None:
                    asked.doubt = f"{worker.name} {why}"

    def doubt_away(self) -> None:
        """The broker may have leased something to workers that are away."""
        for worker, why in self.away.items():
            self._doubt_held(worker, why)

    def doubt_client(self, client: ClientProcess, why: str) -> None:
        """A client was away for so long that its session may have expired."""
        for asked in self._open.values():
            if asked.client is client:
                asked.doubt = why

    def forget(self) -> None:
        """The broker has ended."""
        for asked in self._open.values():
            asked.forgotten = True

    # --- the books --------------------------------------------------------------------------------

    def check_books(self, broker: Broker) -> None:
        """What the broker has counted is what is there."""
        try:
            broker.check()
        except AssertionError as error:
            self.fail(Wrong.BOOKS, f"the broker's books do not balance: {error}")

    def check_rest(self) -> None:
        """All is at rest: nobody keeps anything but what is documented."""
        world = self.world
        for (_, seq), asked in self._open.items():
            self.fail(Wrong.LATE, f"{asked.key.decode()} (seq {seq}) has not ended at rest")
        broker = world.core
        if broker is None:
            self.fail(Wrong.KEPT, "there is no broker at rest")
            return
        for client in world.clients:
            if client.alive and client.pending:
                self.fail(Wrong.KEPT, f"{client.name} keeps {len(client.pending)} requests at rest")
        alive = {client.session_id for client in world.clients if client.alive}
        for id_, session in broker.sessions.items():
            if id_ not in alive:
                told = session.report(0.0, broker.config.clients)
                self.fail(Wrong.KEPT, f"the broker keeps the session of a client that is gone: {told}")
            kept = {
                "open": session.open,
                "unacked": session.unacked,
                "held": session.deferred.groups,
                "pins": broker.records.pins_of(session),
            }
            for name, table in kept.items():
                if table:
                    self.fail(
                        Wrong.KEPT,
                        f"the broker keeps {len(table)} of session.{name} at rest: {list(table)[:3]}",
                    )
        for worker in broker.records.workers.values():
            if (
                broker.records.leases[worker]
                or broker.records.pins_at(worker)
                or worker.parts
                or worker.in_flight
            ):
                told = worker.report(0.0, 0.0, blocking=False)
                self.fail(Wrong.KEPT, f"the broker keeps leases or parts of a worker at rest: {told}")
        for process in world.workers:
            if process.alive:
                outbox = process.conversation.outbox
                pins = list(process.sites.pins())
                if not process.ledger.empty or any(outbox.retained()) or outbox.retained_bytes or pins:
                    self.fail(Wrong.KEPT, f"{process.name} keeps requests or results at rest")
        self.check_books(broker)
