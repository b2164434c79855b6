"""Worker half of kind ``memcached``: frames the text protocol, many requests at a time on one connection.

Payload: one command as sent over the wire; the answer is its reply in the same form. See ``client.py``.

All clients of the pool share these connections, and only its place in the stream tells which request an
answer belongs to. So this half trusts neither side: a payload that is not exactly one command, or an answer
that does not fit the oldest command, would shift all answers after it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from typing import Any

from reqpool_contract.errors import BadResponse, Code, UsageError
from reqpool_workers.protocols import READY, Event, StreamKind, StreamProtocol, stream_address

MAX_CONNECTIONS = 8
DEPTH = 64
"""Unanswered requests on one connection."""
MAX_LINE_BYTES = 2_048
"""The longest line memcached sends is VALUE with a key of 250 bytes; error texts are shorter still."""

_KEY = rb"[!-~\x80-\xff]{1,250}"
_RETRIEVAL = re.compile(rb"gets? (%b(?: %b)*)\r\n" % (_KEY, _KEY))
_NUMBERS = rb"\d{1,10} \d{1,10} (\d{1,8})"
_STORAGE = re.compile(
    rb"(?:(?:set|add|replace|append|prepend) %b %b|cas %b %b \d{1,20})\r\n" % (_KEY, _NUMBERS, _KEY, _NUMBERS)
)
_LINE = re.compile(rb"(?:delete %b|(?:incr|decr) %b \d{1,20}|touch %b \d{1,10})\r\n" % (_KEY, _KEY, _KEY))

_VALUE = re.compile(rb"VALUE (\S+) \d{1,10} (\d{1,10})(?: \d{1,20})?")
_ERROR = rb"|SERVER_ERROR .*"
_ANY_ERROR = rb"|ERROR|CLIENT_ERROR .*|SERVER_ERROR .*"
_ENDS = {
    word: re.compile(answers)
    for words, answers in (
        (b"get gets", rb"END" + _ANY_ERROR),
        # After any other error the connection cannot be used: memcached has refused the line, and may take
        # the value that follows it for commands.
        (b"set add replace append prepend cas", rb"STORED|NOT_STORED|EXISTS|NOT_FOUND" + _ERROR),
        (b"delete", rb"DELETED|NOT_FOUND" + _ANY_ERROR),
        (b"incr decr", rb"\d{1,20} *|NOT_FOUND" + _ANY_ERROR),  # decr may pad with spaces (protocol.txt)
        (b"touch", rb"TOUCHED|NOT_FOUND" + _ANY_ERROR),
    )
    for word in words.split()
}
"""The lines that end the answer to a command."""

_NO_KEYS: frozenset[bytes] = frozenset()


class Memcached(StreamProtocol):
    """One connection.

    Args:
        origin: the upstream, for errors.
        settings: none are known.
        max_bytes: a longer answer is a BadResponse.
    """

    def __init__(self, origin: str, settings: bytes, max_bytes: int) -> None:
        self._origin = origin
        self._max_bytes = max_bytes
        # Of each unanswered request: the lines its answer may end with, and the keys it may have values for.
        self._unanswered: deque[tuple[re.Pattern[bytes], frozenset[bytes]]] = deque()
        # What has come of the oldest answer; how far it has been looked at; its least possible length.
        self._rest = bytearray()
        self._looked_at = 0
        self._at_least = 0

    def connected(self) -> Sequence[Event]:
        return [READY]

    def send(self, request: Any) -> bytes:
        payload: bytes = request.payload
        keys = _NO_KEYS
        if retrieval := _RETRIEVAL.fullmatch(payload):
            keys = frozenset(retrieval[1].split(b" "))
        elif storage := _STORAGE.match(payload):
            length = int(storage[1] or storage[2])
            if len(payload) != storage.end() + length + 2 or not payload.endswith(b"\r\n"):
                raise UsageError(
                    "payload is not one memcached command: its data does not have the declared length"
                )
        elif not _LINE.fullmatch(payload):
            raise UsageError(f"payload is not one memcached command: {payload[:40]!r}")
        self._unanswered.append((_ENDS[payload[: payload.index(b" ")]], keys))
        return payload

    def feed(self, data: bytes) -> Sequence[Event]:
        buffer: bytes | bytearray = data
        if self._rest:
            self._rest += data
            buffer = self._rest
        events: list[Event] = []
        begin = 0
        while self._unanswered and len(buffer) - begin >= self._at_least:
            try:
                end = self._end(buffer, begin)
            except BadResponse as error:
                return [*events, error]
            if end is None:
                break
            events.append((Code.OK, bytes(buffer[begin:end])))
            self._unanswered.popleft()
            self._looked_at = self._at_least = 0
            begin = end
        if not self._unanswered and begin < len(buffer):
            # The answers before it are not passed on either: they may have been out of step already.
            raise BadResponse("unsolicited data from memcached", origin=self._origin)
        if buffer is self._rest:
            del self._rest[:begin]
        else:
            self._rest += data[begin:]
        return events

    def _end(self, buffer: bytes | bytearray, begin: int) -> int | None:
        """Find the end of the oldest request's answer, which begins at ``begin``; None if more must come."""
        ends, keys = self._unanswered[0]
        while True:
            at = begin + self._looked_at
            line_end = buffer.find(b"\r\n", at, at + MAX_LINE_BYTES)
            if line_end < 0:
                if len(buffer) - at >= MAX_LINE_BYTES:
                    raise BadResponse(f"a line of more than {MAX_LINE_BYTES} bytes", origin=self._origin)
                return None
            line = bytes(buffer[at:line_end])
            at = line_end + 2
            if ends.fullmatch(line):
                return at
            value = _VALUE.fullmatch(line) if keys else None
            if value is None or value[1] not in keys:
                raise BadResponse(
                    f"this answers another command, or is not an answer: {line[:80]!r}", origin=self._origin
                )
            at += int(value[2]) + 2
            if at - begin > self._max_bytes:
                raise BadResponse(f"the answer is longer than {self._max_bytes} bytes", origin=self._origin)
            if len(buffer) < at:
                self._at_least = at - begin
                return None
            if buffer[at - 2 : at] != b"\r\n":
                raise BadResponse(
                    "a value does not have the length that memcached declared", origin=self._origin
                )
            self._looked_at = at - begin

    def eof(self) -> Sequence[Event]:
        return []

    @property
    def reusable(self) -> bool:
        return True

    @property
    def begun(self) -> bool:
        return bool(self._rest)


WORKER_KIND = StreamKind("memcached", MAX_CONNECTIONS, stream_address, Memcached, DEPTH)
