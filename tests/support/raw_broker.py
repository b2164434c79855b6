"""A real broker process, and raw sockets to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from reqpool_contract import wire
from reqpool_contract.wire import Flag, SubmitGroup, Verb

PATIENCE_MS = 10_000


class RawBroker:
    """A broker process, and sockets to it that close themselves.

    Args:
        folder: where its sockets are.
        prepare: called in the process before the broker's program begins.
    """

    def __init__(self, folder: Path, prepare: Callable[[], None] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "reqpool_broker", "--bind", f"ipc://{folder}/intake"],
            stdout=subprocess.PIPE,
            preexec_fn=prepare,
        )
        assert self.process.stdout is not None
        self.urls = json.loads(self.process.stdout.readline())
        self.context = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []

    def socket(self, kind: int, door: str) -> zmq.Socket[bytes]:
        socket = self.context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVTIMEO, PATIENCE_MS)
        socket.connect(self.urls[door])
        self._sockets.append(socket)
        return socket

    def close(self) -> None:
        for socket in self._sockets:
            socket.close(linger=0)
        self.context.term()
        self.process.terminate()
        assert self.process.wait(10) == 0
        assert self.process.stdout is not None
        self.process.stdout.close()


class RawSession:
    """A client that works: it notices whether the others' noise disturbs it."""

    def __init__(self, broker: RawBroker) -> None:
        self.id = os.urandom(16)
        self.dealer = broker.socket(zmq.DEALER, "intake")
        self.dealer.send(wire.encode(Verb.HELLO, 1, 1, {"session": self.id, "name": "raw", "pid": 1}))
        verb, _ = wire.decode(self.dealer.recv(), wire.BROKER_TO_CLIENT)
        assert verb is Verb.WELCOME
        self.sub = broker.socket(zmq.SUB, "results")
        self.sub.subscribe(self.id)
        assert self.published()[0] is Verb.OPEN
        self.submitted = 0

    def published(self) -> tuple[Verb, list[Any], list[bytes]]:
        frames = self.sub.recv_multipart()
        verb, values = wire.decode(frames[1], wire.PUBLISHED)
        return verb, values, frames[2:]

    def ask(self, seq: int) -> None:
        """Submit one request that no worker will take, and see it end in the queue."""
        self.submitted += 1
        group = SubmitGroup(
            "dns", ("dns://127.0.0.1:1",), 50, Flag.IDEMPOTENT, 1, None, None, (seq,), (b"?",)
        )
        self.dealer.send(wire.encode(Verb.SUBMIT, self.submitted, 0, [group]))
        while True:
            verb, _, blobs = self.published()
            if verb is Verb.RESULTS:
                assert wire.decode_blob(blobs[0])[0] == seq
                return

    def outcomes(self, groups: list[Any], count: int) -> dict[int, int]:
        """Submit groups, legal or not, and wait for so many outcomes: seq to code."""
        self.submitted += 1
        self.dealer.send(wire.encode(Verb.SUBMIT, self.submitted, 0, groups))
        found: dict[int, int] = {}
        while len(found) < count:
            verb, _, blobs = self.published()
            if verb is Verb.RESULTS:
                flat = wire.decode_blob(blobs[0])
                found |= dict(zip(flat[0::3], flat[1::3], strict=True))
        return found


def report(broker: RawBroker) -> dict[str, Any]:
    dealer = broker.socket(zmq.DEALER, "intake")
    dealer.send(wire.encode(Verb.STATUS, {}))
    _, values = wire.decode(dealer.recv(), wire.BROKER_TO_CLIENT)
    about: dict[str, Any] = values[0]
    return about
