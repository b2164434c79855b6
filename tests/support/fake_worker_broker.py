"""The broker's workers socket as a test plays it, and a worker on a thread of this process.

with FakeBroker() as broker, broker.worker() as worker:
    broker.welcome()
    broker.lease("dns", f"dns://{peer.address}", {1: query})
    assert broker.results(1) == {1: (0, answer)}
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import zmq

from reqpool_contract import wire
from reqpool_contract.wire import Verb
from reqpool_workers.protocols import WorkerKind, load
from reqpool_workers.worker_process import WorkerProcess

SESSION = bytes(range(16))
WORKER_ID = bytes(range(16, 32))
WAIT_S = 10.0
BROKER_FDS = 2
"""What a worker's loop watches of its connection to the broker: the socket and its monitor."""


class FakeBroker:
    """A ROUTER that says what the test says. Everything is called on the test's thread.

    Attributes:
        epoch: goes into each message.
        seen: last worker heartbeat, goes into each message; set it to lie.
        heard: every message that came: (verb, fields, blobs).
        hellos: the ``about`` of each HELLO, in order.
    """

    def __init__(self, *, heartbeat_ms: int = 50, liveness_ms: int = 2_500) -> None:
        self.epoch = 7
        self.seen = 0
        self.heard: list[tuple[Verb, list[Any], list[bytes]]] = []
        self.hellos: list[dict[str, Any]] = []
        self.heartbeat_ms = heartbeat_ms
        self.liveness_ms = liveness_ms
        self.number = 0
        self._route = b""

    def __enter__(self) -> FakeBroker:
        self._folder = tempfile.TemporaryDirectory()
        self.url = f"ipc://{Path(self._folder.name) / 'workers'}"
        self._bind()
        return self

    def __exit__(self, *_: Any) -> None:
        self._context.destroy(0)
        self._folder.cleanup()

    def restart(self) -> None:
        """Be killed, and come back at the same URL."""
        self._context.destroy(0)  # waits until the old socket has let go of its path
        self._bind()

    def _bind(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(self.url)

    @contextlib.contextmanager
    def worker(self, kinds: Mapping[str, WorkerKind] | None = None) -> Iterator[WorkerProcess]:
        """Run a worker on a thread; it is stopped, and must end, with the block."""
        worker = WorkerProcess(self.url, WORKER_ID, "test", load() if kinds is None else kinds)
        thread = threading.Thread(target=worker.run, name="worker", daemon=True)
        thread.start()
        try:
            yield worker
        finally:
            if thread.is_alive():
                worker.stop()
            thread.join(WAIT_S)
            assert not thread.is_alive(), "the worker's thread did not end"

    # --- to the worker ---------------------------------------------------------------------------

    def say(self, verb: Verb, *values: Any) -> None:
        """Send one message with epoch and seen."""
        self.send(wire.encode(verb, self.epoch, self.seen, *values))

    def send(self, frame: bytes) -> None:
        """Send a head as it is."""
        self._socket.send_multipart([self._route, frame])

    def welcome(self) -> dict[str, Any]:
        """Wait for a HELLO, answer WELCOME, return the HELLO's ``about``."""
        self.next(Verb.HELLO)
        self.number = 0
        about = {"epoch": self.epoch, "heartbeat_ms": self.heartbeat_ms, "liveness_ms": self.liveness_ms}
        self.send(wire.encode(Verb.WELCOME, wire.VERSION, about))
        self.next(Verb.HEARTBEAT)
        self.beat()
        return self.hellos[-1]

    def beat(self, received: int = 0, undelivered: tuple[int, ...] = ()) -> None:
        """Send a heartbeat."""
        self.number += 1
        self.say(Verb.HEARTBEAT, self.number, received, undelivered)

    def lease(
        self,
        kind: str,
        origin: str,
        payloads: Mapping[int, bytes],
        *,
        span_ms: int = 10_000,
        flags: int = 1,
        attempt: int = 1,
        pin: int | None = None,
        settings: bytes = b"",
        queued_ms: int = 0,
    ) -> None:
        """Lease requests: seq to payload."""
        group = (
            SESSION, kind, origin, span_ms, flags, attempt, pin, None,
            tuple(payloads), tuple(payloads.values()), settings, None, None, queued_ms,
        )  # fmt: skip
        self.say(Verb.LEASE, [group])

    # --- from the worker -------------------------------------------------------------------------

    def next(self, *verbs: Verb, timeout_s: float = WAIT_S) -> list[Any]:
        """Wait for a message of one of these verbs; others are noted and passed over."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not self._socket.poll(int(left_s * 1000) + 1):
                raise AssertionError(f"no {verbs} came, only {[verb.name for verb, _, _ in self.heard]}")
            verb = self._take()
            if verb in verbs:
                return self.heard[-1][1]

    def results(self, count: int) -> dict[int, tuple[int, bytes]]:
        """Wait for so many results: seq to (code, data)."""
        found: dict[int, tuple[int, bytes]] = {}
        while len(found) < count:
            groups = self.next(Verb.RESULTS)[3]
            for (_, seqs, _), blob in zip(groups, self.heard[-1][2], strict=True):
                flat = wire.decode_blob(blob)
                assert flat[0::3] == seqs
                found |= dict(zip(flat[0::3], zip(flat[1::3], flat[2::3], strict=True), strict=True))
        return found

    def failure(self) -> wire.FailedAttempts:
        """Wait for a RETRY with one group."""
        (failed,) = self.next(Verb.RETRY)[2]
        assert isinstance(failed, wire.FailedAttempts)
        return failed

    def _take(self) -> Verb:
        route, head, *blobs = self._socket.recv_multipart()
        verb, fields = wire.decode(head, wire.WORKER_TO_BROKER)
        self.heard.append((verb, fields, blobs))
        if verb is Verb.HELLO:
            self._route = route
            self.seen = 0
            self.hellos.append(fields[2])
        elif verb is Verb.HEARTBEAT:
            self.seen = fields[2]
        return verb
