"""Heads of HTTP answers that llhttp refuses and that can be read in only one way, rewritten. Sans-IO.

Which are accepted, which are not, and why: docs/kinds-http.md.
"""

from __future__ import annotations

import re

from reqpool_contract.errors import BadResponse

STATUS_LINE = re.compile(rb"HTTP/1\.[01] [1-9][0-9]{2}(?: [^\x00\r\n]*)?\r\n")

_LINE_END = b"\r\n"
_SPACE = b" \t"
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+)([ \t]*):(.*)", re.DOTALL)
_IN_NO_LINE = re.compile(rb"[\x00\r]")
_FRAMING_FIELDS = frozenset((b"content-length", b"transfer-encoding"))


class Repair:
    """A head that is being received, read line by line.

    Attributes:
        head: the part that has been read, as RFC 9112 requires: lines end with CR LF, nothing is folded,
            there is no white space before a colon, and there is one Content-Length.
        doubtful: a proxy between the server and us could have read it in another way: the connection must not
            serve another request.
    """

    __slots__ = ("_field", "_framing", "_length", "_limit", "_name", "_part", "_size", "doubtful", "head")

    def __init__(self, limit: int, taken: int) -> None:
        """Begin a head of at most ``limit`` bytes, including ``taken`` bytes of heads before it."""
        self.head = bytearray()
        self.doubtful = False
        self._limit = limit
        self._size = taken
        self._part = bytearray()
        # The last field, which the next line may continue: its name in lower case, and its text so far.
        self._name = b""
        self._field = bytearray()
        self._framing: set[bytes] = set()
        self._length: bytes | None = None

    def feed(self, data: bytes) -> bytes | None:
        """Take bytes; return those after the head once it is whole, otherwise None.

        Raises:
            BadResponse: if it is malformed or too long.
        """
        at = 0
        while end := data.find(b"\n", at) + 1:
            line = data[at:end]
            if self._part:
                line = bytes(self._part + line)
                self._part.clear()
            self._grow(end - at)
            at = end
            if self._read(line):
                return data[at:]
        self._grow(len(data) - at)
        self._part += data[at:]
        return None

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > self._limit:
            raise BadResponse(f"the head of the answer is longer than {self._limit} bytes")

    def _read(self, line: bytes) -> bool:
        """Read a line, which ends with LF; return whether it was the last of the head."""
        # RFC 9112 §2.2: a single LF may end a line, too.
        if not line.endswith(_LINE_END):
            self.doubtful = True
        line = line.removesuffix(b"\n").removesuffix(b"\r")
        if _IN_NO_LINE.search(line):
            raise _malformed("it contains a NUL or a bare CR", line.partition(b":")[0])
        if not self.head:
            self.head += line + _LINE_END
            if not STATUS_LINE.fullmatch(self.head):
                raise BadResponse(f"the answer's first line is malformed: {line[:80]!r}")
        elif line[:1] in (b" ", b"\t"):
            self._continue(line)
        else:
            self._end_field()
            if not line:
                self.head += _LINE_END
                return True
            self._begin_field(line)
        return False

    def _begin_field(self, line: bytes) -> None:
        found = _FIELD.fullmatch(line)
        if found is None:
            raise _malformed("not a field name followed by a colon", line.partition(b":")[0])
        name, space, value = found.groups()
        self._name = name.lower()
        if space:
            # RFC 9112 §5.1. Some drop such a field, others read it: that must not decide the framing.
            if self._name in _FRAMING_FIELDS:
                raise _malformed("white space before the colon of a framing field", name)
            self.doubtful = True
        self._field += name + b": " + value.strip(_SPACE)

    def _continue(self, line: bytes) -> None:
        """Undo a fold: replace it by one SP (RFC 9112 §5.2)."""
        if not self._field:
            raise _malformed("its first field begins with white space", line.partition(b":")[0])
        if self._name in _FRAMING_FIELDS:
            raise _malformed("a framing field is folded", self._name)
        more = line.strip(_SPACE)
        if more:
            self._field += more if self._field.endswith(b" ") else b" " + more

    def _end_field(self) -> None:
        """End the last field, if there is one: no further line continues it."""
        field = bytes(self._field)
        self._field.clear()
        if not field:
            return
        if self._name in _FRAMING_FIELDS:
            self._framing.add(self._name)
            # RFC 9112 §6.1, §6.3: chunks override a length; to send both may be an attack.
            self.doubtful |= len(self._framing) == 2
        if self._name == b"content-length":
            name, _, value = field.partition(b": ")
            lengths = {length.strip(_SPACE) for length in value.split(b",")}
            known = self._length
            self._length = min(lengths)
            if len(lengths | {known or self._length}) > 1 or not self._length.isdigit():
                raise _malformed("its Content-Length is not a single number", field)
            if known is not None:
                return  # it is repeated (RFC 9112 §6.3)
            field = name + b": " + self._length
        self.head += field + _LINE_END


def _malformed(why: str, where: bytes) -> BadResponse:
    # Never the value of a field that is not about framing: it may be a secret.
    return BadResponse(f"the head of the answer is malformed: {why}: {where[:80]!r}")
