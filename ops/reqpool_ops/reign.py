"""Which workers are alive, and how many ended with something in doubt: what a supervisor tells its brokers.

Uses no process, socket or clock. A worker that has ended is only counted: a new broker compares counts
(docs/protocol.md#watermarks), so the ids of ended workers are not needed.

What must hold, whatever dies and in whatever order:

* A worker is announced before its process exists, and reported dead only when it has certainly ended. So no
  worker ever runs that the broker takes for a stranger, and none is reported dead that may still act.
* A broker learns everything once: earlier events from its line, later ones as news.
* An end counts unless it was in order. So a client's watermark of `n` deaths covers all ends up to the
  n-th, and an end that leaves something in doubt is never concealed by one that does not.
"""

from __future__ import annotations

import json

from reqpool_contract import wire
from reqpool_contract.wire import Verb


class Reign:
    """One supervisor's time over its workers and brokers.

    Args:
        id_: 8 random bytes; deaths counted in one reign mean nothing in another.

    Attributes:
        deaths: how many ends of workers have left something in doubt so far.
    """

    def __init__(self, id_: bytes) -> None:
        self.id = id_
        self.deaths = 0
        # By worker id: whether a broker may have leased it anything.
        self._living: dict[bytes, bool] = {}
        self._has_broker = False
        self._news: list[bytes] = []
        self._stopping = False

    def worker_starts(self, worker: bytes) -> None:
        """Note that a worker's process is about to be started. The news should be sent before it is."""
        self._living[worker] = self._has_broker
        if self._has_broker:
            self._news.append(wire.encode(Verb.STARTED, worker))

    def worker_ended(self, worker: bytes, *, orderly: bool) -> None:
        """Note that a worker's process has certainly ended, or could not be started.

        Args:
            worker: its id.
            orderly: whether it left nothing in doubt.
        """
        # A worker that never lived at the same time as a broker cannot have run anything, however it ended.
        orderly |= not self._living.pop(worker)
        self.deaths += not orderly
        if self._has_broker:
            self._news.append(wire.encode(Verb.DEAD, worker, self.deaths, orderly))

    def stops(self) -> None:
        """Note that all workers are about to be told to leave, and that no others follow."""
        self._stopping = True
        if self._has_broker:
            self._news.append(wire.encode(Verb.STOPPING))

    def broker_starts(self) -> bytes:
        """Return the line for the standard input of a broker that may bind now.

        The previous broker has ended. Workers that were started after that have nothing to report, and the
        new broker does not wait for them: they are announced as news.
        """
        reporting = [worker.hex() for worker, may_hold in self._living.items() if may_hold]
        self._news = [
            wire.encode(Verb.STARTED, worker) for worker, may_hold in self._living.items() if not may_hold
        ]
        if self._stopping:
            self._news.append(wire.encode(Verb.STOPPING))
        self._living = dict.fromkeys(self._living, True)
        self._has_broker = True
        line = {"reign": self.id.hex(), "deaths": self.deaths, "workers": reporting}
        return json.dumps(line).encode() + b"\n"

    def broker_ended(self) -> None:
        """Note that the broker's process has certainly ended. Its successor's line covers all news."""
        self._has_broker = False
        self._news = []

    def take_news(self) -> list[bytes]:
        """Return the messages for the present broker's workers socket that have not been taken yet."""
        news, self._news = self._news, []
        return news
