"""Redis: commands of many, pipelined on one connection; replies come in the order of the commands.

Payload and answer: see :mod:`reqpool.kinds.redis` and :mod:`reqpool.kinds.redis_reply`. Payloads are trusted
to be whole commands that leave the connection as it is, and checked where they are made.

``hiredis`` (0.13 µs a reply) makes values, which would have to be written again to travel; finding where a
reply ends and slicing it out costs 0.5 µs, and is decoded only for those who look at it.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from reqpool.errors import BadResponse, ConnectFailed, UsageError
from reqpool.kinds.redis import MULTI
from reqpool.kinds.redis_commands import pack
from reqpool.kinds.redis_reply import BULK, COUNT, FIRST, LENGTH, MAX_DEPTH, SCALAR, elements

from . import (
    READY,
    Address,
    Answer,
    Event,
    Name,
    StreamKind,
    StreamProtocol,
    served_host,
    settings_of,
    stream_address,
)

CLIENT_NAME = "reqpool"
"""What CLIENT LIST shows."""
MAX_LINE_BYTES = 1 << 20
"""Of a reply that is one line: an error, a status."""
MAX_NUMBER_BYTES = 64
"""Of a line that is a length, a count or a number."""
_FRAME_BYTES = 32
"""First line and end of a reply: not counted by the limit."""
_SMALLEST_REPLY_BYTES = 3

_LENGTHS = {b"$%d" % length: length + 4 for length in range(4096)}
"""First line of a bulk string: bytes from its end to the reply's; quicker than int(), and as strict."""


class Framer:
    """Finds where replies end.

    Args:
        protocol: 2 or 3, of RESP.
        max_bytes: a larger reply is BadResponse.

    Attributes:
        broken: what came is no reply, or too large; no more can be had.
    """

    def __init__(self, protocol: int, max_bytes: int) -> None:
        self._most = max_bytes + _FRAME_BYTES
        self._first = FIRST[protocol]
        self._scalar = SCALAR[protocol].match
        self._length = LENGTH[protocol].match
        self._count = COUNT[protocol].match
        self.broken: BadResponse | None = None
        self._held = bytearray()
        """A reply that is not complete."""
        self._wanted = 0
        """Bytes it takes at least to go on with it."""
        self._at = 0
        """Where in it to go on."""
        self._in_line = False
        """Is what is missing the end of a line?"""
        self._open: list[int] = []
        """Elements that are still to come, of each array around that place."""

    @property
    def begun(self) -> bool:
        """Has a part of a reply come?"""
        return bool(self._held)

    def feed(self, data: bytes) -> list[Answer]:
        """Take bytes that came, return the replies that are complete; look at :attr:`broken` then."""
        answers: list[Answer] = []
        try:
            self._feed(data, answers)
        except BadResponse as error:
            self.broken = error
        return answers

    def _feed(self, data: bytes, answers: list[Answer]) -> None:
        if self._held:
            seen = len(self._held)
            self._held += data
            if len(self._held) < self._wanted:
                return
            if self._in_line and self._held.find(b"\n", seen) < 0:
                # A peer that drips a long line would have it read from its beginning for each byte.
                self._check_line(self._held, self._at, seen)
                return
            end = self._end(self._held, 0)
            if end < 0:
                return
            held = memoryview(self._held)
            self._held = bytearray()
            self._take(held[:end], answers)
            data = bytes(held[end:])
        add, find, length_of, scalar = answers.append, data.find, _LENGTHS.get, self._scalar
        at, size, most = 0, len(data), self._most
        while at < size:
            line_end = find(b"\r\n", at)
            length = length_of(data[at:line_end])
            if length is not None and line_end > 0:
                end = line_end + length
                if end <= size and length <= most:
                    if data[end - 2 : end] != b"\r\n":
                        raise self._malformed(data, at)
                    add((0, BULK + data[line_end + 2 : end - 2]))
                    at = end
                    continue
            else:
                line = scalar(data, at)
                if line is not None:
                    add((0, line[0]))
                    at = line.end()
                    continue
            end = self._end(data, at)
            if end < 0:
                self._held += memoryview(data)[at:]
                break
            self._take(memoryview(data)[at:end], answers)
            at = end

    def _take(self, reply: memoryview, answers: list[Answer]) -> None:
        """Write a reply as it travels."""
        if reply[0] == 36 and reply[1] != 45:  # a bulk string, and not null
            begin = bytes(reply[:_FRAME_BYTES]).index(b"\r\n") + 2
            answers.append((0, b"".join((BULK, reply[begin:-2]))))
        elif reply[0] != 62:  # a push: RESP3 has them between replies, and nothing here asks for any
            answers.append((0, bytes(reply)))

    def _end(self, buffer: bytes | bytearray, begin: int) -> int:
        """Return where the reply ends that begins there; -1 if more has to come."""
        at, stack, most = begin + self._at, self._open, begin + self._most
        size, length_of = len(buffer), self._length
        while True:
            line = length_of(buffer, at)
            if line is not None:
                end = line.end() + int(line[1]) + 2
                if end > most:
                    raise self._too_large()
                if end > size:
                    return self._later(at - begin, end - begin, False)
                if buffer[end - 2 : end] != b"\r\n":
                    raise self._malformed(buffer, at)
                at = end
            elif (line := self._scalar(buffer, at)) is not None:
                at = line.end()
                if at > most:
                    raise self._too_large()
            elif (line := self._count(buffer, at)) is not None:
                count = elements(line[1], int(line[2]))
                at = line.end()
                if at + count * _SMALLEST_REPLY_BYTES > most:
                    raise self._too_large()
                if count:
                    if len(stack) == MAX_DEPTH:
                        raise BadResponse(f"a reply of Redis has over {MAX_DEPTH} arrays in each other")
                    stack.append(count)
                    continue
            else:
                self._check_line(buffer, at, at)
                return self._later(at - begin, size - begin + 1, True)
            while stack:
                if stack[-1] > 1:
                    stack[-1] -= 1
                    break
                stack.pop()
            else:
                self._at = self._wanted = 0
                return at

    def _later(self, at: int, wanted: int, in_line: bool) -> int:
        self._at = at
        self._wanted = wanted
        self._in_line = in_line
        return -1

    def _too_large(self) -> BadResponse:
        return BadResponse(f"a reply of Redis is larger than {self._most - _FRAME_BYTES} bytes")

    def _check_line(self, buffer: bytes | bytearray, at: int, seen: int) -> None:
        """A line is no reply as it stands: see that it can become one; up to ``seen`` it has no end."""
        if at == len(buffer):
            return
        longest = MAX_LINE_BYTES if buffer[at] in b"+-(" else MAX_NUMBER_BYTES
        if buffer[at] not in self._first or buffer.find(b"\r\n", seen) >= 0 or len(buffer) - at > longest:
            raise self._malformed(buffer, at)

    def _malformed(self, buffer: bytes | bytearray, at: int) -> BadResponse:
        return BadResponse(f"not a reply of Redis: {bytes(buffer[at : at + 40])!r}")


class RedisConnection(StreamProtocol):
    """One connection: logs in, then commands go out and replies come in.

    Args:
        origin: see :mod:`reqpool.kinds.redis`.
        settings: ``password``.
        max_bytes: of a reply.
    """

    def __init__(self, origin: str, settings: bytes, max_bytes: int) -> None:
        parts = urlsplit(origin)
        protocol = 3 if "resp3" in parts.query.split("&") else 2
        user, _, db = (parts.username or "").partition(";db=")
        if parts.scheme != "unix":
            db = parts.path.strip("/")
        password = settings_of(settings).get("password")
        self._greeting = _greeting(unquote(user), password, db or "0", protocol)
        self._framer = Framer(protocol, max_bytes)
        self._pushes = protocol == 3
        self._steps: deque[str] = deque()
        """What the handshake still waits for."""
        self._asked = 0
        self._answered = 0
        self._transactions: deque[_Transaction] = deque()

    def connected(self) -> Sequence[Event]:
        return self._shake_hands(self._greeting)

    def _shake_hands(self, commands: Sequence[tuple[str, bytes]]) -> Sequence[Event]:
        self._steps.extend(step for step, _ in commands)
        return [b"".join(command for _, command in commands)]

    def send(self, request: Any) -> bytes:
        payload: bytes = request.payload
        if payload[:1] == MULTI:
            payload = self._send_transaction(payload)
        self._asked += 1
        return payload

    def _send_transaction(self, payload: bytes) -> bytes:
        replies = int.from_bytes(payload[1:5], "big")
        if replies < 3 or not payload.endswith(b"\r\n"):
            raise UsageError("payload is not M, a number of replies, and as many commands")
        self._transactions.append(_Transaction(self._asked, replies))
        return payload[5:]

    def feed(self, data: bytes) -> Sequence[Event]:
        if self._answered == self._asked and not self._steps and not self._may_come_unasked(data):
            raise BadResponse(f"Redis sent what nobody asked for: {data[:40]!r}")
        answers: list[Answer] = self._framer.feed(data)
        if self._steps or self._transactions or self._framer.broken is not None:
            return self._look_at(answers)
        self._answered += len(answers)
        return answers

    def _look_at(self, answers: list[Answer]) -> Sequence[Event]:
        """What is not plainly one answer for each reply."""
        broken = self._framer.broken
        if self._steps:
            if broken is not None:
                raise broken
            return self._step(answers)
        events = self._gather(answers)
        if broken is not None:
            if not events:
                raise broken
            events.append(broken)  # what came before it are right answers, and end as such
        return events

    def _may_come_unasked(self, data: bytes) -> bool:
        return self._pushes and (self._framer.begun or data[:1] == b">")

    def _step(self, answers: list[Answer]) -> Sequence[Event]:
        for _, reply in answers:
            if not self._steps:
                raise BadResponse(f"Redis sent what nobody asked for: {reply[:40]!r}")
            step = self._steps.popleft()
            if reply[:1] == b"-":
                text = reply[1:-2].decode("utf-8", "backslashreplace")
                if step != _NAMING or text.startswith(_NO_ENTRY):
                    raise ConnectFailed(f"Redis refused the connection at {step}: {text}")
        return [] if self._steps else [READY]

    def _gather(self, answers: list[Answer]) -> list[Event]:
        """Join the replies to each transaction."""
        gathered: list[Event] = []
        for answer in answers:
            if self._transactions and self._transactions[0].number == self._answered:
                transaction = self._transactions[0]
                transaction.replies -= 1
                if answer[1][:1] == b"-" and transaction.error is None:
                    transaction.error = answer
                if transaction.replies:
                    continue
                self._transactions.popleft()
                # What was not queued is why EXEC refuses; and its own error is no more than that.
                answer = transaction.error or answer
            gathered.append(answer)
            self._answered += 1
        return gathered

    def eof(self) -> Sequence[Event]:
        return []

    @property
    def reusable(self) -> bool:
        return not self._framer.begun

    @property
    def begun(self) -> bool:
        if self._framer.begun:
            return True
        return bool(self._transactions) and self._transactions[0].has_begun(self._answered)

    def release(self) -> Sequence[Event] | None:
        if self._steps or self._framer.begun or self._answered != self._asked:
            return None
        # Since Redis 6.2. An older one refuses it, and the connection is closed.
        return self._shake_hands((("RESET", pack(("RESET",))), *self._greeting))


class _Transaction:
    """MULTI, commands and EXEC that were sent together.

    Attributes:
        number: how many requests were sent before.
        replies: how many replies are still to come.
        error: the first reply that is an error.
    """

    __slots__ = ("error", "number", "replies", "sent")

    def __init__(self, number: int, replies: int) -> None:
        self.number = number
        self.replies = self.sent = replies
        self.error: Answer | None = None

    def has_begun(self, answered: int) -> bool:
        return self.number == answered and self.replies < self.sent


_NAMING = "CLIENT SETNAME"
_NO_ENTRY = ("NOAUTH", "DENIED", "ERR max number of clients")
"""Errors that are the answer to the connection, not to its first command; others leave it without a name."""


def _greeting(user: str, password: object, db: str, protocol: int) -> list[tuple[str, bytes]]:
    """Return the commands of the handshake: what each is called in errors, and its bytes."""
    secret = password if isinstance(password, str) else ""
    commands: list[tuple[str, bytes]] = []
    if protocol == 3:
        log_in = ("AUTH", user or "default", secret) if user or secret else ()
        commands.append(("HELLO", pack(("HELLO", "3", *log_in))))
    elif user or secret:
        commands.append(("AUTH", pack(("AUTH", user, secret) if user else ("AUTH", secret))))
    # First of all where there is no log-in, so that "NOAUTH" is said here.
    commands.append((_NAMING, pack(("CLIENT", "SETNAME", CLIENT_NAME))))
    if db != "0":
        commands.append((f"SELECT {db}", pack(("SELECT", db))))
    return commands


def _address(origin: str) -> Address | Name:
    parts = urlsplit(origin)
    return Address(socket.AF_UNIX, unquote(parts.path)) if parts.scheme == "unix" else stream_address(origin)


def _protocol(origin: str, settings: bytes, max_bytes: int) -> StreamProtocol:
    connection = RedisConnection(origin, settings, max_bytes)
    if not origin.startswith("rediss:"):
        return connection
    from .tls import wrap  # here: workers of plain connections need no ssl

    secured: StreamProtocol = wrap(connection, settings_of(settings).get("tls") or {}, served_host(origin))
    return secured


WORKER_KIND = StreamKind(name="redis", limit=64, address=_address, protocol=_protocol, depth=128)
EXCLUSIVE_WORKER_KIND = StreamKind(
    name="redis-exclusive", limit=64, address=_address, protocol=_protocol, depth=1
)
