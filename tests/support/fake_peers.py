"""A broker core driven by hand: fake clients, fake workers, a fake clock, and the books checked."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from reqpool_broker.broker import Broker
from reqpool_broker.config import EMPTY, Config
from reqpool_contract import wire
from reqpool_contract.wire import FailedAttempts, Flag, LeaseGroup, SubmitGroup, Verb
from reqpool_workers.pieces import Pieces

from .outcomes import Outcome, Outcomes

DNS = ("dns", False, 256, 1)
TCP = ("tcp", True, 8, 1)
UPSTREAM = "dns://127.0.0.1:53"
TICK_S = 0.05
REIGN = b"8 bytes."
"""Of the supervisor of all desks that have one."""
_names = itertools.count(1)


class Desk:
    """A broker, a clock, and who talks to it.

    Attributes:
        deaths: the supervisor's count of workers that have died and left something in doubt.
        reported: every blob of results that a worker has sent: what else is published is the broker's own.
    """

    def __init__(
        self,
        epoch: int = 77,
        config: Config = EMPTY,
        predecessors: frozenset[bytes] | None = None,
        deaths: int = 0,
    ) -> None:
        self.now_s = 1000.0
        self.supervised = predecessors is not None
        self.deaths = deaths
        self.broker = self._begin(epoch, config, predecessors)
        self.clients: dict[bytes, FakeClient] = {}
        self.workers: dict[bytes, FakeWorker] = {}
        self.executions: list[tuple[bytes, int]] = []
        self.reported: set[bytes] = set()

    def _begin(self, epoch: int, config: Config, predecessors: frozenset[bytes] | None) -> Broker:
        return Broker(
            "5571",
            self.now_s,
            epoch=epoch,
            config=config,
            predecessors=predecessors,
            reign=REIGN if self.supervised else epoch.to_bytes(8, "big"),
            deaths=self.deaths,
        )

    def restart(self, predecessors: Iterable[FakeWorker]) -> None:
        """The broker has died, and another begins: all peers have yet to say HELLO to it.

        Args:
            predecessors: the workers that are alive.
        """
        ids = frozenset(worker.id for worker in predecessors) if self.supervised else None
        self.broker = self._begin(self.broker.epoch + 1, self.broker.config, ids)
        self.clients.clear()
        self.workers.clear()

    def client(self, **about: Any) -> FakeClient:
        client = FakeClient(self, b"s%015d" % next(_names))
        client.hello(**about)
        return client

    def worker(self, *kinds: tuple[Any, ...], **about: Any) -> FakeWorker:
        worker = FakeWorker(self, b"w%015d" % next(_names), kinds or (DNS,))
        worker.hello(**about)
        return worker

    def settle(self) -> None:
        """Let the broker decide, and deliver what it sends."""
        self.broker.flush(self.now_s)
        self.deliver()
        while large := [worker for worker in self.workers.values() if worker.took_large]:
            for worker in large:
                worker.took_large = False
                worker.heartbeat()
            self.broker.flush(self.now_s)
            self.deliver()

    def deliver(self) -> None:
        outbox = self.broker.outbox
        for route, head in outbox.intake:
            if route in self.clients:
                self.clients[route].replies.append(wire.decode(head, wire.BROKER_TO_CLIENT))
        for route, head, *payloads in outbox.workers:
            if route in self.workers:
                worker = self.workers[route]
                worker.sent_bytes += sum(map(len, payloads))
                whole, ahead_bytes = worker.pieces.complete(payloads) if payloads else ([], 0)
                verb, values = wire.decode(head, wire.BROKER_TO_WORKER, whole)
                assert verb is not Verb.LEASE or values[3] == ahead_bytes
                worker.take(verb, values)
        for topic, head, *blobs in outbox.results:
            for client in self.clients.values():
                if client.id == topic:
                    client.take(*wire.decode(head, wire.PUBLISHED), blobs)
        outbox.intake.clear()
        outbox.workers.clear()
        outbox.results.clear()

    def say(self, verb: Verb, *values: Any) -> None:
        """Send what the supervisor says."""
        self.broker.worker_messages.message(b"supervisor", [wire.encode(verb, *values)], self.now_s)

    def stop(self) -> None:
        """Say as the supervisor that the cluster stops."""
        self.say(Verb.STOPPING)

    def pass_time(self, span_s: float) -> None:
        """Let time pass in ticks; peers that are awake send their heartbeats."""
        until_s = self.now_s + span_s
        beat_s = self.now_s
        while self.now_s < until_s:
            self.now_s += TICK_S
            if self.now_s >= beat_s:
                beat_s = self.now_s + 0.5
                for peer in [*self.clients.values(), *self.workers.values()]:
                    if peer.awake:
                        peer.heartbeat()
            self.broker.tick(self.now_s)
            self.deliver()

    def check_books(self) -> None:
        """What is counted is what is there."""
        self.broker.check()


class FakeClient:
    """Submits, and notes every outcome.

    Attributes:
        received: all that came.
        outcomes: the same by request.
    """

    def __init__(self, desk: Desk, id_: bytes) -> None:
        self.desk = desk
        self.id = id_
        self.replies: list[tuple[Verb, list[Any]]] = []
        self.received = Outcomes()
        self.outcomes: dict[int, list[Outcome]] = self.received.by_seq
        self.batches: list[int] = []
        self.attempts: dict[int, int] = {}
        self.acked = 0
        self.submitted = 0
        self.beats = self.heard_beats = 0
        self.awake = True
        self.open = False
        self.watermark = b""
        self.watermarks: dict[int, bytes] = {}
        self._routes = itertools.count(1)
        self.route = b""

    def send(self, verb: Verb, *values: Any, payloads: Sequence[Any] = ()) -> None:
        head = wire.encode(verb, *values)
        self.desk.broker.client_messages.message(self.route, [head, *payloads], self.desk.now_s)

    def hello(self, *, subscribe: bool = True, **about: Any) -> None:
        self.desk.clients.pop(self.route, None)
        self.route = b"c%s-%d" % (self.id, next(self._routes))
        self.desk.clients[self.route] = self
        self.submitted = self.beats = 0
        self.send(Verb.HELLO, 1, 1, {"session": self.id, "name": "fake", "pid": 1, **about})
        self.desk.settle()
        if self.replies and self.replies[-1][0] is Verb.WELCOME:
            self.watermark = self.welcome["watermark"]
            if not self.welcome["resumed"]:
                self.received.begin_numbering()
        if subscribe and self.replies and self.replies[-1][0] is Verb.WELCOME:
            assert self.desk.broker.lifecycle.subscription(self.id, 0)
            self.desk.broker.lifecycle.subscribed(self.id)
            self.desk.settle()

    @property
    def welcome(self) -> dict[str, Any]:
        about: dict[str, Any] = [values[1] for verb, values in self.replies if verb is Verb.WELCOME][-1]
        return about

    def submit(
        self,
        *seqs: int,
        origins: tuple[str, ...] = (UPSTREAM,),
        kind: str = "dns",
        flags: int = Flag.IDEMPOTENT,
        span_ms: int = 5000,
        priority: int = 1,
        pin: int | None = None,
        settings: bytes = b"",
        settle: bool = True,
    ) -> None:
        payloads = tuple(b"p%d" % seq for seq in seqs)
        watermark = self.watermarks.get(seqs[0], b"") if flags & Flag.RESUBMITTED else b""
        for seq in seqs:  # that of the connection it was first sent on
            self.watermarks.setdefault(seq, watermark or self.watermark)
        group = SubmitGroup(
            kind, origins, span_ms, int(flags), priority, pin, None, seqs, payloads, settings, None, watermark
        )
        self.submitted += 1
        self.send(Verb.SUBMIT, self.submitted, self.acked, [group])
        if settle:
            self.desk.settle()

    def say_groups(self, groups: Sequence[Any], payloads: Sequence[Any] = ()) -> None:
        """Submit groups as they are, legal or not, perhaps with payloads in frames of their own."""
        self.submitted += 1
        self.send(Verb.SUBMIT, self.submitted, self.acked, groups, payloads=payloads)
        self.desk.settle()

    def take(self, verb: Verb, values: list[Any], blobs: list[bytes]) -> None:
        if verb is Verb.OPEN:
            self.open = True
        elif verb is Verb.HEARTBEAT:
            self.heard_beats += 1
        elif verb is Verb.RESULTS:
            self.batches.append(values[1])
            self.attempts |= dict(values[3])
            self.received.take(values[1], blobs[0], own=blobs[0] not in self.desk.reported)

    def heartbeat(self) -> None:
        self.beats += 1
        self.send(Verb.HEARTBEAT, self.beats, 0, self.acked)

    def acknowledge(self) -> None:
        self.acked = max(self.batches, default=0)
        self.heartbeat()

    def code(self, seq: int) -> int:
        """How ``seq`` has ended: what came first counts (docs/protocol.md#results)."""
        assert self.outcomes.get(seq), f"{seq} has not ended"
        return self.outcomes[seq][0][0]

    def error(self, seq: int) -> dict[str, Any]:
        return wire.decode_error(self.outcomes[seq][0][1])


class FakeWorker:
    """Holds its leases until told to answer.

    Attributes:
        reads: does it read what is sent to it? Then it answers what is large with a heartbeat.
        took_large: it still has to.
        sent_bytes: of large payloads, that were sent to it in pieces and in frames of their own.
    """

    def __init__(self, desk: Desk, id_: bytes, kinds: tuple[tuple[Any, ...], ...]) -> None:
        self.desk = desk
        self.id = id_
        self.kinds = kinds
        self.rejects: list[int] = []
        self.leases: list[LeaseGroup] = []
        self.kept: list[tuple[int, bytes]] = []
        self._keeps: dict[int, bytes] = {}
        self._settings: dict[tuple[bytes, tuple[int, ...]], bytes] = {}
        self.cancelled: list[tuple[bytes, int]] = []
        self.unpinned: list[tuple[bytes, int]] = []
        self.grants: dict[str, tuple[int, int]] = {}
        self.policies: dict[str, dict[str, int]] = {}
        self.undelivered: list[int] = []
        self.excused = False
        self.unreceived: dict[int, tuple[list[tuple[bytes, tuple[int, ...], int]], tuple[bytes, ...]]] = {}
        self.seen = self.broker_seen = 0
        self.beats = 0
        self.numbered = 0
        self.awake = True
        self.reads = True
        self.took_large = False
        self.pieces = Pieces()
        self.sent_bytes = 0
        self.cpu_percent = 0.0
        self.epoch = 0
        self.stranger = False
        self._routes = itertools.count(1)
        self.route = b""

    def send(self, verb: Verb, *values: Any, blobs: tuple[bytes, ...] = ()) -> None:
        head = wire.encode(verb, *values)
        self.desk.reported.update(blobs)
        self.desk.broker.worker_messages.message(self.route, [head, *blobs], self.desk.now_s)

    def hello(self, **about: Any) -> None:
        self.desk.workers.pop(self.route, None)
        self.route = b"w%s-%d" % (self.id, next(self._routes))
        self.desk.workers[self.route] = self
        self._keeps.clear()
        self.pieces = Pieces()
        self.seen = self.beats = self.numbered = 0
        if self.desk.supervised and not self.stranger:
            self.send(Verb.STARTED, self.id)
        own = {"worker": self.id, "name": "fake", "pid": 1, "kinds": self.kinds, "apart": True}
        self.send(Verb.HELLO, 1, 1, {**own, **about})
        self.desk.settle()

    def take(self, verb: Verb, values: list[Any]) -> None:
        if verb is Verb.WELCOME:
            self.epoch = values[1]["epoch"]
        elif verb is Verb.REJECT:
            self.rejects.append(values[0])
        elif verb is Verb.HEARTBEAT:
            self.broker_seen, self.seen, self.undelivered, self.excused = values[1], values[2], *values[4:]
            self.unreceived = {n: sent for n, sent in self.unreceived.items() if n > values[3]}
        elif verb is Verb.PIECE:
            self.pieces.take(*values[2:])
            self.sent_bytes += len(values[3])
            self.took_large |= self.reads and len(values[3]) > wire.LARGE_MESSAGE_BYTES
        elif verb is Verb.LEASE:
            self.leases += values[2]
            size_bytes = sum(len(payload) for lease in values[2] for payload in lease.payloads)
            self.took_large |= self.reads and size_bytes > wire.LARGE_MESSAGE_BYTES
            for lease in values[2]:
                kept = lease.settings if lease.kept is None else self._keeps[lease.kept]
                self._settings[lease.session, lease.seqs] = kept
        elif verb is Verb.KEEP:
            self.kept.append((values[2], values[3]))
            self._keeps[values[2]] = values[3]
        elif verb is Verb.CANCEL:
            self.cancelled += [(session, seq) for session, seqs in values[2] for seq in seqs]
        elif verb is Verb.GRANT:
            self.grants[values[2]] = (values[3], values[4])
            self.policies[values[2]] = values[5]
        elif verb is Verb.UNPIN:
            self.unpinned.append((values[2], values[3]))

    def settings_of(self, lease: LeaseGroup) -> bytes:
        """What its settings were when the lease came, be they kept or its own."""
        return self._settings[lease.session, lease.seqs]

    def held(self) -> list[int]:
        return [seq for lease in self.leases for seq in lease.seqs]

    def heartbeat(self) -> None:
        self.beats += 1
        sample = {"cpu_percent": self.cpu_percent}
        self.send(Verb.HEARTBEAT, self.epoch, self.seen, self.beats, sample)

    def answer(self, *seqs: int, session: bytes | None = None, size_bytes: int = 0) -> None:
        """Send results for these seqs (all held ones by default) in one RESULTS, each so large at least."""
        wanted = set(seqs or self.held())
        groups, blobs, kept = [], [], []
        for lease in self.leases:
            mine = tuple(seq for seq in lease.seqs if seq in wanted)
            if session is not None and lease.session != session:
                mine = ()
            if mine:
                flat: list[Any] = []
                for seq in mine:
                    self.desk.executions.append((lease.session, seq))
                    flat += (seq, 0, (b"answer %d" % seq).ljust(size_bytes))
                groups.append((lease.session, mine, 0))
                blobs.append(wire.encode_blob(flat))
            rest = [pair for pair in zip(lease.seqs, lease.payloads, strict=True) if pair[0] not in mine]
            if rest:
                kept.append(
                    lease._replace(seqs=tuple(s for s, _ in rest), payloads=tuple(p for _, p in rest))
                )
        self.leases = kept
        if groups:
            self._report(groups, tuple(blobs))

    def _report(self, groups: list[tuple[bytes, tuple[int, ...]]], blobs: tuple[bytes, ...]) -> None:
        self.numbered += 1
        self.unreceived[self.numbered] = (groups, blobs)
        self.send(Verb.RESULTS, self.epoch, self.seen, self.numbered, groups, blobs=blobs)
        self.desk.settle()

    def reconnect(self, **about: Any) -> None:
        """Say HELLO again with all it holds, and send again what may not have arrived."""
        finished = list(self.unreceived.values())
        held = [(lease.session, lease.seqs) for lease in self.leases]
        held += [group[:2] for groups, _ in finished for group in groups]
        self.unreceived = {}
        self.hello(epoch=self.epoch, held=held, **about)
        for groups, blobs in finished:
            self._report(groups, blobs)

    def _drop(self, seqs: tuple[int, ...]) -> list[tuple[bytes, tuple[int, ...]]]:
        groups = []
        for lease in self.leases:
            mine = tuple(seq for seq in lease.seqs if seq in seqs)
            if mine:
                groups.append((lease.session, mine))
        self.leases = [
            lease._replace(
                seqs=tuple(s for s in lease.seqs if s not in seqs),
                payloads=tuple(p for s, p in zip(lease.seqs, lease.payloads, strict=True) if s not in seqs),
            )
            for lease in self.leases
            if not set(lease.seqs) <= set(seqs)
        ]
        return groups

    def give_back(self, *seqs: int, sent: bool = False) -> None:
        self.send(Verb.RETURN, self.epoch, self.seen, [(*group, sent) for group in self._drop(seqs)])
        self.desk.settle()

    def fail(self, *seqs: int, code: int, sent: bool, details: bytes | None = None) -> None:
        details = wire.encode_error("it failed") if details is None else details
        failed = [FailedAttempts(session, mine, code, sent, details) for session, mine in self._drop(seqs)]
        self.send(Verb.RETRY, self.epoch, self.seen, failed)
        self.desk.settle()

    def confirm(self, origin: str, held: int) -> None:
        """Say GRANTED to the last grant for an origin."""
        number, _ = self.grants[origin]
        self.send(Verb.GRANTED, self.epoch, self.seen, origin, number, held)
        self.desk.settle()

    def unpin(self, session: bytes, number: int) -> None:
        """Say that a held connection is gone."""
        self.send(Verb.UNPIN, self.epoch, self.seen, session, number)
        self.desk.settle()

    def die(self) -> None:
        """Its process has exited, and the supervisor says so."""
        del self.desk.workers[self.route]
        self.send(Verb.DEAD, self.id)
        self.desk.settle()
