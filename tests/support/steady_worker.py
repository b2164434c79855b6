"""A fake worker that keeps its word: each connection of its own hears what it runs, holds, keeps and owes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from reqpool.errors import Code
from reqpool_contract import wire
from reqpool_contract.wire import FailedAttempts, Flag, KindInfo, LeaseGroup, Verb

from .fake_peers import Desk, FakeWorker

Request = tuple[bytes, int]
"""Session and seq."""


@dataclass
class Running:
    """One leased request that has not ended here.

    Attributes:
        lease: as it came.
        due_s: when its time is up.
        sent: it has gone upstream.
    """

    lease: LeaseGroup
    due_s: float
    sent: bool = False

    @property
    def once(self) -> bool:
        return not self.lease.flags & Flag.IDEMPOTENT


class Report(NamedTuple):
    """A RESULTS of one session that somebody may still lack.

    Attributes:
        session: whose.
        seqs: of which requests.
        failed: how many of them are errors.
        blob: the results.
        once: they must not be repeated, so it is kept until their client has it.
    """

    session: bytes
    seqs: tuple[int, ...]
    failed: int
    blob: bytes
    once: bool


@dataclass
class HeldPin:
    """A connection of one session's, or the promise of one while its first request waits.

    Attributes:
        is_there: the connection has been made.
    """

    kind: str
    origin: str
    is_there: bool = False


class SteadyWorker(FakeWorker):
    """Connections under its grants, pins, and outcomes kept as long as docs/protocol.md says.

    Attributes:
        running: what it was leased.
        connections: how many are open at each origin, pinned ones included.
        allowed: how many may be, by the most that a GRANT has said since one was confirmed.
        held_pins: by session and number.
        unconfirmed: origins whose last GRANT has not been answered.
        sendings: how often each request has been sent upstream by whichever worker; shared.
        homes: the worker that made a pin's connection; shared.
        draining: it has been told to end.
    """

    def __init__(
        self,
        desk: Desk,
        id_: bytes,
        kinds: tuple[tuple[Any, ...], ...],
        sendings: Counter[Request],
        homes: dict[Request, bytes],
    ) -> None:
        super().__init__(desk, id_, kinds)
        self.sendings = sendings
        self.homes = homes
        self.running: dict[Request, Running] = {}
        self.connections: Counter[str] = Counter()
        self.allowed: dict[str, int] = {}
        self.held_pins: dict[Request, HeldPin] = {}
        self.unconfirmed: dict[str, None] = {}
        self.draining = False
        self._kept: dict[int, list[Report]] = {}
        self._owed: dict[Request, None] = {}
        self._refused: list[Request] = []
        self._unpins: list[Request] = []
        self._confirmations: list[tuple[str, int, int]] = []
        self._infos = {info.name: info for info in (KindInfo(*kind) for kind in kinds)}

    # --- connections to the broker ----------------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        return self.route in self.desk.workers

    def send(self, verb: Verb, *values: Any, blobs: tuple[bytes, ...] = ()) -> None:
        self.desk.reported.update(blobs)
        if self.is_connected:
            super().send(verb, *values, blobs=blobs)

    def cut(self) -> None:
        """Its connection breaks: what is said to it is lost, and what it says."""
        del self.desk.workers[self.route]

    def come_back(self) -> None:
        """Say HELLO with all it has, and report again what somebody may lack."""
        kept = [report for reports in self._kept.values() for report in reports]
        self._kept.clear()
        self.grants.clear()
        self.allowed = dict(self.connections)
        self.unconfirmed.clear()
        self._confirmations.clear()
        self.rejects.clear()
        self._refused = [request for request in self._refused if request in self.running]
        held = [(session, (seq,)) for session, seq in self.running]
        held += [(report.session, report.seqs) for report in kept]
        self.hello(
            epoch=self.epoch,
            held=held,
            slots=[(origin, count) for origin, count in self.connections.items() if count],
            pins=[(*key, pin.kind, pin.origin) for key, pin in self.held_pins.items()],
        )
        if self.draining:
            self.send(Verb.DRAIN, self.epoch, self.seen)
        for report in kept:
            self._say([report])
        self.desk.settle()

    def die(self) -> None:
        """Its process ends, and the supervisor says so, and whether it leaves anything in doubt."""
        in_doubt = any(one.sent and one.once for one in self.running.values()) or any(
            report.once for reports in self._kept.values() for report in reports
        )
        self.desk.workers.pop(self.route, None)
        self.desk.deaths += in_doubt
        self.desk.say(Verb.DEAD, self.id, self.desk.deaths if in_doubt else 0, not in_doubt)
        self.desk.settle()

    # --- what it is told --------------------------------------------------------------------------

    def take(self, verb: Verb, values: list[Any]) -> None:
        super().take(verb, values)
        if verb is Verb.LEASE:
            self.excused = False
            for lease in self.leases:
                self._admit(lease)
            self.leases.clear()
        elif verb is Verb.GRANT:
            assert values[2][0] != "@", f"connections to {values[2]}, which is a name, were granted"
            self.unconfirmed[values[2]] = None
            self.allowed[values[2]] = max(self.allowed.get(values[2], 0), values[4])
        elif verb is Verb.CANCEL:
            for session, seqs in values[2]:
                for seq in seqs:
                    self._cancel((session, seq))
        elif verb is Verb.UNPIN:
            self._lose_pin((values[2], values[3]), tell=False)
        elif verb is Verb.HEARTBEAT:
            received, undelivered = values[3], set(values[4])
            for number in [number for number in self._kept if number <= received]:
                left = [one for one in self._kept[number] if one.once and number in undelivered]
                if left:
                    self._kept[number] = left
                else:
                    del self._kept[number]

    def _admit(self, lease: LeaseGroup) -> None:
        due_s = self.desk.now_s + lease.span_ms / 1000
        for seq in lease.seqs:
            request = (lease.session, seq)
            if request in self.running:  # it waited to run again, when this one came back
                assert not self.running[request].once, f"{request} was leased to the worker that has it"
                continue
            self.running[request] = Running(lease, due_s)
            if lease.pin is None:
                continue
            key = (lease.session, lease.pin)
            if lease.flags & Flag.OPENS:
                assert key not in self.held_pins, f"pin {key} was opened where it is open"
                self.held_pins[key] = HeldPin(lease.kind, lease.origin)
            elif key not in self.held_pins:
                self._refused.append(request)
        assert lease.origin[0] != "@", f"{lease.seqs} were leased to {lease.origin}, which is a name"
        info = self._infos[lease.kind]
        if not info.connections:
            origins = self.desk.broker.records.origins
            most = origins.config.policy_of(lease.origin).max_in_flight or info.limit
            assert origins.upstream(lease.origin).in_flight <= most, (
                f"too much is in flight at {lease.origin}"
            )
        elif lease.pin is None:
            assert self._slots(lease.origin), f"{lease.origin} was leased to a worker without a slot"

    def _cancel(self, request: Request) -> None:
        one = self.running.get(request)
        if one is None:
            return
        if one.sent and one.once:
            self._owed[request] = None
        else:
            del self.running[request]
        if one.lease.pin is not None:
            self._lose_pin((request[0], one.lease.pin), tell=True)
        elif one.sent and self._infos[one.lease.kind].depth == 1 and self.connections[one.lease.origin]:
            self.connections[one.lease.origin] -= 1

    def _lose_pin(self, key: Request, *, tell: bool) -> None:
        pin = self.held_pins.pop(key, None)
        if pin is None:
            return
        if pin.is_there:
            self.connections[pin.origin] -= 1
        if tell:
            self._unpins.append(key)
        self._refused += [
            request
            for request, one in self.running.items()
            if (request[0], one.lease.pin) == key and request not in self._owed
        ]

    # --- what it does -----------------------------------------------------------------------------

    def _slots(self, origin: str) -> int:
        return self.grants.get(origin, (0, 0))[1]

    def _busy(self, origin: str) -> int:
        """Connections there that are somebody's now."""
        pinned = sum(pin.is_there and pin.origin == origin for pin in self.held_pins.values())
        sent, depth = 0, 1
        for one in self.running.values():
            if one.sent and one.lease.pin is None and one.lease.origin == origin:
                sent, depth = sent + 1, self._infos[one.lease.kind].depth
        return pinned - (-sent // depth)

    def ask_upstream(self, request: Request) -> bool:
        """Send a request to its upstream, if a connection may be had.

        Raises:
            AssertionError: if it must not be repeated, and has been sent before.
        """
        one = self.running[request]
        lease = one.lease
        if one.sent or request in self._refused:
            return False
        key = (request[0], lease.pin) if lease.pin is not None else None
        if key is not None and not lease.flags & Flag.OPENS:
            pin = self.held_pins[key]
            if not pin.is_there:
                return False
            assert self.homes[key] == self.id, f"pin {key} is asked at another worker than it was opened at"
        elif self._infos[lease.kind].connections:
            spare = self.connections[lease.origin] - self._busy(lease.origin)
            if spare <= 0:
                if self.connections[lease.origin] >= self._slots(lease.origin):
                    return False
                self.connections[lease.origin] += 1
            if key is not None:
                self.held_pins[key].is_there = True
                self.homes[key] = self.id
        one.sent = True
        self.sendings[request] += 1
        assert self.sendings[request] == 1 or not one.once, f"{request} has been sent upstream twice"
        return True

    def finish(self, requests: Iterable[Request], code: int = Code.OK) -> None:
        """Report outcomes of requests that have been sent; one RESULTS for all of them."""
        reports: dict[tuple[bytes, bool], list[int]] = {}
        for request in requests:
            one = self.running.pop(request)
            assert one.sent
            self.desk.executions.append(request)
            reports.setdefault((request[0], one.once), []).append(request[1])
            if code and one.lease.pin is not None:
                self._lose_pin((request[0], one.lease.pin), tell=True)
        told = []
        for (session, once), seqs in reports.items():
            flat: list[Any] = []
            for seq in seqs:
                flat += (
                    seq,
                    int(code),
                    wire.encode_error("it failed", sent=True) if code else b"answer %d" % seq,
                )
            failed = len(seqs) if code else 0
            told.append(Report(session, tuple(seqs), failed, wire.encode_blob(flat), once))
        if told:
            self._say(told)
            self.desk.settle()

    def _say(self, reports: list[Report]) -> None:
        self.numbered += 1
        self._kept[self.numbered] = reports
        groups = [(one.session, one.seqs, one.failed) for one in reports]
        blobs = tuple(one.blob for one in reports)
        self.send(Verb.RESULTS, self.epoch, self.seen, self.numbered, groups, blobs=blobs)

    def fail_attempt(self, request: Request, code: int) -> None:
        """An attempt has failed; what must not be repeated and was sent ends with that."""
        one = self.running[request]
        if one.sent and one.once:
            self.finish([request], code)
            return
        del self.running[request]
        if one.lease.flags & Flag.OPENS and one.lease.pin is not None:
            self.held_pins.pop((request[0], one.lease.pin), None)
        sent = one.sent or bool(one.lease.flags & Flag.SENT)
        details = wire.encode_error("it failed", sent=sent)
        failed = FailedAttempts(request[0], (request[1],), code, sent, details)
        self.send(Verb.RETRY, self.epoch, self.seen, [failed])
        self.desk.settle()

    def hand_back(self, request: Request) -> None:
        """RETURN what has not been sent."""
        one = self.running.get(request)
        if one is None or one.sent or (one.lease.pin is not None and not one.lease.flags & Flag.OPENS):
            return
        del self.running[request]
        if one.lease.pin is not None:
            self.held_pins.pop((request[0], one.lease.pin), None)
        self.send(Verb.RETURN, self.epoch, self.seen, [(request[0], (request[1],), False)])
        self.desk.settle()

    def drop_pin(self, key: Request) -> None:
        """Nothing was asked on a held connection for too long, or its peer has closed it."""
        self._lose_pin(key, tell=True)
        self.tend()

    def drain(self) -> None:
        self.draining = True
        self.send(Verb.DRAIN, self.epoch, self.seen)
        self.desk.settle()

    @property
    def has_ended(self) -> bool:
        """Has it been told to end, and has nothing left, or is excused from waiting for it?"""
        return self.draining and (
            self.excused or not (self.running or self._kept or self.held_pins or self._owed)
        )

    def _stranded(self) -> list[Request]:
        """What waits for a connection that, as its grants are, can no longer come."""
        pins = Counter(pin.origin for pin in self.held_pins.values() if pin.is_there)
        return [
            request
            for request, one in self.running.items()
            if not one.sent
            and self._infos[one.lease.kind].connections
            and self._slots(one.lease.origin) <= pins[one.lease.origin]
        ]

    def close_idle(self, origin: str, most: int) -> None:
        """Close connections there that nobody uses, down to ``most``."""
        idle = self.connections[origin] - self._busy(origin)
        self.connections[origin] -= max(0, min(idle, self.connections[origin] - most))

    def tend(self) -> None:
        """Do what it owes: verdicts, UNPINs, and the end of what has lasted too long."""
        refused, self._refused = self._refused, []
        for request in refused:
            if request in self.running:
                self.fail_attempt(request, Code.CONNECTION_LOST)
        owed = [request for request in self._owed if request in self.running]
        self._owed.clear()
        self.finish(owed, Code.CANCELLED)
        for request in self._stranded():
            self.hand_back(request)
        for request, one in list(self.running.items()):
            if one.due_s <= self.desk.now_s and request in self.running and request not in self._owed:
                self.fail_attempt(request, Code.TIMEOUT)
                if one.lease.pin is not None:
                    self._lose_pin((request[0], one.lease.pin), tell=True)
        for key in self._unpins:
            self.send(Verb.UNPIN, self.epoch, self.seen, *key)
        self._unpins.clear()
        for origin in self.grants:
            self.close_idle(origin, self._slots(origin))
        self.desk.settle()

    def confirm_grants(self, *, fewer: bool = False, late: bool = False) -> None:
        """Answer the GRANTs that it meets.

        Args:
            fewer: it closes what it does not need before.
            late: what it says stays on its way until the next time.
        """
        confirmations, self._confirmations = self._confirmations, []
        for origin in list(self.unconfirmed):
            number, slots = self.grants[origin]
            self.close_idle(origin, 0 if fewer else slots)
            if self.connections[origin] <= slots:
                del self.unconfirmed[origin]
                self._confirmations.append((origin, number, self.connections[origin]))
        if not late:
            confirmations += self._confirmations
            self._confirmations = []
        for origin, number, held in confirmations:
            if number == self.grants[origin][0]:
                self.allowed[origin] = self._slots(origin)
            self.send(Verb.GRANTED, self.epoch, self.seen, origin, number, held)
        self.desk.settle()

    def has_dropped(self, request: Request) -> bool:
        """Does it not run a request, or only owe a word about it?"""
        return request not in self.running or request in self._owed
