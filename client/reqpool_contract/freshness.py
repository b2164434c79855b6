"""Whether a message of a peer is fresh: sent not long ago, in this epoch. No clock.

Spans say nothing of the time a message spent in a pipe, so each carries the number of the last heartbeat of
ours that its sender had seen, and we know when we sent that one. docs/protocol.md#workers is the
specification; broker and workers decide by the same code.
"""

from __future__ import annotations

from collections import deque


class HeartbeatLog:
    """Our heartbeats to one peer over one connection after the other, and what it has seen of them.

    Attributes:
        epoch: the epoch that messages must be of; None: no connection, so none is fresh.
        liveness_s: how long after a heartbeat a message is fresh whose sender has seen no later one.
        number: of our last heartbeat; counts from 1 with each connection.
        answered: number of our last heartbeat that the peer has seen.
        since_s: when the connection began, monotonic.
        heard_s: when the last fresh message came, or the connection began, monotonic.
        sent: numbers and instants of our heartbeats of the last :attr:`liveness_s`.
    """

    __slots__ = ("answered", "epoch", "heard_s", "liveness_s", "number", "sent", "since_s")

    def __init__(self, liveness_s: float, now_s: float) -> None:
        self.epoch: int | None = None
        self.liveness_s = liveness_s
        self.number = self.answered = 0
        self.since_s = self.heard_s = now_s
        self.sent: deque[tuple[int, float]] = deque()

    def begin(self, epoch: int | None, liveness_s: float, now_s: float) -> None:
        """Begin a connection, with heartbeats from 1 again. With ``epoch`` None no message is fresh."""
        self.epoch = epoch
        self.liveness_s = liveness_s
        self.number = self.answered = 0
        self.since_s = self.heard_s = now_s
        self.sent.clear()

    def beat(self, now_s: float) -> int:
        """Return the number of the heartbeat that is being sent, and remember when that was."""
        self.number += 1
        self.sent.append((self.number, now_s))
        oldest_s = now_s - self.liveness_s
        while self.sent[0][1] < oldest_s:
            self.sent.popleft()
        return self.number

    def fresh(self, epoch: int, seen: int, now_s: float) -> bool:
        """Return whether a message is fresh; if so, its sender has been heard.

        Args:
            epoch: the epoch that it names.
            seen: the number of the last heartbeat that its sender had seen; 0: none yet.
            now_s: when it was read.
        """
        if epoch != self.epoch:
            return False
        oldest_s = now_s - self.liveness_s
        if seen:
            for number, sent_s in reversed(self.sent):
                if number == seen:
                    if sent_s < oldest_s:
                        return False
                    break
            else:
                return False
            if seen > self.answered:
                self.answered = seen
        elif self.since_s < oldest_s:
            return False
        self.heard_s = now_s
        return True
