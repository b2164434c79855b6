"""Content codings of HTTP answers: gzip, deflate, br, zstd (RFC 9110 §8.4), with a limit on the output.

``br`` and ``zstd`` are accepted if the packages for them are installed (``reqpool[http]``).
"""

from __future__ import annotations

import zlib
from importlib.util import find_spec

from reqpool_contract.errors import BadResponse

from .http_charset import codec

ACCEPTED = ", ".join(
    ["gzip", "deflate"]
    + [coding for coding, package in (("br", "brotli"), ("zstd", "zstandard")) if find_spec(package)]
)
"""The codings in which answers may come: the value of Accept-Encoding."""

MAX_CODINGS = 4
"""Codings that may be applied to one body."""
ZSTD_WINDOW_BYTES = 8 << 20
"""Largest window that a decoder of this content coding must support (RFC 9659)."""

MAX_MEMBERS = 4096
"""Streams that may follow each other in one body: a hostile body has a million empty ones."""

_NO_CODINGS = frozenset(("", "identity", "none", "7bit", "8bit", "binary", "aws-chunked"))
"""Names that servers put there and that change nothing: transfer encodings of MIME, and what object stores
keep from an upload. Names of charsets, which belong in Content-Type, change nothing either."""

_PIECE_BYTES = 64 << 10
"""Input of one step: what follows a stream's end is copied, and that must not be the whole rest each time."""
_GZIP_MAGIC = b"\x1f\x8b"
_ZLIB_OR_GZIP = 32 + zlib.MAX_WBITS
_RAW = -zlib.MAX_WBITS
_INSTALL = "pip install 'reqpool[http]'"


def decoded(data: bytes, codings: str, limit: int) -> bytes:
    """Undo the codings of a body.

    Args:
        data: the body as received; an empty one stays empty (an answer to HEAD names codings, too).
        codings: the value of Content-Encoding; the last coding was applied last.
        limit: most bytes of output, for each coding.

    Raises:
        BadResponse: a coding is unknown, the data is malformed or cut short, or the output is too large.
    """
    names = [name.strip().lower() for name in codings.split(",")]
    if len(names) > MAX_CODINGS:
        raise BadResponse(
            f"the answer has {len(names)} nested content codings; at most {MAX_CODINGS} are accepted"
        )
    for name in reversed(names):
        if not data or name in _NO_CODINGS:
            continue
        decode = _DECODERS.get(name)
        if decode is None:
            if codec(name) is not None:
                continue
            raise BadResponse(
                f"the answer's content coding {name[:40]!r} is not supported; .raw has the body as received"
            )
        content = decode(data, limit)
        if content is None:
            raise BadResponse(f"the answer's {name} data is malformed or cut short")
        if len(content) > limit:
            raise BadResponse(f"the answer's {name} data is more than {limit} bytes when decoded (max_bytes)")
        data = content
    return data


# Each returns little more than ``limit`` bytes at most, so the caller checks whether that is too much. None
# means that the data is malformed or cut short.


def _inflate(data: bytes, limit: int, bits: int) -> bytes | None:
    decoder = zlib.decompressobj(bits)
    try:
        content = decoder.decompress(data, limit + 1)
    except zlib.error:
        return None
    return content if decoder.eof or len(content) > limit else None


def _gzip(data: bytes, limit: int) -> bytes | None:
    parts: list[bytes] = []
    room = limit + 1
    at = members = 0
    # One or several members (RFC 1952 §2.2). As in gzip, what follows and does not begin like one is padding.
    while at == 0 or data.startswith(_GZIP_MAGIC, at):
        members += 1
        _check_members(members, "gzip")
        decoder = zlib.decompressobj(_ZLIB_OR_GZIP)
        while not decoder.eof:
            piece = data[at : at + _PIECE_BYTES]
            if not piece:
                return None
            try:
                part = decoder.decompress(piece, room)
            except zlib.error:
                return None
            parts.append(part)
            room -= len(part)
            if room == 0:
                return b"".join(parts)
            at += len(piece) - len(decoder.unused_data)
    return b"".join(parts)


def _deflate(data: bytes, limit: int) -> bytes | None:
    # The coding is zlib's format, but some servers send raw deflate (RFC 9110 §8.4.1.2).
    content = _inflate(data, limit, _ZLIB_OR_GZIP)
    return _inflate(data, limit, _RAW) if content is None else content


def _brotli(data: bytes, limit: int) -> bytes | None:
    try:
        import brotli  # type: ignore[import-untyped]
    except ImportError as error:
        raise BadResponse(
            f"the answer is in br, which needs a package that is not installed: {_INSTALL}"
        ) from error
    decoder = brotli.Decompressor()
    parts: list[bytes] = []
    room = limit + 1
    try:
        while room > 0 and not decoder.is_finished():
            part = decoder.process(data, output_buffer_limit=room)
            if not part and not data:
                return None
            data = b""
            parts.append(part)
            room -= len(part)
    except brotli.error:
        return None
    return b"".join(parts)


def _zstd(data: bytes, limit: int) -> bytes | None:
    try:
        import zstandard
    except ImportError as error:
        raise BadResponse(
            f"the answer is in zstd, which needs a package that is not installed: {_INSTALL}"
        ) from error
    decoder = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES)
    parts: list[bytes] = []
    try:
        # Only the stream reader limits its output, and only decompressobj detects data that is cut short.
        reader = decoder.stream_reader(data, read_across_frames=True)
        size_bytes = 0
        while size_bytes <= limit and (part := reader.read(_PIECE_BYTES)):
            size_bytes += len(part)
        if size_bytes > limit:
            return bytes(limit + 1)
        at = members = 0
        while at < len(data):
            members += 1
            _check_members(members, "zstd")
            frame = decoder.decompressobj()
            while not frame.eof:
                piece = data[at : at + _PIECE_BYTES]
                if not piece:
                    return None
                parts.append(frame.decompress(piece))
                at += len(piece) - len(frame.unused_data)
    except zstandard.ZstdError:
        return None
    return b"".join(parts)


def _check_members(count: int, coding: str) -> None:
    if count > MAX_MEMBERS:
        raise BadResponse(f"the answer's {coding} data has more than {MAX_MEMBERS} concatenated streams")


_DECODERS = {"gzip": _gzip, "x-gzip": _gzip, "deflate": _deflate, "br": _brotli, "zstd": _zstd}
