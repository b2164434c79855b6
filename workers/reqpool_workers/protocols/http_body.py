"""Bodies of HTTP/1.1 answers, by the way they end (RFC 9112 §6.3). Sans-IO.

Each takes the head and the bytes that came with it, and returns the head and the content.
"""

from __future__ import annotations

from typing import Protocol

import httptools

from reqpool_contract.errors import BadResponse

MAX_QUIET_BYTES = 64 << 10
"""Most bytes in a row of chunk extensions and trailers, which are ignored."""

_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Body(Protocol):
    """A body that is being received.

    Attributes:
        surplus: bytes came after its end.
    """

    surplus: bool

    def feed(self, data: bytes) -> bool:
        """Take bytes; return whether the body has ended.

        Raises:
            BadResponse: if it is malformed or too long.
        """

    def answer(self) -> bytes:
        """Return the head and the content."""


class Sized:
    """A body of known length."""

    __slots__ = ("_missing", "_parts", "surplus")

    def __init__(self, begun: bytes, missing: int) -> None:
        """Begin with the head and content so far, and the number of bytes still to come."""
        self._parts = [begun]
        self._missing = missing
        self.surplus = False

    def feed(self, data: bytes) -> bool:
        self._parts.append(data)
        self._missing -= len(data)
        if self._missing > 0:
            return False
        if self._missing < 0:
            self.surplus = True
            self._parts[-1] = data[: self._missing]
        return True

    def answer(self) -> bytes:
        return b"".join(self._parts)


class UntilClose:
    """A body that ends when the peer closes."""

    __slots__ = ("_limit", "_parts", "_room", "surplus")

    def __init__(self, head: bytes, limit: int) -> None:
        self._parts = [head]
        self._limit = self._room = limit
        self.surplus = False

    def feed(self, data: bytes) -> bool:
        self._room -= len(data)
        if self._room < 0:
            raise too_long(self._limit)
        self._parts.append(data)
        return False

    def answer(self) -> bytes:
        return b"".join(self._parts)


class Chunked:
    """A body in chunks (RFC 9112 §7.1), read by llhttp.

    The parser gets a made-up head: upgrades and connection options of the real one do not concern it. After
    the end it expects another answer, so surplus bytes are noticed. Of llhttp's leniencies it has only the
    one for white space after a chunk's size; the one for fields would accept a bare CR in trailers, too.
    """

    __slots__ = (
        "_content",
        "_ended",
        "_head_bytes",
        "_limit",
        "_parser",
        "_quiet_bytes",
        "on_body",
        "surplus",
    )

    def __init__(self, head: bytes, limit: int) -> None:
        # A bytearray, not a list of chunks: a hostile peer's chunks of 2 bytes would be objects of 35.
        self._content = bytearray(head)
        self.on_body = self._content.extend
        self._head_bytes = len(head)
        self._limit = limit
        self._quiet_bytes = 0
        self._ended = self.surplus = False
        self._parser = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(lenient_spaces_after_chunk_size=True)
        self._parser.feed_data(_CHUNKED)

    def on_message_begin(self) -> None:
        """Take llhttp's event: an answer begins, first the made-up one; another stops the parser."""
        if self._ended:
            self.surplus = True
            raise httptools.HttpParserError("bytes after the end")

    def on_message_complete(self) -> None:
        """Take llhttp's event: the last chunk and the trailers have arrived."""
        self._ended = True

    def feed(self, data: bytes) -> bool:
        before = len(self._content)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self._ended:
                raise BadResponse(f"the answer's chunks are malformed: {error}") from error
        now = len(self._content)
        if now - self._head_bytes > self._limit:
            raise too_long(self._limit)
        self._quiet_bytes = self._quiet_bytes + len(data) if now == before else 0
        if self._quiet_bytes > MAX_QUIET_BYTES:
            raise BadResponse(
                f"more than {MAX_QUIET_BYTES} bytes of chunk extensions or trailers in the answer"
            )
        return self._ended

    def answer(self) -> bytes:
        return bytes(self._content)


def too_long(limit: int) -> BadResponse:
    """Return the error for a body over the limit."""
    return BadResponse(
        f"the answer's body is longer than {limit} bytes, which the request's max_bytes or the upstream's "
        "max_response_bytes allows"
    )
