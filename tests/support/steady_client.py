"""A fake client that keeps its word: what it asked for it asks for again wherever it comes back."""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple

from reqpool.errors import Code
from reqpool_contract import wire
from reqpool_contract.wire import Flag, Verb

from .fake_peers import Desk, FakeClient

EXPIRY_S = 0.9 * wire.SESSION_EXPIRY_MS / 1000
"""Unheard for so long, it takes what it had sent for forgotten."""
_LEAVES_DOUBT = {Code.OUTCOME_UNKNOWN, Code.CANCELLED, Code.TIMEOUT}


class Asked(NamedTuple):
    """What requests of one group have in common."""

    kind: str
    origins: tuple[str, ...]
    flags: int
    priority: int
    pin: int | None
    deadline_s: float


class SteadyClient(FakeClient):
    """What is pending, and how it goes on after a cut, a broker's end, or silence.

    Attributes:
        asked: every request.
        cancelled: whose outcome nobody waits for any more.
        given_up: past their deadline while no broker was there: the client ends them itself.
        pins: those it has opened and not let go of, with how each was asked for.
        cut_s: since when no broker hears it, or infinity.
    """

    def __init__(self, desk: Desk, id_: bytes) -> None:
        super().__init__(desk, id_)
        self.asked: dict[int, Asked] = {}
        self.cancelled: set[int] = set()
        self.given_up: set[int] = set()
        self.pins: dict[int, Asked] = {}
        self.cut_s = float("inf")
        self._pins_opened = 0
        self._received = 0
        self._settled_through = float("inf")
        self._first_sent: set[int] = set()
        self._unrun: set[int] = set()
        self._again: set[int] = set()

    @property
    def pending(self) -> list[int]:
        """Requests that have not ended."""
        ended = self.outcomes.keys() | self.cancelled | self.given_up
        return [seq for seq in self.asked if seq not in ended]

    def ask(
        self,
        count: int,
        kind: str,
        origins: tuple[str, ...],
        flags: int,
        *,
        span_ms: int,
        priority: int = 1,
        pin: int | None = None,
    ) -> None:
        """Ask for something new, at once or when it is back."""
        deadline_s = self.desk.now_s + span_ms / 1000
        asked = Asked(kind, origins, flags, priority, pin, deadline_s)
        first = len(self.asked) + 1
        seqs = tuple(range(first, first + count))
        self.asked.update(dict.fromkeys(seqs, asked))
        if self.is_connected:
            self._say(asked, seqs)
            self.desk.settle()

    def open_pin(self, kind: str, origin: str, *, span_ms: int) -> None:
        """Have a connection held, by a first request on it."""
        self._pins_opened += 1
        number = self._pins_opened
        self.pins[number] = Asked(kind, (origin,), 0, 1, number, 0.0)
        self.ask(1, kind, (origin,), Flag.OPENS, span_ms=span_ms, pin=number)

    def use_pin(self, number: int, *, span_ms: int) -> None:
        """Ask for the next thing on a held connection, or let go of one that is in doubt or gone."""
        of_pin = [seq for seq, asked in self.asked.items() if asked.pin == number]
        last = of_pin[-1]
        if last in self.cancelled | self.given_up or (self.outcomes.get(last) and self.code(last)):
            self.let_go(number)
        elif last in self.outcomes:
            kind, origins, *_ = self.pins[number]
            self.ask(1, kind, origins, 0, span_ms=span_ms, pin=number)

    def let_go(self, number: int) -> None:
        """Cancel what is asked on a held connection, and say UNPIN."""
        del self.pins[number]
        for seq in [seq for seq in self.pending if self.asked[seq].pin == number]:
            self.cancel(seq)
        if self.is_connected:
            self.send(Verb.UNPIN, number)
            self.desk.settle()

    def cancel(self, seq: int) -> None:
        self.cancelled.add(seq)
        if self.is_connected:
            self.send(Verb.CANCEL, (seq,))
            self.desk.settle()

    def acknowledge(self) -> None:
        self.acked = self._received
        if self.is_connected:
            self.heartbeat()

    # --- connections ------------------------------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        return self.route in self.desk.clients

    def cut(self) -> None:
        """Its connections break: what is said to it is lost."""
        del self.desk.clients[self.route]
        self.cut_s = min(self.cut_s, self.desk.now_s)

    def come_back(self) -> None:
        """Say HELLO, and submit again what is pending."""
        now_s = self.desk.now_s
        if now_s - self.cut_s > EXPIRY_S:
            self.watermarks = dict.fromkeys(self.watermarks, b"")
            self._unrun.clear()
        self.cut_s = float("inf")
        before = self.welcome
        known = {key: before[key] for key in ("epoch", "generation")}
        self._settled_through = float("inf")
        self._again.clear()
        self._first_sent.clear()
        self.acked = self._received
        self.hello(**known, received=self._received)
        unrun = self._unrun | {
            seq for first, last in self.welcome["never_ran"] for seq in range(first, last + 1)
        }
        self._unrun = set()
        pending = self.pending
        self.given_up.update(seq for seq in pending if self.asked[seq].deadline_s <= now_s)
        for (asked, _, is_unrun), seqs in groupby(
            (seq for seq in pending if seq not in self.given_up),
            lambda seq: (self.asked[seq], self.watermarks.get(seq), seq in unrun),
        ):
            self._say(asked, tuple(seqs), again=not is_unrun)
        self._settled_through = self.submitted
        for number in range(1, self._pins_opened + 1):
            if number not in self.pins:  # UNPIN is not acknowledged, so it is said again
                self.send(Verb.UNPIN, number)
        self.desk.settle()

    def _say(self, asked: Asked, seqs: tuple[int, ...], *, again: bool = False) -> None:
        again = again and seqs[0] in self.watermarks
        for start in range(0, len(seqs), wire.MAX_BATCH_REQUESTS):
            some = seqs[start : start + wire.MAX_BATCH_REQUESTS]
            if again:
                self._again.update(some)
            else:
                self._first_sent.update(some)
                for seq in some:
                    self.watermarks.pop(seq, None)
            self.submit(
                *some,
                origins=asked.origins,
                kind=asked.kind,
                flags=asked.flags | (Flag.RESUBMITTED if again else 0),
                span_ms=max(1, round((asked.deadline_s - self.desk.now_s) * 1000)),
                priority=asked.priority,
                pin=asked.pin,
                settle=False,
            )

    def hello(self, *, subscribe: bool = True, **about: object) -> None:
        super().hello(subscribe=False, **about)
        if not self.welcome["resumed"]:
            self._received = self.acked = 0
        if subscribe:
            assert self.desk.broker.lifecycle.subscription(self.id, 0)
            self.desk.broker.lifecycle.subscribed(self.id)
            self.desk.settle()

    # --- what it is told --------------------------------------------------------------------------

    def take(self, verb: Verb, values: list[object], blobs: list[bytes]) -> None:
        super().take(verb, values, blobs)
        if verb is Verb.RESULTS and values[1] == self._received + 1:
            self._received += 1
        elif verb is Verb.HEARTBEAT:
            _, _, _, acked, latest, watermark = values
            if watermark and self._is_settled(acked, latest):
                self.watermarks.update(dict.fromkeys(self.pending, watermark))
        elif verb is Verb.GOODBYE:
            _, _, acked, latest, unrun, doubtful = values
            if (unrun or doubtful is not None) and latest <= self._received:
                sure = self._first_sent | (self._again if self._is_settled(acked, latest) else set())
                ranges = doubtful or ()
                self._unrun = {
                    seq
                    for seq in sure
                    if not self.asked[seq].flags & Flag.IDEMPOTENT
                    and not any(first <= seq <= last for first, last in ranges)
                }

    def _is_settled(self, acked: int, latest: int) -> bool:
        return latest <= self._received and acked >= self._settled_through
