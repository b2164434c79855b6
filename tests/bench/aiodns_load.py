"""aiodns as a contestant: coroutines in one process keep a window of look-ups in flight.

``--mode public`` is aiodns 4 as everybody gets it: pycares runs c-ares in a thread of its own and each
answer crosses over by ``call_soon_threadsafe``. ``--mode inline`` forces the path aiodns itself takes only
when no inotify watch can be had: c-ares' sockets on the event loop. It costs about half, but cannot be asked
for; it is in the table as the most that aiodns could be. Both on uvloop, which is a little faster here than
asyncio's own loop, and with ``query_dns``, which is cheaper than the deprecated ``query``.
"""

from __future__ import annotations

import argparse
import asyncio
import time
import weakref
from typing import Any

import aiodns
import pycares
import uvloop

from .tally import Tally, ready


class InlineResolver(aiodns.DNSResolver):
    """aiodns on its own fallback path."""

    def _make_channel(self, **kwargs: Any) -> tuple[bool, pycares.Channel]:
        myself = weakref.ref(self)

        def on_socket_state(fd: int, readable: bool, writable: bool) -> None:
            resolver = myself()
            if resolver is not None:
                resolver._sock_state_cb(fd, readable, writable)

        return False, pycares.Channel(sock_state_cb=on_socket_state, timeout=self._timeout, **kwargs)


async def _load(options: argparse.Namespace, tally: Tally) -> None:
    resolver_class = InlineResolver if options.mode == "inline" else aiodns.DNSResolver
    # The same patience as the other contestants; more would hide losses.
    resolver = resolver_class(nameservers=[options.server], timeout=2.0, tries=3)
    await resolver.query_dns("h0.example.test", "A")
    tally.open(ready())

    async def ask_on() -> None:
        while (name := tally.next()) is not None:
            try:
                result = await resolver.query_dns(name, "A")
                if options.look:
                    tally.records += len([record.data.addr for record in result.answer])  # type: ignore[union-attr]
                tally.done += 1
            except aiodns.error.DNSError as error:
                tally.failed(error)

    async def ask_on_timed() -> None:
        while (name := tally.next()) is not None:
            began_s = time.perf_counter()
            try:
                await resolver.query_dns(name, "A")
                tally.done += 1
            except aiodns.error.DNSError as error:
                tally.failed(error)
            tally.latencies_s.append(time.perf_counter() - began_s)

    one = ask_on_timed if options.window == 1 else ask_on
    await asyncio.gather(*(one() for _ in range(options.window)))
    await resolver.close()


def main() -> None:
    """Run the load; see :mod:`bench.tally` for the lines spoken."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True)
    parser.add_argument("--window", type=int, required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--mode", choices=["public", "inline"], default="public")
    parser.add_argument("--look", action="store_true")
    options = parser.parse_args()
    tally = Tally(options.first)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_load(options, tally))
    tally.report()


if __name__ == "__main__":
    main()
