"""Charsets of HTTP answers: from the server's name to Python's codec."""

from __future__ import annotations

import codecs
import re
from functools import lru_cache

# Python has these as text encodings, but documents are not in them; and punycode takes quadratic time.
_NO_CHARSETS = frozenset(("idna", "punycode", "raw_unicode_escape", "undefined", "unicode_escape"))
_MAX_NAME_CHARACTERS = 40
"""Python caches each unknown name."""

_KEPT_CHARACTERS = 100
"""A longer Content-Type is not cached: thousands of them would be megabytes."""

# RFC 9110 §5.6.6, and what servers send besides: spaces around "=", and "," where fields were joined.
_PARAMETER = re.compile(r'(?:^|;)[ \t]*([^\s;,="]+)[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|[^;,]*)')
_ESCAPED = re.compile(r"\\(.)")


def codec(name: str) -> str | None:
    """Return Python's name of a charset; None if Python does not know it."""
    if len(name) > _MAX_NAME_CHARACTERS:
        return None
    try:
        # Not all codecs are for text: these two raise LookupError for the others.
        "".encode(name)
        b"".decode(name)
        known = codecs.lookup(name).name
    except (LookupError, ValueError):
        return None
    return None if known.replace("-", "_") in _NO_CHARSETS else known


def charset(content_type: str) -> str | None:
    """Return Python's name of the first known charset in a Content-Type; None if there is none."""
    return _kept(content_type) if len(content_type) <= _KEPT_CHARACTERS else _charset(content_type)


def _charset(content_type: str) -> str | None:
    for name, value in _PARAMETER.findall(content_type):
        if name.lower() == "charset":
            if value.startswith('"'):
                value = _ESCAPED.sub(r"\1", value[1:-1])
            # Single quotes are not in RFC 9110, but servers send them.
            known = codec(value.strip(" \t'\""))
            if known is not None:
                return known
    return None


_kept = lru_cache(maxsize=256)(_charset)
