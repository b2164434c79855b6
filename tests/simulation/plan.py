"""What a seed asks for: who is there, what they ask, and what goes wrong, all drawn before the run begins.

A plan is data, so it can be shrunk: :mod:`.shrink` takes things out of it and looks if the run still fails.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection
from enum import Enum
from typing import NamedTuple

from reqpool_contract.wire import Verb

from .limits import Limit, draw_limits
from .upstream import Attempt, Manner


class Fault(Enum):
    """What can go wrong, or is done on purpose."""

    KILL_CLIENT = "kill client"
    FREEZE_CLIENT = "freeze client"
    LEAVE_CLIENT = "client leaves"
    CUT_INTAKE = "cut client's intake connection"
    CUT_RESULTS = "cut client's results connection"
    STALL_CLIENT = "stall client's connections"
    KILL_BROKER = "kill broker"
    FREEZE_BROKER = "freeze broker"
    STOP_BROKER = "stop broker"
    KILL_WORKER = "kill worker"
    FREEZE_WORKER = "freeze worker"
    DRAIN_WORKER = "drain worker"
    CUT_WORKER = "cut worker's connection"
    STALL_WORKER = "stall worker's connection"
    RESTART_CLUSTER = "replace all processes, one after the other"
    STOP_CLUSTER = "stop the cluster"
    KILL_SUPERVISOR = "kill supervisor"
    FREEZE_SUPERVISOR = "freeze supervisor"
    BREAK_UPSTREAM = "upstream closes all connections"
    DOWN_UPSTREAM = "upstream refuses connections"


PLANNED = {Fault.STOP_BROKER, Fault.DRAIN_WORKER, Fault.RESTART_CLUSTER, Fault.STOP_CLUSTER}
"""What is done on purpose, and costs nobody an error."""

WEIGHTS = {
    Fault.KILL_CLIENT: 1,
    Fault.FREEZE_CLIENT: 8,
    Fault.LEAVE_CLIENT: 1,
    Fault.CUT_INTAKE: 4,
    Fault.CUT_RESULTS: 4,
    Fault.STALL_CLIENT: 3,
    Fault.KILL_BROKER: 8,
    Fault.FREEZE_BROKER: 3,
    Fault.STOP_BROKER: 4,
    Fault.KILL_WORKER: 6,
    Fault.FREEZE_WORKER: 4,
    Fault.DRAIN_WORKER: 5,
    Fault.CUT_WORKER: 4,
    Fault.STALL_WORKER: 3,
    Fault.RESTART_CLUSTER: 3,
    Fault.STOP_CLUSTER: 1,
    Fault.KILL_SUPERVISOR: 1,
    Fault.FREEZE_SUPERVISOR: 1,
    Fault.BREAK_UPSTREAM: 1,
    Fault.DOWN_UPSTREAM: 1,
}

MOMENTS = {
    "client": (Verb.WELCOME, Verb.OPEN, Verb.SUBMIT, Verb.RESULTS, Verb.GOODBYE),
    "worker": (Verb.HELLO, Verb.WELCOME, Verb.LEASE, Verb.RESULTS, Verb.RETURN, Verb.DRAIN),
    "broker": (Verb.HELLO, Verb.WELCOME, Verb.SUBMIT, Verb.LEASE, Verb.RESULTS, Verb.DRAIN, Verb.DEAD),
}
"""Messages after which something going wrong is worth a try, by whom it hits."""


class Strike(NamedTuple):
    """One fault.

    Attributes:
        at_s: when, from the begin of the run.
        fault: what.
        whom: picks one of those whom it may hit, modulo their number.
        span_s: how long it lasts, for those that last.
        after: if not 0: from ``at_s`` on wait for a message with this verb, and strike whoever it concerns...
        delay_s: ...so long after its arrival.
    """

    at_s: float
    fault: Fault
    whom: int
    span_s: float
    after: int = 0
    delay_s: float = 0.0


class Ask(NamedTuple):
    """One request.

    Attributes:
        number: of all in the plan.
        at_s: when, from the begin of the run.
        client: whose.
        upstream: index of it.
        once: it must not be repeated.
        timeout_s: of the request.
        cancel_s: when it is cancelled, counted from its submission; None: never.
        steps: how many further requests follow it on a connection that is held for them; None: none is held.
        attempts: what its upstream does with each attempt; the last counts for all further ones.
    """

    number: int
    at_s: float
    client: int
    upstream: int
    once: bool
    timeout_s: float
    cancel_s: float | None
    steps: int | None
    attempts: tuple[Attempt, ...]


class Host(NamedTuple):
    """An upstream: see :class:`.upstream.Upstream`."""

    origin: str
    kind: str
    most: int
    depth: int


class Plan(NamedTuple):
    """A whole run.

    Attributes:
        seed: what it was drawn from; also of everything that chance decides in the run.
        calm: nothing unplanned goes wrong, so every request ends well.
        span_s: how long requests are asked and faults strike.
        clients: how many client processes there are at the begin.
        workers: how many workers the supervisor keeps.
        slow: part of the messages that are slow.
        slow_s: how slow.
        most_queued: high-water mark of all pipes.
        hosts: the upstreams.
        asks: the requests, in order of time.
        strikes: the faults, in order of time.
        limits: those that are small; the others are as documented.
    """

    seed: int
    calm: bool
    span_s: float
    clients: int
    workers: int
    slow: float
    slow_s: float
    most_queued: int
    hosts: tuple[Host, ...]
    asks: tuple[Ask, ...]
    strikes: tuple[Strike, ...]
    limits: tuple[Limit, ...]


def _log_uniform(draw: random.Random, low: float, high: float) -> float:
    return math.exp(draw.uniform(math.log(low), math.log(high)))


def draw_plan(
    seed: int, *, calm: bool | None = None, only: Collection[Fault] = (), small: bool | None = None
) -> Plan:
    """Draw the plan of a seed.

    Args:
        seed: any integer.
        calm: see :class:`Plan`; None: the seed decides.
        only: the faults to choose from; none: all.
        small: some limits are; None: the seed decides.
    """
    draw = random.Random(f"{seed}/plan")
    calm_drawn = draw.random() < 0.1
    calm = calm_drawn and not only if calm is None else calm
    # Long enough now and then for a session to expire.
    span_s = draw.uniform(90.0, 140.0) if draw.random() < 0.15 else draw.uniform(10.0, 40.0)
    clients = draw.randint(1, 3)
    workers = draw.randint(1, 3)
    hosts = (
        Host("sim://10.0.0.1:1", "sim-stream", draw.randint(1, 4), draw.choice((1, 1, 4))),
        Host("sim://10.0.0.2:2", "sim-datagram", draw.randint(4, 16), 0),
    )
    asks = _asks(draw, span_s, clients, len(hosts), calm=calm)
    moments = [ask.at_s for ask in asks]
    # From a source of its own: all else in a plan is the same with small limits as without.
    draw_small = random.Random(f"{seed}/limits")
    small_drawn = draw_small.random() < 0.4
    small = small_drawn if small is None else small
    return Plan(
        seed=seed,
        calm=calm,
        span_s=span_s,
        clients=clients,
        workers=workers,
        slow=draw.choice((0.0, 0.02, 0.1)),
        slow_s=_log_uniform(draw, 0.002, 0.2 if calm else 1.0),
        most_queued=draw.choice((16, 64, 256)) if not calm else 1000,
        hosts=hosts,
        asks=asks,
        strikes=_strikes(draw, moments, only or (PLANNED if calm else WEIGHTS)),
        limits=draw_limits(draw_small, refusing=not calm) if small else (),
    )


def _asks(draw: random.Random, span_s: float, clients: int, hosts: int, *, calm: bool) -> tuple[Ask, ...]:
    moments: list[float] = []
    for _ in range(draw.randint(3, 30)):
        begin_s = draw.uniform(0.5, span_s)
        burst = draw.choice((1, 1, 2, 5, 20))
        moments += [begin_s + draw.random() * 0.2 for _ in range(burst)]
    once_share = draw.choice((0.3, 0.7, 1.0))
    long_share = draw.choice((0.0, 0.3, 0.9))
    held_share = draw.choice((0.0, 0.0, 0.3))
    asks = []
    for number, at_s in enumerate(sorted(moments)):
        held = not calm and draw.random() < held_share
        asks.append(
            Ask(
                number,
                at_s,
                client=draw.randrange(clients),
                upstream=0 if held else draw.randrange(hosts),
                once=held or draw.random() < once_share,
                timeout_s=120.0 if calm else _log_uniform(draw, 0.3, 120.0),
                cancel_s=None if calm or draw.random() < 0.95 else _log_uniform(draw, 0.001, 10.0),
                steps=draw.randint(0, 4) if held else None,
                attempts=tuple(_attempt(draw, long_share, calm=calm) for _ in range(draw.choice((1, 1, 2)))),
            )
        )
    return tuple(asks)


def _attempt(draw: random.Random, long_share: float, *, calm: bool) -> Attempt:
    long = draw.random() < long_share
    span_s = _log_uniform(draw, 0.05, 2.0 if calm else 20.0) if long else _log_uniform(draw, 0.0005, 0.05)
    if calm or draw.random() < 0.9:
        return Attempt(Manner.ANSWER, span_s)
    return Attempt(draw.choice((Manner.BREAK, Manner.BREAK_DONE, Manner.SILENT)), span_s)


def concerned(fault: Fault) -> str:
    """Whom a fault hits: ``client``, ``worker`` or another; also of those that hit a connection."""
    whom = fault.name.lower().split("_")[1]
    return "client" if whom in ("intake", "results") else whom


def _strikes(draw: random.Random, moments: list[float], only: Collection[Fault]) -> tuple[Strike, ...]:
    kinds = [fault for fault in WEIGHTS if fault in only]
    # Few kinds of fault, often: what they do together is found sooner than in a mixture of all.
    if draw.random() < 0.8:
        few = draw.randint(2, 4)
        kinds = sorted(kinds, key=lambda fault: draw.random() ** (1 / WEIGHTS[fault]), reverse=True)[:few]
    weights = [WEIGHTS[fault] for fault in kinds]
    watchful = draw.choice((0.0, 0.2, 0.5))
    strikes = []
    for _ in range(draw.randint(1, 4)):
        # Where something is under way.
        at_s = draw.choice(moments) + _log_uniform(draw, 0.001, 3.0)
        gap_s = _log_uniform(draw, 0.001, 10.0)
        for _ in range(draw.randint(1, 7)):
            fault = draw.choices(kinds, weights)[0]
            lasts_s = _log_uniform(draw, 0.01, 20.0)
            if fault is Fault.FREEZE_CLIENT and draw.random() < 0.2:
                lasts_s = draw.uniform(40.0, 90.0)
            strike = Strike(at_s, fault, draw.randrange(6), lasts_s)
            if draw.random() < watchful:
                verb = draw.choice(MOMENTS.get(concerned(fault), MOMENTS["broker"]))
                strike = strike._replace(after=int(verb), delay_s=_log_uniform(draw, 0.00001, 0.01))
            strikes.append(strike)
            at_s += draw.random() * gap_s
    return tuple(sorted(strikes, key=lambda strike: strike.at_s))
