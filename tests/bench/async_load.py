"""The asynchronous peers: coroutines in one process keep a window of requests in flight.

Each is used as its documentation shows it, with what its users turn on for speed: uvloop, its C parts, a
pool of connections. :mod:`bench.tally` has the lines spoken.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable

import uvloop

from . import asked
from .async_clients import CLIENTS
from .tally import Tally, ready


async def _load(options: argparse.Namespace, subject: asked.Subject, tally: Tally) -> None:
    client = CLIENTS[options.client](options.server, subject, options.connections or options.window)
    await client.open()
    client.look(subject.targets[0], await client.ask(subject.targets[0]))
    failures: tuple[type[BaseException], ...] = (*client.errors, asked.WrongAnswer)
    tally.open(ready())

    async def ask_on() -> None:
        while (target := tally.next()) is not None:
            try:
                answer = await client.ask(target)
                if options.look:
                    client.look(target, answer)
                tally.done += 1
            except failures as error:
                tally.failed(error)

    async def ask_on_timed() -> None:
        while (target := tally.next()) is not None:
            began_s = time.perf_counter()
            try:
                answer = await client.ask(target)
                if options.look:
                    client.look(target, answer)
                tally.done += 1
            except failures as error:
                tally.failed(error)
            tally.latencies_s.append(time.perf_counter() - began_s)

    one = ask_on_timed if options.window == 1 else ask_on
    await asyncio.gather(*(one() for _ in range(options.window)))
    await client.close()


def main() -> None:
    """Run the load."""
    parser = argparse.ArgumentParser()
    parser.add_argument("client", choices=list(CLIENTS))
    parser.add_argument("--subject", choices=asked.NAMES, required=True)
    parser.add_argument("--server", required=True, help="host:port for dns, else the upstream's URL")
    parser.add_argument("--window", type=int, required=True)
    parser.add_argument(
        "--connections", type=int, help="of the client's pool; default: as many as the window"
    )
    parser.add_argument("--share", type=float, default=0.0, help="of the targets, to begin with")
    parser.add_argument("--look", action="store_true")
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop")
    options = parser.parse_args()
    subject = asked.find(options.subject, options.server)
    tally = Tally(subject.targets, options.share)
    factory: Callable[[], asyncio.AbstractEventLoop]
    factory = uvloop.new_event_loop if options.loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_load(options, subject, tally))
    tally.report()


if __name__ == "__main__":
    main()
