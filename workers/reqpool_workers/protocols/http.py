"""HTTP/1.1 over one connection, one request at a time (RFC 9112).

The formats of payload, answer and settings are in :mod:`reqpool_contract.payloads.http`.

Some facts about llhttp this file relies on (httptools 0.9, strict as it is by default):

* It does not know the request: after HEAD it takes the next answer for the body. So it gets only heads, a
  new parser for each, and this file decides where a body ends.
* It refuses what servers and proxies might read in different ways: bare CR and LF, folded lines, white space
  before a colon, control characters in values, several or odd Content-Length, Content-Length beside
  Transfer-Encoding. Such a head goes through ``http_repair``, and llhttp checks what comes out.
* It takes any Transfer-Encoding, a status under 100, NUL beside it, RTSP, HTTP/2.0, and empty lines in front.

This file looks for the empty line; with the above refused, the head ends there for llhttp, too.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Any

import httptools

from reqpool_contract import wire
from reqpool_contract.errors import BadResponse, Code, UsageError
from reqpool_contract.host_names import netloc
from reqpool_contract.origin_names import host_and_port
from reqpool_contract.payloads.http import (
    CLOSE,
    FOLLOW,
    HEAD,
    HEADER,
    NAMED,
    NO_CREDENTIALS,
    NO_HOST,
    REDIRECTS,
)

from .addresses import served_host, stream_address
from .http_body import Body, Chunked, Sized, UntilClose, too_long
from .http_repair import STATUS_LINE, Repair
from .settings import settings_of
from .stream_protocol import READY, Event, StreamProtocol
from .tls_stream import wrap
from .worker_kinds import StreamKind

MAX_HEAD_BYTES = 64 << 10
"""Largest head of an answer, including all 1xx heads before it."""

_END = b"\r\n\r\n"
_LINE_END = b"\r\n"
_FRAMING = re.compile(
    rb"\r\n(content-length|transfer-encoding|connection|location):[ \t]*([^\r]*)", re.IGNORECASE
)
_CHUNKED, _UNTIL_CLOSE = -1, -2
_ADDED = NO_HOST | NO_CREDENTIALS
_OK, _AGAIN = int(Code.OK), int(Code.AGAIN)
_NO_CALLBACKS = object()
_NOTHING: tuple[Event, ...] = ()
_BODILESS = frozenset((204, 304))
_PORTS = {"http": 80, "https": 443}


class Http11(StreamProtocol):
    """One connection.

    Args:
        base: URL of the upstream, ``http://host:port``.
        host: value of the ``Host`` header.
        authorization: value of the ``Authorization`` header, or empty.
        limit: largest body in bytes; a request may ask for less.
    """

    __slots__ = (
        "_additions", "_asked", "_base", "_body", "_doubtful", "_flags", "_following", "_head", "_head_bytes",
        "_keep", "_length", "_limit", "_most", "_parser", "_received", "_redirects", "_repair", "_status",
        "_whole_bytes", "begun", "reusable",
    )  # fmt: skip

    # Each answer asks for these: plain attributes, not properties.
    begun: bool
    reusable: bool
    unclean = False

    def __init__(self, base: str, host: str, authorization: str, limit: int) -> None:
        self._base = base.encode() + b"\r\n"
        about_host = f"Host: {host}\r\n".encode()
        credentials = f"Authorization: {authorization}\r\n".encode() if authorization else b""
        # Fields to insert, by the two flags that decide it.
        self._additions = {
            0: credentials,
            NO_CREDENTIALS: b"",
            NO_HOST: about_host + credentials,
            NO_HOST | NO_CREDENTIALS: about_host,
        }
        self._most = limit
        self._asked = False
        self.begun = False
        self.reusable = True
        self._flags = 0
        self._limit = 0
        self._body: Body | None = None
        # A head that is incomplete: its bytes, and the parser that has seen them.
        self._received = bytearray()
        self._parser: httptools.HttpResponseParser | None = None
        # Reads it first, if the parser refuses it.
        self._repair: Repair | None = None
        self._doubtful = False
        self._head_bytes = 0
        # The last head and its contents: the next answer's is often the same to the byte.
        self._head = b""
        self._status = 0
        self._length = 0
        self._keep = False
        self._redirects = False
        # Size of a whole answer with that head; 0 if it takes a closer look.
        self._whole_bytes = 0
        # The current answer is a redirect that must be followed.
        self._following = False

    def connected(self) -> Sequence[Event]:
        return (READY,)

    def send(self, request: Any) -> bytes:
        payload: bytes = request.payload
        if len(payload) <= HEADER.size:
            raise UsageError("payload is not flags, limit and an HTTP request")
        flags, limit = HEADER.unpack_from(payload)
        data = payload[HEADER.size :]
        addition = self._additions[flags & _ADDED]
        if addition:
            line_end = data.find(_LINE_END) + 2
            if line_end < 2:
                raise UsageError("payload has no request line")
            data = b"".join((data[:line_end], addition, data[line_end:]))
        self._flags = flags
        self._limit = min(limit, self._most)
        self._asked = True
        self.begun = False
        self._head_bytes = 0
        return data

    def feed(self, data: bytes) -> Sequence[Event]:
        if not self._asked:
            raise BadResponse("unsolicited data from the upstream")
        self.begun = True
        body = self._body
        if body is not None:
            return self._end(body.answer(), not body.surplus) if body.feed(data) else _NOTHING
        # What nearly every answer is: whole, with the last one's head. What follows would do the same.
        if (
            len(data) == self._whole_bytes
            and self._parser is None
            and data.startswith(self._head)
            and not self._flags & HEAD
            and self._length <= self._limit
        ):
            self.reusable = self._keep and not self._flags & CLOSE
            self._asked = False
            return ((_OK, data),)
        while self._has_head(data):
            if self._received:
                data = bytes(self._received)
                self._received.clear()
            if self._status >= 200:
                return self._on_head(data)
            data = self._skip(data)
            if not data:
                break
        return _NOTHING

    def eof(self) -> Sequence[Event]:
        body = self._body
        if isinstance(body, UntilClose):
            return self._end(body.answer(), False)
        return _NOTHING

    # --- heads ----------------------------------------------------------------------------------

    def _has_head(self, data: bytes) -> bool:
        """Take bytes; return whether a whole head has arrived. A partial one is kept in ``_received``."""
        parser = self._parser
        if parser is None:
            if self._head and data.startswith(self._head):
                return True
            parser = self._parser = httptools.HttpResponseParser(_NO_CALLBACKS)
            end = data.find(_END)
            if end >= 0:
                try:
                    self._read_head(parser, data[: end + len(_END)])
                except httptools.HttpParserError:
                    return self._has_repaired(data)
                self._parser = None
                return True
        elif self._repair is not None:
            return self._has_repaired(data)
        received = self._received
        seen = len(received)
        received += data
        end = received.find(_END, max(0, seen + 1 - len(_END)))
        try:
            if end >= 0:
                self._read_head(parser, bytes(received[: end + len(_END)]), seen)
                self._parser = None
                return True
            # A fault is reported at once, not when the rest has arrived.
            self._check(parser, received, data)
        except httptools.HttpParserError:
            data = bytes(received)
            received.clear()
            return self._has_repaired(data)
        return False

    def _has_repaired(self, data: bytes) -> bool:
        """Take bytes of a head that llhttp refuses; return whether a whole one has arrived that can be read.

        It is then in ``_received``, repaired, followed by the bytes after it.
        """
        repair = self._repair
        if repair is None:
            repair = self._repair = Repair(MAX_HEAD_BYTES, self._head_bytes)
        behind = repair.feed(data)
        if behind is None:
            return False
        self._doubtful |= repair.doubtful
        self._parser = self._repair = None
        parser = httptools.HttpResponseParser(_NO_CALLBACKS)
        # What llhttp still refuses: control characters in values, and a length beside chunks.
        parser.set_dangerous_leniencies(lenient_headers=True, lenient_chunked_length=True)
        head = bytes(repair.head)
        try:
            self._read_head(parser, head)
        except httptools.HttpParserError as error:
            raise BadResponse(f"the head of the answer is malformed: {error}") from error
        self._received += head + behind
        return True

    def _read_head(self, parser: httptools.HttpResponseParser, head: bytes, seen: int = 0) -> None:
        """Check a whole head, of which the parser has seen ``seen`` bytes, and keep its contents."""
        self._check(parser, head, head[seen:])
        if not STATUS_LINE.match(head):
            raise BadResponse(f"the answer's first line is malformed: {head.partition(_LINE_END)[0][:80]!r}")
        length = _UNTIL_CLOSE
        status = parser.get_status_code()
        current = head.startswith(b"HTTP/1.1")
        options = b""
        located = False
        for name, value in _FRAMING.findall(head):
            size = len(name)
            if size == 14:  # Content-Length, which chunks override (RFC 9112 §6.3)
                length = int(value) if length != _CHUNKED else length
            elif size == 17:  # Transfer-Encoding
                if value.strip(b" \t").lower() != b"chunked" or length == _CHUNKED:
                    raise BadResponse(f"the answer has an unsolicited transfer coding: {value!r}")
                length = _CHUNKED
            elif size == 10:  # Connection
                options += value.lower()
            elif value:
                located = True
        # RFC 9112 §9.3; §6.1: a proxy may not have understood chunks under 1.0.
        keep = current or (b"keep-alive" in options and length != _CHUNKED)
        self._keep = keep and b"close" not in options and not self._doubtful
        self._status = status
        self._length = 0 if status in _BODILESS else length
        self._redirects = located and status in REDIRECTS
        self._head = head
        whole = status >= 200 and self._length >= 0 and not self._redirects
        self._whole_bytes = len(head) + self._length if whole else 0

    def _check(self, parser: httptools.HttpResponseParser, head: bytes | bytearray, data: bytes) -> None:
        """Feed a head's next bytes, ``data``, to its parser; ``head`` ends with them.

        Raises:
            HttpParserError: if llhttp refuses them.
            BadResponse: if they cannot be an answer.
        """
        if not head.startswith(b"HTTP/1."[: len(head)]):
            raise BadResponse(
                f"the upstream does not speak HTTP/1: its answer begins with {bytes(head[:40])!r}"
            )
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if parser.get_status_code() == 101:
                raise BadResponse("unsolicited switch of protocols by the upstream") from error
            raise
        # Only now: in a head that llhttp refuses, the apparent end may be far after the real one.
        if self._head_bytes + len(head) > MAX_HEAD_BYTES:
            raise BadResponse(f"the head of the answer is longer than {MAX_HEAD_BYTES} bytes")

    def _on_head(self, data: bytes) -> Sequence[Event]:
        """Go on after a whole head, with which ``data`` begins."""
        if self._redirects and self._flags & FOLLOW and not self._following:
            return self._on_redirect(data)
        head, length, limit = self._head, self._length, self._limit
        start = len(head)
        if self._flags & HEAD:
            length = 0
        missing = start + length - len(data)
        if length >= 0:
            if length > limit:
                raise too_long(limit)
            if missing == 0:
                return self._end(data, True)
            if missing < 0:
                return self._end(data[:missing], False)
            self._body = Sized(data, missing)
            return _NOTHING
        body = self._body = Chunked(head, limit) if length == _CHUNKED else UntilClose(head, limit)
        if len(data) > start and body.feed(data[start:]):
            return self._end(body.answer(), not body.surplus)
        return _NOTHING

    def _on_redirect(self, data: bytes) -> Sequence[Event]:
        """Follow a redirect at once: its body does not help with that, and may be malformed or endless."""
        self._following = True
        try:
            events = self._on_head(data)
        except BadResponse:
            events = _NOTHING
        return events or self._end(self._head, False)

    def _skip(self, data: bytes) -> bytes:
        """Skip the 1xx head with which ``data`` begins; return the rest."""
        self._head_bytes += len(self._head)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise BadResponse(f"more than {MAX_HEAD_BYTES} bytes of 1xx answers before a final one")
        return data[len(self._head) :]

    def _end(self, answer: bytes, clean: bool) -> Sequence[Event]:
        """Return a whole answer; ``clean``: it ended by its own framing, and nothing followed it."""
        self.reusable = self._keep and clean and not self._flags & CLOSE
        self._asked = False
        self._body = None
        if self._following:
            self._following = False
            return ((_AGAIN, self._base + answer if self._flags & NAMED else answer),)
        return ((_OK, answer),)


def authorization(settings: dict[str, Any]) -> str:
    """Return the value of the ``Authorization`` header for settings (RFC 7617, RFC 6750); may be empty."""
    if settings.get("token") is not None:
        return f"Bearer {settings['token']}"
    if settings.get("user") is not None:
        pair = f"{settings['user']}:{settings.get('password') or ''}"
        return f"Basic {base64.b64encode(pair.encode()).decode()}"
    return ""


def protocol(origin: str, settings: bytes, max_bytes: int) -> StreamProtocol:
    """Make the protocol of one connection to ``http://host:port`` or ``https://host:port``.

    Raises:
        UsageError: if the settings are malformed.
    """
    given = settings_of(settings)
    scheme, _, place = origin.partition("#")[0].partition("://")
    host, port = served_host(origin), host_and_port(origin)[1]
    shown = netloc(host, port)
    if port == _PORTS.get(scheme):
        shown = shown.rpartition(":")[0]
    plain = Http11(f"{scheme}://{place}", shown, authorization(given), max_bytes)
    if scheme != "https":
        return plain
    return wrap(plain, given.get("tls") or {}, host, ("http/1.1",))


# Each request has its own limit; this is the largest.
WORKER_KIND = StreamKind(
    name="http", limit=64, address=stream_address, protocol=protocol, max_bytes=wire.MAX_ANSWER_BYTES
)
