"""What an epoch must hear before it runs again what an earlier one may have run.

No I/O, no clock. A request that must not be repeated, is submitted again, and is not known here, is with a
worker of the earlier epoch that has not reported yet, or was with one whose death left its outcome in doubt,
or was never given to anybody. Which it is follows from a count: the supervisor numbers the deaths of workers,
and the *watermark* of a request means that no worker whose death has a number up to it had the request. So
nobody keeps lists of the dead: docs/reliability.md#watermarks has the argument.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from reqpool_contract import checks
from reqpool_contract.errors import ProtocolError

REIGN_BYTES = 8


class LiveWorkers(NamedTuple):
    """What a supervisor knows when it starts a broker.

    Attributes:
        workers: ids of the workers that are alive.
        reign: 8 random bytes of its own, as counts of different supervisors cannot be compared.
        deaths: how many workers have died so far and left something in doubt.
    """

    workers: frozenset[bytes]
    reign: bytes
    deaths: int

    @classmethod
    def read(cls, line: str | bytes) -> LiveWorkers:
        """Read the line that the supervisor writes to the broker's standard input: JSON, ids in hexadecimal.

        Raises:
            ProtocolError: if it is not one.
        """
        try:
            about = checks.fields(json.loads(line))
            reign = bytes.fromhex(about["reign"])
            workers = frozenset(checks.identity(bytes.fromhex(id_)) for id_ in about["workers"])
            deaths = checks.uint(about["deaths"])
        except (ValueError, TypeError, KeyError) as error:
            raise ProtocolError(f"not a supervisor's line: {error!r}") from error
        if len(reign) != REIGN_BYTES:
            raise ProtocolError(f"a reign of {len(reign)} bytes, expected {REIGN_BYTES}")
        return cls(workers, reign, deaths)


class Recovery:
    """The workers of earlier epochs, and the deaths of all workers.

    Args:
        workers: ids of those that were alive when the broker was started; None: nobody knows.
        reign: of the supervisor, or of this broker alone: then no watermark of an earlier epoch compares.
        deaths: the supervisor's count when the broker was started.

    Attributes:
        supervised: a supervisor reports which workers start and die.
        unheard: workers of the earlier epoch that have neither reported nor died.
        died_unheard: number of the last death of a worker that never reported here; nothing is known of
            what it had.
    """

    def __init__(self, workers: frozenset[bytes] | None, reign: bytes, deaths: int) -> None:
        self.supervised = workers is not None
        self._reign = reign
        self._deaths = self.died_unheard = deaths
        self.unheard = set(workers or ())
        self._started = set(self.unheard)
        self._reported: set[bytes] = set()

    @property
    def watermark(self) -> bytes:
        """That of requests sent from now on: none of the workers whose deaths are known had them."""
        return self._reign + self._deaths.to_bytes(checks.WATERMARK_BYTES - REIGN_BYTES, "big")

    def start(self, worker: bytes) -> None:
        """Note that the supervisor is about to start a worker."""
        self._started.add(worker)

    def is_stranger(self, worker: bytes) -> bool:
        """Tell whether no supervisor would report this worker's death, though there is one."""
        return self.supervised and worker not in self._started

    def report(self, worker: bytes) -> bool:
        """Note that a worker has reported what it has; returns True if it is the first time."""
        first = worker not in self._reported
        self.unheard.discard(worker)
        self._reported.add(worker)
        return first

    def die(self, worker: bytes, deaths: int, *, orderly: bool) -> None:
        """Note that a worker has ended.

        Args:
            worker: its id.
            deaths: the supervisor's count, this one included unless it is orderly; 0 if it does not count.
            orderly: it left nothing in doubt.
        """
        number = max(self._deaths, deaths or self._deaths + (not orderly))
        # One that was started in this epoch and never reported has been leased nothing.
        heard = worker in self._reported or worker in self._started - self.unheard
        if number > self._deaths and not heard:
            self.died_unheard = number
        self._deaths = number
        for known in (self.unheard, self._reported, self._started):
            known.discard(worker)

    def forget(self, worker: bytes) -> None:
        """Note that a worker has gone whose death nobody would report."""
        if not self.supervised:
            self._reported.discard(worker)

    def in_doubt(self, watermark: bytes) -> bool:
        """Tell whether a worker may have sent requests upstream that are resubmitted and not known here."""
        return (
            bool(self.unheard)
            or watermark[:REIGN_BYTES] != self._reign
            or int.from_bytes(watermark[REIGN_BYTES:], "big") < self.died_unheard
        )
