"""The worker's side of its conversation with the broker: liveness and staleness. Sans-IO.

docs/protocol.md#workers is the specification. Spans say nothing of the time a message spent in a pipe, so
each carries the number of the last heartbeat its sender had seen from us, and we know when we sent that one.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from reqpool_contract.backoff import backoff_s
from reqpool_contract.errors import ProtocolError
from reqpool_contract.wire import HEARTBEAT_MS, LIVENESS_MS


class LivenessState(Enum):
    """Where the conversation stands."""

    DOWN = "down"
    """No socket; the next is dialled at ``dial_s``."""
    GREETING = "greeting"
    """HELLO is sent."""
    LIVE = "live"
    """WELCOME came."""


FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0


class BrokerLiveness:
    """Epoch, heartbeats and freshness of one conversation after the other.

    Args:
        now_s: monotonic seconds.
    """

    def __init__(self, now_s: float) -> None:
        self.state = LivenessState.DOWN
        self.epoch: int | None = None
        self.seen = 0
        """Number of the last broker heartbeat."""
        self.number = 0
        """Number of our last heartbeat."""
        self.answered = 0
        """Number of our last heartbeat that the broker has seen."""
        self.dial_s = now_s
        self.heartbeat_s = HEARTBEAT_MS / 1000
        self.liveness_s = LIVENESS_MS / 1000
        self._heard_s = now_s
        self.welcomed_s = now_s
        """When the last WELCOME came."""
        self._sent: deque[tuple[int, float]] = deque()
        self._losses = 0

    def greeted(self, now_s: float) -> None:
        """HELLO has been sent over a new socket. The spans are the default ones until WELCOME."""
        self.heartbeat_s = HEARTBEAT_MS / 1000
        self.liveness_s = LIVENESS_MS / 1000
        self.state = LivenessState.GREETING
        self._heard_s = now_s
        self.seen = self.number = self.answered = 0
        self._sent.clear()

    def welcomed(self, epoch: int, heartbeat_ms: int, liveness_ms: int, now_s: float) -> None:
        """WELCOME came.

        Raises:
            ProtocolError: if a span is 0, which no conversation could keep.
        """
        if not heartbeat_ms or not liveness_ms:
            raise ProtocolError("WELCOME with a heartbeat or liveness of 0")
        self.state = LivenessState.LIVE
        self.epoch = epoch
        self.heartbeat_s = heartbeat_ms / 1000
        self.liveness_s = liveness_ms / 1000
        self.welcomed_s = self._heard_s = now_s

    def lost(self, now_s: float) -> None:
        """The socket is closed; ``dial_s`` says when to try again, each time a little later."""
        self.state = LivenessState.DOWN
        pause_s = backoff_s(self._losses - 1, FIRST_PAUSE_S, LONGEST_PAUSE_S) if self._losses else 0.0
        self.dial_s = now_s + pause_s
        self._losses += 1

    def beat(self, now_s: float) -> int:
        """Number the heartbeat that is being sent now."""
        self.number += 1
        self._sent.append((self.number, now_s))
        while self._sent[0][1] < now_s - self.liveness_s:
            self._sent.popleft()
        return self.number

    def heartbeat(self, number: int) -> None:
        """A fresh broker heartbeat came."""
        self.seen = max(self.seen, number)
        self._losses = 0

    def fresh(self, epoch: int, seen: int, now_s: float) -> bool:
        """Is a message, read at ``now_s``, of this life of the broker, and young enough to be believed?"""
        if self.state is not LivenessState.LIVE or epoch != self.epoch:
            return False
        oldest_s = now_s - self.liveness_s
        if seen:
            sent_s = next((sent_s for number, sent_s in reversed(self._sent) if number == seen), None)
            if sent_s is None or sent_s < oldest_s:
                return False
        elif self.welcomed_s < oldest_s:
            return False
        self._heard_s = now_s
        self.answered = max(self.answered, seen)
        return True

    def silent(self, now_s: float) -> bool:
        """Has nothing come for the liveness span?"""
        return self.state is not LivenessState.DOWN and now_s - self._heard_s > self.liveness_s
