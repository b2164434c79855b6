"""Charsets of HTTP answers: what a server names, and what Python calls it."""

from __future__ import annotations

import codecs
import re
from functools import lru_cache

# Text encodings to Python, but none of a document's; and punycode takes quadratic time.
_NO_CHARSETS = frozenset(("idna", "punycode", "raw_unicode_escape", "undefined", "unicode_escape"))
_MAX_NAME_CHARACTERS = 40
"""Python remembers each name that it does not know."""

_KEPT_CHARACTERS = 100
"""A longer Content-Type is read anew each time: thousands of such would be megabytes."""

# RFC 9110 §5.6.6, and what servers send besides: white space round the "=", and "," where others were joined.
_PARAMETER = re.compile(r'(?:^|;)[ \t]*([^\s;,="]+)[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|[^;,]*)')
_ESCAPED = re.compile(r"\\(.)")


def codec(name: str) -> str | None:
    """Return what Python calls a charset; None if it knows none of this name."""
    if len(name) > _MAX_NAME_CHARACTERS:
        return None
    try:
        # Not all codecs are charsets; these three are what bytes can be asked to do.
        "".encode(name)
        b"".decode(name)
        known = codecs.lookup(name).name
    except (LookupError, ValueError):
        return None
    return None if known.replace("-", "_") in _NO_CHARSETS else known


def charset(content_type: str) -> str | None:
    """Return the charset that a Content-Type names first, by Python's name; None if none is known."""
    return _kept(content_type) if len(content_type) <= _KEPT_CHARACTERS else _charset(content_type)


def _charset(content_type: str) -> str | None:
    for name, value in _PARAMETER.findall(content_type):
        if name.lower() == "charset":
            if value.startswith('"'):
                value = _ESCAPED.sub(r"\1", value[1:-1])
            # Single quotes are not RFC 9110's, but servers send them.
            known = codec(value.strip(" \t'\""))
            if known is not None:
                return known
    return None


_kept = lru_cache(maxsize=256)(_charset)
