"""Bodies of HTTP requests: bytes, text, forms, JSON, and files (multipart, RFC 7578)."""

from __future__ import annotations

import json as json_module
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from reqpool_contract import wire
from reqpool_contract.errors import UsageError

from .http_fields import field
from .http_url import form, pairs

FORM = "application/x-www-form-urlencoded"
_ANY_TYPE = "application/octet-stream"


class RequestBody(NamedTuple):
    """A body as it is sent.

    Attributes:
        content: its bytes.
        content_type: the type of them; empty if it is unknown.
    """

    content: bytes
    content_type: str


def body(json: object, data: object, files: object) -> RequestBody | None:
    """Make the body of a request from the caller's arguments; None if there are none.

    Args:
        json: anything that JSON can represent; cannot be combined with the others.
        data: bytes; a str (UTF-8); an object with ``read()``, which is read at once; or a form: a mapping or
            a list of pairs.
        files: a mapping or a list of pairs of a name with a content, (filename, content), or (filename,
            content, content type). A content is bytes, str, or an object with ``read()``. If the filename is
            None, the part has none, and a content type only if one is given. With ``files``, ``data`` is a
            form.

    Raises:
        UsageError: an argument is wrong; the text says which.
    """
    if json is not None:
        if data is not None or files is not None:
            raise UsageError("give json=, or data= and files=, not both")
        return RequestBody(_json(json), "application/json")
    # A multipart body without a part is malformed (RFC 2046 §5.1.1).
    if files is not None and (files or not isinstance(files, Mapping | list | tuple)):
        return _multipart(pairs(data, "data") if data is not None else (), files)
    if data is None:
        return None
    if isinstance(data, Mapping | list | tuple):
        return RequestBody(form(data, "data").encode("ascii"), FORM)
    if isinstance(data, str):
        return RequestBody(_content(data, "data="), "text/plain; charset=utf-8")
    return RequestBody(_content(data, "data="), "")


def _json(value: object) -> bytes:
    try:
        return json_module.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"json= cannot be encoded as JSON: {error}") from error


def _content(given: Any, what: str) -> bytes:
    if isinstance(given, bytes):
        return given
    if isinstance(given, bytearray | memoryview):
        return bytes(given)
    if not isinstance(given, str) and callable(getattr(given, "read", None)):
        given = given.read(wire.MAX_PAYLOAD_BYTES + 1)
        if not isinstance(given, bytes | str):
            raise UsageError(f"{what} read() returned {type(given).__name__}, not bytes")
        if len(given) > wire.MAX_PAYLOAD_BYTES:
            raise UsageError(
                f"{what} has more than {wire.MAX_PAYLOAD_BYTES} bytes to read, the most that is allowed"
            )
    if isinstance(given, str):
        try:
            return given.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"{what} cannot be encoded as UTF-8: {error}") from error
    if isinstance(given, bytes):
        return given
    raise UsageError(
        f"{what} must be bytes, str, something with read(), or a form (a mapping or a list of pairs), "
        f"not {type(given).__name__}"
    )


def _multipart(fields: Iterable[tuple[str | bytes, str | bytes]], files: object) -> RequestBody:
    # 128 random bits: a content cannot contain this line, neither by accident nor on purpose.
    boundary = os.urandom(16).hex()
    parts: list[bytes] = []
    for name, value in fields:
        about = b'Content-Disposition: form-data; name="%b"\r\n' % _quoted(name)
        parts += (b"--%b\r\n" % boundary.encode(), about, b"\r\n", _content(value, "data="), b"\r\n")
    for name, filename, content, content_type in _files(files):
        about = b'Content-Disposition: form-data; name="%b"' % _quoted(name)
        if filename is not None:
            about += b'; filename="%b"' % _quoted(filename)
        line = b"" if content_type is None else field("Content-Type", content_type)[1]
        parts += (b"--%b\r\n" % boundary.encode(), about, b"\r\n", line, b"\r\n", content, b"\r\n")
    parts.append(b"--%b--\r\n" % boundary.encode())
    return RequestBody(b"".join(parts), f"multipart/form-data; boundary={boundary}")


def _files(files: object) -> Iterable[tuple[str, str | bytes | None, bytes, str | None]]:
    """Return name, filename, content and content type of each part of ``files=``."""
    items: Iterable[Any]
    if isinstance(files, Mapping):
        items = files.items()
    elif isinstance(files, list | tuple):
        items = files
    else:
        raise UsageError(f"files= must be a mapping or a list of pairs, not {type(files).__name__}")
    for item in items:
        try:
            name, file = item
        except (TypeError, ValueError) as error:
            raise UsageError(f"files= has an item that is not a pair: {type(item).__name__}") from error
        if not isinstance(name, str):
            raise UsageError(f"files= has a name that is not a string: {name!r}")
        about = file if isinstance(file, tuple | list) else (_filename(file, name), file, _ANY_TYPE)
        if not 2 <= len(about) <= 3:
            raise UsageError(f"files= {name!r}: give the content, or (filename, content[, content type])")
        filename, content, *content_type = about
        if filename is not None and not isinstance(filename, str | bytes):
            raise UsageError(f"files= {name!r}: a filename must be a string, not {type(filename).__name__}")
        kind = content_type[0] if content_type else None
        if kind is None and filename is not None:
            kind = _ANY_TYPE
        yield name, filename, _content(content, f"files= {name!r}"), kind


def _filename(content: object, name: str) -> str | bytes:
    """Return the filename of a file given without one: that on disk, otherwise the field's name."""
    path = getattr(content, "name", None)
    # For a file without a path this is a number, or a text like <stdin>.
    if isinstance(path, str | bytes) and path and not os.fsdecode(path).startswith("<"):
        return os.path.basename(path)
    return name


def _quoted(text: str | bytes) -> bytes:
    """Encode a name or a filename for use in quotes, as browsers do (WHATWG HTML, multipart/form-data)."""
    try:
        data = text if isinstance(text, bytes) else text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"the name {text!r} cannot be encoded as UTF-8: {error}") from error
    return data.replace(b"\r", b"%0D").replace(b"\n", b"%0A").replace(b'"', b"%22")
