"""reqpool as a contestant: one producer process at a shared cluster; :mod:`bench.tally` has the lines spoken.

Modes:
    window  keep so many in flight; each completion's callback submits the next (an event-driven producer)
    map     the same window, kept by ``pool.map``; DNS only
    sync    submit, ``result()``, and again, from the main thread
    count   as window, but so many requests instead of so long; says when the first mark is reached
    hold    leave so many DNS requests unanswered at a silent upstream until told to end
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import reqpool

from . import asked
from .tally import Tally, ready

TIMEOUT_S = 6.0
"""As long as aiodns has: three tries of 2 s."""
RUN_OUT_S = 30.0
SILENT_TIMEOUT_S = 120.0

Callback = Callable[[reqpool.Future[Any]], None]


@dataclass(frozen=True)
class Requests:
    """How one subject is asked for through a pool.

    Attributes:
        submit: called with a target and the callback (or None); returns the future.
        plain: makes the subject's plain form of what ``result()`` returned.
        warm_up: requests sent through all of the cluster before anything is counted, by all producers
            together.
    """

    subject: asked.Subject
    submit: Callable[[Any, Callback | None], reqpool.Future[Any]]
    plain: Callable[[Any], Any]
    warm_up: int = 2_000

    def look(self, target: Any, future: reqpool.Future[Any]) -> None:
        """Look at the answer of a future that has ended well.

        Raises:
            WrongAnswer: if it belongs to another request.
        """
        self.subject.check(target, self.plain(future.result()))


def requests(name: str, pool: reqpool.Pool, server: str) -> Requests:
    """Return how a subject is asked for.

    Args:
        name: one of :data:`bench.asked.NAMES`.
        server: ``host:port`` for dns, else the upstream's URL.
    """
    subject = asked.find(name, server)
    kind = name.partition("-")[0]

    def dns(target: str, callback: Callback | None) -> reqpool.Future[Any]:
        return pool.dns(target, "A", server=server, timeout=TIMEOUT_S, callback=callback)

    def http(target: str, callback: Callback | None) -> reqpool.Future[Any]:
        return pool.http("GET", target, timeout=TIMEOUT_S, callback=callback)

    def redis(target: str, callback: Callback | None) -> reqpool.Future[Any]:
        return pool.redis(server, "GET", target, timeout=TIMEOUT_S, callback=callback)

    def mysql(target: int, callback: Callback | None) -> reqpool.Future[Any]:
        return pool.mysql(server, subject.sql, (target,), timeout=TIMEOUT_S, callback=callback)

    submit: Callable[[Any, Callback | None], reqpool.Future[Any]]
    plain: Callable[[Any], Any]
    if kind == "dns":
        submit, plain = dns, lambda answer: [record.value for record in answer.records]
    elif kind == "http":
        submit, plain = http, lambda answer: (answer.status, answer.content)
    elif kind == "redis":
        submit, plain = redis, lambda answer: answer
    else:
        submit, plain = mysql, lambda answer: answer.rows
    return Requests(subject, submit, plain, 200 if name in ("http-big", "mysql-many") else 2_000)


class Window:
    """Keeps ``size`` requests in flight. Callbacks run on the pool's I/O thread, and only there is
    the tally touched once the first ones are submitted."""

    def __init__(self, requests: Requests, tally: Tally, size: int, look: bool) -> None:
        self._requests, self._tally, self._size, self._look = requests, tally, size, look
        self._ask = requests.submit
        self._running = 0
        self._ended = threading.Event()

    def run(self, run_out_s: float = RUN_OUT_S) -> None:
        """Submit until the tally says stop; wait for what is in flight then, ``run_out_s`` at most."""
        targets = [target for _ in range(self._size) if (target := self._tally.next()) is not None]
        self._running = len(targets)
        for target in targets:
            self._submit(target)
        if targets:
            self._ended.wait(max(0.0, self._tally.end_s - time.monotonic()) + run_out_s)

    def _submit(self, target: Any) -> None:
        self._ask(target, partial(self._looked_at, target) if self._look else self._untouched)

    def _untouched(self, future: reqpool.Future[Any]) -> None:
        error = future.exception()
        if error is None:
            self._tally.done += 1
        else:
            self._tally.failed(error)
        self._go_on()

    def _looked_at(self, target: Any, future: reqpool.Future[Any]) -> None:
        try:
            self._requests.look(target, future)
            self._tally.done += 1
        except (reqpool.PoolError, asked.WrongAnswer) as error:
            self._tally.failed(error)
        self._go_on()

    def _go_on(self) -> None:
        target = self._tally.next()
        if target is not None:
            self._submit(target)
            return
        self._running -= 1
        if not self._running:
            self._ended.set()


def warm_up(requests: Requests, count: int) -> None:
    """Send ``count`` requests through all of the cluster before anything is counted."""
    tally = Tally(requests.subject.targets, count=count)
    tally.open((time.monotonic(), time.monotonic() + 60))
    Window(requests, tally, max(1, min(100, count // 10)), look=True).run()
    if tally.done != count:
        raise RuntimeError(f"warming up: {tally.done} of {count} done, {dict(tally.errors)}")


def ask_silent(pool: reqpool.Pool, server: str, count: int) -> list[reqpool.Future[Any]]:
    """Submit ``count`` requests to an upstream that never answers."""
    return [
        pool.dns(f"h{i % asked.COUNT}.{asked.ZONE}", "A", server=server, timeout=SILENT_TIMEOUT_S)
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


def run_sync(requests: Requests, tally: Tally, look: bool) -> None:
    """One at a time, as a synchronous web worker would."""
    while (target := tally.next()) is not None:
        began_s = time.perf_counter()
        try:
            future = requests.submit(target, None)
            future.result()
            tally.latencies_s.append(time.perf_counter() - began_s)
            if look:
                requests.look(target, future)
            tally.done += 1
        except (reqpool.PoolError, asked.WrongAnswer) as error:
            tally.failed(error)


def run_count(requests: Requests, options: argparse.Namespace) -> None:
    """Run up to each mark in turn, and say so."""
    ready()
    done = 0
    for mark in options.marks:
        tally = Tally(requests.subject.targets, count=mark - done)
        tally.open((time.monotonic(), time.monotonic() + 600))
        Window(requests, tally, options.window, options.look).run()
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
    parser.add_argument("--url", required=True, help="of the cluster")
    parser.add_argument("--subject", choices=asked.NAMES, required=True)
    parser.add_argument("--server", required=True, help="host:port for dns, else the upstream's URL")
    parser.add_argument("--window", type=int, default=1)
    parser.add_argument("--share", type=float, default=0.0, help="of the targets, to begin with")
    parser.add_argument(
        "--producers", type=int, default=1, help="that run beside each other, this one included"
    )
    parser.add_argument("--look", action="store_true")
    parser.add_argument("--marks", type=int, nargs="*")
    parser.add_argument("--hold", type=int, default=0)
    parser.add_argument("--silent")
    options = parser.parse_args()
    pool = reqpool.Pool(options.url)
    asks = requests(options.subject, pool, options.server)
    if options.mode == "sync":
        asks.submit(asks.subject.targets[0], None).result()
    else:
        warm_up(asks, max(1, asks.warm_up // options.producers))
    if options.mode == "count":
        run_count(asks, options)
        pool.close()
        return
    if options.mode == "hold":
        run_hold(pool, options)
        return
    held = ask_silent(pool, options.silent, options.hold) if options.hold else []
    tally = Tally(asks.subject.targets, options.share)
    tally.open(ready())
    if options.mode == "window":
        Window(asks, tally, options.window, options.look).run()
    elif options.mode == "map":
        run_map(pool, options.server, tally, options.window)
    else:
        run_sync(asks, tally, options.look)
    tally.report(held=sum(not future.done() for future in held))
    pool.close(drain=False)


if __name__ == "__main__":
    main()
