"""What ours is compared with where no library does the same: a ZeroMQ round trip between two processes, one
bare query, and a request through :mod:`bench.bare_pool`."""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable

import zmq

from . import asked, bare_pool
from .query import BareQuery
from .tally import Tally, ready

_MESSAGE = b"x" * 100  # about one submission's size


def _echo(url: str) -> None:
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind(url)
    while True:
        frames = socket.recv_multipart()
        socket.send_multipart(frames)
        if not frames[1]:
            return


def _time_on(tally: Tally, once: Callable[[str], object]) -> None:
    once(tally.targets[0])
    tally.open(ready())
    while (target := tally.next()) is not None:
        began_s = time.perf_counter()
        once(target)
        tally.latencies_s.append(time.perf_counter() - began_s)
        tally.done += 1


def _ipc(tally: Tally) -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"ipc://{folder}/echo"
        # Spawned: a ZeroMQ context does not survive a fork.
        echo = multiprocessing.get_context("spawn").Process(target=_echo, args=(url,), daemon=True)
        echo.start()
        context = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.connect(url)

        def once(_name: str) -> None:
            socket.send(_MESSAGE)
            socket.recv()

        _time_on(tally, once)
        socket.send(b"")
        socket.recv()
        echo.join(5)
        context.destroy(linger=0)


def _pool(tally: Tally, subject: asked.Subject, folder: str) -> None:
    with bare_pool.client(folder, tally.targets[0]) as ask:
        _time_on(tally, lambda key: subject.check(key, ask(key)))


def main() -> None:
    """Run the load; see :mod:`bench.tally` for the lines spoken."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["ipc", "query", "pool"])
    parser.add_argument("--server", required=True, help="host:port of the DNS server that is queried")
    parser.add_argument("--folder", help="of the bare pool's sockets")
    parser.add_argument("--share", type=float, default=0.0, help="of the targets, to begin with")
    options = parser.parse_args()
    subject = asked.find("redis-get" if options.what == "pool" else "dns")
    tally = Tally(subject.targets, options.share)
    if options.what == "ipc":
        _ipc(tally)
    elif options.what == "query":
        _time_on(tally, BareQuery(options.server).ask)
    else:
        _pool(tally, subject, options.folder)
    tally.report()


if __name__ == "__main__":
    main()
