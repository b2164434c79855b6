"""URLs and addresses as they may be shown: in errors, in logs, on a terminal.

What is shown has most often been refused, so it need not be a URL at all: a password with a ``/`` in it ends
the authority early, a colon is missing, the arguments were given in the wrong order. So this does not parse.
Whatever could be a secret is masked: all before the last ``@``, and behind it, too, where that may be in an
option's value; what is in a port's place but not a port; the values of options, parameters and fragments.
"""

from __future__ import annotations

import re

PERCENT_ENCODE = "percent-encode / ? # @ in a user name or a password: %2F %3F %23 %40"
"""What to do about a URL that may have ended within its password."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/+")
_USER = re.compile(r"[^:/?#@\\]*:")
_NO_PORT = re.compile(
    r"\A((?:\[[^\[\]/?#\\]*\]|[^:/?#\\\[]*):)(?![0-9]{0,5}(?:/(?!/)|[?#;&]|\Z)).+", re.DOTALL
)
_IPV6 = re.compile(r"[0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f.:]*(?:%[A-Za-z0-9_.~-]+)?(?=/|\Z)")
_OPTIONS_BEGIN = re.compile(
    r"(?:\A|@)(?:\[[^\[\]/?#@]*\]|[^:/?#;&@\\\[\]]+)(?::[0-9]{0,5})?(?:/[^?#;&@]*)?[?#;&]"
)
"""A whole host, and options or a fragment after it: an ``@`` behind that need not be one before a host."""
_OPTIONS = re.compile(r"([?#;&=]).+", re.DOTALL)
_WORD = re.compile(r"\S+")


def without_password(text: object) -> str:
    """Return a URL, an address, or what was given for one, fit to be shown.

    The user's name stays where it is certain to be one: ``redis://user:***@host:6379/0``.
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
    """Return a sentence in which URLs and addresses may stand, fit to be shown."""

    def masked(word: re.Match[str]) -> str:
        return without_password(word[0]) if "@" in word[0] or ":/" in word[0] else word[0]

    return _WORD.sub(masked, text)
