"""A broker core between clients that ask at a rate and an upstream that serves at a pace, in virtual time.

The upstream has so many places, each busy with a request for as long as the test says. Its worker is
:class:`~support.fake_peers.FakeWorker`: it gives requests places in the order they came, and ends them at
their deadline as the real one does. Nothing here waits, and the same seed gives the same run.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, NamedTuple

from reqpool_broker.config import EMPTY, Config
from reqpool_contract import wire
from reqpool_contract.errors import Code
from reqpool_contract.wire import Flag

from .fake_peers import Desk, FakeClient, FakeWorker

STEP_S = 0.01
"""A step of the clock; messages are exchanged once in each."""
_BEAT_STEPS = 50
_TICK_STEPS = 5


class Ended(NamedTuple):
    """A request's end.

    Attributes:
        code: its outcome.
        elapsed_s: since it was submitted.
        at_s: instant, from the run's begin.
    """

    code: int
    elapsed_s: float
    at_s: float


class Asker:
    """A client that asks at a rate.

    Attributes:
        rate_per_s: how often it asks for one more.
        asked: seq to the instant at which it was submitted.
        ended: seq to end.
        details: seq to what its error says.
    """

    def __init__(self, run: Run, client: FakeClient, about: dict[str, Any]) -> None:
        self._run = run
        self.client = client
        self._about = about
        self._due = 0.0
        self.rate_per_s = 0.0
        self.asked: dict[int, float] = {}
        self.ended: dict[int, Ended] = {}
        self.details: dict[int, dict[str, Any]] = {}

    def ask(self, count: int, **about: Any) -> list[int]:
        """Submit requests in one go."""
        seqs = [next(self._run.numbers) for _ in range(count)]
        for start in range(0, count, wire.MAX_BATCH_REQUESTS):
            chunk = seqs[start : start + wire.MAX_BATCH_REQUESTS]
            self.client.submit(*chunk, settle=False, **{**self._about, **about})
        self.asked.update(dict.fromkeys(seqs, self._run.now_s))
        return seqs

    def step(self) -> None:
        self._due += self.rate_per_s * STEP_S
        count = int(self._due)
        self._due -= count
        for _ in range(count):
            self.ask(1)

    def look(self) -> None:
        """Note what has ended since the last look."""
        outcomes = self.client.outcomes
        for seq in itertools.islice(outcomes, len(self.ended), None):
            code, data = outcomes[seq][0]
            now_s = self._run.now_s
            self.ended[seq] = Ended(code, now_s - self.asked[seq], now_s)
            if code:
                self.details[seq] = wire.decode_error(data)

    def codes(self, since_s: float = 0.0) -> Counter[int]:
        """How many ended with each code, of those that ended from then on."""
        return Counter(end.code for end in self.ended.values() if end.at_s >= since_s)

    def good(self, since_s: float = 0.0) -> int:
        """How many were answered."""
        return self.codes(since_s)[Code.OK]

    def took_s(self, share: float) -> float:
        """The time within which that share of the answers came."""
        spans_s = sorted(end.elapsed_s for end in self.ended.values() if end.code == Code.OK)
        return spans_s[min(len(spans_s) - 1, int(len(spans_s) * share))]

    def errors(self, code: int) -> list[dict[str, Any]]:
        """What the errors of a code say."""
        return [self.details[seq] for seq, end in self.ended.items() if end.code == code]


class Run:
    """One run.

    Args:
        service_s: how long the upstream takes for a request that begins at an instant of the run.
        kind: as a worker says it in HELLO; its limit is the upstream's places.
        config: the broker's.
        workers: how many.
        seed: of what is random.
    """

    def __init__(
        self,
        service_s: Callable[[float], float] | float,
        *,
        kind: tuple[str, bool, int, int] = ("http", True, 64, 1),
        config: Config = EMPTY,
        workers: int = 1,
        seed: int = 1,
    ) -> None:
        self.random = random.Random(seed)
        self.desk = Desk(config=config)
        self.kind = kind
        self._service_s = service_s if callable(service_s) else lambda _now_s: service_s
        self.origin = f"{kind[0]}://127.0.0.1:80"
        self.numbers = itertools.count(1)
        self.askers: list[Asker] = []
        self.served = 0
        self.sent = 0
        self._begin_s = self.desk.now_s
        self._steps = 0
        self._halls = [_Hall(self, self.desk.worker(kind)) for _ in range(workers)]

    @property
    def now_s(self) -> float:
        """From the begin of the run."""
        return self._steps * STEP_S

    @property
    def workers(self) -> list[FakeWorker]:
        return [hall.worker for hall in self._halls]

    def service_s(self) -> float:
        return self._service_s(self.now_s)

    def asker(self, rate_per_s: float = 0.0, **about: Any) -> Asker:
        """Add a client that asks at a rate; ``about`` is for :meth:`FakeClient.submit`."""
        about = {"kind": self.kind[0], "origins": (self.origin,), "flags": Flag.IDEMPOTENT, **about}
        asker = Asker(self, self.desk.client(), about)
        asker.rate_per_s = rate_per_s
        self.askers.append(asker)
        return asker

    def go(self, span_s: float) -> None:
        """Let time pass."""
        desk = self.desk
        for _ in range(round(span_s / STEP_S)):
            self._steps += 1
            desk.now_s = self._begin_s + self._steps * STEP_S
            if self._steps % _BEAT_STEPS == 0:
                for peer in [*desk.clients.values(), *desk.workers.values()]:
                    if peer.awake:
                        peer.heartbeat()
            if self._steps % _TICK_STEPS == 0:
                desk.broker.tick(desk.now_s)
            for asker in self.askers:
                asker.step()
            desk.settle()
            for hall in self._halls:
                hall.step()
            desk.settle()
            for asker in self.askers:
                asker.look()
                if asker.client.batches:
                    asker.client.acknowledge()
                    asker.client.batches.clear()

    def good(self, since_s: float = 0.0) -> int:
        """How many of all clients' requests were answered, of those that ended from then on."""
        return sum(asker.good(since_s) for asker in self.askers)

    def figures(self, origin: str | None = None) -> dict[str, Any]:
        """What ``status`` says of an origin."""
        about: dict[str, Any] = self.desk.broker.status.make(self.desk.now_s)["origins"][
            origin or self.origin
        ]
        return about


class _Held(NamedTuple):
    seq: int
    origin: str
    deadline_s: float


class _Hall:
    """A worker and its places at the upstream."""

    def __init__(self, run: Run, worker: FakeWorker) -> None:
        self.run = run
        self.worker = worker
        self._seen: set[int] = set()
        self._waiting: deque[_Held] = deque()
        self._begun: dict[int, tuple[_Held, float]] = {}

    def step(self) -> None:
        run, worker, now_s = self.run, self.worker, self.run.now_s
        if not worker.awake:
            return
        for lease in worker.leases:
            for seq in lease.seqs:
                if seq not in self._seen:
                    self._seen.add(seq)
                    self._waiting.append(_Held(seq, lease.origin, now_s + lease.span_ms / 1000))
        held = set(worker.held())
        self._seen &= held
        self._waiting = deque(one for one in self._waiting if one.seq in held)
        self._begun = {seq: about for seq, about in self._begun.items() if seq in held}
        done = [seq for seq, (held, end_s) in self._begun.items() if end_s <= min(now_s, held.deadline_s)]
        late = [seq for seq, (held, _) in self._begun.items() if held.deadline_s <= now_s and seq not in done]
        unsent = [one.seq for one in self._waiting if one.deadline_s <= now_s]
        run.served += len(done)
        for seq in (*done, *late):
            del self._begun[seq]
        if done:
            worker.answer(*done)
        for seqs, phase in ((late, "read"), (unsent, "queue")):
            if seqs:
                details = wire.encode_error("no answer", phase=phase)
                worker.fail(*seqs, code=Code.TIMEOUT, sent=phase == "read", details=details)
        gone = set(unsent)
        left: deque[_Held] = deque()
        places = self._places()
        for one in self._waiting:
            if one.seq in gone:
                continue
            if places[one.origin] > 0:
                places[one.origin] -= 1
                run.sent += 1
                self._begun[one.seq] = (one, now_s + run.service_s() - STEP_S / 100)  # no float is late
            else:
                left.append(one)
        self._waiting = left

    def _places(self) -> Counter[str]:
        places: Counter[str] = Counter()
        _, connections, limit, depth = self.run.kind
        for one in (*self._waiting, *(held for held, _ in self._begun.values())):
            slots = self.worker.grants.get(one.origin, (0, 0))[1] * depth if connections else limit
            places.setdefault(one.origin, slots)
        for held, _ in self._begun.values():
            places[held.origin] -= 1
        return places
