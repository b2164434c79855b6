"""A kind with connections: lines out, lines back. What else its connections do, the origin's path says.

``/greet``   a greeting of one line each way before the first request
``/session`` a held connection begins with BEGIN and its reply, and is let go of with RESET and its reply
``/begun``   says whether a byte of the answer has come, so that a stale connection can be told
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from reqpool_contract.errors import BadResponse, Code, UpstreamRefused, UsageError
from reqpool_workers.protocols import (
    READY,
    Address,
    Event,
    Name,
    StreamKind,
    StreamProtocol,
    WorkerKind,
    numeric_address,
)

from .tcp_peer import Connection, Script, echo_until


class Lines(StreamProtocol):
    """A line from the peer: ``NO`` refuses, ``?`` is garbage, ``!`` meets a fault of ours; others answer."""

    def __init__(self, origin: str, settings: bytes, max_bytes: int) -> None:
        path = "/" + origin.partition("#")[0].partition("://")[2].partition("/")[2]
        self._steps: list[bytes] = [b"HELLO\n"] if path == "/greet" else []
        self._session = path == "/session"
        self._knows_begun = path == "/begun"
        self._begun = False
        self._shaking = False
        self._rest = b""

    def connected(self) -> Sequence[Event]:
        if self._steps:
            self._shaking = True
            return list(self._steps)
        return [READY]

    def hold(self) -> Sequence[Event]:
        return self._shake(b"BEGIN\n") if self._session else [READY]

    def release(self) -> Sequence[Event] | None:
        return self._shake(b"RESET\n") if self._session else None

    def _shake(self, line: bytes) -> Sequence[Event]:
        self._shaking = True
        return [line]

    def send(self, request: Any) -> bytes:
        payload: bytes = request.payload
        if payload == b"!\n":
            raise KeyError("a fault in send")
        if not payload.endswith(b"\n"):
            raise UsageError("not a line")
        self._begun = False
        return payload

    def feed(self, data: bytes) -> Sequence[Event]:
        self._begun = True
        *lines, self._rest = (self._rest + data).split(b"\n")
        events: list[Event] = []
        for line in lines:
            if line == b"NO":
                raise UpstreamRefused("wrong password")
            if line == b"?":
                raise BadResponse("not a line")
            if line == b"!":
                raise KeyError("a fault in feed")
            events.append(READY if self._shaking else (Code.OK, line))
            self._shaking = False
        self._begun = bool(self._rest)
        return events

    def eof(self) -> Sequence[Event]:
        return []

    @property
    def begun(self) -> bool:
        return self._begun if self._knows_begun else True

    @property
    def reusable(self) -> bool:
        return True


def lines(
    depth: int = 1,
    *others: str,
    address: Callable[[str], Address | Name] = numeric_address,
    protocol: type[StreamProtocol] = Lines,
) -> dict[str, WorkerKind]:
    """The kind ``lines``, and the same under other names."""
    return {
        name: StreamKind(name=name, limit=8, address=address, protocol=protocol, depth=depth)
        for name in ("lines", *others)
    }


def on_word(answer: bytes) -> Script:
    """A script: read a line, wait for the test's word, answer it (with the same, if ``answer`` is empty);
    then echo."""

    def script(peer_side: Connection) -> None:
        first = peer_side.read_until(b"\n")
        if peer_side.peer.wait_for_go():
            peer_side.send(answer or first)
            echo_until(b"\n")(peer_side)

    return script
