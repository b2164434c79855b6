"""Where replies of Redis end. A reply that cannot be taken is skipped, so that those behind it still can.

What a reply may be is defined in :mod:`reqpool_contract.payloads.redis_reply`, whose ``value_of`` reads what
is framed here.

``hiredis`` (0.13 µs a reply) makes values, which would have to be written again to travel; finding where a
reply ends and slicing it out costs 0.5 µs, and is decoded only for those who look at it.
"""

from __future__ import annotations

import re
from enum import Enum

from reqpool_contract.errors import BadResponse
from reqpool_contract.payloads.redis_reply import (
    BULK,
    COUNT,
    END,
    LENGTH,
    LINES,
    MAX_DEPTH,
    PART,
    SCALAR,
    STREAMED,
    elements,
)

from . import Answer, Refused

MAX_SKIPPED_BYTES = (512 << 20) + 1024
"""Of a reply that is skipped while others wait behind it. Redis makes no string of over 512 MB
(proto-max-bulk-len); what claims more would occupy the connection for longer than it is worth."""
MAX_SKIPPED_ELEMENTS = 4_000_000
"""Likewise; each takes about 1 µs of the worker's time."""
MAX_NUMBER_BYTES = 64
"""Of a line that is a length or a count."""
MAX_OPEN = 1024
"""Nested streamed aggregates in a reply that is skipped; others take no memory there."""
_FRAME_BYTES = 32
"""First line and end of a reply: not counted by the limit."""
_SMALLEST_REPLY_BYTES = 3

_STREAM, _PARTS = -1, -2
"""Instead of the number of elements that are to come: a streamed aggregate, a streamed string."""

_LENGTHS = {b"$%d" % length: length + 4 for length in range(4096)}
"""First line of a bulk string: bytes from its end to the reply's; quicker than int(), and as strict."""

_HEADS = frozenset(b"$=!;*~%>|.")
"""What begins a line that is a length, a count or an end."""

_length, _scalar, _count = LENGTH.match, SCALAR.match, COUNT.match
_streamed, _part = STREAMED.match, PART.match


class _Within(Enum):
    """What the next bytes of a skipped reply belong to."""

    ELEMENT = 0
    LINE = 1
    STRING = 2


class Framer:
    """Finds where replies end.

    Args:
        protocol: 2 or 3, of RESP. A reply may be of any type; pushes between replies are RESP3's.
        max_bytes: a larger reply is refused.

    Attributes:
        unfinished: elements that are still to come: of the reply itself (1), and of each array around that
            place; empty if no part of a reply has come.
        broken: what came is not a reply, or too large to be skipped; no more can be had.
    """

    def __init__(self, protocol: int, max_bytes: int) -> None:
        self._most = max_bytes + _FRAME_BYTES
        self._pushes = protocol == 3
        self.broken: BadResponse | None = None
        self._held = bytearray()
        """A reply that is not complete; of one that is skipped, what is still to be looked at."""
        self._wanted = 0
        """Bytes of it that it takes at least to go on."""
        self._at = 0
        """Where in it to go on."""
        self._in_line = False
        """Whether what is missing is the end of a line."""
        self._searched = 0
        """Up to there it has none."""
        self.unfinished: list[int] = []
        self._refusal: BadResponse | None = None
        """Why the reply is skipped."""
        self._within = _Within.ELEMENT
        self._unseen = 0
        """Bytes to be skipped that have not come."""
        self._skipped = 0
        """Bytes of the reply that have been dropped."""
        self._elements = 0
        """Of the reply that is skipped, as far as they were announced."""
        self._push = False
        """Whether what is skipped is a push."""

    @property
    def begun(self) -> bool:
        """Whether a part of a reply has come."""
        return bool(self.unfinished)

    def feed(self, data: bytes) -> list[Answer | Refused]:
        """Take bytes that came, return the replies that are complete; look at :attr:`broken` then."""
        answers: list[Answer | Refused] = []
        try:
            self._feed(data, answers)
        except BadResponse as error:
            self.broken = error
        return answers

    def _feed(self, data: bytes, answers: list[Answer | Refused]) -> None:
        if self.unfinished:
            unseen = min(self._unseen, len(data))
            if unseen:
                self._unseen -= unseen
                self._skipped += unseen
                data = data[unseen:]
            held = self._held
            held += data
            if len(held) < self._wanted:
                return
            if self._in_line and len(held) <= self._most and held.find(b"\r\n", self._searched) < 0:
                # A peer that drips a long line would have it read from its beginning for each byte.
                self._searched = len(held) - 1
                return
            end = self._reply(held, 0, answers)
            if end < 0:
                self._keep(held, 0)
                return
            self._held = bytearray()
            data = bytes(memoryview(held)[end:])
        add, find, length_of = answers.append, data.find, _LENGTHS.get
        at, size = 0, len(data)
        most = self._most - _FRAME_BYTES  # with the first line it may be too large: looked at more closely
        while at < size:
            line_end = find(b"\r\n", at)
            length = length_of(data[at:line_end])
            if length is not None and line_end > 0:
                end = line_end + length
                if end <= size and length <= most:
                    if data[end - 2 : end] != b"\r\n":
                        raise _malformed(data, at)
                    add((0, BULK + data[line_end + 2 : end - 2]))
                    at = end
                    continue
            else:
                line = _scalar(data, at)
                if line is not None:
                    end = line.end()
                    if end - at <= most:
                        add((0, line[0]))
                        at = end
                        continue
            end = self._reply(data, at, answers)
            if end < 0:
                self._keep(data, at)
                return
            at = end

    def _reply(self, buffer: bytes | bytearray, begin: int, answers: list[Answer | Refused]) -> int:
        """Take the reply that begins there; return where it ends, -1 if more has to come."""
        if not self.unfinished:
            self.unfinished.append(1)
        end = self._walk(buffer, begin)
        if end < 0:
            return end
        refusal = self._refusal
        if refusal is None:
            self._take(memoryview(buffer)[begin:end], answers)
        elif not self._push:
            answers.append(Refused(refusal))
        self._refusal = None
        self._at = self._wanted = self._searched = self._skipped = 0
        return end

    def _keep(self, buffer: bytes | bytearray, begin: int) -> None:
        """Hold what there is of a reply that is not complete."""
        if self._refusal is not None:
            self._skipped += self._at
            begin += self._at
            self._wanted -= self._at
            self._at = self._searched = 0
        if begin or buffer is not self._held:
            self._held = bytearray(memoryview(buffer)[begin:])

    def _take(self, reply: memoryview, answers: list[Answer | Refused]) -> None:
        """Write a reply as it travels."""
        if reply[0] == 36 and 48 <= reply[1] <= 57:  # a bulk string, neither null nor streamed
            begin = bytes(reply[:_FRAME_BYTES]).index(b"\r\n") + 2
            answers.append((0, b"".join((BULK, reply[begin:-2]))))
        elif reply[0] != 62:  # a push: RESP3 has them between replies, and nothing here asks for any
            answers.append((0, bytes(reply)))

    def _walk(self, buffer: bytes | bytearray, begin: int) -> int:
        """Go over the elements of the reply that begins there, from where that was left.

        Returns:
            Where the reply ends; -1 if more has to come.
        """
        at, size, stack, most = begin + self._at, len(buffer), self.unfinished, self._most
        if self._within is not _Within.ELEMENT:
            at = self._skip_rest(buffer, at)
            if at < 0 or self._completes():
                return at
        while True:
            if stack[-1] == _PARTS:
                at = self._walk_parts(buffer, begin, at)
                if at < 0 or self._completes():
                    return at
            if (line := _length(buffer, at)) is not None:
                end = line.end() + int(line[1]) + 2
                if end <= size and end - begin <= most and buffer[end - 2 : end] == b"\r\n":
                    at = end
                else:
                    at = self._string(buffer, begin, at, line)
            elif (line := _scalar(buffer, at)) is not None:
                at = line.end()
                if at - begin > most:
                    self._check_size(buffer, begin, at)
            elif (line := _count(buffer, at)) is not None:
                if len(stack) == 1 and buffer[at] == 62 and not self._pushes:  # >
                    # It cannot be known whether it is the reply that is due, or comes before that.
                    raise _malformed(buffer, at)
                at = line.end()
                if self._enter(buffer, begin, at, elements(line[1], int(line[2]))):
                    continue
            elif (line := _streamed(buffer, at)) is not None:
                at = line.end()
                self._enter(buffer, begin, at, _PARTS if line[1] == b"$" else _STREAM)
                continue
            elif stack[-1] == _STREAM and buffer.startswith(END, at):
                at += len(END)
                stack.pop()
                if self._completes():
                    return at
                continue
            else:
                at = self._odd(buffer, begin, at)
            if at < 0:
                return at
            left = stack[-1]
            if left > 1:
                stack[-1] = left - 1
            elif left == 1:
                stack[-1] = 0
                if self._completes():
                    return at

    def _walk_parts(self, buffer: bytes | bytearray, begin: int, at: int) -> int:
        """Return where the streamed string ends; -1 if more has to come."""
        while True:
            line = _part(buffer, at)
            if line is None:
                if buffer[at : at + 1] not in (b"", b";"):
                    raise _malformed(buffer, at)
                return self._odd(buffer, begin, at)
            if not int(line[1]):
                self.unfinished.pop()
                return line.end()
            at = self._string(buffer, begin, at, line)
            if at < 0:
                return at

    def _completes(self) -> bool:
        """Return whether the reply is complete, now that an element is."""
        stack = self.unfinished
        while stack and not stack[-1]:
            stack.pop()
        return not stack

    def _enter(self, buffer: bytes | bytearray, begin: int, at: int, count: int) -> bool:
        """So many elements follow, or :data:`_STREAM`, or :data:`_PARTS`; False if none does."""
        stack = self.unfinished
        least = at + count * _SMALLEST_REPLY_BYTES if count > 0 else at
        if least - begin > self._most or self._refusal is not None:
            self._check_size(buffer, begin, least)
        if self._refusal is None and len(stack) > MAX_DEPTH and count != _PARTS:
            self._refuse(buffer, begin, f"a Redis reply has more than {MAX_DEPTH} nested arrays")
        if not count:
            return False
        if self._refusal is not None:
            self._elements += max(count, 0)
            if self._elements > MAX_SKIPPED_ELEMENTS:
                raise BadResponse(f"{self._refusal.text}, and has too many elements to be skipped")
        if stack[-1] > 0:
            stack[-1] -= 1
        if self._refusal is not None and count > 0 and stack[-1] >= 0:
            stack[-1] += count  # whose elements they are makes no difference to where the reply ends
        elif len(stack) < MAX_OPEN:
            stack.append(count)
        else:
            raise BadResponse(f"a Redis reply has more than {MAX_OPEN} nested streams")
        return True

    def _string(self, buffer: bytes | bytearray, begin: int, at: int, line: re.Match[bytes]) -> int:
        """Return where the string ends whose first line that is; -1 if more has to come."""
        end, size = line.end() + int(line[1]) + 2, len(buffer)
        self._check_size(buffer, begin, end)
        if end <= size:
            if buffer[end - 2 : end] != b"\r\n":
                raise _malformed(buffer, at)
            return end
        if self._refusal is None:
            return self._wait(at - begin, end - begin)
        self._within = _Within.STRING
        self._unseen = max(0, end - 2 - size)
        text_end = min(end - 2, size) - begin
        return self._wait(text_end, text_end + 2)

    def _odd(self, buffer: bytes | bytearray, begin: int, at: int) -> int:
        """Return where the line ends that cannot be read, or not yet; -1 if more has to come."""
        size = len(buffer)
        if self._refusal is not None:
            self._check_size(buffer, begin, size)
        if at == size:
            return self._wait(at - begin, size - begin + 1)
        line_end = buffer.find(b"\r\n", max(at, begin + self._searched))
        in_line = buffer[at] in LINES
        if not in_line:
            if buffer[at] not in _HEADS or line_end >= 0 or size - at > MAX_NUMBER_BYTES:
                raise _malformed(buffer, at)
        elif line_end >= 0:
            self._check_size(buffer, begin, line_end + 2)
            if self._refusal is None:
                self._refuse(
                    buffer, begin, f"not a Redis value: {bytes(buffer[at : min(line_end, at + 40)])!r}"
                )
            return line_end + 2
        else:
            self._check_size(buffer, begin, size)
            if self._refusal is not None:
                self._within = _Within.LINE
                at = size - buffer.endswith(b"\r")
        self._searched = size - 1 - begin
        return self._wait(at - begin, size - begin + 1, in_line=in_line and self._refusal is None)

    def _skip_rest(self, buffer: bytes | bytearray, at: int) -> int:
        """Return where the line or string ends that was begun; -1 if more has to come."""
        if self._within is _Within.STRING:
            end = at + 2
            if buffer[at:end] != b"\r\n":
                raise _malformed(buffer, at)
        else:
            end = buffer.find(b"\r\n", at) + 2
            if end < 2:
                self._check_size(buffer, at, len(buffer))
                return self._wait(len(buffer) - buffer.endswith(b"\r"), len(buffer) + 1)
        self._within = _Within.ELEMENT
        if self.unfinished[-1] > 0:
            self.unfinished[-1] -= 1
        return end

    def _wait(self, at: int, wanted: int, *, in_line: bool = False) -> int:
        self._at = at
        self._wanted = wanted
        self._in_line = in_line
        return -1

    def _check_size(self, buffer: bytes | bytearray, begin: int, end: int) -> None:
        """The reply has bytes up to ``end`` at least: too many to take, or even to skip?"""
        size = self._skipped + end - begin
        if self._refusal is None and size > self._most:
            self._refuse(buffer, begin, f"a Redis reply is larger than {self._most - _FRAME_BYTES} bytes")
        if self._refusal is not None and size > MAX_SKIPPED_BYTES:
            raise BadResponse(f"{self._refusal.text}, and too large to be skipped: {size} bytes or more")

    def _refuse(self, buffer: bytes | bytearray, begin: int, text: str) -> None:
        """Skip the reply from here on."""
        self._refusal = BadResponse(text)
        self._push = buffer[begin] == 62  # >
        flat: list[int] = []
        for left in self.unfinished:
            if flat and left >= 0 and flat[-1] >= 0:
                flat[-1] += left
            else:
                flat.append(left)
        self.unfinished[:] = flat
        self._elements = sum(left for left in flat if left > 0)


def _malformed(buffer: bytes | bytearray, at: int) -> BadResponse:
    # No more than the line: behind it may be others' answers.
    line = bytes(buffer[at : at + 40]).partition(b"\r\n")[0]
    return BadResponse(f"not a Redis reply: {line!r}")
