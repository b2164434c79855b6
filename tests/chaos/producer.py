"""A producer: an application with several pools that asks at a steady rate and writes everything down.

    python -m chaos.producer NAME JOURNAL SEED RATE TARGETS URL...

One pool per URL. The end of its standard input tells it to stop asking; it ends when all that it asked has.
"""

from __future__ import annotations

import json
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import reqpool

from .journal import GOOD, WRONG, Journal
from .work import (
    INSERT,
    STATEMENT,
    STREAMS,
    TRANSACTION,
    Asked,
    Stream,
    Targets,
    a_delay_s,
    a_timeout_s,
)

TRANSACTION_PAUSE_S = 0.1
TRANSACTION_TIMEOUT_S = 8.0
BEHIND_S = 0.5
"""One that fell behind by more than this (it was frozen) does not catch up."""


class Producer:
    """Asks, and writes down what becomes of it.

    Args:
        name: unique in the run.
        journal: where to write.
        seed: of all choices.
        targets: see :mod:`.work`; a stream whose upstream is missing is left out.
        urls: of the broker; one pool for each.
    """

    def __init__(self, name: str, journal: Journal, seed: int, targets: Targets, urls: list[str]) -> None:
        self._name = name
        self._journal = journal
        self._random = Random(seed)
        self._targets = targets
        self._streams = [stream for stream in STREAMS if stream.targets in targets]
        self._pools = [reqpool.Pool(url) for url in urls]
        self._numbers = count(1)
        self._stopping = threading.Event()

    def run(self, rate_per_s: float, told_to_stop: Callable[[float], bool]) -> None:
        """Ask until told to stop, then wait until everything has ended."""
        transactions = [
            threading.Thread(target=self._run_transactions, args=(pool, self._random.random()))
            for pool in range(len(self._pools))
            if "mysql" in self._targets
        ]
        for thread in transactions:
            thread.start()
        turns, due_s = self._turns(), time.monotonic()
        while not told_to_stop(max(0.0, due_s - time.monotonic())):
            self._ask(*next(turns))
            due_s += 1 / rate_per_s
            if time.monotonic() - due_s > BEHIND_S:
                due_s = time.monotonic()
        self._stopping.set()
        for thread in transactions:
            thread.join()
        for pool in self._pools:
            pool.close()
        self._journal.close()

    def _turns(self) -> Iterator[tuple[int, Stream]]:
        # Every pool asks every stream once before any is asked again: recovery is measured for each.
        turns = [(pool, stream) for pool in range(len(self._pools)) for stream in self._streams]
        while True:
            self._random.shuffle(turns)
            yield from turns

    def _number(self) -> str:
        return f"{self._name}-{next(self._numbers)}"

    def _ask(self, pool: int, stream: Stream) -> None:
        random, timeout_s = self._random, a_timeout_s(self._random)
        asked = Asked(
            self._number(),
            random.choice(self._targets[stream.targets]),
            a_delay_s(random),
            {"timeout": timeout_s},
        )
        asked.options["callback"] = partial(self._ended, stream, asked)
        self._journal.submit(asked.number, pool, stream.name, timeout_s)
        try:
            stream.ask(self._pools[pool], asked)
        except reqpool.PoolError as error:
            self._failed(asked.number, error)

    def _ended(self, stream: Stream, asked: Asked, future: reqpool.Future[Any]) -> None:
        try:
            answer = future.result()
            right = stream.answers(answer, asked)  # looks into the answer: that may raise, too
        except reqpool.PoolError as error:
            self._failed(asked.number, error)
        else:
            self._journal.end(asked.number, GOOD if right else WRONG, text="" if right else repr(answer))

    def _failed(self, number: str, error: reqpool.PoolError, sent: bool | None = None) -> None:
        told = error.sent if sent is None else sent
        self._journal.end(number, type(error).__name__, told, error.phase, str(error))

    # --- transactions ---------------------------------------------------------------------------

    def _run_transactions(self, pool: int, seed: float) -> None:
        random = Random(seed)
        while not self._stopping.wait(random.uniform(0, 2 * TRANSACTION_PAUSE_S)):
            number = self._number()
            self._journal.submit(number, pool, TRANSACTION, 3 * TRANSACTION_TIMEOUT_S)
            self._run_transaction(random, pool, number)

    def _run_transaction(self, random: Random, pool: int, number: str) -> None:
        session = self._pools[pool].mysql_session(random.choice(self._targets["mysql"]))
        committing = False
        try:
            for part in (1, 2):
                self._state(pool, session, INSERT, (number, part, a_delay_s(random) / 2))
            committing = True
            self._state(pool, session, "COMMIT", None)
        except reqpool.PoolError as error:
            # Until COMMIT is asked nothing can have been applied, whatever became of the statements.
            self._failed(number, error, None if committing else False)
        else:
            self._journal.end(number, GOOD)
        finally:
            session.close()

    def _state(self, pool: int, session: reqpool.MysqlSession, sql: str, params: Any) -> None:
        number = self._number()
        self._journal.submit(number, pool, STATEMENT, TRANSACTION_TIMEOUT_S)
        try:
            future = session.query(
                sql, params, timeout=TRANSACTION_TIMEOUT_S, callback=partial(self._stated, number)
            )
        except reqpool.PoolError as error:
            self._failed(number, error)
            raise
        future.result()

    def _stated(self, number: str, future: reqpool.Future[Any]) -> None:
        try:
            future.result()
        except reqpool.PoolError as error:
            self._failed(number, error)
        else:
            self._journal.end(number, GOOD)


def _told_to_stop(wait_s: float) -> bool:
    return bool(select.select([sys.stdin], [], [], wait_s)[0])


def main() -> None:
    """Run a producer; see the top of this file."""
    name, journal, seed, rate, targets, *urls = sys.argv[1:]
    producer = Producer(name, Journal(Path(journal)), int(seed), json.loads(targets), urls)
    producer.run(float(rate), _told_to_stop)


if __name__ == "__main__":
    main()
