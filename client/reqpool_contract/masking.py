"""URLs and addresses in a form for errors, logs and terminals: without secrets.

What is shown has usually been refused, so it may not be a URL at all: a password with a ``/`` ends the
authority early, a colon is missing, or the arguments were in the wrong order. So this does not parse.
Everything that could be a secret is masked: all before the last ``@``, and after it, too, if that may be in
an option's value; what is in the place of a port but is not one; and the values of options, parameters and
fragments.
"""

from __future__ import annotations

import re

PERCENT_ENCODE = "percent-encode / ? # @ in a user name or a password: %2F %3F %23 %40"
"""Advice for a URL that may have ended within its password."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/+")
_USER = re.compile(r"[^:/?#@\\]*:")
_NO_PORT = re.compile(
    r"\A((?:\[[^\[\]/?#\\]*\]|[^:/?#\\\[]*):)(?![0-9]{0,5}(?:/(?!/)|[?#;&]|\Z)).+", re.DOTALL
)
_IPV6 = re.compile(r"[0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f.:]*(?:%[A-Za-z0-9_.~-]+)?(?=/|\Z)")
_OPTIONS_BEGIN = re.compile(
    r"(?:\A|@)(?:\[[^\[\]/?#@]*\]|[^:/?#;&@\\\[\]]+)(?::[0-9]{0,5})?(?:/[^?#;&@]*)?[?#;&]"
)
"""A whole host with options or a fragment: an ``@`` after these need not precede another host."""
_OPTIONS = re.compile(r"([?#;&=]).+", re.DOTALL)
_WORD = re.compile(r"\S+")


def without_password(text: object) -> str:
    """Return a URL or an address, or what was given as one, without secrets.

    The user's name is kept if it certainly is one: ``redis://user:***@host:6379/0``.
    """
    shown = text if isinstance(text, str) else f"({type(text).__name__})"
    scheme = _SCHEME.match(shown)
    begin = scheme[0] if scheme else ""
    before, at, place = shown[len(begin) :].rpartition("@")
    if before:
        user = _USER.match(before) if begin.endswith("://") else None
        if _OPTIONS_BEGIN.search(before):
            place = "***"
        before = f"{user[0] if user else ''}***"
    if begin or at or not _IPV6.fullmatch(place):
        place = _NO_PORT.sub(r"\1***", place, count=1)
    place = _OPTIONS.sub(r"\1***", place)
    return f"{begin}{before}{at}{place}"


def without_passwords(text: str) -> str:
    """Return a sentence that may contain URLs and addresses, without their secrets."""

    def masked(word: re.Match[str]) -> str:
        return without_password(word[0]) if "@" in word[0] or ":/" in word[0] else word[0]

    return _WORD.sub(masked, text)
