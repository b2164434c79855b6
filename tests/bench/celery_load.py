"""Celery as a contestant: one producer keeps a window of tasks in flight through Redis."""

from __future__ import annotations

import argparse
from collections import deque

from celery.result import AsyncResult

from . import asked
from .celery_app import look_up
from .tally import Tally, ready


def main() -> None:
    """Run the load; see :mod:`bench.tally` for the lines spoken."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True)
    parser.add_argument("--window", type=int, required=True)
    options = parser.parse_args()
    look_up.delay(options.server, "h0.example.test").get(timeout=30)  # the worker is up
    tally = Tally(asked.find("dns").targets)
    in_flight: deque[AsyncResult] = deque()
    tally.open(ready())
    while True:
        name = tally.next()
        if name is not None:
            in_flight.append(look_up.delay(options.server, name))
            if len(in_flight) < options.window:
                continue
        elif not in_flight:
            break
        # The oldest first: results of younger ones that come meanwhile are kept by the consumer.
        try:
            in_flight.popleft().get(timeout=30)
            tally.done += 1
        except Exception as error:  # whatever a task can raise counts as lost here
            tally.failed(error)
    tally.report()


if __name__ == "__main__":
    main()
