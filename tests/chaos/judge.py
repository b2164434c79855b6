"""The judge: holds what producers wrote down against what upstreams counted and what was done.

Knows no process and no clock: its tests feed it made-up journals. How it decides:

* *lost*: never ended, though its producer was not killed and waited past every timeout.
* *ended twice*: its callback was called more than once.
* *executed twice*: the upstream counted a request that must not be repeated more than once.
* *lie of sent*: it ended with ``sent=False`` and the upstream counted it. So did a transaction that was
  applied though its COMMIT was never asked for, or not sent.
* *unknown without cause*: OutcomeUnknown, and from its submission to its end no kill, freeze or cut that
  could concern its producer was going on. A kill or cut goes on for :data:`NOTICED_S`, a freeze until that
  long after waking. A fault of another producer is no cause, and a planned fault is none either.
* *answer of another*: the answer does not belong to the question. Not counted (the outcome is, as ``wrong``)
  is a datagram that was owed to another request while a fault ended a worker: the kernel then frees the
  worker's ports, and UDP has nothing else to tell answers apart (docs/kinds.md).
* *answered, not executed once*: what must not be repeated has a good answer, and its count is not 1.
* *partly applied*: of a transaction (MySQL) or MULTI (Redis) some parts are there more often than others.
* *errors*: whatever else ended with an error, and from its submission to its end nothing unplanned was going
  on, and the cluster had been whole for :data:`AFTERMATH_S`. Beside a planned fault if one was going on, in
  calm otherwise. RequestTimeout and Overloaded count from a timeout of :data:`ORDINARY_S` on: a shorter one
  need not survive a second without service, or the upstream's own delay on a busy machine.
"""

from __future__ import annotations

import ast
import bisect
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .journal import GOOD, WRONG, End, Request
from .upstreams import Executions
from .work import ONCE, STREAMS, TRANSACTION

NOTICED_S = 0.5
"""How long the loss of a process or a connection may take to be noticed on a busy machine."""
AFTERMATH_S = 5.0
ORDINARY_S = 5.0
EXAMPLES = 10

LOST = "lost"
ENDED_TWICE = "ended twice"
EXECUTED_TWICE = "executed twice"
LIES = "lies of `sent`"
CAUSELESS = "unknown without cause"
WRONG_ANSWERS = "answer of another request"
NOT_ONCE = "answered, not executed once"
PARTLY = "transaction partly applied"
ERRORS_PLANNED = "errors beside planned faults"
ERRORS_CALM = "errors in calm"
UDP = frozenset({stream.name for stream in STREAMS if stream.kind == "udp"})
"""Streams whose answers are told apart by the port alone."""
ENDS_WORKERS = frozenset(
    {
        "worker-drain", "restart", "rolling", "scale-down", "worker-kill", "worker-freeze-hung", "both-kill",
        "broker-loop", "supervisor-kill",
    }
)  # fmt: skip
"""Faults that do; a worker that is frozen for less than 7.5 s mostly lives on."""
ZEROS = (
    LOST, ENDED_TWICE, EXECUTED_TWICE, LIES, CAUSELESS, WRONG_ANSWERS, NOT_ONCE, PARTLY, ERRORS_PLANNED,
    ERRORS_CALM,
)  # fmt: skip
"""What has to be zero."""


@dataclass(frozen=True, slots=True)
class Happened:
    """A fault that was done.

    Attributes:
        fault: its name.
        planned: an operator does so on an ordinary day: it must cost nobody an error.
        start_s: when it began, monotonic.
        end_s: when it was over: a frozen process woken, a stopped one back.
        back_s: when the cluster was whole again, or that was given up.
        producer: the one it was done to; None: it concerns everybody.
        note: what was hit, for people.
    """

    fault: str
    planned: bool
    start_s: float
    end_s: float
    back_s: float
    producer: str | None = None
    note: str = ""


class Windows:
    """Spans of time, to ask whether one of them overlaps another span."""

    def __init__(self, spans: Iterable[tuple[float, float]]) -> None:
        self._starts: list[float] = []
        self._ends: list[float] = []
        for start_s, end_s in sorted(spans):
            if self._ends and start_s <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], end_s)
            else:
                self._starts.append(start_s)
                self._ends.append(end_s)

    def overlap(self, start_s: float, end_s: float) -> bool:
        """Is there one that has an instant in common with this span?"""
        at = bisect.bisect_right(self._starts, end_s) - 1
        return at >= 0 and self._ends[at] >= start_s


@dataclass
class Producer:
    """One producer's journal.

    Attributes:
        name: as the faults name it.
        requests: what it asked.
        killed: it was, so nobody waits for its ends.
    """

    name: str
    requests: Sequence[Request]
    killed: bool = False


@dataclass
class Verdict:
    """What the judge found.

    Attributes:
        requests: asked in all, without transactions, whose statements are counted.
        outcomes: how many ended how.
        found: how many of each of :data:`ZEROS`.
        evidence: the first examples of each.
    """

    requests: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    found: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ZEROS, 0))
    evidence: dict[str, list[str]] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Are all zeros zero?"""
        return not any(self.found.values())

    def note(self, what: str, text: str) -> None:
        """Note one finding."""
        self.found[what] += 1
        examples = self.evidence.setdefault(what, [])
        if len(examples) < EXAMPLES:
            examples.append(text)


def judge(
    producers: Iterable[Producer], executions: Executions, faults: Sequence[Happened], begin_s: float = 0.0
) -> Verdict:
    """Judge a run.

    Args:
        producers: their journals; read one after the other.
        executions: what ran upstream, counted after everything had ended.
        faults: what was done.
        begin_s: the instant that evidence counts from.
    """
    verdict = Verdict()
    owed_s: dict[str, float] = {}
    wrong: list[tuple[_OneProducer, Request]] = []
    for producer in producers:
        one = _OneProducer(verdict, producer, executions, faults, begin_s)
        one.judge()
        for request in producer.requests:
            if request.ends and request.ends[0].outcome == WRONG:
                wrong.append((one, request))
            elif request.stream in UDP and not (request.stream in ONCE and _is_good(request)):
                owed_s[request.number] = request.at_s  # what may be repeated may have asked twice
    ended = Windows((fault.start_s, fault.end_s) for fault in faults if fault.fault in ENDS_WORKERS)
    for one, request in wrong:
        asked_s = owed_s.get(_number_in(request.ends[0])) if request.stream in UDP else None
        if asked_s is None or not ended.overlap(asked_s, request.ends[0].at_s):
            one.note(WRONG_ANSWERS, request)
    return verdict


def _is_good(request: Request) -> bool:
    return any(end.outcome == GOOD for end in request.ends)


def _number_in(answer: End) -> str:
    """Return the number that a wrong datagram names; empty if it names none."""
    try:
        return bytes(ast.literal_eval(answer.text)).decode()
    except (ValueError, SyntaxError, TypeError):
        return ""


class _OneProducer:
    def __init__(
        self,
        verdict: Verdict,
        producer: Producer,
        executions: Executions,
        faults: Sequence[Happened],
        begin_s: float,
    ) -> None:
        self._verdict = verdict
        self._producer = producer
        self._counts: Mapping[str, int] = executions.counts
        self._partial = executions.partial
        self._begin_s = begin_s
        self._faults = [fault for fault in faults if fault.producer in (None, producer.name)]
        unplanned = [fault for fault in self._faults if not fault.planned]
        self._causes = Windows((fault.start_s, fault.end_s + NOTICED_S) for fault in unplanned)
        self._troubled = Windows((fault.start_s, fault.back_s + AFTERMATH_S) for fault in unplanned)
        self._planned = Windows((fault.start_s, fault.end_s) for fault in self._faults if fault.planned)

    def judge(self) -> None:
        for request in self._producer.requests:
            self._verdict.requests += request.stream != TRANSACTION
            self._judge_ends(request)
            if request.stream in ONCE:
                self._judge_executions(request)

    def _judge_ends(self, request: Request) -> None:
        if len(request.ends) > 1:
            self.note(ENDED_TWICE, request)
        if request.ends:
            end = request.ends[0]
            self._verdict.outcomes[end.outcome] += request.stream != TRANSACTION
            # Of a transaction the statements are judged.
            if end.outcome not in (GOOD, WRONG) and request.stream != TRANSACTION:
                self._judge_error(request, end)
        elif not self._producer.killed:
            self.note(LOST, request)

    def _judge_error(self, request: Request, end: End) -> None:
        life = request.at_s, end.at_s
        if end.outcome == "OutcomeUnknown" and not self._causes.overlap(*life):
            self.note(CAUSELESS, request)
        if end.outcome in ("RequestTimeout", "Overloaded") and request.timeout_s < ORDINARY_S:
            return
        if not self._troubled.overlap(*life):
            self.note(ERRORS_PLANNED if self._planned.overlap(*life) else ERRORS_CALM, request)

    def _judge_executions(self, request: Request) -> None:
        count = self._counts.get(request.number, 0)
        if count > 1:
            self.note(EXECUTED_TWICE, request)
        if request.number in self._partial:
            self.note(PARTLY, request)
        if _is_good(request) and count != 1:
            self.note(NOT_ONCE, request)
        if count and any(end.outcome not in (GOOD, WRONG) and end.sent is False for end in request.ends):
            self.note(LIES, request)

    def note(self, what: str, request: Request) -> None:
        """Note one finding."""
        end = request.ends[-1] if request.ends else End(math.inf, "not ended")
        told = f"{end.outcome} at {end.at_s - self._begin_s:.2f} s" if request.ends else end.outcome
        near = [
            f"{fault.fault}@{fault.start_s - self._begin_s:.1f}-{fault.end_s - self._begin_s:.1f}"
            for fault in self._faults
            if fault.start_s <= end.at_s and fault.end_s >= request.at_s - AFTERMATH_S
        ]
        self._verdict.note(
            what,
            f"{request.number} ({request.stream}, pool {request.pool}, timeout {request.timeout_s:g} s) "
            f"asked at {request.at_s - self._begin_s:.2f} s: {told}, sent={end.sent}, phase={end.phase}, "
            f"{self._counts.get(request.number, 0)} executions; near: {' '.join(near[-8:]) or 'nothing'}; "
            f"{end.text}",
        )
