"""What is done: a fault is a generator that acts, yields the seconds until its next step, and ends with it.

Signals go through psutil, which does not hit another process that has got the same pid.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

import psutil

from .arena import FEWEST_WORKERS, LOOK_EVERY_S, MOST_WORKERS, Arena, NoTarget, ProducerProcess, gone
from .schedule import Sort

STEP_S = 0.02
BACK_WITHIN_S = 20.0
STOP_WITHIN_S = 30.0
WHOLE_WITHIN_S = 45.0
"""A broker that has failed again and again is started again after 30 s at the latest."""


@dataclass
class Hit:
    """What a fault was done to.

    Attributes:
        producer: its name, if it concerns one alone.
        note: for people.
        end_s: when it was over; None: with the generator, which may wait until the cluster is whole again.
    """

    producer: str | None = None
    note: str = ""
    end_s: float | None = None

    def over(self) -> None:
        """It is over now; what follows is waiting."""
        self.end_s = time.monotonic()


Steps = Iterator[float]
Do = Callable[[Arena, Random, Hit], Steps]


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        sort: what the schedule knows of it.
        do: does it.
        says: what it is, for ``--list``.
    """

    sort: Sort
    do: Do
    says: str


def _until(condition: Callable[[], bool], within_s: float) -> Steps:
    deadline_s = time.monotonic() + within_s
    while not condition() and time.monotonic() < deadline_s:
        yield STEP_S


def _signal(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _back(arena: Arena, hit: Hit) -> Steps:
    hit.over()
    yield LOOK_EVERY_S  # what was seen before does not count
    yield from _until(arena.ready, WHOLE_WITHIN_S)


def _kill(arena: Arena, hit: Hit, *processes: psutil.Process) -> Steps:
    for process in processes:
        _signal(process, signal.SIGKILL)
    return _back(arena, hit)


def _freeze(arena: Arena, hit: Hit, process: psutil.Process, span_s: float) -> Steps:
    _signal(process, signal.SIGSTOP)
    yield span_s
    _signal(process, signal.SIGCONT)
    yield from _back(arena, hit)


# --- workers and broker --------------------------------------------------------------------------


def _kill_worker(arena: Arena, random: Random, hit: Hit) -> Steps:
    worker = arena.worker(random)
    hit.note = f"worker {worker.pid}"
    return _kill(arena, hit, worker)


def _freeze_worker(shortest_s: float, longest_s: float) -> Do:
    def do(arena: Arena, random: Random, hit: Hit) -> Steps:
        worker = arena.worker(random)
        span_s = random.uniform(shortest_s, longest_s)
        hit.note = f"worker {worker.pid} for {span_s:.1f} s"
        return _freeze(arena, hit, worker, span_s)

    return do


def _drain_worker(arena: Arena, random: Random, hit: Hit) -> Steps:
    arena.supervisor()
    worker = arena.worker(random, draining=False)
    hit.note = f"worker {worker.pid}"
    arena.drained.add(worker)
    _signal(worker, signal.SIGTERM)
    yield from _until(lambda: gone(worker), BACK_WITHIN_S)
    yield from _until(arena.ready, BACK_WITHIN_S)


def _drained(arena: Arena) -> Steps:
    # A process that is told to stop a second time ends at once.
    return _until(lambda: all(map(gone, arena.drained)), BACK_WITHIN_S)


def _kill_broker(arena: Arena, random: Random, hit: Hit) -> Steps:
    broker = arena.broker()
    hit.note = f"broker {broker.pid}"
    return _kill(arena, hit, broker)


def _freeze_broker(shortest_s: float, longest_s: float) -> Do:
    def do(arena: Arena, random: Random, hit: Hit) -> Steps:
        broker = arena.broker()
        span_s = random.uniform(shortest_s, longest_s)
        hit.note = f"broker {broker.pid} for {span_s:.1f} s"
        return _freeze(arena, hit, broker, span_s)

    return do


def _stop_broker(arena: Arena, random: Random, hit: Hit) -> Steps:
    arena.supervisor()
    broker = arena.broker()
    if broker in arena.drained:
        raise NoTarget("the broker ends already")
    hit.note = f"broker {broker.pid}"
    arena.drained.add(broker)
    _signal(broker, signal.SIGTERM)
    yield from _until(lambda: gone(broker), BACK_WITHIN_S)
    yield from _until(arena.ready, BACK_WITHIN_S)


def _kill_both(arena: Arena, random: Random, hit: Hit) -> Steps:
    broker, worker = arena.broker(), arena.worker(random)
    hit.note = f"broker {broker.pid}, worker {worker.pid}"
    return _kill(arena, hit, *random.sample((broker, worker), 2))


def _kill_brokers(arena: Arena, random: Random, hit: Hit) -> Steps:
    until_s, killed = time.monotonic() + 6.0, 0
    if random.random() < 0.5:
        _signal(arena.worker(random), signal.SIGKILL)
        hit.note = "and a worker at first, "
    while time.monotonic() < until_s:
        with contextlib.suppress(NoTarget):
            _signal(arena.broker(), signal.SIGKILL)
            killed += 1
        yield random.uniform(0.1, 0.8)
    hit.note += f"{killed} times"
    yield from _back(arena, hit)


# --- the whole cluster ---------------------------------------------------------------------------


def _restart(arena: Arena, random: Random, hit: Hit) -> Steps:
    supervisor = arena.supervisor()
    arena.changing = True
    try:
        yield from _drained(arena)
        supervisor.send_signal(signal.SIGTERM)
        yield from _until(lambda: supervisor.poll() is not None, STOP_WITHIN_S)
        hit.note = f"exit status {supervisor.poll()}"
        if supervisor.poll() is None:
            arena.cluster.kill()
        arena.up()
    finally:
        arena.changing = False
    yield from _until(arena.ready, BACK_WITHIN_S)


def _kill_supervisor(arena: Arena, random: Random, hit: Hit) -> Steps:
    supervisor = arena.supervisor()
    arena.changing = True
    try:
        orphans = [*arena.children("reqpool_broker"), *arena.children("reqpool_workers")]
        supervisor.kill()
        yield from _until(lambda: supervisor.poll() is not None, STOP_WITHIN_S)
        yield random.uniform(0.0, 1.0)
        # They end by themselves; one that is frozen right now cannot, and would keep the address.
        yield from _until(lambda: all(map(gone, orphans)), 5.0)
        for orphan in orphans:
            _signal(orphan, signal.SIGKILL)
        yield from _until(lambda: all(map(gone, orphans)), 5.0)
        arena.up()
    finally:
        arena.changing = False
    yield from _back(arena, hit)


def has_rolling() -> bool:
    """Has this reqpool the command ``reqpool restart``?"""
    asked = [sys.executable, "-P", "-m", "reqpool_ops", "restart", "--help"]
    return (
        subprocess.run(asked, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=20).returncode
        == 0
    )


def _roll(arena: Arena, random: Random, hit: Hit) -> Steps:
    arena.supervisor()
    arena.changing = True
    try:
        yield from _drained(arena)
        command = [sys.executable, "-P", "-m", "reqpool_ops", "restart", "--url", arena.url]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as rolling:
            try:
                yield from _until(lambda: rolling.poll() is not None, 3 * STOP_WITHIN_S)
            finally:
                rolling.kill()
            assert rolling.stderr is not None
            said = rolling.stderr.read().decode(errors="replace")
            hit.note = f"exit status {rolling.wait()} {said[-200:]}"
    finally:
        arena.changing = False
    yield from _until(arena.ready, BACK_WITHIN_S)


def _scale(step: int) -> Do:
    def do(arena: Arena, random: Random, hit: Hit) -> Steps:
        supervisor = arena.listener()
        if not FEWEST_WORKERS <= arena.wanted + step <= MOST_WORKERS:
            raise NoTarget(f"{arena.wanted} workers")
        arena.changing = True
        try:
            yield from _drained(arena)
            supervisor.send_signal(signal.SIGUSR1 if step > 0 else signal.SIGUSR2)
            arena.wanted += step
            hit.note = f"{arena.wanted} workers"
            # The leaving one is a process until it has finished what it runs.
            yield from _until(lambda: len(arena.children("reqpool_workers")) == arena.wanted, BACK_WITHIN_S)
        finally:
            arena.changing = False
        yield from _until(arena.ready, BACK_WITHIN_S)

    return do


def _reload(arena: Arena, random: Random, hit: Hit) -> Steps:
    supervisor = arena.listener()
    arena.write_config()
    supervisor.send_signal(signal.SIGHUP)
    yield 0.5


# --- upstreams and connections -------------------------------------------------------------------


def _server(arena: Arena, random: Random) -> str:
    names = [name for name in arena.upstreams.servers if name not in arena.down]
    if not names:
        raise NoTarget("no upstream")
    return random.choice(names)


def _kill_upstream(arena: Arena, random: Random, hit: Hit) -> Steps:
    name, away_s = _server(arena, random), random.uniform(0.0, 1.5)
    hit.note = f"{name} for {away_s:.1f} s"
    arena.down.add(name)
    try:
        processes = arena.upstreams.processes(name)
        for process in processes:
            _signal(process, signal.SIGKILL)
        arena.upstreams.servers[name].kill()
        yield from _until(lambda: all(map(gone, processes)), 5.0)
        yield away_s
    finally:
        arena.upstreams.servers[name].start_again()
        arena.down.remove(name)


def _freeze_upstream(arena: Arena, random: Random, hit: Hit) -> Steps:
    name, span_s = _server(arena, random), random.uniform(0.3, 4.0)
    hit.note = f"{name} for {span_s:.1f} s"
    processes = arena.upstreams.processes(name)
    for process in processes:
        _signal(process, signal.SIGSTOP)
    try:
        yield span_s
    finally:
        for process in processes:
            _signal(process, signal.SIGCONT)


def _cut_upstream(arena: Arena, random: Random, hit: Hit) -> Steps:
    if not arena.upstreams.relays:
        raise NoTarget("no relay")
    hit.note = random.choice(list(arena.upstreams.relays))
    arena.upstreams.relays[hit.note].cut()
    yield 0.0


def _refuse_upstream(arena: Arena, random: Random, hit: Hit) -> Steps:
    if not arena.upstreams.relays:
        raise NoTarget("no relay")
    name, span_s = random.choice(list(arena.upstreams.relays)), random.uniform(0.3, 3.0)
    hit.note = f"{name} for {span_s:.1f} s"
    arena.upstreams.relays[name].refuse()
    try:
        yield span_s
    finally:
        arena.upstreams.relays[name].accept()


def _cut_clients(arena: Arena, random: Random, hit: Hit) -> Steps:
    cuts = random.randint(1, 4)
    hit.note = f"{cuts} times"
    for _ in range(cuts):
        # Each connection may be lost without the other.
        for front in random.sample(arena.fronts, random.randint(1, len(arena.fronts))):
            front.cut()
        yield random.uniform(0.0, 0.15)


# --- producers -----------------------------------------------------------------------------------


def _producer(arena: Arena, random: Random) -> ProducerProcess:
    awake = [producer for producer in arena.living_producers() if not producer.frozen]
    if not awake:
        raise NoTarget("no producer")
    return random.choice(awake)


def _kill_producer(arena: Arena, random: Random, hit: Hit) -> Steps:
    producer = _producer(arena, random)
    hit.producer = hit.note = producer.name
    producer.killed = True
    producer.process.kill()
    yield 0.0


def _freeze_producer(shortest_s: float, longest_s: float) -> Do:
    def do(arena: Arena, random: Random, hit: Hit) -> Steps:
        producer, span_s = _producer(arena, random), random.uniform(shortest_s, longest_s)
        hit.producer, hit.note = producer.name, f"{producer.name} for {span_s:.1f} s"
        producer.frozen = True
        producer.process.send_signal(signal.SIGSTOP)
        try:
            yield span_s
        finally:
            producer.process.send_signal(signal.SIGCONT)
            producer.frozen = False

    return do


FAULTS: dict[str, Fault] = {
    # planned
    "worker-drain": Fault(Sort(True, 4), _drain_worker, "a worker gets SIGTERM; it is replaced"),
    "broker-term": Fault(Sort(True, 4), _stop_broker, "the broker gets SIGTERM; it is replaced"),
    "restart": Fault(
        Sort(True, 6), _restart, "the supervisor gets SIGTERM, and the cluster is started again"
    ),
    "rolling": Fault(Sort(True, 8), _roll, "`reqpool restart`: broker and workers are replaced one by one"),
    "scale-up": Fault(Sort(True, 2), _scale(1), "one worker more (SIGUSR1)"),
    "scale-down": Fault(Sort(True, 4), _scale(-1), "one worker fewer (SIGUSR2)"),
    "reload": Fault(Sort(True, 1), _reload, "a changed configuration (SIGHUP)"),
    # not planned
    "worker-kill": Fault(Sort(False, 1), _kill_worker, "a worker is killed"),
    "worker-freeze": Fault(Sort(False, 2), _freeze_worker(0.3, 1.5), "a worker stands still, not for long"),
    "worker-freeze-lost": Fault(
        Sort(False, 6), _freeze_worker(2.6, 5), "a worker stands still for longer than the liveness span"
    ),
    "worker-freeze-hung": Fault(
        Sort(False, 11), _freeze_worker(8, 10), "a worker stands still until the supervisor kills it"
    ),
    "broker-kill": Fault(Sort(False, 2), _kill_broker, "the broker is killed"),
    "broker-freeze": Fault(Sort(False, 2), _freeze_broker(0.3, 1.5), "the broker stands still, not for long"),
    "broker-freeze-lost": Fault(
        Sort(False, 6), _freeze_broker(2.6, 5), "the broker stands still for longer than the liveness span"
    ),
    "broker-freeze-hung": Fault(
        Sort(False, 14), _freeze_broker(12, 13), "the broker stands still until the supervisor kills it"
    ),
    "both-kill": Fault(Sort(False, 3), _kill_both, "the broker and a worker are killed at once"),
    "broker-loop": Fault(
        Sort(False, 10),
        _kill_brokers,
        "every broker is killed for 6 s, and in every second case a worker at first",
    ),
    "supervisor-kill": Fault(
        Sort(False, 6), _kill_supervisor, "the supervisor is killed, and the cluster is started again"
    ),
    "upstream-kill": Fault(Sort(False, 4), _kill_upstream, "a server is killed and started again"),
    "upstream-freeze": Fault(Sort(False, 5), _freeze_upstream, "a server stands still"),
    "upstream-cut": Fault(Sort(False, 1), _cut_upstream, "connections to a server are reset"),
    "upstream-refuse": Fault(Sort(False, 4), _refuse_upstream, "a server's address refuses connections"),
    "client-cut": Fault(
        Sort(False, 2),
        _cut_clients,
        "connections of clients to intake, results or both are reset, up to four times in a row",
    ),
    "producer-kill": Fault(Sort(False, 1, True), _kill_producer, "a producer is killed; another one begins"),
    "producer-freeze": Fault(
        Sort(False, 9, True), _freeze_producer(3.0, 8.0), "a producer stands still for 3 to 8 s"
    ),
    "producer-freeze-long": Fault(
        Sort(False, 73, True),
        _freeze_producer(70.0, 70.0),
        "a producer stands still for 70 s: longer than its session is remembered",
    ),
}
