"""Whether a peer's message is fresh: sent recently, and in this epoch. No clock.

Spans do not include the time that a message spent in a pipe, so each message carries the number of the last
heartbeat from this side that its sender had seen, and this side knows when it sent that one. The
specification is docs/protocol.md#workers; broker and workers decide by the same code.
"""

from __future__ import annotations

from collections import deque


class HeartbeatLog:
    """The heartbeats to one peer, over successive connections, and those that it has seen.

    Attributes:
        epoch: the epoch of fresh messages; None: there is no connection, so none is fresh.
        liveness_s: time after a heartbeat for which messages are fresh whose sender has not seen a later one.
        number: number of the last heartbeat; counts from 1 for each connection.
        answered: number of the last heartbeat that the peer has seen.
        since_s: when the connection began, monotonic.
        heard_s: when the last fresh message came, or the connection began, monotonic.
        sent: numbers and times of the heartbeats of the last :attr:`liveness_s`.
    """

    __slots__ = ("answered", "epoch", "heard_s", "liveness_s", "number", "sent", "since_s")

    def __init__(self, liveness_s: float, now_s: float) -> None:
        self.epoch: int | None = None
        self.liveness_s = liveness_s
        self.number = self.answered = 0
        self.since_s = self.heard_s = now_s
        self.sent: deque[tuple[int, float]] = deque()

    def begin(self, epoch: int | None, liveness_s: float, now_s: float) -> None:
        """Begin a connection, with heartbeats from 1 again. If ``epoch`` is None, no message is fresh."""
        self.epoch = epoch
        self.liveness_s = liveness_s
        self.number = self.answered = 0
        self.since_s = self.heard_s = now_s
        self.sent.clear()

    def beat(self, now_s: float) -> int:
        """Return the number of the heartbeat that is being sent, and record the time."""
        self.number += 1
        self.sent.append((self.number, now_s))
        oldest_s = now_s - self.liveness_s
        while self.sent[0][1] < oldest_s:
            self.sent.popleft()
        return self.number

    def fresh(self, epoch: int, seen: int, now_s: float) -> bool:
        """Return whether a message is fresh; if so, its sender has been heard.

        Args:
            epoch: the epoch in the message.
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
