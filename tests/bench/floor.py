"""What a lone request is compared with: a ZeroMQ round trip between two processes, and one bare query."""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable

import zmq

from . import asked
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
    once("h0.example.test")
    tally.open(ready())
    while (name := tally.next()) is not None:
        began_s = time.perf_counter()
        once(name)
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


def main() -> None:
    """Run the load; see :mod:`bench.tally` for the lines spoken."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["ipc", "query"])
    parser.add_argument("--server")
    options = parser.parse_args()
    tally = Tally(asked.find("dns").targets)
    if options.what == "ipc":
        _ipc(tally)
    else:
        _time_on(tally, BareQuery(options.server).ask)
    tally.report()


if __name__ == "__main__":
    main()
