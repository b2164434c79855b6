"""Content codings of HTTP answers: gzip, deflate, br, zstd (RFC 9110 §8.4), with a bound on what comes out.

``br`` and ``zstd`` are asked for, and read, where the packages for them are installed (``reqpool[http]``).
"""

from __future__ import annotations

import zlib
from importlib.util import find_spec

from ..errors import BadResponse

ACCEPTED = ", ".join(
    ["gzip", "deflate"]
    + [coding for coding, package in (("br", "brotli"), ("zstd", "zstandard")) if find_spec(package)]
)
"""What answers may come in, as Accept-Encoding says it."""

MAX_CODINGS = 4
"""How many codings may be put on each other."""
ZSTD_WINDOW_BYTES = 8 << 20
"""RFC 9659: the most that a decoder of this content coding needs to support."""

_PIECE_BYTES = 256 << 10
_ZLIB_OR_GZIP = 32 + zlib.MAX_WBITS
_RAW = -zlib.MAX_WBITS
_INSTALL = "pip install 'reqpool[http]'"


def decoded(data: bytes, codings: str, limit: int) -> bytes:
    """Undo the codings of a body.

    Args:
        data: the body as it came; if it is empty, it stays so (an answer to HEAD names codings, too).
        codings: value of Content-Encoding, the last one applied last.
        limit: most bytes that may come out, at each step.

    Raises:
        BadResponse: a coding is unknown here, the data is malformed or cut short, or too much comes out of
            it.
    """
    names = [name.strip().lower() for name in codings.split(",")]
    if len(names) > MAX_CODINGS:
        raise BadResponse(
            f"the answer has {len(names)} content codings on each other, {MAX_CODINGS} are taken"
        )
    for name in reversed(names):
        if not data or name in ("", "identity"):
            continue
        decode = _DECODERS.get(name)
        if decode is None:
            raise BadResponse(
                f"the answer's content coding {name[:40]!r} is not known here; .raw has it as it came"
            )
        content = decode(data, limit)
        if content is None:
            raise BadResponse(f"the answer's {name} data is malformed or cut short")
        if len(content) > limit:
            raise BadResponse(f"the answer's {name} data is more than {limit} bytes when decoded (max_bytes)")
        data = content
    return data


# Each returns at most a little more than ``limit`` bytes: whether it is too much is for the caller to say.
# None stands for data that is malformed or ends too soon.


def _inflate(data: bytes, limit: int, bits: int) -> bytes | None:
    parts: list[bytes] = []
    room = limit + 1
    while data:
        decoder = zlib.decompressobj(bits)
        try:
            part = decoder.decompress(data, room)
        except zlib.error:
            # What comes behind a complete stream and is none is padding, which gzip ignores, too.
            return b"".join(parts) if parts else None
        parts.append(part)
        room -= len(part)
        if room <= 0:
            break
        if not decoder.eof:
            return None
        data = decoder.unused_data  # the next member of several (RFC 1952 §2.2)
    return b"".join(parts)


def _gzip(data: bytes, limit: int) -> bytes | None:
    return _inflate(data, limit, _ZLIB_OR_GZIP)


def _deflate(data: bytes, limit: int) -> bytes | None:
    # The coding is zlib's format; some servers send what the word says instead (RFC 9110 §8.4.1.2).
    content = _inflate(data, limit, _ZLIB_OR_GZIP)
    return _inflate(data, limit, _RAW) if content is None else content


def _brotli(data: bytes, limit: int) -> bytes | None:
    try:
        import brotli  # type: ignore[import-untyped]
    except ImportError as error:
        raise BadResponse(
            f"the answer is in br, which needs a package that is not here: {_INSTALL}"
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
            f"the answer is in zstd, which needs a package that is not here: {_INSTALL}"
        ) from error
    decoder = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES)
    parts: list[bytes] = []
    try:
        # Only its reader has a bound on what comes out, and only the other one knows data that is cut short.
        reader = decoder.stream_reader(data, read_across_frames=True)
        size_bytes = 0
        while size_bytes <= limit and (part := reader.read(_PIECE_BYTES)):
            size_bytes += len(part)
        if size_bytes > limit:
            return bytes(limit + 1)
        while data:
            frame = decoder.decompressobj()
            parts.append(frame.decompress(data))
            if not frame.eof:
                return None
            data = frame.unused_data
    except zstandard.ZstdError:
        return None
    return b"".join(parts)


_DECODERS = {"gzip": _gzip, "x-gzip": _gzip, "deflate": _deflate, "br": _brotli, "zstd": _zstd}
