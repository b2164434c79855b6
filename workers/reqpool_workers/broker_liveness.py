"""The state of the worker's connection to the broker, and when to dial again. Sans-IO.

docs/protocol.md#workers is the specification.
"""

from __future__ import annotations

from enum import Enum

from reqpool_contract.backoff import backoff_s
from reqpool_contract.errors import ProtocolError
from reqpool_contract.freshness import HeartbeatLog
from reqpool_contract.wire import HEARTBEAT_MS, LIVENESS_MS


class LivenessState(Enum):
    """States of the connection."""

    DOWN = "down"
    """There is no socket; the next is dialled at ``dial_s``."""
    GREETING = "greeting"
    """HELLO has been sent."""
    LIVE = "live"
    """WELCOME has arrived."""


FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0


class BrokerLiveness(HeartbeatLog):
    """Liveness of the broker, over one connection after the other.

    Args:
        now_s: monotonic seconds.

    Attributes:
        last_epoch: the epoch of the last WELCOME, None before the first.
        seen: number of the broker's last heartbeat.
        dial_s: when to dial, while there is no socket.
        heartbeat_s: span between two heartbeats.
    """

    __slots__ = ("_losses", "dial_s", "heartbeat_s", "last_epoch", "seen", "state")

    def __init__(self, now_s: float) -> None:
        super().__init__(LIVENESS_MS / 1000, now_s)
        self.state = LivenessState.DOWN
        self.last_epoch: int | None = None
        self.seen = 0
        self.dial_s = now_s
        self.heartbeat_s = HEARTBEAT_MS / 1000
        self._losses = 0

    def greeted(self, now_s: float) -> None:
        """Note that HELLO has been sent over a new socket. The spans are the default ones until WELCOME."""
        self.begin(None, LIVENESS_MS / 1000, now_s)
        self.heartbeat_s = HEARTBEAT_MS / 1000
        self.state = LivenessState.GREETING
        self.seen = 0

    def welcomed(self, epoch: int, heartbeat_ms: int, liveness_ms: int, now_s: float) -> None:
        """Take a WELCOME.

        Raises:
            ProtocolError: if a span is 0, which neither side could keep.
        """
        if not heartbeat_ms or not liveness_ms:
            raise ProtocolError("WELCOME with a heartbeat or liveness of 0")
        self.begin(epoch, liveness_ms / 1000, now_s)
        self.heartbeat_s = heartbeat_ms / 1000
        self.state = LivenessState.LIVE
        self.last_epoch = epoch

    def lost(self, now_s: float) -> None:
        """Note that the socket is closed. Each ``dial_s`` is later than the one before, until a heartbeat."""
        self.state = LivenessState.DOWN
        self.epoch = None
        pause_s = backoff_s(self._losses - 1, FIRST_PAUSE_S, LONGEST_PAUSE_S) if self._losses else 0.0
        self.dial_s = now_s + pause_s
        self._losses += 1

    def heartbeat(self, number: int) -> None:
        """Take a fresh heartbeat of the broker."""
        self.seen = max(self.seen, number)
        self._losses = 0

    def silent(self, now_s: float) -> bool:
        """Return whether nothing fresh has been heard for the liveness span."""
        return self.state is not LivenessState.DOWN and now_s - self.heard_s > self.liveness_s
