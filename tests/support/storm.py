"""A broker core under whatever clients, workers, configurations and its own death may do to it, by a seed."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from reqpool.errors import Code
from reqpool.kinds.origin import endpoint, upstream_of
from reqpool_broker.client_limits import ClientLimits
from reqpool_broker.config import EMPTY, Config, NamedUpstream
from reqpool_broker.lease_record import Lease
from reqpool_contract.grace import LEASE_GRACE_S
from reqpool_contract.policy import Policy
from reqpool_contract.wire import Flag, Reject, Verb

from .fake_peers import TICK_S, Desk
from .steady_client import SteadyClient
from .steady_worker import Request, SteadyWorker

ACTS = 200
CALM_S = 0.1
MOST_IDLE_TURNS = 50
"""Turns of so long that may pass, once all is calm, until the next request ends."""

Place = tuple[str, tuple[str, ...]]
"""A kind, and origins to be tried in turn."""

DATAGRAMS: tuple[Place, ...] = (
    ("dns", ("dns://10.0.0.1:53",)),
    ("dns", ("dns://10.0.0.2:53",)),
    ("dns", ("dns://10.0.0.3:53", "dns://10.0.0.4:53")),
)
SHALLOW: tuple[Place, ...] = (
    ("tcp", ("tcp://10.0.1.1:9",)),
    ("tcp", ("tcp://10.0.1.1:9/another",)),
    ("tcp", ("tcp://10.0.1.2:9", "tcp://10.0.1.3:9")),
)
DEEP: tuple[Place, ...] = (
    ("redis", ("redis://10.0.2.1:6379/0",)),
    ("redis", ("redis://10.0.2.1:6379/1",)),
    ("redis-exclusive", ("redis://10.0.2.1:6379/0?exclusive",)),
)
NAMED: tuple[Place, ...] = (("dns", ("@names",)), ("tcp", ("@lines",)), ("redis", ("@cache",)))
LIMITS = {"dns": 20, "tcp": 4, "redis": 3, "redis-exclusive": 3}
KINDS = (
    ("dns", False, LIMITS["dns"], 1),
    ("tcp", True, LIMITS["tcp"], 1),
    ("redis", True, LIMITS["redis"], 8),
    ("redis-exclusive", True, LIMITS["redis-exclusive"], 1, True, "alone"),
)


class Mix(NamedTuple):
    """What a storm is made of.

    Attributes:
        name: in words.
        places: what is asked for.
        pins: connections are held.
        configures: the configuration changes, and upstreams are asked for by name.
        reconnects: clients are cut off, and workers, for seconds.
        restarts: the broker dies, or ends, and another comes.
        absences: clients are away for about as long as a session lasts.
    """

    name: str
    places: tuple[Place, ...]
    pins: bool = False
    configures: bool = False
    reconnects: bool = False
    restarts: bool = False
    absences: bool = False


_ALL = DATAGRAMS + SHALLOW + DEEP
MIXES = (
    Mix("datagrams", DATAGRAMS),
    Mix("connections of depth 1", SHALLOW),
    Mix("connections of depth 8", DEEP),
    Mix("pins", SHALLOW + DEEP, pins=True),
    Mix("config changes", _ALL, pins=True, configures=True),
    Mix("reconnections", _ALL, pins=True, reconnects=True),
    Mix("restarts", _ALL, pins=True, reconnects=True, restarts=True),
    Mix("restarts of brokers with datagrams alone", DATAGRAMS, restarts=True),
    Mix("absences", _ALL, pins=True, reconnects=True, restarts=True, absences=True),
    Mix("all of it", _ALL, pins=True, configures=True, reconnects=True, restarts=True),
)


class Storm:
    """One run.

    Args:
        seed: of everything that is drawn.
        mix: what it is made of.
    """

    def __init__(self, seed: int, mix: Mix) -> None:
        self.chance = random.Random(seed)
        self.mix = mix
        self.desk = Desk(predecessors=frozenset())
        self.sendings: Counter[Request] = Counter()
        self._homes: dict[Request, bytes] = {}
        self._names = itertools.count(1)
        self.workers = [self._new_worker() for _ in range(3)]
        self.clients = [self._new_client() for _ in range(3)]
        self._places = mix.places + (NAMED if mix.configures else ())
        self._most: Counter[str] = Counter()
        always: list[tuple[float, Callable[[], None]]] = [
            (30, self._ask), (14, self._send), (18, self._answer), (6, self._fail), (4, self._hand_back),
            (4, self._cancel), (2, self._kill), (1, self._drain), (2, self._freeze), (3, self._wake),
            (4, self._acknowledge), (14, self._wait), (6, self._confirm),
        ]  # fmt: skip
        sometimes: list[tuple[bool, float, Callable[[], None]]] = [
            (mix.pins, 6, self._open_pin), (mix.pins, 12, self._use_pin), (mix.pins, 3, self._let_go),
            (mix.pins, 2, self._drop_pin), (mix.configures, 5, self._reconfigure),
            (mix.reconnects, 3, self._cut_client), (mix.reconnects, 3, self._cut_worker),
            (mix.restarts, 2, self._restart), (mix.reconnects or mix.restarts, 14, self._come_back),
            (mix.absences, 1, self._stay_away),
        ]  # fmt: skip
        acts = always + [(weight, act) for wanted, weight, act in sometimes if wanted]
        self._acts = [act for _, act in acts]
        self._weights = [weight for weight, _ in acts]

    def run(self, acts: int = ACTS) -> None:
        """Do this many acts, then see everything end.

        Raises:
            AssertionError: if something is not as it must be.
        """
        for _ in range(acts):
            self.chance.choices(self._acts, self._weights)[0]()
            self._tend()
            self._check()
        self._calm_down()
        self._check_ends()

    def _new_worker(self) -> SteadyWorker:
        id_ = b"w%015d" % next(self._names)
        worker = SteadyWorker(self.desk, id_, KINDS, self.sendings, self._homes)
        worker.hello()
        return worker

    def _new_client(self) -> SteadyClient:
        client = SteadyClient(self.desk, b"s%015d" % next(self._names))
        client.hello()
        return client

    # --- acts -------------------------------------------------------------------------------------

    def _client(self) -> SteadyClient:
        return self.chance.choice(self.clients)

    def _worker(self) -> SteadyWorker | None:
        """One that is not frozen, if it is not this one's turn to be so."""
        worker = self.chance.choice(self.workers)
        return worker if worker.awake else None

    def _some(self, worker: SteadyWorker, *, sent: bool | None = None) -> list[Request]:
        held = [request for request, one in worker.running.items() if sent is None or one.sent is sent]
        return self.chance.sample(held, min(len(held), self.chance.randrange(1, 24)))

    def _ask(self) -> None:
        kind, origins = self.chance.choice(self._places)
        self._client().ask(
            self.chance.randrange(1, 24),
            kind,
            origins,
            self.chance.choice([Flag(0), Flag.IDEMPOTENT]),
            span_ms=self.chance.choice([200, 2_000, 20_000, 200_000 if self.mix.absences else 20_000]),
            priority=self.chance.randrange(3),
        )

    def _send(self) -> None:
        if worker := self._worker():
            for request in self._some(worker, sent=False):
                worker.ask_upstream(request)

    def _answer(self) -> None:
        if worker := self._worker():
            for request in self._some(worker, sent=False):
                worker.ask_upstream(request)
            code = Code.UPSTREAM if self.chance.random() < 0.1 else Code.OK
            worker.finish(self._some(worker, sent=True), code)

    def _fail(self) -> None:
        if worker := self._worker():
            code = self.chance.choice([Code.TIMEOUT, Code.CONNECT_FAILED, Code.CONNECTION_LOST])
            for request in self._some(worker)[:6]:
                if request in worker.running:
                    worker.fail_attempt(request, code)

    def _hand_back(self) -> None:
        if worker := self._worker():
            for request in self._some(worker, sent=False)[:6]:
                if request in worker.running:
                    worker.hand_back(request)

    def _cancel(self) -> None:
        client = self._client()
        if pending := client.pending:
            seq = self.chance.choice(pending)
            place = self.desk.broker.sessions[client.id].open.get(seq) if client.is_connected else None
            client.cancel(seq)
            for worker in self.workers:
                if isinstance(place, Lease) and place.worker.route == worker.route and worker.is_connected:
                    assert worker.has_dropped((client.id, seq)), f"{worker.id} goes on with {seq}"

    def _replace(self, worker: SteadyWorker) -> None:
        worker.die()
        self.workers.remove(worker)
        self.workers.append(self._new_worker())

    def _kill(self) -> None:
        self._replace(self.chance.choice(self.workers))

    def _drain(self) -> None:
        if worker := self._worker():
            worker.drain()

    def _freeze(self) -> None:
        self.chance.choice(self.workers).awake = False

    def _wake(self) -> None:
        for worker in self.workers:
            worker.awake = True

    def _acknowledge(self) -> None:
        self._client().acknowledge()

    def _wait(self) -> None:
        self.desk.pass_time(self.chance.choice([0.05, 0.3, 1.0, 3.0]))

    def _confirm(self) -> None:
        for worker in self.workers:
            if worker.awake:
                worker.confirm_grants(fewer=self.chance.random() < 0.5, late=self.chance.random() < 0.5)

    def _open_pin(self) -> None:
        kind, (origin, *_) = self.chance.choice([one for one in self._places if one[0] != "dns"])
        self._client().open_pin(kind, origin, span_ms=self.chance.choice([500, 20_000]))

    def _use_pin(self) -> None:
        client = self._client()
        for number in list(client.pins):
            client.use_pin(number, span_ms=self.chance.choice([500, 20_000]))

    def _let_go(self) -> None:
        client = self._client()
        if client.pins:
            client.let_go(self.chance.choice(list(client.pins)))

    def _drop_pin(self) -> None:
        if worker := self._worker():
            made = [key for key, pin in worker.held_pins.items() if pin.is_there]
            if made:
                worker.drop_pin(self.chance.choice(made))

    def _reconfigure(self) -> None:
        names = {"names": DATAGRAMS[:2], "lines": SHALLOW[:2], "cache": DEEP[:2]}
        upstreams = []
        for name, places in names.items():
            if self.chance.random() < 0.2:
                continue
            kind, origins = self.chance.choice(places)
            found = endpoint(origins[0], {})
            policy = Policy(
                max_connections=self.chance.choice([None, 1, 2, 6]),
                max_in_flight=self.chance.choice([None, 1, 5, 40]),
                queue_timeout_s=self.chance.choice([None, None, 0.5]),
                retries=self.chance.choice([0, 2]),
            )
            upstreams.append(NamedUpstream(name, (kind,), found, found, policy))
        limits = ClientLimits(max_pending=self.chance.choice([20, 200_000]))
        self._configure(Config(upstreams, clients=limits))

    def _configure(self, config: Config) -> None:
        self.desk.broker.reconfigure(config)
        self.desk.settle()

    def _cut_client(self) -> None:
        client = self._client()
        if client.is_connected:
            client.cut()

    def _cut_worker(self) -> None:
        worker = self.chance.choice(self.workers)
        if worker.is_connected:
            worker.cut()

    def _restart(self) -> None:
        if self.chance.random() < 0.5:
            self.desk.broker.heartbeats.goodbye("it ends")
            self.desk.deliver()
        for client in self.clients:
            client.cut_s = min(client.cut_s, self.desk.now_s)
        self.desk.restart(self.workers)

    def _come_back(self) -> None:
        for client in self.clients:
            if not client.is_connected and self.chance.random() < 0.7:
                client.come_back()
        for worker in self.workers:
            if worker.awake and not worker.is_connected and self.chance.random() < 0.7:
                worker.come_back()

    def _stay_away(self) -> None:
        client = self._client()
        if client.is_connected:
            client.cut()
        self.desk.pass_time(self.chance.choice([20.0, 57.0, 63.0]))
        client.come_back()

    def _tend(self) -> None:
        """Peers do in their next turn what they owe, some of them later."""
        for client in self.clients:
            if client.is_connected and client.replies[-1][0] is Verb.REJECT:
                client.cut()
                client.come_back()
        for worker in list(self.workers):
            if not worker.awake:
                continue
            if worker.rejects and worker.is_connected:
                assert set(worker.rejects) == {Reject.UNKNOWN}
                worker.cut()
                worker.come_back()
            if self.chance.random() < 0.7:
                worker.tend()
            if self.chance.random() < 0.3:
                worker.confirm_grants(late=self.chance.random() < 0.7)
            if worker.has_ended and worker.is_connected:
                worker.send(Verb.GOODBYE, worker.epoch, worker.seen)
                self._replace(worker)

    # --- what must be true ------------------------------------------------------------------------

    def _check(self) -> None:
        self.desk.check_books()
        self._check_connections()
        self._check_open()

    def _check_open(self) -> None:
        """What has had its time has ended, and nothing waits for a place that is free."""
        records, now_s = self.desk.broker.records, self.desk.now_s
        for session in self.desk.broker.sessions.values():
            for seq, place in session.open.items():
                late_s = now_s - max(place.terms.deadline_s, place.since_s)
                assert late_s <= LEASE_GRACE_S + 2 * TICK_S, f"{seq} is open {late_s} s past its deadline"
        self.desk.settle()
        for origin in records.origins:
            owners = origin.owners(records.workers, records.origins.membership)
            waits = any(group.waiting() and group.terms.session.has_room for group in origin.queue)
            if not owners or not waits:
                continue
            kind = owners[0].kinds[origin.kind]
            free = (origin.policy.max_in_flight or kind.limit) - origin.upstream.in_flight
            if kind.connections:
                # What is leased ahead, beyond what is in work, is the broker's affair: an estimate.
                free = 0
                for worker in owners:
                    grant = worker.grants.get(origin.name)
                    slots = (grant.slots if grant else 0) - origin.pins.get(worker, 0)
                    free = max(free, slots * kind.depth - origin.by_worker.get(worker, 0))
            assert free <= 0, f"{origin.queue.waiting} requests wait for {origin.name}, which has {free} free"

    def _check_connections(self) -> None:
        """Connections as the workers count them."""
        most: Counter[str] = Counter()
        for worker in self.workers:
            for origin, count in worker.allowed.items():
                assert worker.connections[origin] <= count
                most[upstream_of(origin)] += count
        for key in most.keys() | self._most.keys():
            count = most[key]
            limit = self.desk.broker.config.policy_of(key).max_connections or LIMITS[key.partition(":")[0]]
            # Where the limit was lowered there may be more for a while, but never more than there were; a new
            # broker that does not know yet how many there are goes by what it has been told of.
            if not self.desk.broker.grants.settled:
                most[key] = count = max(count, self._most[key])
            assert count <= max(limit, self._most[key]), f"{count} connections to {key}, of {limit}"
        self._most = most

    def _calm_down(self) -> None:
        """Nothing goes wrong any more: whatever is pending has to come to its end without waiting for its
        deadline."""
        self._wake()
        self._configure(EMPTY)
        for peer in [*self.workers, *self.clients]:
            if not peer.is_connected:
                peer.come_back()
        for client in self.clients:
            for number in list(client.pins):
                client.let_go(number)
        left, idle_turns = self._pending(), 0
        while left and idle_turns < MOST_IDLE_TURNS:
            self.desk.pass_time(CALM_S)
            self._tend()
            for worker in self.workers:
                worker.tend()
                worker.confirm_grants()
                worker.finish([request for request in list(worker.running) if worker.ask_upstream(request)])
                worker.finish([request for request, one in worker.running.items() if one.sent])
            for client in self.clients:
                client.acknowledge()
            self._check()
            before, left = left, self._pending()
            idle_turns = 0 if left < before else idle_turns + 1
        assert not left, f"{left} requests wait for nothing"
        for worker in self.workers:
            worker.tend()
            assert not worker.held_pins, f"{worker.id} holds {worker.held_pins}, which nobody has"

    def _pending(self) -> int:
        return sum(len(client.pending) for client in self.clients)

    def _check_ends(self) -> None:
        records = self.desk.broker.records
        dropped = sum(len(client.cancelled) for client in self.clients)
        for client in self.clients:
            for seq in client.asked:
                outcomes = client.outcomes.get(seq)
                if not outcomes:
                    continue
                if outcomes[0].code == Code.OK:
                    assert outcomes[0].data == b"answer %d" % seq
                    assert self.sendings[client.id, seq], f"{seq} has an answer, and nobody asked"
                elif client.error(seq).get("sent") is False:
                    assert not self.sendings[client.id, seq], f"{seq} was sent, and its error denies it"
        if not self.mix.reconnects and not self.mix.restarts:
            assert records.submitted == records.done + sum(records.failed.values()) + dropped
