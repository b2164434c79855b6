"""Which workers live, and how many ended with something in doubt: what a supervisor tells its brokers.

No process, socket or clock. Nothing is remembered of a worker that has ended but that it is counted: a new
broker compares counts (docs/protocol.md#watermarks), so nobody needs the ids of the dead.

What must hold, whatever dies and in whatever order:

* A worker is made known before its process exists, and struck off only when it is certain that it has ended.
  So no worker ever runs that the broker takes for a stranger, and none is struck off that may still act.
* A broker learns everything once: what was before its line from the line, what came after it as news.
* An end counts unless it was in order. So a client's watermark of `n` deaths covers all ends up to the
  n-th, and an end that leaves something in doubt is never hidden behind one that does not.
"""

from __future__ import annotations

import json

from reqpool_contract import wire
from reqpool_contract.wire import Verb


class Reign:
    """One supervisor's time over its workers and brokers.

    Args:
        id_: 8 random bytes; deaths counted in one reign say nothing about another.

    Attributes:
        deaths: ends of workers so far that left something in doubt.
    """

    def __init__(self, id_: bytes) -> None:
        self.id = id_
        self.deaths = 0
        # Worker id to: may a broker have leased it anything?
        self._living: dict[bytes, bool] = {}
        self._has_broker = False
        self._news: list[bytes] = []
        self._stopping = False

    def worker_starts(self, worker: bytes) -> None:
        """A worker's process is about to be started. The news of it should leave before."""
        self._living[worker] = self._has_broker
        if self._has_broker:
            self._news.append(wire.encode(Verb.STARTED, worker))

    def worker_ended(self, worker: bytes, *, orderly: bool) -> None:
        """A worker's process has ended for certain, or could not be started.

        Args:
            worker: its id.
            orderly: it left nothing in doubt.
        """
        # One that no broker has ever lived beside cannot have run anything, however it ended.
        orderly |= not self._living.pop(worker)
        self.deaths += not orderly
        if self._has_broker:
            self._news.append(wire.encode(Verb.DEAD, worker, self.deaths, orderly))

    def stops(self) -> None:
        """All workers are about to be told to go, and no others follow."""
        self._stopping = True
        if self._has_broker:
            self._news.append(wire.encode(Verb.STOPPING))

    def broker_starts(self) -> bytes:
        """Return the line for the standard input of a broker that may bind now.

        The one before it has ended. Workers that were started after its end have nothing to report, and the
        new broker does not wait for them: they follow as news.
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
        """The broker's process has ended for certain. What it was not told, its successor's line says."""
        self._has_broker = False
        self._news = []

    def take_news(self) -> list[bytes]:
        """Return the messages for the present broker's workers socket that have not been taken yet."""
        news, self._news = self._news, []
        return news
