"""The bodies of HTTP/1.1 answers, told apart by how they end (RFC 9112 §6.3). Sans-IO.

Each takes the head and what came with it, and hands on the head and the content.
"""

from __future__ import annotations

from typing import Protocol

import httptools

from reqpool_contract.errors import BadResponse

MAX_QUIET_BYTES = 64 << 10
"""How many bytes of chunk extensions and trailers, which nobody looks at, may come in a row."""

_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Body(Protocol):
    """A body under way.

    Attributes:
        surplus: did bytes come behind its end?
    """

    surplus: bool

    def feed(self, data: bytes) -> bool:
        """Take bytes; return whether the body has ended.

        Raises:
            BadResponse: it is malformed or too long.
        """

    def answer(self) -> bytes:
        """Return the head and the content."""


class Sized:
    """A body of known length."""

    __slots__ = ("_missing", "_parts", "surplus")

    def __init__(self, begun: bytes, missing: int) -> None:
        """Begin with head and content so far, and how many bytes are to come."""
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

    The parser gets a head of its own: what the real one says of upgrades and connections does not concern it.
    Behind the end it expects another answer: so surplus bytes are noticed. Of llhttp's leniencies it has
    only the one for white space behind a chunk's size; that for fields takes a CR alone in trailers, too.
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
        # A bytearray, not a list of chunks: a hostile peer's, of 2 bytes, would be objects of 35.
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
        """llhttp: an answer begins; the first one is the made-up head's, and another stops the parser."""
        if self._ended:
            self.surplus = True
            raise httptools.HttpParserError("bytes after the end")

    def on_message_complete(self) -> None:
        """llhttp: the last chunk and the trailers have come."""
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
