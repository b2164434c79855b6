"""A worker's conversation under virtual time: the broker's end, the timers and the upstreams are the test's.

talk = Talk()
talk.welcome()
talk.lease(1)
talk.upstreams.answer(1)
assert talk.heard(Verb.RESULTS)
"""

from __future__ import annotations

import errno
import heapq
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Any

from reqpool_contract import wire
from reqpool_contract.policy import Policy
from reqpool_contract.wire import Verb
from reqpool_workers.lease import Dropped, Pin, Request, WorkerLease
from reqpool_workers.lease_outcomes import LeaseOutcomes
from reqpool_workers.worker_conversation import WorkerConversation
from reqpool_workers.worker_ledger import WorkerLedger

SESSION = bytes(range(16))
OTHER_SESSION = bytes(range(1, 17))
EPOCH = 7


class Upstreams:
    """One upstream for all: runs what it may, answers when told.

    Attributes:
        sent: seqs of all that was sent to it, in order.
        slots_granted: requests are sent while there are some; None: no grant is needed.
    """

    backlog = 0

    def __init__(self, outcomes: LeaseOutcomes) -> None:
        self.sent: list[int] = []
        self.slots_granted: int | None = None
        self._outcomes = outcomes
        self._waiting: list[Request] = []
        self._running: dict[int, Request] = {}

    def answer(self, seq: int, data: bytes = b"yes") -> None:
        """A request has its answer."""
        self._outcomes.finish(self._running.pop(seq), 0, data)

    @property
    def running(self) -> list[int]:
        """Seqs of all that was sent and not answered or dropped."""
        return list(self._running)

    # --- Upstream ----------------------------------------------------------------------------------

    def submit(self, lease: WorkerLease, now_s: float) -> None:
        for request in lease.requests:
            if self.slots_granted is None:
                self.sent.append(request.seq)
                self._running[request.seq] = request
            else:
                self._waiting.append(request)

    def submit_pinned(self, lease: WorkerLease, pin: Pin) -> None:
        self._outcomes.no_such_pin(lease, pin)

    def drop(self, request: Request, reason: str) -> Dropped:
        if request in self._waiting:
            self._waiting.remove(request)
            return Dropped("queue", False)
        del self._running[request.seq]
        return Dropped("read", True)

    def resend(self, lease: WorkerLease, now_s: float) -> float | None:
        return None

    # --- Upstreams ---------------------------------------------------------------------------------

    def find(self, kind: str, name: str) -> Upstreams:
        return self

    def reach(self, kind: str, name: str, settings: bytes) -> Upstreams:
        return self

    def grant(self, name: str, slots: int, policy: Policy) -> None:
        self.slots_granted = slots

    def open_no_more(self) -> None:
        if self.slots_granted is not None:
            self.slots_granted = 0

    def open_connections(self, name: str) -> int:
        return 0

    def slots(self) -> list[tuple[str, int]]:
        return []

    def pins(self) -> list[tuple[Pin, str, str]]:
        return []

    def unpin(self, pin: Pin, reason: str) -> bool:
        return False

    def stranded(self, name: str | None = None) -> Iterator[Request]:
        return iter([] if self.slots_granted else list(self._waiting))

    def unsent(self) -> Iterator[Request]:
        return iter(list(self._waiting))

    def counts(self) -> dict[str, list[int]]:
        return {}


class Talk:
    """A conversation, and the broker's side of it.

    Attributes:
        now_s: virtual.
        hellos: the ``about`` of each HELLO.
        up: is a broker there? What is sent to none is lost.
        sockets: is there a file descriptor for one?
    """

    def __init__(self, *, retained_bytes: int = 1 << 20) -> None:
        self.now_s = 100.0
        self.hellos: list[dict[str, Any]] = []
        self.up = True
        self.sockets = True
        self._heard: list[tuple[Verb, list[Any], list[bytes]]] = []
        self._timers: list[tuple[float, int, Callable[[float], float | None]]] = []
        self._numbers = count()
        self._seen = self._number = 0
        outcomes = LeaseOutcomes(WorkerLedger())
        self.upstreams = Upstreams(outcomes)
        self.conversation = WorkerConversation(
            {"worker": bytes(16)}, self, self.upstreams, outcomes, self.now_s, retained_bytes=retained_bytes
        )

    # --- Carrier -----------------------------------------------------------------------------------

    def dial(self) -> None:
        if not self.sockets:
            raise OSError(errno.EMFILE, "Too many open files")
        self._seen = self._number = 0

    def hang_up(self) -> None:
        pass

    def send(self, frames: list[bytes]) -> bool:
        if self.up:
            verb, fields = wire.decode(frames[0], wire.WORKER_TO_BROKER)
            self._heard.append((verb, fields, frames[1:]))
            if verb is Verb.HELLO:
                self.hellos.append(fields[2])
            elif verb is Verb.HEARTBEAT:
                self._seen = fields[2]
        return True

    def at(self, due_s: float, timer: Callable[[float], float | None]) -> None:
        heapq.heappush(self._timers, (due_s, next(self._numbers), timer))

    def sample(self, now_s: float) -> dict[str, Any]:
        return {}

    # --- the test's --------------------------------------------------------------------------------

    def turn(self) -> None:
        """One turn of the loop: timers that are due, then the news."""
        self.conversation.wake(self.now_s)
        while self._timers and self._timers[0][0] <= self.now_s:
            timer = heapq.heappop(self._timers)[2]
            due_s = timer(self.now_s)
            if due_s is not None:
                self.at(due_s, timer)
        self.conversation.end_turn(self.now_s)

    def pass_s(self, span_s: float, *, beating: bool = True, **acknowledged: Any) -> None:
        """Let time pass in steps of 0.1 s, until the worker is done; the broker's heartbeats come."""
        for _ in range(round(span_s * 10)):
            if self.conversation.over:
                return
            self.now_s += 0.1
            self.turn()
            if beating and self.up:
                self.beat(**acknowledged)

    def freeze_s(self, span_s: float) -> None:
        """Let time pass in which nothing is done here."""
        self.now_s += span_s

    def welcome(self) -> dict[str, Any]:
        """Answer a HELLO; returns its ``about``."""
        hellos = len(self.hellos)
        self.turn()
        while len(self.hellos) == hellos == 0:
            self.now_s += 0.1
            self.turn()
        about = {"epoch": EPOCH, "heartbeat_ms": 500, "liveness_ms": 2_500}
        self._take(wire.encode(Verb.WELCOME, wire.VERSION, about))
        self.beat()
        return self.hellos[-1]

    def beat(self, received: int = 0, undelivered: Iterable[int] = (), *, excused: bool = False) -> None:
        self._number += 1
        self.say(Verb.HEARTBEAT, self._number, received, tuple(undelivered), excused)

    def say(self, verb: Verb, *values: Any, payloads: Iterable[bytes] = ()) -> None:
        self._take(wire.encode(verb, EPOCH, self._seen, *values), *payloads)

    def lease(
        self,
        *seqs: int,
        flags: int = 0,
        span_ms: int = 10_000,
        session: bytes = SESSION,
        origin: str = "x://y",
        pin: int | None = None,
    ) -> None:
        group = (session, "x", origin, span_ms, flags, 1, pin, None, seqs, (b"ask",) * len(seqs))
        self.say(Verb.LEASE, [group])

    def heard(self, verb: Verb) -> list[Any]:
        """The fields of all messages of a verb since the last look at them."""
        found = [fields for one, fields, _ in self._heard if one is verb]
        self._heard = [message for message in self._heard if message[0] is not verb]
        return found

    def results(self) -> dict[int, tuple[int, bytes]]:
        """Seq to (code, data) of all RESULTS since the last look at them."""
        found: dict[int, tuple[int, bytes]] = {}
        for verb, _, blobs in self._heard:
            for blob in blobs if verb is Verb.RESULTS else ():
                flat = wire.decode_blob(blob)
                found |= dict(zip(flat[0::3], zip(flat[1::3], flat[2::3], strict=True), strict=True))
        self.heard(Verb.RESULTS)
        return found

    def held(self) -> set[int]:
        """The seqs that the last HELLO said are held."""
        return {seq for _, seqs in self.hellos[-1]["held"] for seq in seqs}

    def _take(self, *frames: bytes) -> None:
        self.conversation.take(frames, self.now_s)
        self.conversation.end_turn(self.now_s)
