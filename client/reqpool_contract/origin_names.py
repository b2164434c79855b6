"""Origins: canonical names of what connections lead to, and the settings that belong to them.

``scheme://[user@]host:port[/path][?variant][#digest]`` contains everything that identifies a connection, so
that requests share connections exactly if all of it is equal. Secrets (passwords, tokens, keys) and TLS
material are not in the name but in the *settings*, which are sent separately. The name has a digest of them,
so that users with different passwords never share a connection. Anyone who sees the name (``status`` shows
it) can test guesses against the digest, so it is slow to compute: scrypt (RFC 7914), some 10 ms and 4 MiB for
a guess, salted with the rest of the name.

An origin ``@name[?variant]`` means an upstream in the broker's ``reqpool.toml``; the broker replaces it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote

import msgpack

from . import wire
from .errors import UsageError
from .host_names import canonical_host
from .masking import PERCENT_ENCODE, without_password

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
"""Names of upstreams in ``reqpool.toml``."""
DIGEST_BYTES = 10
_SCRYPT_N, _SCRYPT_R = 1 << 12, 8  # 128 * N * r = 4 MiB

_PARTS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(#.*)?", re.DOTALL)
_AUTHORITY = re.compile(
    r"(?:(?P<userinfo>[^\[\]]*)@)?(?:\[(?P<literal>[^\[\]@]*)\]|(?P<name>[^\[\]:@]*))(?::(?P<port>[^@]*))?",
    re.DOTALL,
)
"""RFC 3986 §3.2, but a password may contain ``@``, as other clients allow. Brackets enclose the whole host or
nothing: parsers disagree about which host ``evil.test[::1]`` is."""


class Endpoint(NamedTuple):
    """An origin and its settings.

    Attributes:
        origin: canonical name of the upstream, without secrets.
        settings: what the worker half needs to open a connection, packed; empty if it needs nothing.
    """

    origin: str
    settings: bytes


class Url(NamedTuple):
    """A URL's parts, checked.

    Attributes:
        scheme: in lower case.
        user, password: percent-decoded; None if absent.
        host: as :func:`~reqpool_contract.host_names.canonical_host` writes it; empty if the URL has none.
        port: the scheme's default if the URL has none.
        path: unchanged, with its first slash; empty if absent.
        query: unchanged, without the question mark.
    """

    scheme: str
    user: str | None
    password: str | None
    host: str
    port: int
    path: str
    query: str


def parse(url: object, ports: Mapping[str, int]) -> Url:
    """Read and check a URL.

    Args:
        url: e.g. ``"redis://user:secret@host:6379/0"``.
        ports: the schemes that it may have, with their default ports; 0 for a scheme without hosts.

    Raises:
        UsageError: it is wrong; the text says what, and never contains the password.
    """
    if not isinstance(url, str):
        raise UsageError(f"a URL must be a string, not {type(url).__name__}")
    shown = repr(without_password(url))
    parts = _PARTS.fullmatch(url)
    if parts is None or parts[1].lower() not in ports:
        allowed = " or ".join(f"{scheme}://" for scheme in ports)
        raise UsageError(f"{shown} is not a URL that begins with {allowed}")
    scheme, authority, path, query, fragment = parts.groups(default="")
    scheme = scheme.lower()
    if any(character <= " " or character == "\x7f" for character in url):
        raise UsageError(f"{shown} has a space or a control character in it")
    if any("\ud800" <= character <= "\udfff" for character in url):
        raise UsageError(f"{shown} cannot be encoded as UTF-8")
    if fragment or (authority and "@" in path + query):
        mark = "a #" if fragment else "an @"
        raise UsageError(f"{shown} has {mark} in the wrong place; {PERCENT_ENCODE}")
    found = _AUTHORITY.fullmatch(authority)
    if found is None:
        raise UsageError(f"{shown}: brackets must enclose a whole IPv6 address, like [::1]; {PERCENT_ENCODE}")
    userinfo, literal, name, port_text = found.group("userinfo", "literal", "name", "port")
    port = ports[scheme]
    if port_text:
        # isascii excludes the digits of other scripts, which isdecimal accepts; 6 digits are never a port.
        is_number = port_text.isascii() and port_text.isdecimal() and len(port_text) <= 5
        port = int(port_text) if is_number else 0
        if not 1 <= port <= 65535:
            raise UsageError(f"{shown}: the port is not a number from 1 to 65535; {PERCENT_ENCODE}")
    if literal is not None and ":" not in literal:
        raise UsageError(f"{shown}: brackets are for IPv6 addresses, like [::1]")
    host = canonical_host(literal or name, url) if literal or name else ""
    if ports[scheme] and not host:
        raise UsageError(f"{shown} has no host")
    user = password = None
    if userinfo is not None:
        user_text, colon, password_text = userinfo.partition(":")
        user = _decoded(user_text, shown) or None
        password = _decoded(password_text, shown) if colon else None
    return Url(scheme, user, password, host, port, path, query)


def _decoded(text: str, shown: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        pass  # this error contains the secret, and must not be in the traceback
    raise UsageError(f"{shown}: the user name and password must be percent-encoded UTF-8")


def host_and_port(origin: str) -> tuple[str, int]:
    """Return host and port of an origin, ``scheme://[user@]host:port…``.

    Raises:
        UsageError: it has none, or not in their canonical spelling.
    """
    parts = _PARTS.fullmatch(origin)
    found = _AUTHORITY.fullmatch(parts[2]) if parts else None
    host, port = (found["literal"] or found["name"], found["port"] or "") if found else ("", "")
    if not host or not re.fullmatch("[1-9][0-9]{0,4}", port) or int(port) > 65535:
        raise UsageError("an origin needs a host and a port, e.g. tcp://127.0.0.1:53")
    return host, int(port)


def endpoint(public: str, settings: Mapping[str, Any]) -> Endpoint:
    """Join an origin's public part and its settings.

    Args:
        public: ``scheme://[user@]host:port[/path][?variant]``.
        settings: values for msgpack; by convention ``password`` str, ``token`` str, and ``tls`` as
            :meth:`.Tls.settings` returns it. Those that are None are omitted.

    Raises:
        UsageError: they are too large for the wire (docs/protocol.md#limits).
    """
    given = {name: settings[name] for name in sorted(settings) if settings[name] is not None}
    origin, packed = public, b""
    if given:
        try:
            packed = msgpack.packb(given)
        except (TypeError, ValueError, OverflowError) as error:
            # Without the cause, which contains the secret.
            reason = "it is not UTF-8" if isinstance(error, UnicodeError) else type(error).__name__
            raise UsageError(f"one of {', '.join(given)} cannot be sent: {reason}") from None
        if len(packed) > wire.MAX_SETTINGS_BYTES:
            raise UsageError(
                f"{', '.join(given)} of an upstream have {len(packed)} bytes together; at most "
                f"{wire.MAX_SETTINGS_BYTES} are allowed"
            )
        origin = f"{public}#{_digest(packed, public.partition('?')[0])}"
    if len(origin) > wire.MAX_ORIGIN_CHARS:
        raise UsageError(
            f"{public[:60]!r}… and its credentials' digest have {len(origin)} characters; at most "
            f"{wire.MAX_ORIGIN_CHARS} are allowed: host, user and path are too long"
        )
    return Endpoint(origin, packed)


def belongs(origin: str, settings: bytes) -> bool:
    """Return whether these settings are those of an origin's digest (none, if it has no digest)."""
    public, _, digest = origin.partition("#")
    if not settings or not digest:
        return not settings and not digest
    # As bytes: compare_digest accepts only ASCII text, and a client may have written anything here.
    return hmac.compare_digest(digest.encode(), _digest(settings, public.partition("?")[0]).encode())


@lru_cache(maxsize=256)
def _digest(packed: bytes, public: str) -> str:
    """Return the digest of settings; ``public`` is without the variant, so all variants have the same."""
    return hashlib.scrypt(
        packed, salt=public.encode(), n=_SCRYPT_N, r=_SCRYPT_R, p=1, dklen=DIGEST_BYTES
    ).hex()


def named(target: object) -> str | None:
    """Return the origin for the name of an upstream in ``reqpool.toml``; None if it is not a name."""
    return f"@{target}" if isinstance(target, str) and NAME.fullmatch(target) else None


def variants(origin: str) -> list[str]:
    """Return the variants of an origin: ``a`` and ``b`` of ``redis://host:6379/0?a&b``."""
    variant = origin.partition("#")[0].partition("?")[2]
    return variant.split("&") if variant else []


def upstream_of(origin: str) -> str:
    """Return the upstream by which an origin's limits are counted: scheme, host and port.

    For an origin without a host (a Unix socket) it is scheme and path.
    """
    scheme, separator, rest = origin.partition("://")
    if not separator:
        return origin
    place = rest.partition("#")[0].partition("?")[0]
    named, slash, path = place.partition("/")
    host = named.rpartition("@")[2]
    return f"{scheme}://{host or slash + path}"
