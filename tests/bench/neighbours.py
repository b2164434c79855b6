"""Clients that are hard on a shared pool, a process each.

    python -m bench.neighbours NAME URL ECHO SILENT BULK


Each says ``ready`` on its standard output, begins when a line comes on its standard input, and ends when that
is closed. ECHO, SILENT and BULK are ``host:port`` of a server that answers lines with themselves, of one that
never answers, and of one that answers a line with 4 MiB.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgpack
import zmq

import reqpool
from reqpool_contract import wire
from reqpool_contract.wire import Verb

BODY_BYTES = 4 << 20
BODIES = 60
LARGE_POOLS = 3
IDLE_CONNECTIONS = 10_000
REQUESTS_PER_S = 100_000
SUBSCRIPTIONS_PER_S = 35_000
PACE_S = 0.01
FROZEN_S = 60.0
BUSY_PROCESSES = 3
_ZMTP = b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(48)
_READY = b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"


class Where(NamedTuple):
    """The intake's URL, and the servers' addresses."""

    url: str
    echo: str
    silent: str
    bulk: str


def ended() -> bool:
    """Has whoever started this process had enough of it?"""
    return bool(select.select([sys.stdin], [], [], 0)[0])


def paced(per_s: float) -> Iterator[int]:
    """Yield how many are due, every :data:`PACE_S`, until :func:`ended`."""
    start_s, done = time.monotonic(), 0
    while not ended():
        due = int((time.monotonic() - start_s) * per_s)
        yield due - done
        done = due
        time.sleep(PACE_S)


def large(where: Where) -> None:
    """Three pools with 60 bodies of 4 MiB each, for a server that never answers, over and over."""
    body = bytes(BODY_BYTES)
    pools = [reqpool.Pool(where.url, timeout=8) for _ in range(LARGE_POOLS)]
    while not ended():
        futures = [pool.tcp(where.silent, body, length=1) for _ in range(BODIES) for pool in pools]
        while not ended() and not all(future.done() for future in futures):
            time.sleep(0.05)
    os._exit(0)


def answers(where: Where) -> None:
    """Three pools that keep 60 requests in flight each whose answers have 4 MiB."""
    pools = [reqpool.Pool(where.url, timeout=8) for _ in range(LARGE_POOLS)]
    ends: Counter[str] = Counter()
    asked: dict[reqpool.Future[bytes], reqpool.Pool] = {}
    start_s = time.monotonic()
    while not ended():
        for future in [future for future in asked if future.done()]:
            del asked[future]
            error = future.exception()
            ends["ok" if error is None else type(error).__name__] += 1
        in_flight = Counter(asked.values())
        for pool in pools:
            for _ in range(BODIES - in_flight[pool]):
                asked[pool.tcp(where.bulk, b"x\n", length=BODY_BYTES)] = pool
        time.sleep(PACE_S)
    rate = BODY_BYTES * ends["ok"] / (time.monotonic() - start_s) / 1e6
    print(f"answers: {rate:.0f} MB/s, {dict(ends)}", file=sys.stderr)
    os._exit(0)


class RawSession:
    """A session without a stub, that is as fast and as careless as can be."""

    def __init__(self, url: str) -> None:
        self._context = zmq.Context()
        self.id = os.urandom(16)
        self._socket = self._open(zmq.DEALER, url)
        self._socket.send(wire.encode(Verb.HELLO, 1, 1, {"session": self.id, "name": "raw", "pid": 1}))
        _, values = wire.decode(self._socket.recv(), wire.BROKER_TO_CLIENT)
        name = values[1]["results"]
        self.results_url = (
            name if "://" in name else f"{url[: max(url.rfind('/'), url.rfind(':')) + 1]}{name}"
        )
        self.results = self._open(zmq.SUB, self.results_url)
        self.results.setsockopt(zmq.SUBSCRIBE, self.id)
        self._submitted = self._seq = self._beats = 0
        self._acked = 0

    def _open(self, kind: int, url: str) -> zmq.Socket[bytes]:
        opened = self._context.socket(kind)
        opened.setsockopt(zmq.LINGER, 0)
        opened.setsockopt(zmq.RCVTIMEO, 10_000)
        opened.connect(url)
        return opened

    def submit(self, address: str, payload: bytes, count: int, span_ms: int) -> None:
        """Submit so many requests to a server of lines."""
        origin = f"tcp://{address}"
        for start in range(0, count, wire.MAX_BATCH_REQUESTS):
            some = min(wire.MAX_BATCH_REQUESTS, count - start)
            seqs = tuple(range(self._seq + 1, self._seq + 1 + some))
            self._seq += some
            self._submitted += 1
            group = wire.SubmitGroup("tcp", (origin,), span_ms, 0, 1, None, None, seqs, (payload,) * some)
            self._socket.send(wire.encode(Verb.SUBMIT, self._submitted, self._acked, [group]))

    def beat(self) -> None:
        """Say that it is alive."""
        self._beats += 1
        self._socket.send(wire.encode(Verb.HEARTBEAT, self._beats, 0, self._acked))

    def listen(self) -> None:
        """Read what there is, and acknowledge it the next time."""
        while self.results.poll(0):
            verb, values = wire.decode(self.results.recv_multipart()[1], wire.PUBLISHED)
            if verb is Verb.RESULTS:
                self._acked = values[1]


def line_request(text: bytes) -> bytes:
    """Return the payload of a line that is answered by a line, as kind ``tcp`` has it."""
    packed: bytes = msgpack.packb((text, b"\n", None, wire.MAX_PAYLOAD_BYTES))
    return packed


def requests(where: Where) -> None:
    """100,000 small requests a second of one client, far more than is served."""
    session = RawSession(where.url)
    payload = line_request(b"x\n")
    for count in paced(REQUESTS_PER_S):
        session.submit(where.echo, payload, count, 1_000)
        session.listen()
        session.beat()


def idle(where: Where) -> None:
    """10,000 connections to the intake that say nothing; some seconds later all are closed at once."""
    connections = []
    url = where.url
    path = url.removeprefix("ipc://")
    start_s = time.monotonic()
    while not ended() and len(connections) < IDLE_CONNECTIONS:
        made = socket.socket(socket.AF_UNIX if path != url else socket.AF_INET)
        made.setblocking(True)
        made.settimeout(2.0)
        try:
            if path != url:
                made.connect(path)
            else:
                host, _, port = url.removeprefix("tcp://").rpartition(":")
                made.connect((host, int(port)))
            made.sendall(_ZMTP + _READY)
        except OSError:
            made.close()
            time.sleep(0.02)
            continue
        connections.append(made)
    print(f"idle: {len(connections)} connections in {time.monotonic() - start_s:.1f} s", file=sys.stderr)
    select.select([sys.stdin], [], [], 8.0)
    for made in connections:
        made.close()
    select.select([sys.stdin], [], [])


def subscriptions(where: Where) -> None:
    """35,000 subscriptions a second to topics that belong to nobody."""
    session = RawSession(where.url)
    flood = zmq.Context().socket(zmq.XSUB)
    flood.setsockopt(zmq.LINGER, 0)
    flood.setsockopt(zmq.SNDHWM, 0)
    flood.connect(session.results_url)
    for count in paced(SUBSCRIPTIONS_PER_S):
        for _ in range(count):
            flood.send(b"\x01" + os.urandom(16))
        session.beat()


def deaf(where: Where) -> None:
    """A client that asks for answers of 256 KiB and reads none."""
    session = RawSession(where.url)
    session.results.setsockopt(zmq.RCVHWM, 1)
    payload = line_request(bytes(256 << 10) + b"\n")
    for count in paced(100):
        session.submit(where.echo, payload, count, 30_000)
        session.beat()


def producer(where: Where) -> None:
    """2,000 small requests a second."""
    with reqpool.Pool(where.url, timeout=5) as pool:
        for count in paced(2_000):
            # What was missed while it was frozen is not made up for.
            for _ in range(min(count, 200)):
                pool.tcp(where.echo, b"x\n", until=b"\n")


def frozen(where: Where) -> None:
    """A producer that is frozen for a minute, and wakes."""
    command = [sys.executable, "-m", "bench.neighbours", "producer", *where]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert child.stdin
    child.stdin.write(b"go\n")
    child.stdin.flush()
    select.select([sys.stdin], [], [], 2.0)
    child.send_signal(signal.SIGSTOP)
    select.select([sys.stdin], [], [], FROZEN_S)
    child.send_signal(signal.SIGCONT)
    select.select([sys.stdin], [], [], 5.0)
    child.kill()
    child.wait()


def busy(where: Where) -> None:
    """No client at all: what the machine itself does to a bystander when its cores are taken."""
    computing = "while True: pass"
    children = [subprocess.Popen([sys.executable, "-c", computing]) for _ in range(BUSY_PROCESSES)]
    select.select([sys.stdin], [], [])
    for child in children:
        child.kill()
        child.wait()


NEIGHBOURS: dict[str, Callable[[Where], None]] = {
    "busy": busy,
    "large": large,
    "answers": answers,
    "requests": requests,
    "idle": idle,
    "subscriptions": subscriptions,
    "deaf": deaf,
    "frozen": frozen,
    "producer": producer,
}


def main() -> int:
    name, *where = sys.argv[1:]
    print("ready", flush=True)
    os.read(0, 64)
    NEIGHBOURS[name](Where(*where))
    return 0


if __name__ == "__main__":
    sys.exit(main())
