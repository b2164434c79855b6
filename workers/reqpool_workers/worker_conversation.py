"""What a worker and its broker say to each other: what each message does, and when to dial. Sans-IO.

docs/protocol.md#workers is the specification. Its driver has the socket, the clock and the upstreams: in
each turn of its loop it calls :meth:`WorkerConversation.wake`, then :meth:`~WorkerConversation.take` for
each message with the instant after it was read, then :meth:`~WorkerConversation.end_turn`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from heapq import nlargest
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol

from reqpool_contract import checks, plain_messages, wire
from reqpool_contract.counted_log import CountedLog
from reqpool_contract.errors import ProtocolError
from reqpool_contract.wire import RESULTS_WINDOW_BYTES, BadGroup, LeaseGroup, Reject, Verb

from .broker_liveness import BrokerLiveness, LivenessState
from .draining import Drain, DrainState, Remaining
from .granted_slots import GrantedSlots
from .lease_outcomes import LeaseOutcomes
from .leases import Leases
from .pieces import Pieces
from .reporting import Reporting
from .retained_results import RetainedResults
from .worker_upstreams import Upstreams

if TYPE_CHECKING:
    from .event_loop import Timer

_log = logging.getLogger(__name__)

RETAINED_RESULTS_BYTES = 64 << 20
_LARGE = frozenset((Verb.LEASE, Verb.PIECE))
"""What the broker sends no more of before it is answered. Nothing else is: it answers each heartbeat of a
worker that drains, and one about thousands of undelivered RESULTS would go back and forth without a pause."""


class Carrier(Protocol):
    """What has the socket and the timers."""

    def dial(self) -> None:
        """Open a fresh connection to the broker; there is none.

        Raises:
            OSError: why that is not possible now.
        """

    def send(self, frames: list[bytes]) -> bool:
        """Send a message on it; False if nothing can be sent any more."""

    def hang_up(self) -> None:
        """Close it, and with it what lies in its pipes; there may be none."""

    def at(self, due_s: float, timer: Timer) -> None:
        """Have a timer called at an instant, never in this call."""

    def sample(self, now_s: float) -> dict[str, Any]:
        """The process's figures, for a heartbeat."""


class WorkerConversation:
    """A worker's part, one connection to the broker after the other.

    Args:
        about: what HELLO says of this worker: ``worker``, ``name``, ``pid``, ``kinds``.
        carrier: has the socket.
        upstreams: where requests go.
        outcomes: where requests end.
        now_s: monotonic seconds, as everywhere here.
        retained_bytes: see :class:`RetainedResults`.

    Attributes:
        over: it has drained, as far as it could; what is :attr:`in_doubt` by then stays so.
        said_goodbye: and nothing was, and the broker has been told.
    """

    def __init__(
        self,
        about: Mapping[str, Any],
        carrier: Carrier,
        upstreams: Upstreams,
        outcomes: LeaseOutcomes,
        now_s: float,
        *,
        retained_bytes: int = RETAINED_RESULTS_BYTES,
    ) -> None:
        self.ledger = outcomes.ledger
        self.reports = outcomes.reports
        self.outbox = RetainedResults(retained_bytes)
        self.over = False
        self.said_goodbye = False
        self._log = CountedLog(_log)
        self._about = about
        self._carrier = carrier
        self._upstreams = upstreams
        self._link = BrokerLiveness(now_s)
        self._dials = 0
        self._grants = GrantedSlots(upstreams)
        self._leases = Leases(outcomes, upstreams, carrier.at)
        self._pieces = Pieces()
        self._drain = Drain()
        self._reporting = Reporting(
            self, self.reports, self.outbox, self._grants, self._drain, upstreams, carrier.at
        )
        self._turn_s = now_s
        self._handlers: dict[Verb, Callable[..., None]] = {
            Verb.WELCOME: self._on_welcome,
            Verb.REJECT: self._on_reject,
            Verb.HEARTBEAT: self._on_heartbeat,
            Verb.LEASE: self._on_lease,
            Verb.PIECE: self._on_piece,
            Verb.CANCEL: self._on_cancel,
            Verb.GRANT: self._on_grant,
            Verb.UNPIN: self._on_unpin,
            Verb.KEEP: self._on_keep,
            Verb.DRAIN: self._on_drain,
        }
        carrier.at(now_s, self._dial)

    # --- each turn ---------------------------------------------------------------------------------

    def wake(self, now_s: float) -> None:
        """Begin a turn, before anything is read or sent: after a long one the broker has given us up."""
        if now_s - self._turn_s > self._link.liveness_s and self._link.state is not LivenessState.DOWN:
            # Stopped for a while, or starved: what lies in the socket is old, the broker has given us up.
            self._hang_up(f"this process did not run for {now_s - self._turn_s:.1f} s", now_s)
            # Before the first upstream's event can open a connection: others may have the slots.
            self._grants.lapse()
            self.give_back_stranded()
        self._turn_s = now_s

    def take(self, frames: Sequence[bytes], now_s: float) -> None:
        """Take a message that was read before ``now_s``."""
        link = self._link
        if link.state is LivenessState.DOWN:
            return
        # What nearly every message is: the table below says the same, or what is wrong.
        lease = plain_messages.plain_lease(frames[0]) if len(frames) == 1 else None
        if lease is not None and len(frames[0]) <= wire.LARGE_MESSAGE_BYTES:
            epoch, seen, groups = lease
            if link.fresh(epoch, seen, now_s):
                self._on_lease(now_s, groups)
            elif link.state is LivenessState.LIVE:
                self._hang_up("a stale LEASE", now_s)
            return
        try:
            payloads: list[bytes] = []
            ahead_bytes = 0
            if len(frames) > 1:
                payloads, ahead_bytes = self._pieces.complete([wire.as_bytes(frame) for frame in frames[1:]])
            verb, values = wire.decode(frames[0], wire.BROKER_TO_WORKER, payloads)
            if verb not in (Verb.WELCOME, Verb.REJECT):
                epoch, seen, *values = values
                if self._link.state is LivenessState.GREETING:
                    return  # of this connection, but meant for the one that had its route before
                if not self._link.fresh(epoch, seen, now_s):
                    self._hang_up(f"a stale {verb.name}", now_s)
                    return
                if verb is Verb.LEASE and values.pop() != ahead_bytes:
                    self._hang_up(f"a payload of which {ahead_bytes} bytes came before its LEASE", now_s)
                    return
            self._handlers[verb](now_s, *values)
            if verb in _LARGE and sum(map(len, frames)) > wire.LARGE_MESSAGE_BYTES:
                self._took_large(verb, now_s)
        except ProtocolError as error:
            self.reports.ignored += 1
            self._log.warning("ignored a malformed message: %s", error.text)

    def _took_large(self, verb: Verb, now_s: float) -> None:
        if self._link.state is not LivenessState.LIVE:
            return
        if verb is Verb.LEASE:  # GRANTs overtake a large one: others may have its connections by now
            self.give_back_stranded()
        self.beat(now_s)  # so that the broker knows that the next one can come

    def lose(self, why: str, now_s: float) -> None:
        """Note that the carrier's connection broke; it is open still, and hung up by this."""
        # No warning: it may be planned, and if not, the supervisor has seen the broker end and says how.
        self._hang_up(why, now_s, logging.INFO)

    def end_turn(self, now_s: float) -> None:
        """Report this turn's news to the broker; notice that a drain is done."""
        if self._link.state is LivenessState.LIVE:
            self._reporting.report(now_s)
        if self._drain.state is not DrainState.SERVING:
            self._look_at_drain(now_s)

    def say(self, now_s: float, verb: Verb, *values: Any, blobs: list[bytes] | None = None) -> None:
        """Send the broker a message; without a connection it is lost."""
        if self._link.state is LivenessState.DOWN:
            return
        head = wire.encode(verb, self._link.last_epoch, self._link.seen, *values)
        if not self._carrier.send([head, *blobs] if blobs else [head]):
            # The pipe has gone, as after a message the broker would not take; all is retained for HELLO.
            self._hang_up("cannot send to the broker", now_s)

    @property
    def has_room(self) -> bool:
        """Whether more may be read of large answers, which wait for what is on its way to the broker."""
        return (
            self._link.state is not LivenessState.LIVE or self.outbox.unreceived_bytes < RESULTS_WINDOW_BYTES
        )

    # --- the connection ----------------------------------------------------------------------------

    def _dial(self, now_s: float) -> None:
        """A timer's: HELLO over a new connection."""
        self._grants.lapse()
        self._leases.cached.clear()
        self._pieces = Pieces()
        self.give_back_stranded()
        # To the broker, what HELLO does not list as running or retained never arrived: it leases it again.
        self.reports.take_returns()
        self.reports.take_failures()
        self.reports.take_unpinned()
        if self.reports.dirty:
            self.outbox.pack(self.reports.take_results())
        self.outbox.expire(now_s)
        self.outbox.restart()
        # And those to come: their first request may have its connection, and end, before its client comes.
        pins = dict.fromkeys([*self._upstreams.pins(), *self.ledger.openings()])
        about: dict[str, Any] = {
            **self._about,
            "held": [*self.ledger.running(), *self.outbox.retained()],
            "slots": self._upstreams.slots(),
            "pins": [(*pin, kind, name) for (pin, kind, name) in pins],
            "keeps": wire.WORKER_KEEPS,
            "apart": True,
        }
        if self._link.last_epoch is not None:
            about["epoch"] = self._link.last_epoch
        self._dials += 1
        try:
            self._carrier.dial()
        except OSError as error:
            self._hang_up(f"no socket for the broker: {error.strerror}", now_s)
            return
        self._carrier.send([wire.encode(Verb.HELLO, wire.LOWEST_VERSION, wire.VERSION, about)])
        self._link.greeted(now_s)
        self._start_beating(now_s)

    def _hang_up(self, why: str, now_s: float, level: int = logging.WARNING) -> None:
        """Give the connection up and never read it again; a timer dials the next one."""
        self._log.log(level, "hung up: %s", why)
        self._carrier.hang_up()
        self._link.lost(now_s)
        self._drain.lost()
        self._carrier.at(self._link.dial_s, self._dial)

    def _start_beating(self, now_s: float) -> None:
        beat = partial(self._beat, self._dials, self._link.state)
        self._carrier.at(now_s + self._link.heartbeat_s, beat)

    def _beat(self, dial: int, state: LivenessState, now_s: float) -> float | None:
        """Each heartbeat's timer, one for each state of each connection."""
        link = self._link
        if self._dials != dial or link.state is not state:
            return None
        if link.silent(now_s):
            self._hang_up("the broker is silent", now_s)
            return None
        if state is LivenessState.LIVE:
            self.beat(now_s)
        return now_s + link.heartbeat_s

    def beat(self, now_s: float) -> int:
        """Send a heartbeat now and return its number."""
        origins = self._upstreams.counts()
        if len(origins) > wire.MAX_SAMPLE_ORIGINS:
            origins = dict(nlargest(wire.MAX_SAMPLE_ORIGINS, origins.items(), key=itemgetter(1)))
        number = self._link.beat(now_s)
        reports = self.reports
        sample = {
            **self._carrier.sample(now_s),
            "done": reports.done,
            "failed": reports.failed,
            "retransmitted": reports.resent,
            "ignored": reports.ignored,
            "origins": origins,
            "full": self.outbox.full,
        }
        self.say(now_s, Verb.HEARTBEAT, number, sample)
        return number

    def _on_welcome(self, now_s: float, _version: int, about: dict[str, Any]) -> None:
        if self._link.state is not LivenessState.GREETING:
            raise ProtocolError("WELCOME without HELLO")
        epoch, heartbeat_ms, liveness_ms = (
            checks.uint(about.get(name)) for name in ("epoch", "heartbeat_ms", "liveness_ms")
        )
        self._link.welcomed(epoch, heartbeat_ms, liveness_ms, now_s)
        self._log.info("welcomed by the broker, epoch %d", epoch)
        self._start_beating(now_s)
        self.beat(now_s)
        if self._drain.state is not DrainState.SERVING:
            self._announce_drain(now_s)
        for batch in self.outbox.renumbered():
            self._reporting.send(now_s, batch)

    def _on_reject(self, now_s: float, code: int, text: str, _about: dict[str, Any]) -> None:
        name = Reject(code).name if code in set(Reject) else str(code)
        self._hang_up(f"rejected by the broker ({name}): {text}", now_s)

    def _on_heartbeat(
        self, now_s: float, number: int, received: int, undelivered: list[int], excused: bool
    ) -> None:
        self._link.heartbeat(number)
        self.outbox.received(received)
        self.outbox.undelivered(undelivered)
        self._drain.excused = excused
        self.outbox.expire(now_s)

    # --- requests ----------------------------------------------------------------------------------

    def _on_lease(self, now_s: float, groups: Sequence[LeaseGroup | BadGroup]) -> None:
        self._drain.excused = False
        refuse = self._drain.state is not DrainState.SERVING or self.outbox.full
        self._leases.take(groups, now_s, refuse=refuse)

    def _on_piece(self, now_s: float, offset: int, piece: bytes) -> None:
        try:
            self._pieces.take(offset, piece)
        except ProtocolError as error:
            # The LEASE that ends the payload would be run with a part of it.
            self._hang_up(error.text, now_s)

    def _on_cancel(self, _now_s: float, groups: list[tuple[bytes, tuple[int, ...]] | BadGroup]) -> None:
        self._leases.cancel(groups)

    def _on_keep(self, _now_s: float, number: int, settings: bytes) -> None:
        self._leases.cached.keep(number, settings)

    def _on_grant(self, _now_s: float, name: str, number: int, slots: int, about: dict[str, Any]) -> None:
        if self._grants.take(name, number, slots, about):
            # Others have the connections now; what waits here would wait for ever.
            self._leases.give_back(self._upstreams.stranded(name))

    def _on_unpin(self, _now_s: float, session: bytes, pin: int) -> None:
        self._leases.unpin((session, pin))

    def tend(self) -> None:
        """Hand back and forget, once a second, what need not be looked for at once."""
        self.give_back_stranded()
        self.ledger.tidy()

    def give_back_stranded(self) -> None:
        """Hand back what waits for a connection that cannot come."""
        self._leases.give_back(self._upstreams.stranded())

    # --- the end -----------------------------------------------------------------------------------

    def _on_drain(self, now_s: float) -> None:
        self.drain(now_s)

    def drain(self, now_s: float) -> None:
        """Hand back what was not sent upstream, finish the rest, wait until clients have it, say GOODBYE."""
        if self._drain.state is not DrainState.SERVING:
            return
        self._drain.begin(now_s)
        self._log.info("draining")
        self._leases.give_back(self._upstreams.unsent())
        if self._link.state is LivenessState.LIVE:
            self._announce_drain(now_s)

    def _announce_drain(self, now_s: float) -> None:
        """Say DRAIN, and a heartbeat: once the broker has seen that, no lease is on its way any more."""
        self.say(now_s, Verb.DRAIN)
        self._drain.announced(self.beat(now_s))

    def _look_at_drain(self, now_s: float) -> None:
        drain, link, ledger = self._drain, self._link, self.ledger
        if self.said_goodbye:
            return
        live = link.state is LivenessState.LIVE
        running = any(ledger.running())
        if not running:
            self.outbox.expire(now_s)
        pinned, reported = any(self._upstreams.pins()), live and ledger.empty
        remaining = Remaining(running, pinned, reported, self.outbox.arrived, self.in_doubt > 0)
        state = drain.look(
            now_s,
            remaining,
            answered=link.answered,
            welcomed_s=link.since_s if live else None,
            liveness_s=link.liveness_s,
        )
        self.over = state is DrainState.OVER
        if drain.in_order:
            self.say(now_s, Verb.GOODBYE)
            self.said_goodbye = True

    @property
    def in_doubt(self) -> int:
        """Requests that must not be repeated, may have run, and might still be asked for: if the worker ended
        now, their clients could not be told."""
        return self.ledger.in_doubt + self.outbox.unacknowledged
