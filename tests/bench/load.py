"""reqpool as a contestant: one producer process at a shared cluster; :mod:`bench.tally` has the lines spoken.

Modes:
    window  keep so many in flight; each completion's callback submits the next (an event-driven producer)
    map     the same window, kept by ``pool.map``
    sync    submit, ``result()``, and again, from the main thread
    count   as window, but so many requests instead of so long; says when the first mark is reached
    hold    leave so many unanswered at a silent upstream until told to end
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import reqpool

from .tally import Tally, ready

TIMEOUT_S = 6.0
"""As long as aiodns has: three tries of 2 s."""
RUN_OUT_S = 30.0
SILENT_TIMEOUT_S = 120.0
WARM_UP_REQUESTS = 2_000


class Window:
    """Keeps ``size`` requests in flight. Callbacks run on the pool's delivery thread, and only there is
    the tally touched once the first ones are submitted."""

    def __init__(self, pool: reqpool.Pool, server: str, tally: Tally, size: int, look: bool) -> None:
        self._pool, self._server, self._tally, self._size = pool, server, tally, size
        self._callback: Callable[[Any], None] = self._looked_at if look else self._untouched
        self._running = 0
        self._ended = threading.Event()

    def run(self, run_out_s: float = RUN_OUT_S) -> None:
        """Submit until the tally says stop; wait for what is in flight then, ``run_out_s`` at most."""
        names = [name for _ in range(self._size) if (name := self._tally.next()) is not None]
        self._running = len(names)
        for name in names:
            self._submit(name)
        if names:
            self._ended.wait(max(0.0, self._tally.end_s - time.monotonic()) + run_out_s)

    def _submit(self, name: str) -> None:
        self._pool.dns(name, "A", server=self._server, timeout=TIMEOUT_S, callback=self._callback)

    def _untouched(self, future: reqpool.Future[Any]) -> None:
        error = future.exception()
        if error is None:
            self._tally.done += 1
        else:
            self._tally.failed(error)
        self._go_on()

    def _looked_at(self, future: reqpool.Future[Any]) -> None:
        error = future.exception()
        if error is None:
            self._tally.records += len([record.value for record in future.result().records])
            self._tally.done += 1
        else:
            self._tally.failed(error)
        self._go_on()

    def _go_on(self) -> None:
        name = self._tally.next()
        if name is not None:
            self._submit(name)
            return
        self._running -= 1
        if not self._running:
            self._ended.set()


def warm_up(pool: reqpool.Pool, server: str) -> None:
    """Send some requests through all of the cluster before anything is counted."""
    tally = Tally(count=WARM_UP_REQUESTS)
    tally.open((time.monotonic(), time.monotonic() + 60))
    Window(pool, server, tally, 100, look=True).run()
    if tally.done != WARM_UP_REQUESTS:
        raise RuntimeError(f"warming up: {tally.done} of {WARM_UP_REQUESTS} done, {dict(tally.errors)}")


def ask_silent(pool: reqpool.Pool, server: str, count: int) -> list[reqpool.Future[Any]]:
    """Submit ``count`` requests to an upstream that never answers."""
    return [
        pool.dns(f"h{i % 10_000}.example.test", "A", server=server, timeout=SILENT_TIMEOUT_S)
        for i in range(count)
    ]


def run_map(pool: reqpool.Pool, server: str, tally: Tally, size: int) -> None:
    """Let ``pool.map`` keep the window."""

    def names() -> Iterator[str]:
        while (name := tally.next()) is not None:
            yield name

    for _, future in pool.map(pool.dns, names(), window=size, server=server, timeout=TIMEOUT_S):
        error = future.exception()
        if error is None:
            tally.done += 1
        else:
            tally.failed(error)


def run_sync(pool: reqpool.Pool, server: str, tally: Tally) -> None:
    """One at a time, as a synchronous web worker would."""
    while (name := tally.next()) is not None:
        began_s = time.perf_counter()
        try:
            pool.dns(name, "A", server=server, timeout=TIMEOUT_S).result()
            tally.done += 1
        except reqpool.PoolError as error:
            tally.failed(error)
        tally.latencies_s.append(time.perf_counter() - began_s)


def run_count(pool: reqpool.Pool, options: argparse.Namespace) -> None:
    """Run up to the first mark, say so, and on to the second."""
    ready()
    done = 0
    for mark in options.marks:
        tally = Tally(count=mark - done)
        tally.open((time.monotonic(), time.monotonic() + 600))
        Window(pool, options.server, tally, options.window, look=False).run()
        done += tally.done
        lost = tally.submitted - tally.done
        print(json.dumps({"done": done, "lost": lost, "errors": dict(tally.errors)}), flush=True)
        sys.stdin.readline()


def run_hold(pool: reqpool.Pool, options: argparse.Namespace) -> None:
    """Say so when all are submitted; end when told."""
    ready()
    futures = ask_silent(pool, options.silent, options.hold)
    print(json.dumps({"held": len(futures)}), flush=True)
    sys.stdin.readline()
    print(json.dumps({"held": sum(not future.done() for future in futures)}), flush=True)
    pool.close(drain=False)


def main() -> None:
    """Run one mode."""
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["window", "map", "sync", "count", "hold"])
    parser.add_argument("--url", required=True)
    parser.add_argument("--server", required=True)
    parser.add_argument("--window", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--look", action="store_true")
    parser.add_argument("--marks", type=int, nargs="*")
    parser.add_argument("--hold", type=int, default=0)
    parser.add_argument("--silent")
    options = parser.parse_args()
    pool = reqpool.Pool(options.url)
    if options.mode == "sync":
        pool.dns("h0.example.test", "A", server=options.server, timeout=TIMEOUT_S).result()
    else:
        warm_up(pool, options.server)
    if options.mode == "count":
        run_count(pool, options)
        pool.close()
        return
    if options.mode == "hold":
        run_hold(pool, options)
        return
    held = ask_silent(pool, options.silent, options.hold) if options.hold else []
    tally = Tally(options.first)
    tally.open(ready())
    if options.mode == "window":
        Window(pool, options.server, tally, options.window, options.look).run()
    elif options.mode == "map":
        run_map(pool, options.server, tally, options.window)
    else:
        run_sync(pool, options.server, tally)
    tally.report(held=sum(not future.done() for future in held))
    pool.close(drain=False)


if __name__ == "__main__":
    main()
