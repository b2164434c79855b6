"""What a worker tells its broker at the end of a turn, and which results wait for others. Sans-IO."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from reqpool_contract.wire import Verb

from .draining import Drain, DrainState
from .granted_slots import GrantedSlots
from .reports import WorkerReports
from .retained_results import ResultsMessage, RetainedResults
from .worker_upstreams import Upstreams

if TYPE_CHECKING:
    from .event_loop import Timer

HOLD_BACK_S = 0.002
"""Longest time that results gather while there are requests to go on with."""
MOST_HELD_BACK = 256


class Speaker(Protocol):
    """What sends to the broker; without a connection, what it is given is lost."""

    def say(self, now_s: float, verb: Verb, *values: Any, blobs: list[bytes] | None = None) -> None:
        """Send a message."""

    def beat(self, now_s: float) -> int:
        """Send a heartbeat and return its number."""


class Reporting:
    """Sends what has gathered in a turn.

    Args:
        speaker: sends it.
        reports: what has gathered.
        outbox: retains results.
        grants: whose GRANTs are to be answered.
        drain: while it is under way, nothing is held back.
        upstreams: know which connections are pinned.
        at: has a timer called at an instant.
    """

    def __init__(
        self,
        speaker: Speaker,
        reports: WorkerReports,
        outbox: RetainedResults,
        grants: GrantedSlots,
        drain: Drain,
        upstreams: Upstreams,
        at: Callable[[float, Timer], None],
    ) -> None:
        self._speaker = speaker
        self._reports = reports
        self._outbox = outbox
        self._grants = grants
        self._drain = drain
        self._upstreams = upstreams
        self._at = at
        self._held_until_s = 0.0

    def report(self, now_s: float) -> None:
        """Report a turn's news; the broker is there.

        Results come first, so that nothing can be said to be missing.
        """
        reports, say = self._reports, self._speaker.say
        if reports.dirty and not self._holds_back(now_s):
            message = self._outbox.pack_small(reports.dirty)
            if message is not None:
                reports.clear_results()
                self.send(now_s, message)
            else:
                for message in self._outbox.pack(reports.take_results()):
                    self.send(now_s, message)
        hands_back = bool(reports.returns or reports.failures)
        if reports.returns:
            say(now_s, Verb.RETURN, reports.take_returns())
        if reports.failures:
            say(now_s, Verb.RETRY, reports.take_failures())
        if hands_back and self._drain.state is not DrainState.SERVING:
            self._drain.returned(self._speaker.beat(now_s))
        if reports.unpinned:
            pinned = {pin for pin, _, _ in self._upstreams.pins()}
            for pin in reports.take_unpinned():
                if pin not in pinned:
                    say(now_s, Verb.UNPIN, *pin)
        if self._grants.unanswered:
            for granted in self._grants.answers():
                say(now_s, Verb.GRANTED, *granted)

    def send(self, now_s: float, message: ResultsMessage) -> None:
        """Send RESULTS."""
        groups, blobs = [], []
        for part in message.parts:
            told = part if part.blob else part.verdicts()
            groups.append((told.session, told.seqs, told.failed))
            blobs.append(told.blob)
        self._speaker.say(now_s, Verb.RESULTS, message.number, groups, blobs=blobs)

    def _holds_back(self, now_s: float) -> bool:
        """Return whether results shall gather for a little longer.

        Every message costs, here, at the broker and at the client, more than a small answer does. While the
        connections are kept busy by requests that wait here already, nobody waits for less by being told one
        by one; with nothing waiting, a lone request above all, an answer is told at once.
        """
        at_once = self._drain.state is not DrainState.SERVING or self._grants.unanswered
        if not at_once and self._reports.can_wait(MOST_HELD_BACK):
            if not self._held_until_s:
                self._held_until_s = now_s + HOLD_BACK_S
                self._at(self._held_until_s, _take_a_turn)
            if now_s < self._held_until_s:
                return True
        self._held_until_s = 0.0
        return False


def _take_a_turn(_now_s: float) -> None:
    """A timer's, whose point is that the loop takes a turn."""
